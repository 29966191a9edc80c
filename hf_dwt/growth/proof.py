"""Whether a student computes what its teacher does: a search on tiny proxies before, a comparison of both after."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import GrowthError, GrowthNotPreservedError, first_line
from ..modes import evaluation_mode
from ..precision import in_fp32, without_tf32
from .configs import CONFIG_ERRORS
from .declarations import LAYERS_OF_STAGES, SIZES, SIZES_OF_TYPE
from .declared_layouts import LAYOUTS
from .depth import DEPTHS, Deepening, Origin, layer_lists, match_kinds, signature
from .identity import Identity, find_identity
from .inputs import on, random_batch
from .layouts import model_types
from .plan import Recipe
from .records import difference, main_output
from .search import NotFound, Search
from .shrink import shrink
from .teacher import build

TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}
"""dtype of the weights -> largest difference of logits, relative to the largest logit or 1, all computed in fp32.

Measured on eighteen tiny types: rounding the grown weights gives 1.8e-3 at most in fp16 (ResNet) and 1.4e-2 in bf16
(Bamba); one matrix whose copies do not share its weight gives 0.036 (Gemma 3) and more. A mixture of experts in bf16
may send a token elsewhere (0.25 was seen) and is refused then: grow it in fp32."""
COARSE = {torch.float16: 5e-2, torch.bfloat16: 1e-1}
"""The same where a module reads the weights of another and has to be run as it is; exact growth gives up to 0.08."""
BATCHES = 2


_KNOWN: dict[Any, Recipe | NotFound] = {}
"""What the last search found."""


@dataclass(frozen=True)
class Evidence:
    """What a comparison of teacher and student found.

    Args:
        difference: largest difference of the outputs, relative to the largest output or 1.
        tolerance: up to which the student counts as the same function.
    """

    difference: float
    tolerance: float

    @property
    def preserved(self) -> bool:
        """Whether the student computes what the teacher does."""
        return self.difference <= self.tolerance


def compare(teacher: PreTrainedModel, student: PreTrainedModel, seed: int = 0) -> Evidence:
    """The outputs of both in eval mode on random batches with padding; hidden states are compared as tiled."""
    dtypes = teacher.dtype, student.dtype
    allowed = {**TOLERANCES, **dict.fromkeys({*dtypes} - TOLERANCES.keys(), 1e-1)}
    with evaluation_mode(teacher, student), torch.no_grad():
        try:
            with without_tf32(), in_fp32(teacher), in_fp32(student):
                worst = _worst(teacher, student, seed)
        except (GrowthError, RuntimeError) as error:
            if not {*dtypes} & COARSE.keys() or not isinstance(error.__cause__ or error, RuntimeError):
                raise
            allowed |= COARSE
            worst = _worst(teacher, student, seed)
    return Evidence(worst, max(allowed[dtype] for dtype in dtypes))


def _worst(teacher: PreTrainedModel, student: PreTrainedModel, seed: int) -> float:
    worst = 0.0
    for n in range(BATCHES):
        batch = random_batch(teacher, seed=1000 * seed + n)
        theirs, ours = _run(teacher, batch), _run(student, batch)
        worst = max(worst, difference(ours, theirs))
    return worst


def _run(model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
    """What a teacher or student puts out.

    Raises:
        GrowthError: its class builds it with these sizes, but cannot run it.
    """
    try:
        return main_output(model(**on(batch, model))).cpu()
    except CONFIG_ERRORS as error:
        problem = f"{type(model).__name__} cannot be run with these sizes: {first_line(error)}."
        raise GrowthError("config", type(model.config).__name__, problem, "Choose other sizes.") from error


def find_deepening(teacher: PreTrainedModel, student: PreTrainedModel, rule: str, seed: int = 0) -> Deepening:
    """Where the layers of a deeper student come from; new ones are identities.

    Args:
        teacher: may lie on the meta device, as the student may.
        rule: a key of `depth.DEPTHS`.

    Raises:
        GrowthError: the layers cannot be made identities, or have no layer of their kind to be made from.
    """
    lists = layer_lists(teacher, student)
    origins = {path: match_kinds(DEPTHS[rule](old, new), path, teacher, student) for path, (old, new) in lists.items()}
    if not any(new for origin in origins.values() for _, new in origin):
        return Deepening(origins, {})
    with typed_errors(type(teacher)):
        small = proxy(type(teacher), shrink(teacher.config), seed)
        batch = random_batch(small, seed)
        identities = {path: _identity(small, batch, path, teacher, origin) for path, origin in origins.items()}
    return Deepening(origins, identities)


def _identity(
    small: PreTrainedModel, batch: dict[str, Any], path: str, teacher: PreTrainedModel, origin: list[Origin]
) -> Identity:
    """How layers of the kinds from which new ones are made become identities."""
    layers = list(teacher.get_submodule(path).children())
    sources = {signature(layers[source]) for source, new in origin if new}
    return find_identity(small, batch, path, lambda layer: signature(layer) in sources)


def find_recipe(
    model_class: Any, old: PreTrainedConfig, new: PreTrainedConfig, seed: int = 0, times: int | None = None
) -> Recipe:
    """The recipe of an exact widening of `model_class` from `old` to `new`, found on tiny proxies.

    Args:
        times: what grows is multiplied by this in the proxy, instead of by the ratio of `new` and `old`.

    Raises:
        GrowthNotPreservedError: naming the module or axis and why.
    """
    with typed_errors(model_class):
        small = shrink(old)
        large = scaled(small, old, new, times)
        # Cloning and padding ask for the same proxies, one after the other.
        key = (
            model_class,
            small.to_json_string(),
            large.to_json_string(),
            seed,
            repr([LAYOUTS.get(name) for name in model_types(old)]),
        )
        if key not in _KNOWN:
            _KNOWN.clear()
            teacher, student = proxy(model_class, small, seed), build(model_class, large, "cpu").float().eval()
            try:
                _KNOWN[key] = Search(teacher, student, random_batch(teacher, seed)).run()
            except NotFound as found:
                _KNOWN[key] = found
    if isinstance(known := _KNOWN[key], NotFound):
        problem = f"No layout reproduces a tiny proxy: {known.why}."
        raise GrowthNotPreservedError(known.where, model_class.__name__, problem, FIX) from known
    return known


@contextmanager
def typed_errors(model_class: Any) -> Iterator[None]:
    """In the block, whatever a tiny model's classes raise is a GrowthNotPreservedError that says so."""
    try:
        yield
    except GrowthError:
        raise
    except CONFIG_ERRORS as error:
        problem = f"No tiny proxy of it can be built and run ({type(error).__name__}: {first_line(error)})."
        raise GrowthNotPreservedError("teacher", model_class.__name__, problem, FIX) from error


FIX = "Declare its layout (hf_dwt.growth.declare), or use init='remap', which promises nothing."


def proxy(model_class: Any, config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """A tiny model with all parameters off their initial values, which let wrong maps pass (a norm of weight 1)."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = build(model_class, config, "cpu").float().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
            _set_running_statistics(model, seed)
    return model


def _set_running_statistics(model: PreTrainedModel, seed: int) -> None:
    """Set those of batch norms by one pass: with their first ones a deep network's output forgets its input."""
    norms: list[Any] = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.momentum, norm.training = 1.0, True
    model(**random_batch(model, seed))
    for norm in norms:  # a channel that hardly varies would make rounding large
        if norm.running_var is not None:
            norm.running_var.clamp_(min=0.3 * norm.running_var.mean().item())
    model.eval()


def scaled(
    small: PreTrainedConfig, old: PreTrainedConfig, new: PreTrainedConfig, times: int | None = None
) -> PreTrainedConfig:
    """`small` grown by the ratios between `old` and `new`: integer ratios stay integer, others are rounded up."""
    return type(small).from_dict(_scaled(small.to_dict(), old.to_dict(), new.to_dict(), times))


def _scaled(
    small: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any], times: int | None
) -> dict[str, Any]:
    values = dict(small)
    own = SIZES_OF_TYPE.get(small.get("model_type", ""), {})
    depths = {*SIZES["num_hidden_layers"], *LAYERS_OF_STAGES, *own.get("num_hidden_layers", ())}
    for key, value in small.items():
        a, b = old.get(key), new.get(key)
        if key in depths:
            continue  # width is found at the proxy's depth
        if isinstance(value, dict) and isinstance(a, dict) and isinstance(b, dict):
            values[key] = _scaled(value, a, b, times)
        elif type(value) is type(a) is type(b) is float and a > 0 and b != a:
            values[key] = value * (times or b / a)  # a multiplier of widths
        elif type(value) is int and type(a) is int and type(b) is int and a > 0 and b != a:
            values[key] = value * times if times else -(-value * b // a)
        elif value is None and a is None and type(b) is int and key in SIZES["head_dim"]:
            values[key] = _head_dim(small)  # said so that heads may grow alone
        elif isinstance(value, list) and (pairs := _changes(a, b)):
            pairs = pairs if len(value) == len(pairs) else [next(p for p in pairs if p[0] != p[1])] * len(value)
            values[key] = [
                v if m == n else v * times if times else -(-v * n // m) for v, (m, n) in zip(value, pairs, strict=True)
            ]
    return {**values, **_regrouped(small, old, new, times)} if times else values


def _head_dim(small: Mapping[str, Any]) -> int | None:
    """The width of a head that follows from the others."""
    hidden, heads = (
        next((small[name] for name in SIZES[role] if type(small.get(name)) is int), None)
        for role in ("hidden_size", "num_attention_heads")
    )
    return hidden // heads if hidden and heads else None


def _regrouped(small: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any], times: int) -> dict[str, int]:
    """Key/value heads that grow more than the query heads, or less, do so in the proxy too."""
    values: dict[str, int] = {}
    for heads, keys in product(SIZES["num_attention_heads"], SIZES["num_key_value_heads"]):
        pairs = [(m[heads], m[keys]) for m in (old, new) if type(m.get(heads)) is int and type(m.get(keys)) is int]
        if len(pairs) == 2 and pairs[1][1] > pairs[0][1]:
            more = pairs[1][1] * pairs[0][0] - pairs[0][1] * pairs[1][0]
            if more and pairs[1][0] > pairs[0][0]:
                values[keys] = small[keys] * (times * times if more > 0 else 1)
    return values


def _changes(old: Any, new: Any) -> list[tuple[int, int]]:
    """Pairs of two lists of numbers, one for each layer or stage; empty where they are none or equal."""
    if not isinstance(old, list) or not isinstance(new, list) or {type(v) for v in (*old, *new)} != {int}:
        return []
    pairs = list(zip(old, new, strict=False))
    return pairs if any(m != n for m, n in pairs) and all(m > 0 for m, n in pairs) else []


def require_preserved(
    evidence: Evidence, strategy: str, fix: str = FIX, why: Callable[[], tuple[str, str] | None] = lambda: None
) -> None:
    """Raise unless the final comparison found the same function; `why` finds (where, a sentence) then."""
    if not evidence.preserved:
        found, allowed = f"{evidence.difference:.2g}", f"{evidence.tolerance:g}"
        where, reason = why() or ("init", "")
        problem = f"{reason} The student's outputs differ by {found} of the largest; {allowed} is allowed.".strip()
        raise GrowthNotPreservedError(where, strategy, problem, fix)
