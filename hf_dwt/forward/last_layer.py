"""The last-layer restriction: the last modules of a model compute at the rows alone.

After the last attention no number passes from one position to another, so what is computed there at positions that
are no rows is thrown away: the last query projection, attention output and feed-forward layer, though not the keys
and values. Which modules these are is measured, not read off names. A module runs at the rows alone if

- the logits at the rows have no derivative by its output at any other position, and
- with its input at the rows alone its output there is the same,

and the same holds for all its parts that have parameters. The restricted model is compared with the unrestricted one,
logits and gradients, before the first use.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn

from ..precision import EXACT
from .rows import Rows
from .sharding import is_flattened, is_unit, learning_in, own_part, reshard

LARGEST_SHARE = 0.5
"""Rows among all positions above which gathering has no gain that could be measured."""


Args: TypeAlias = tuple[object, ...]
Kwargs: TypeAlias = dict[str, object]


class _Call(NamedTuple):
    """A call of a module.

    delta: zeros added to its output, (B, L, D), by which the logits are differentiated.
    position_wise: whether it gives the same at the rows alone.
    """

    delta: Tensor
    position_wise: bool


def find_last_modules(
    model: nn.Module, logits: Callable[[], Tensor], rows: Rows, allowed: float = EXACT
) -> tuple[nn.Module, ...]:
    """The modules of a model that need to see the rows alone; none if that would change anything.

    Args:
        model: in evaluation mode.
        logits: runs it on a small batch, and gives its logits (n, C) at the rows.
        rows: of that batch, with other positions between them that are not padding.
        allowed: by how much rounding may change a number, of the largest.
    """
    with torch.inference_mode(False), torch.enable_grad():
        with _without_constants(model):
            modules = _candidates(model, logits, rows, allowed)
        return modules if modules and restriction_is_exact(model, modules, logits, rows, allowed) else ()


@contextmanager
def at_rows(modules: Sequence[nn.Module], rows: Rows) -> Iterator[None]:
    """In the block `modules` compute at the rows alone; at other positions their output is 0."""
    positions = 0  # B * L, the same for all of them

    def gather(_module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        nonlocal positions
        tensor = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        positions = tensor.shape[0] * tensor.shape[1]
        return _gathered(args, kwargs, rows)

    def scatter(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        width = output.shape[-1]
        whole = output.new_zeros(positions, width).index_copy(0, rows.positions, output[0])
        return whole.view(-1, rows.length, width)

    with ExitStack() as stack:
        for module in modules:
            for handle in (
                module.register_forward_pre_hook(gather, with_kwargs=True),
                module.register_forward_hook(scatter),
            ):
                stack.callback(handle.remove)
        yield


def may_restrict(model: nn.Module) -> bool:
    """Whether the hooks of `at_rows` are all that touches its modules, and derivatives show what these do.

    Layers that are checkpointed, by transformers or by FSDP, are run again when the hooks are gone.
    """
    checkpointed = any(
        (model.training and getattr(module, "gradient_checkpointing", False)) or _is_checkpoint(module)
        for module in model.modules()
    )
    return not checkpointed and not is_flattened(model)


def _is_checkpoint(module: nn.Module) -> bool:
    """Whether it is torch's wrapper that runs a layer again, or FSDP2's class of it; neither has a public name."""
    return type(module).__name__ in ("CheckpointWrapper", "FSDPCheckpointWrapper")


def restriction_is_exact(
    model: nn.Module,
    modules: Sequence[nn.Module],
    logits: Callable[[], Tensor],
    rows: Rows,
    allowed: float = EXACT,
) -> bool:
    """Whether logits at the rows, and their gradients, are the same with `modules` at the rows alone."""

    def at_the_rows() -> Tensor:
        with at_rows(modules, rows):
            return logits()

    # As in training the hooks are gone when derivatives are taken, and a part may be run again for them.
    whole, restricted = (_logits_and_gradients(model, run, modules) for run in (logits, at_the_rows))
    return whole.keys() == restricted.keys() and all(
        len(one) == len(other) and all(_same(*pair, allowed) for pair in zip(one, other, strict=True))
        for one, other in ((whole[key], restricted[key]) for key in whole)
    )


def _same(one: Tensor | None, other: Tensor | None, allowed: float) -> bool:
    return other is one if one is None or other is None else close(own_part(other), own_part(one), allowed)


def _candidates(model: nn.Module, logits: Callable[[], Tensor], rows: Rows, allowed: float) -> tuple[nn.Module, ...]:
    """The outermost modules that can run at the rows alone, together with all their parts."""
    calls = _watched(model, logits, rows, allowed)
    fit: set[nn.Module] = set()
    for module, (call, gradient) in calls.items():
        if call.position_wise and _reaches_rows_only(gradient, rows):
            fit.add(module)
    whole = [
        module
        for module in fit
        if all(part in fit for part in module.modules() if next(part.parameters(recurse=False), None) is not None)
    ]
    inner = {part for module in whole for part in module.modules() if part is not module}
    # What has no product in it, such as a norm, costs no more than gathering does.
    products = (m for m in model.modules() if any(parameter.dim() > 1 for parameter in m.parameters()))
    return tuple(module for module in products if module in whole and module not in inner)


def _watched(
    model: nn.Module, logits: Callable[[], Tensor], rows: Rows, allowed: float
) -> dict[nn.Module, tuple[_Call, Tensor]]:
    """Each module that was called once and gives a tensor per position: its call, and the logits' gradient by it."""
    calls: dict[nn.Module, list[_Call | None]] = {}
    within = False  # of a second call of a module, whose weights are whole only as long as the model runs

    def watch(module: nn.Module, args: Args, kwargs: Kwargs, output: object) -> Tensor | None:
        nonlocal within
        if within:
            return None
        made = calls.setdefault(module, [])
        if not _is_per_position(output, rows):
            made.append(None)
            return None
        within = True
        try:
            position_wise = not is_unit(module) and _is_position_wise(module, args, kwargs, output, rows, allowed)
        finally:
            within = False
        delta = torch.zeros_like(output, requires_grad=True)
        made.append(_Call(delta, position_wise))
        return output + delta

    handles = [module.register_forward_hook(watch, with_kwargs=True) for module in model.modules()]
    try:
        found = logits()
    finally:
        for handle in handles:
            handle.remove()
    once = {module: made[0] for module, made in calls.items() if len(made) == 1 and made[0] is not None}
    gradients = torch.autograd.grad(_probe(found), [call.delta for call in once.values()], allow_unused=True)
    return {
        module: (call, gradient)
        for (module, call), gradient in zip(once.items(), gradients, strict=True)
        if gradient is not None
    }


@torch.no_grad()
def _is_position_wise(
    module: nn.Module, args: Args, kwargs: Kwargs, output: Tensor, rows: Rows, allowed: float
) -> bool:
    given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if not given or not all(_is_per_position(value, rows) for value in given):
        return False
    args, kwargs = _gathered(args, kwargs, rows)
    alone, expected = module(*args, **kwargs), rows.take(output)
    return bool(alone.shape == (1, *expected.shape)) and close(alone[0], expected, allowed)


def _reaches_rows_only(gradient: Tensor, rows: Rows) -> bool:
    at_them = rows.take(gradient)
    elsewhere = gradient.reshape(-1, gradient.shape[-1]).index_fill(0, rows.positions, 0.0)
    return bool(at_them.any()) and not bool(elsewhere.any())


def _logits_and_gradients(
    model: nn.Module, logits: Callable[[], Tensor], modules: Sequence[nn.Module]
) -> dict[nn.Module | None, list[Tensor | None]]:
    """The logits, and their gradients by what each module learns from: by nothing, for a frozen model.

    Raises:
        ValueError: one of `modules` learns, and no gradient reached it.
    """
    with learning_in(model, modules) as learning:
        found = logits()
    tensors = [tensor for own in learning.values() for tensor in own]
    gradients = iter(torch.autograd.grad(_probe(found), tensors, allow_unused=True) if tensors else ())
    by_module: dict[nn.Module | None, list[Tensor | None]] = {
        module: [next(gradients) for _ in own] for module, own in learning.items()
    }
    for module in modules:
        learns = any(parameter.requires_grad for parameter in module.parameters())
        if learns and all(gradient is None for gradient in by_module.get(module, ())):
            raise ValueError(f"no gradient reaches {type(module).__name__}")
    by_module[None] = [found.detach()]
    return by_module


def _probe(logits: Tensor) -> Tensor:
    """A scalar in which every logit counts differently."""
    generator = torch.Generator().manual_seed(0)
    return (logits.float() * torch.randn(logits.shape, generator=generator).to(logits.device)).sum()


@contextmanager
def _without_constants(model: nn.Module) -> Iterator[None]:
    """In the block no parameter is constant: a layer that is 0 until it has learnt would hide what depends on what."""
    constants: list[tuple[Tensor, Tensor]] = []
    reshard(model)
    try:
        for seed, parameter in enumerate(model.parameters()):
            # A part that another process holds too is given the same numbers there.
            generator = torch.Generator().manual_seed(seed)
            value = own_part(parameter.detach())
            if value.is_floating_point() and value.numel() and bool((value == value.reshape(-1)[0]).all()):
                constants.append((value, value.reshape(-1)[0].clone()))
                value.add_((torch.rand(value.shape, generator=generator) - 0.5).to(value))
        yield
    finally:
        try:
            reshard(model)
        finally:
            for value, constant in constants:
                value.copy_(constant)


def _gathered(args: Args, kwargs: Kwargs, rows: Rows) -> tuple[Args, Kwargs]:
    def gather(value: object) -> object:
        return rows.take(value).unsqueeze(0) if isinstance(value, Tensor) else value

    return tuple(gather(value) for value in args), {name: gather(value) for name, value in kwargs.items()}


def _is_per_position(value: object, rows: Rows) -> TypeGuard[Tensor]:
    """Whether it is a (B, L, D) tensor of real numbers; B of the trial's batch follows from its rows."""
    if not isinstance(value, Tensor) or value.dim() != 3 or not value.is_floating_point():
        return False
    return value.shape[1] == rows.length and value.shape[0] == int(rows.examples[-1]) + 1


def close(one: Tensor, other: Tensor, allowed: float) -> bool:
    """Whether two tensors of one shape differ by no more than `allowed` of the largest of `other`, or of 1."""
    scale = other.float().abs().max().clamp(min=1.0)
    return bool((one - other).float().abs().max() <= allowed * scale)
