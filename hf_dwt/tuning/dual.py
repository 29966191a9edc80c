"""DSEE: a large model tuned by few parameters, then pruned to a smaller one of the same class (arXiv 2111.00160)."""

import copy
import logging
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..adapters import AdapterError, adapter_configs, merged
from ..adapting import with_adapter
from ..errors import ArgumentError, DistillationError, problems_of, raise_all, unknown_name
from ..kinds import COUNT, SEED, Bounds, number, require_in_bounds, whole
from ..parts import require_call
from .adapter import ADAPTER, Choose, Dual, adapted_layers, is_matrix, matrix, read, write
from .prune import smaller
from .scores import SCORES
from .supports import SUPPORTS
from .units import Cut, cut_heads, cut_neurons

if TYPE_CHECKING:
    from peft import PeftModel  # whose import takes seconds

logger = logging.getLogger(__name__)

_SHARE = Bounds(0, 1, above=True)
_KINDS = {
    "rank": COUNT,
    "residual": whole(Bounds(0), "is no count."),
    "alpha": number(Bounds(above=True), "is no factor."),
    "seed": SEED,
}
_ATTACH = "Give what DualSparse(...).attach(model) returned, or what its training made of that."


class DualSparse:
    """Tuning by a low-rank and a sparse change of some matrices, and pruning by what it learned (DSEE).

    Each target W (m, n) becomes W + (alpha / rank) (B A + S): B (m, rank) and A (rank, n) are LoRA's, S has `residual`
    entries at fixed places. Paper and its code: rank 16, 16 entries, alpha 32, query and value alone, which are
    590,208 parameters of BERT-base. All else is frozen, a head too.

    The adapter is one of peft's LoRA of rank `rank + residual`, in which S is held by the last ranks: peft runs,
    saves, loads and merges it, and a saved one needs nothing of this package. With peft's SHiRA S would have to have
    r (m + n) entries, and peft saves no model that mixes it with LoRA.

    Args:
        rank: of B A.
        residual: entries of S in each matrix; 0 is LoRA alone.
        targets: names of linear modules, or their ends, as peft's `target_modules`.
        alpha: LoRA's.
        support: at which places S has entries: a name in `SUPPORTS`.
        support_kwargs: parameters of the support.
        seed: of A, of the support and of a random score.

    Raises:
        ArgumentError: a value out of its range, or an unknown support; several as `SetupError`.
    """

    def __init__(
        self,
        *,
        rank: int = 16,
        residual: int = 16,
        targets: Sequence[str] = ("query", "value"),
        alpha: float = 32.0,
        support: str = "decomposed",
        support_kwargs: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        values = {"rank": rank, "residual": residual, "alpha": alpha, "seed": seed}
        problems = [kind.error(name, values[name]) for name, kind in _KINDS.items() if not kind.is_right(values[name])]
        if not _is_list(targets) or not all(isinstance(name, str) and name for name in targets):
            fix = 'Give a list of names of modules, such as ["query", "value"].'
            problems.append(ArgumentError("targets", targets, "are no names.", fix))
        problems += _support_problems(support, {} if support_kwargs is None else support_kwargs)
        raise_all(problems)
        self.rank, self.residual, self.targets, self.alpha = rank, residual, list(targets), alpha
        self.support, self.support_kwargs, self.seed = support, dict(support_kwargs or {}), seed

    def attach(self, model: PreTrainedModel) -> "PeftModel":
        """The model with a new adapter, which alone learns; it computes what it did until it is trained.

        Args:
            model: changed in place, as peft does.

        Raises:
            ArgumentError: it has an adapter, a target is not there, no matrix or a tied one, or the ranks are more
                than a matrix has; before anything is changed.
        """
        raise_all(self._problems(model))
        from peft import LoraConfig

        ranks = self.rank + self.residual
        turned = any(isinstance(part, Conv1D) for target in self.targets for _, part in _found(model, target))
        config = LoraConfig(
            r=ranks,
            lora_alpha=self.alpha * ranks / self.rank,  # type: ignore[arg-type]  # a factor, of which LoRA divides
            target_modules=self.targets,
            fan_in_fan_out=turned,
        )
        adapted = with_adapter(model, config, self.seed)
        choose = self._choose()
        for _, layer in adapted_layers(adapted):
            weight = matrix(layer.get_base_layer())
            rows, columns = (flat := choose(weight, self.residual)) // weight.shape[1], flat % weight.shape[1]
            a, b = (factor[ADAPTER].weight.detach() for factor in (layer.lora_A, layer.lora_B))
            write(layer, Dual(a[: self.rank], b[:, : self.rank], rows, columns, b.new_zeros(self.residual)))
        return adapted

    def prune(
        self, model: nn.Module, *, ffn: float | None = None, heads: float | None = None, by: str = "change"
    ) -> "PeftModel":
        """A smaller model of the same class, with a smaller config and what is left of the adapter; to be tuned again.

        Of each layer the units of the lowest scores are removed, of all layers as many. Nothing that is gone can come
        back in training. Entries of S that are gone are replaced by others at new places.

        Args:
            model: of `attach`, tuned; it stays as it is.
            ffn: share of the neurons of the feed-forward layers.
            heads: share of the key/value heads, with the query heads that read them; where the config has a `head_dim`
                alone, since the width of a head is otherwise the hidden size by the number of heads.
            by: what the units are scored by: a name in `SCORES`.

        Raises:
            ArgumentError: another adapter, an unknown score, a share that removes nothing or everything, or that the
                config cannot express; before any weight is read.
            GrowthNotPreservedError: a model whose axes growth does not know.
        """
        problems: list[DistillationError] = [*self._adapter_problems(model)]
        if not isinstance(by, str) or by not in SCORES:
            problems.append(unknown_name("by", by, SCORES))
        if ffn is None and heads is None:
            problems.append(ArgumentError("ffn", ffn, "and heads=None: nothing would be removed.", "Give a share."))
        raise_all(problems)
        base: PreTrainedModel = model.get_base_model()  # type: ignore[operator]
        cuts: list[Cut] = []
        for name, share, cut in (("heads", heads, cut_heads), ("ffn", ffn, cut_neurons)):
            try:
                if share is not None:
                    if share not in _SHARE:
                        raise ArgumentError(name, share, "is no share.", f"Give a number {_SHARE}.")
                    cuts.append(cut(base, share))
            except DistillationError as error:
                problems += problems_of(error)
        raise_all(problems)
        generator = Generator().manual_seed(self.seed)
        small, duals = smaller(model, cuts, SCORES[by], self._choose(), generator)
        config = copy.deepcopy(adapter_configs(model)[ADAPTER])
        config.base_model_name_or_path = None  # the smaller model is not what the adapter was made for
        adapted = with_adapter(small, config, self.seed)
        for name, layer in adapted_layers(adapted):
            write(layer, duals[name])
        return adapted

    def bake(self, model: nn.Module) -> PreTrainedModel:
        """A stock model of transformers with the adapter merged into a copy of its weights, all of which can learn.

        Args:
            model: with an adapter, of this class or any that peft merges; it stays as it is.

        Raises:
            ArgumentError: it has none, peft cannot merge it, or a weight that it adapts is parametrised: what is
                merged into one is lost.
        """
        if not adapter_configs(model):
            raise ArgumentError("model", type(model).__name__, "has no adapter to merge.", _ATTACH)
        computed = [name for name, part in model.named_modules() if parametrize.is_parametrized(part)]
        if computed:
            problem = (
                f"has a weight that is computed from others ({computed[0]}): what is merged into it would be lost."
            )
            fix = "Call torch.nn.utils.parametrize.remove_parametrizations on it before."
            raise ArgumentError("model", type(model).__name__, problem, fix)
        try:
            return merged(model).requires_grad_(True)
        except AdapterError as error:
            raise ArgumentError("model", type(model).__name__, str(error), _ATTACH) from error

    def _choose(self) -> Choose:
        """The support, with its parameters and random numbers of its own."""
        generator = Generator().manual_seed(self.seed)

        def choose(weight: Tensor, count: int) -> Tensor:
            if not count:
                return torch.empty(0, dtype=torch.long, device=weight.device)
            return SUPPORTS[self.support](weight, count, generator, **self.support_kwargs)

        return choose

    def _problems(self, model: PreTrainedModel) -> list[DistillationError]:
        """What is in the way of an adapter."""
        if not isinstance(model, PreTrainedModel) or adapter_configs(model):
            problem = "has an adapter already." if adapter_configs(model) else "is no model of transformers."
            fix = (
                "Merge it first: DualSparse.bake(model)." if adapter_configs(model) else "Give one, without a wrapper."
            )
            return [ArgumentError("model", type(model).__name__, problem, fix)]
        problems: list[DistillationError] = []
        matrices = {name: module for name, module in model.named_modules() if is_matrix(module)}
        known = sorted({name.rpartition(".")[2] for name in matrices})
        uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
        ranks: list[int] = []
        for target in self.targets:
            found = [name for name, _ in _found(model, target)]
            if not found:
                problems.append(unknown_name("targets", target, known))
            elif foreign := [name for name in found if name not in matrices]:
                problem = f"{foreign[0]} is no linear layer with floating-point weights."
                problems.append(ArgumentError("targets", target, problem, f"Available: {', '.join(known)}."))
            elif tied := [name for name in found if uses[id(matrices[name].weight)] > 1]:
                problem = f"{tied[0]} is tied to another module's weights: merged, they would change there too."
                problems.append(ArgumentError("targets", target, problem, "Leave it out."))
            else:
                ranks += [min(matrix(matrices[name]).shape) for name in found]
        if ranks and self.rank + self.residual > min(ranks):
            problem = f"and residual={self.residual} are together more than the rank of a target, {min(ranks)}."
            fix = "Give less of one; for a sparse change of r (m + n) entries without LoRA take peft's ShiraConfig."
            problems.append(ArgumentError("rank", self.rank, problem, fix))
        return problems

    def _adapter_problems(self, model: nn.Module) -> list[DistillationError]:
        """Whether the model has another adapter than this would make, or none."""
        layers = list(adapted_layers(model)) if adapter_configs(model) and hasattr(model, "get_base_model") else []
        duals = [read(layer) for _, layer in layers]
        sizes = {None if dual is None else (len(dual.a), len(dual.values)) for dual in duals}
        if sizes == {(self.rank, self.residual)}:
            return []
        problem = f"has no adapter of rank {self.rank} and residual {self.residual} that DualSparse made."
        return [ArgumentError("model", type(model).__name__, problem, _ATTACH)]


def _found(model: nn.Module, target: str) -> list[tuple[str, nn.Module]]:
    """The modules that peft takes for a target: those whose names end so."""
    return [(name, part) for name, part in model.named_modules() if f".{name}".endswith(f".{target}")]


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence | Set) and not isinstance(value, str) and bool(value)


def _support_problems(support: str, parameters: Mapping[str, Any]) -> list[DistillationError]:
    if not isinstance(support, str) or support not in SUPPORTS:
        return [unknown_name("support", support, SUPPORTS)]
    part = SUPPORTS[support]
    try:
        taken = {"the matrix": torch.ones(2, 2), "a count": 1, "a generator": None}
        require_call("support", support, part, taken, parameters, "")
        require_in_bounds("support_kwargs", parameters, part.bounds)
    except DistillationError as error:
        return problems_of(error)
    return []
