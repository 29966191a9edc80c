"""The search: layouts and gains are tried on a tiny proxy until the grown one computes what the small one does.

Both proxies run on one batch; the inputs of every module with parameters are recorded. In a faithful student each is
the tiled input of the teacher's, so the first that is not shows where to look: a wrong layout lies before it, and a
constant ratio is a gain (sqrt(d_model) on embeddings, 1/sqrt(d_model) before a head) to be folded into a neighbour.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice

from torch import Tensor, nn
from transformers import PreTrainedModel

from ...errors import GrowthNotPreservedError
from ..axes import Axis
from ..proxy.activations import Records, difference, ratio, record
from ..proxy.batches import Batch
from ..proxy.model import FIX, Proxies, typed_errors
from .layouts import Layout, candidates, model_types, named_sizes, read_layout, regrouped_axes
from .mapping import Gain, Key, Plan, Recipe, apply_plan, growing, is_last, kind, kinds_of_usage, make_plan
from .trace import trace

TOLERANCE = 1e-4
"""Largest difference in a proxy, relative to the largest value or 1. Noise of fp32 is 1e-6, wrong layouts 1e-1."""
INSIDE = 1e-3
"""The same where it is only looked where a difference begins: values that nearly cancel are noisier."""
NOISY = 1e-2
"""The same where what the model puts out does not differ: many norms by tiny deviations make noise larger."""
FEW = 12
"""Layouts of one axis that are tried before those of the next."""
TRIALS = 120
"""A number of trials, not of seconds, bounds a search, so that what is exact does not depend on the machine."""


class NotFound(Exception):
    """The search ended without a faithful proxy: `where` and `why`."""

    def __init__(self, where: str, why: str) -> None:
        self.where, self.why = where, why
        super().__init__(f"{where}: {why}")


def find_recipe(proxies: Proxies, times: int | None = None) -> Recipe:
    """The recipe of an exact widening.

    Args:
        times: what grows is multiplied by this in the proxies, instead of by the student's ratio.

    Raises:
        GrowthNotPreservedError: naming the module or axis and why.
    """
    with typed_errors(proxies.model_class):
        # The same proxies may follow from several ratios.
        question = ("recipe", proxies.larger(times).to_json_string())
        found = proxies.once(question, lambda: _search(proxies, times))
    if isinstance(found, NotFound):
        problem = f"No layout reproduces a tiny proxy: {found.why}."
        raise GrowthNotPreservedError(found.where, proxies.model_class.__name__, problem, FIX) from found
    return found


def _search(proxies: Proxies, times: int | None) -> Recipe | NotFound:
    try:
        return Search(proxies.teacher, proxies.student(times), proxies.batch).run()
    except NotFound as found:
        return found


@dataclass(frozen=True)
class Mismatch:
    """The first place where a student's proxy is not the tiled teacher's.

    Args:
        index: position in the records; their number for the head, one more for what comes after it.
        module: its name.
        ratio: the student's as a multiple of the teacher's, None if it is no multiple.
        error: largest difference, relative.
        layout: of the axes that the module sums over, under which it is no mismatch, with their names.
    """

    index: float
    module: str
    ratio: float | None
    error: float
    layout: tuple[list[Key], Layout] | None = None


@dataclass
class Search:
    """Looks for a recipe under which `student` computes what `teacher` does on `batch`.

    Args:
        teacher: proxy with randomised parameters, in eval mode.
        student: proxy of the larger config; its parameters are overwritten.
        batch: inputs of both.
    """

    teacher: PreTrainedModel
    student: PreTrainedModel
    batch: Batch
    trials: int = 0
    reached: float = -1

    def run(self) -> Recipe:
        """The recipe.

        Raises:
            NotFound: with the module and the reason.
        """
        self.sizes = named_sizes(self.teacher.config, self.student.config)
        self.types = model_types(self.teacher.config)
        self.regrouped = regrouped_axes(self.sizes)
        self.guessed: dict[Key, Axis] = {}
        self.applied: Plan = {}
        self.expected = record(self.teacher, self.batch)
        rows = self.expected.output.reshape(-1, self.expected.output.shape[-1])
        if not (rows - rows[0]).abs().max() > 1e-2 * rows.abs().max():
            raise NotFound("proxy", "its output does not depend on its input")
        usage = kinds_of_usage(trace(self.teacher, self.batch))
        recipe = Recipe(usage=usage, model_types=self.types)
        plan, best = self._try(recipe)
        while best is not None:
            self.reached = best.index
            for changed in self._changes(recipe, plan, best):
                new_plan, found = self._try(changed)
                if found is None or found.index > best.index:
                    recipe, plan, best = changed, new_plan, found
                    break
            else:
                raise NotFound(best.module, f"its input differs by {best.error:.2g} of its size under every layout")
        return self._complete(recipe, plan)

    def _complete(self, recipe: Recipe, plan: Plan) -> Recipe:
        """`recipe` with a layout for every axis, so that other sizes leave nothing to guess."""
        axes: dict[Key, dict[Axis, str]] = {}
        for name, dim, axis in growing(plan):
            axes.setdefault((kind(name), dim), {}).setdefault(axis, name)
        for key, found in axes.items():
            left = dict(found)
            while left:
                axis, name = next(iter(left.items()))
                known = candidates(name, key[1], axis.old, axis.new, self.sizes, self.types)
                layout, read = self._read_most(known, axis, set(found))
                recipe = recipe if layout is None else recipe.with_layout([key], layout)
                left = {one: name for one, name in left.items() if one not in read | {axis}}
        return recipe

    def _read_most(self, known: Iterator[Layout], axis: Axis, axes: set[Axis]) -> tuple[Layout | None, set[Axis]]:
        """The first layout of all `axes`, or else of `axis` and of as many others, that misreads none."""
        best: tuple[Layout | None, set[Axis]] = (None, set())
        for layout in known:
            found = {one: read_layout(layout, one.old, one.new, self.sizes) for one in axes}
            read = {one for one in axes if found[one] == one}
            if axis in read and len(read) > len(best[1]) and all(found[one] is None for one in axes - read):
                best = layout, read
            if read == axes:
                break
        return best

    def _try(self, recipe: Recipe) -> tuple[Plan, Mismatch | None]:
        self.trials += 1
        if self.trials > TRIALS:
            raise NotFound("search", f"no layout was found in {TRIALS} trials")
        plan = make_plan(self.teacher, self.student, recipe, self.sizes, guessed=self.guessed)
        changed = {name: step for name, step in plan.items() if step != self.applied.get(name)}
        apply_plan(changed, self.teacher, self.student, symmetry=0.5)
        self.applied = plan
        return plan, self._compare(recipe, plan, record(self.student, self.batch))

    def _compare(self, recipe: Recipe, plan: Plan, found: Records) -> Mismatch | None:
        expected = self.expected
        known: dict[str, set[Axis]] = {}  # by kind: modules that are shared have one name of several
        for name, _, axis in growing(plan):
            known.setdefault(kind(name.rpartition(".")[0]), set()).add(axis)
        noise = NOISY if difference(found.output, expected.output) <= TOLERANCE else INSIDE
        for index, ((module, theirs), (name, ours)) in enumerate(zip(expected.inputs, found.inputs, strict=False)):
            if f"{expected.head_name}.".startswith(f"{module}."):
                continue  # its input carries the gain that corrects a tied head; what it puts out is compared below
            if module != name:
                return Mismatch(index, module, None, float("inf"))
            # What a module reads may be right although its own axis is not yet read that way.
            axes = known.get(kind(module), set()) | set(self.regrouped)
            error = difference(ours, theirs, axes)
            gain = recipe.gains.get(kind(module))
            if error > INSIDE and gain is not None and gain.fan_in:
                error = min(error, difference(ours * gain.factor, theirs, axes))
            if error > INSIDE and gain is not None and module in expected.readers:
                # An embedding whose rows are multiplied after they were read is scaled itself.
                error = min(error, difference(ours, theirs * gain.factor, axes))
            if error > noise:
                # Before the place that was reached no layout helps: the trial has failed.
                layout = self._layout_of_input(module, plan, ours, theirs) if index >= self.reached else None
                multiple = ratio(ours, theirs, axes, centred=False)
                return Mismatch(index + 0.5 * (layout is not None), module, multiple, error, layout)
        if expected.head is not None and found.head is not None:
            error = difference(found.head, expected.head)
            if error > INSIDE:
                return Mismatch(len(expected.inputs), expected.head_name, ratio(found.head, expected.head), error)
        error = difference(found.output, expected.output)
        if error > TOLERANCE:
            return Mismatch(len(expected.inputs) + 1, "output", ratio(found.output, expected.output), error)
        return None

    def _layout_of_input(
        self, module: str, plan: Plan, ours: Tensor, theirs: Tensor
    ) -> tuple[list[Key], Layout] | None:
        """The layout of what `module` sums over, or scales, if its input is the teacher's in other places."""
        own = [item for item in growing(plan) if kind(item[0].rpartition(".")[0]) == kind(module)]
        norm = all(len(plan[name].axes) == 1 for name, *_ in own)
        for name, dim, axis in own:
            if not norm and dim not in plan[name].summed:
                continue
            for layout in candidates(name, dim, axis.old, axis.new, self.sizes, self.types):
                other = read_layout(layout, axis.old, axis.new, self.sizes)
                if other is not None and difference(ours, theirs, {other}) <= INSIDE:
                    return [(kind(n), d) for n, d, a in own if a == axis and (norm or n == name)], layout
        return None

    def _changes(self, recipe: Recipe, plan: Plan, best: Mismatch) -> Iterator[Recipe]:
        """Recipes that differ in one thing that may remove `best`: a gain if it is one, else a layout before it."""
        if best.layout is not None:
            yield recipe.with_layout(*best.layout)
        ran = list(dict.fromkeys(name for name, _ in self.expected.inputs[: int(best.index) + 1]))
        if best.ratio is not None:
            yield from self._gains(recipe, ran, best)
        groups: dict[tuple[str, bool, int], list[tuple[str, Key]]] = {}
        rank = {kind(name): i for i, name in enumerate(ran)}
        for name, dim, axis in growing(plan):
            module = kind(name.rpartition(".")[0])
            if module in rank:
                group = groups.setdefault((module, dim in plan[name].summed, axis.old), [])
                group.append((name, (kind(name), dim)))

        yield from self._scales(recipe, ran)

        def likely(item: tuple[tuple[str, bool, int], list[tuple[str, Key]]]) -> tuple[bool, int]:
            (module, _, old), members = item
            name, (_, dim) = members[0]
            # An axis that has the length of a plain size is rarely fused.
            return (old, plan[name].axes[dim].new) in self.sizes.values(), -rank[module]

        matrices = [item for item in groups.items() if any(len(plan[name].axes) > 1 for name, _ in item[1])]
        changed = [self._layouts(recipe, plan, members) for _, members in sorted(matrices, key=likely)]
        for layouts in changed:
            yield from islice(layouts, FEW)
        yield from chain.from_iterable(changed)

    def _layouts(self, recipe: Recipe, plan: Plan, members: list[tuple[str, Key]]) -> Iterator[Recipe]:
        """Recipes with another layout for the axes of one group."""
        name, (_, dim) = members[0]
        now = plan[name].axes[dim]
        keys = list(dict.fromkeys(key for _, key in members))
        for layout in candidates(name, dim, now.old, now.new, self.sizes, self.types):
            if read_layout(layout, now.old, now.new, self.sizes) != now:
                yield recipe.with_layout(keys, layout)

    def _scales(self, recipe: Recipe, ran: list[str]) -> Iterator[Recipe]:
        """A scale of attention taken from the width, 1/sqrt(d), is corrected in the projections before.

        Where the width of heads grows instead, copies make their products larger by more than that scale takes away.
        """
        a, b = self.sizes.get("hidden") or next(((m, n) for m, n in self.sizes.values() if m != n), (1, 1))
        for module in list(dict.fromkeys(map(kind, reversed(ran[:-1]))))[:6]:
            if not isinstance(self.teacher.get_submodule(next(m for m in ran if kind(m) == module)), nn.LayerNorm):
                yield from (recipe.with_gain(module, Gain(factor)) for factor in ((b / a) ** 0.5, (a / b) ** 0.5))

    def _gains(self, recipe: Recipe, ran: list[str], best: Mismatch) -> Iterator[Recipe]:
        assert best.ratio is not None
        head = best.index >= len(self.expected.inputs)
        if best.module in self.expected.readers:
            yield recipe.with_gain(kind(best.module), Gain(1 / best.ratio))
        before = [name for name in ran if name != best.module and name != self.expected.head_name]
        for module in reversed(before[-3:]):
            last = head and is_last(module, self.teacher)
            for unit in (False, True):
                yield recipe.with_gain(kind(module), Gain(1 / best.ratio, unit, last=last, head=head))
        if best.module in ran:
            yield recipe.with_gain(kind(best.module), Gain(1 / best.ratio, fan_in=True, head=head))
        for name, usage in recipe.usage.items() if head else ():
            if usage.summed & usage.free:  # what it writes is read through a norm, which undoes the gain
                yield recipe.with_gain(kind(name.rpartition(".")[0]), Gain(1 / best.ratio, head=head))
