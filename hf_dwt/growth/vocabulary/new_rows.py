"""A larger vocabulary, more positions and a head of its own, before anything else grows.

The teacher is first given as many rows as the student has, at its own width; then it is grown as any other. Old rows
are the teacher's, so old tokens and positions mean and score what they did, whatever the initialisation; that is
compared on both models. Which axes are rows is found by looking at which change when only these numbers of the config
do: tied and untied heads, their biases and paddings need no names. A head that is no longer tied starts as a copy of
what it was tied to.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ...errors import GrowthError, GrowthNotPreservedError, first_line
from ...modes import evaluation_mode
from ...parts import Part, Reference, registry
from ..building import build, own_randomness
from ..checkpoint import Teacher
from ..config.rebuild import CONFIG_ERRORS, rebuild
from ..config.sizes import ROW_COUNTS, attributes
from ..origins import every_tensor, tensors
from ..paging import fill, in_memory, new_model, readable
from ..proxy.activations import difference, main_output
from ..proxy.batches import Batch, on, random_batch
from ..report import Source
from ..verify.compare import TOLERANCES, Evidence

NewRows = Callable[[Tensor, Tensor], Tensor]
"""(own, (n, d), the model's own initialisation of n new rows; old, (m, d)) -> the new rows. Of a bias d is 1."""


def own_rows(own: Tensor, old: Tensor) -> Tensor:
    """The model's own initialisation."""
    return own


def mean_rows(own: Tensor, old: Tensor) -> Tensor:
    """The mean of the old rows: a new token starts as likely as an average one (Hewitt, 2021)."""
    return old.mean(0, keepdim=True).expand_as(own)


def normal_rows(own: Tensor, old: Tensor) -> Tensor:
    """Drawn from the normal distribution with the mean and covariance of the old rows."""
    mean = old.mean(0, keepdim=True)
    drawn: Tensor = torch.randn(len(own), len(old)) @ (old - mean) / max(1, len(old) - 1) ** 0.5
    return mean + drawn


_HEWITT = Reference("new rows at the mean of the old", "Hewitt, 2021")

NEW_ROWS: dict[str, Part[[Tensor, Tensor], Tensor]] = registry(
    Part("init", "the model's own initialisation", own_rows, "start as in training from scratch"),
    Part("mean", "the mean of the old rows", mean_rows, "start as likely as an average old one", (_HEWITT,)),
    Part("normal", "a draw with the mean and covariance of the old rows", normal_rows, "start as old ones are spread"),
)
"""Name -> what the rows of new tokens hold. New positions have the model's own initialisation."""

Shares = Mapping[str, tuple[int, int]]
"""Name of a parameter with new rows -> (elements of the teacher's, elements with the new rows)."""


def with_rows_of(teacher: Teacher, config: PreTrainedConfig, rule: NewRows, seed: int) -> tuple[Teacher, Shares]:
    """`teacher` with as many rows as a student of `config` has, and what that unties by itself; its weights are read
    only when they are asked for.

    Raises:
        GrowthError: what the config unties stays tied.
        GrowthNotPreservedError: on reading the weights, where old rows come to mean something else.
    """
    changes = _changes(teacher.config, config, ROW_COUNTS)
    if not changes:
        return teacher, {}
    model_class = type(teacher.skeleton)
    longer = rebuild(teacher.config, {}, changes)
    skeleton = build(model_class, longer, "meta")
    words = rebuild(teacher.config, {}, _changes(teacher.config, config, ROW_COUNTS[:1]))
    vocabulary = {name: tensor.shape for name, tensor in tensors(build(model_class, words, "meta")).items()}

    def load() -> tuple[PreTrainedModel, frozenset[str]]:
        weak = teacher.model
        with own_randomness(seed), torch.no_grad():
            model = new_model(lambda: build(model_class, longer, "cpu"), weak, shares.keys()).eval()
            theirs, shapes = readable(weak, every_tensor(weak)), every_tensor(teacher.skeleton)

            def make(name: str, tensor: Tensor) -> None:
                _fill(tensor, theirs[name], rule if vocabulary[name] != shapes[name].shape else own_rows)

            fill(model, make, shares.keys(), alike=untied)
        require_same(weak, model, *next(iter(changes.items())))
        return model, teacher.untrained

    first = {id(tensor): name for name, tensor in tensors(teacher.skeleton).items()}
    old, new = every_tensor(teacher.skeleton), tensors(skeleton)
    untied = {name: first[id(old[name])] for name in new if first[id(old[name])] != name}
    if (
        not untied
        and "tie_" in str(changes)
        and len(dict(skeleton.named_parameters(remove_duplicate=False))) > len(dict(skeleton.named_parameters()))
    ):
        problem = f"{model_class.__name__} ties its parameters all the same: another part of the config decides it."
        raise GrowthError("config_overrides", changes, problem, "Give the attribute to the whole, or leave it out.")
    shares = {name: (old[name].numel(), new[name].numel()) for name in new if old[name].shape != new[name].shape}
    return replace(teacher, skeleton=skeleton, load=load, untied=untied), shares


def both_shares(first: Shares, then: Shares) -> Shares:
    """Of a teacher that got new rows twice: of its own elements among all that there are at last."""
    return {**first, **{name: (first.get(name, shares)[0], shares[1]) for name, shares in then.items()}}


def without_new_rows(sources: Mapping[str, Source], shares: Shares) -> dict[str, Source]:
    """`sources` with the elements of new rows counted as fresh: no teacher had them."""
    counted = dict(sources)
    for name, source in sources.items():
        if source.name is not None and source.name in shares:
            old, new = shares[source.name]
            copied = source.copied * old // new
            counted[name] = replace(source, copied=copied, fresh=source.fresh + source.copied - copied)
    return counted


def _changes(old: PreTrainedConfig, new: PreTrainedConfig, roles: tuple[str, ...]) -> dict[str, object]:
    """The numbers of rows that differ, and what is tied no longer, as overrides of `old`."""
    changes: dict[str, object] = {}
    for key, part in old.__dict__.items():
        other = new.__dict__.get(key)  # not getattr: what differs between layers refuses to be read of the whole
        if not (isinstance(part, PreTrainedConfig) and isinstance(other, PreTrainedConfig)):
            continue
        if inner := _changes(part, other, roles):
            changes[key] = inner
    changes |= {name: False for name, tied in old.__dict__.items() if _unties(name, tied, new)}
    for name in (name for role in roles for name in attributes(old, role)):
        if getattr(new, name, None) not in (None, getattr(old, name)):
            changes[name] = getattr(new, name)
    return changes


def _unties(name: str, tied: object, new: PreTrainedConfig) -> bool:
    return name.startswith("tie_") and tied is True and new.__dict__.get(name) is False


def is_own(rule: NewRows) -> bool:
    """Whether new rows stay as the model initialises them."""
    return rule is own_rows or rule is NEW_ROWS["init"]


def _fill(tensor: Tensor, old: Tensor, rule: NewRows) -> None:
    """Old rows are copied; new ones are made along each axis that is longer."""
    for dim, (longer, length) in enumerate(zip(tensor.shape, old.shape, strict=True)):
        if longer > length and tensor.is_floating_point():
            rows = tensor.movedim(dim, 0)
            own, kept = rows[length:], old.movedim(dim, 0)
            if not is_own(rule):
                flat = rule(own.reshape(len(own), -1).float(), kept.reshape(length, -1).float().cpu())
                rows[length:] = flat.view(own.shape)
    tensor[tuple(slice(length) for length in old.shape)].copy_(old)


def require_same(
    teacher: PreTrainedModel,
    longer: PreTrainedModel,
    argument: str,
    value: object,
    ids: tuple[Tensor, Tensor] | None = None,
    fix: str = "Leave it out.",
) -> None:
    """Raise unless both put out the same for the same tokens, or if they cannot be compared.

    Args:
        argument: that an error names.
        value: of it.
        ids: (the teacher's, the other's) ids of tokens that are the same; None where ids are.
        fix: of an error.
    """
    batch = random_batch(teacher, seed=0)
    ours, theirs = ({**batch, **(_drawn(batch, ids[n]) if ids else {})} for n in (1, 0))
    try:
        with evaluation_mode(teacher), in_memory(teacher, longer), torch.no_grad():
            old = main_output(teacher(**on(theirs, teacher))).cpu()
            new = main_output(longer(**on(ours, longer)))
    except (*CONFIG_ERRORS, RuntimeError) as caught:
        problem = f"Whether old rows keep their meaning could not be measured ({first_line(caught)})."
        raise GrowthNotPreservedError(argument, value, problem, fix) from caught
    if ids is None:
        error = difference(new[..., : old.shape[-1]], old)
    else:  # hidden states, or scores of tokens
        error = difference(new, old)
        if int(ids[0].max()) < old.shape[-1] and int(ids[1].max()) < new.shape[-1]:
            error = min(error, difference(new[..., ids[1]], old[..., ids[0]]))
    evidence = Evidence(error, TOLERANCES.get(teacher.dtype, 1e-1))
    if not evidence.preserved:
        problem = f"Old rows would come to mean something else: outputs for old inputs differ by {error:.2g}."
        raise GrowthNotPreservedError(argument, value, problem, fix)


def _drawn(batch: Batch, ids: Tensor) -> dict[str, Tensor]:
    """Those of `ids` at places that are the same whatever they are, instead of the tokens of a batch."""
    generator = torch.Generator().manual_seed(0)
    tokens = {key: one for key in ("input_ids", "decoder_input_ids") if isinstance(one := batch.get(key), Tensor)}
    return {key: ids[torch.randint(len(ids), one.shape, generator=generator)] for key, one in tokens.items()}
