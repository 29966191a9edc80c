"""A teacher is given the vocabulary of another tokenizer, at its own width, before anything grows.

Which axes are rows of tokens is found by looking at which change when only the size of the vocabulary does; rows are
made anew along these (`token_rows`), and all other parameters stay. Old tokens of the same text therefore mean and
score what they did, which is compared on both models.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ...errors import GrowthError
from ...hub_access import HOW, no_connection
from ...parts import Reference
from ...tokenization import saved_tokenizer
from ..axes import PART
from ..building import build, own_randomness
from ..checkpoint import Teacher
from ..config.larger import padded_vocabulary
from ..config.rebuild import rebuild
from ..config.sizes import attributes
from ..origins import every_tensor, tensors
from ..paging import fill, new_model, readable
from .new_rows import NewRows, Shares, is_own, require_same
from .token_ids import TokenIds
from .token_rows import TokenRows, token_rows

MEANS = Reference("tokens as means of old pieces", "Fast Vocabulary Transfer", "2402.09977")
"""Whose idea the rows of a new vocabulary are."""

Tokenizer = str | Path | PreTrainedTokenizerBase


@dataclass(frozen=True)
class Transplant:
    """A new vocabulary for a teacher; called with the teacher it returns one that has it.

    Args:
        rows: where its rows come from.
        axes: name of a parameter or buffer -> its axis that is rows of tokens.
        config: the teacher's, with the new vocabulary.
        generation_config: likewise.
        rule: what fresh rows hold.
        seed: of all that is random.
    """

    rows: TokenRows
    axes: Mapping[str, int]
    config: PreTrainedConfig
    generation_config: GenerationConfig | None
    rule: NewRows
    seed: int

    def __call__(self, teacher: Teacher) -> Teacher:
        model_class = type(teacher.skeleton)

        def load() -> tuple[PreTrainedModel, frozenset[str]]:
            weak = teacher.model
            with own_randomness(self.seed), torch.no_grad():
                model = new_model(lambda: build(model_class, self.config, "cpu"), weak, self.axes.keys()).eval()
                theirs = readable(weak, every_tensor(weak))
                fill(model, lambda name, tensor: self._fill(name, tensor, theirs[name]), self.axes.keys())
            pairs = tuple(torch.tensor(ids) for ids in zip(*self.rows.same.items(), strict=True))
            require_same(weak, model, "tokenizer", len(self.rows.sources), (pairs[1], pairs[0]), self._fix(weak))
            return model, teacher.untrained

        skeleton = build(model_class, self.config, "meta")
        return replace(teacher, skeleton=skeleton, load=load, generation_config=self.generation_config)

    def _fix(self, teacher: PreTrainedModel) -> str:
        old, new = (
            getattr(config.get_text_config(), "pad_token_id", None) for config in (teacher.config, self.config)
        )
        if old == new:
            return "Leave it out."
        return f"Some classes count positions from pad_token_id, here {new}: give a tokenizer where it is {old}."

    def shares(self, skeleton: PreTrainedModel) -> Shares:
        """The parameters of the teacher with the new vocabulary that have fresh rows."""
        made, rows = sum(map(bool, self.rows.sources)), len(self.rows.sources)
        sizes = {name: tensor.numel() for name, tensor in tensors(skeleton).items() if name in self.axes}
        return {name: (size * made // rows, size) for name, size in sizes.items()} if made < rows else {}

    def _fill(self, name: str, tensor: Tensor, old: Tensor) -> None:
        """Make the rows of a parameter, some at a time; `tensor` holds the model's own initialisation."""
        if not tensor.is_floating_point():
            return
        axis, sources = self.axes[name], self.rows.sources
        ours, theirs = tensor.movedim(axis, 0), old.movedim(axis, 0)
        fresh = torch.tensor([i for i, pieces in enumerate(sources) if not pieces], dtype=torch.long)
        if len(fresh) and not is_own(self.rule):
            own = ours[fresh].reshape(len(fresh), -1).float()
            made = self.rule(own, theirs.reshape(len(theirs), -1).float().cpu())
            ours[fresh] = made.view(ours[fresh].shape).to(ours.dtype)
        wide = torch.promote_types(old.dtype, torch.float32)
        step = max(1, PART * len(ours) // max(1, tensor.numel()))
        for start in range(0, len(ours), step):
            parts = [(n, p) for n, pieces in enumerate(sources[start : start + step], start) for p in pieces]
            if not parts:
                continue
            rows, pieces = (torch.tensor(ids) for ids in zip(*parts, strict=True))
            places, segments, counts = rows.unique(return_inverse=True, return_counts=True)
            total = torch.zeros((len(places), *ours.shape[1:]), dtype=wide)
            total.index_add_(0, segments, theirs[pieces.to(old.device)].to("cpu", wide))
            ours[places] = (total / counts.view(-1, *[1] * (ours.ndim - 1))).to(ours.dtype)


def find_transplant(
    teacher: Teacher, arguments: Mapping[str, Any], loading: Mapping[str, Any], rule: NewRows
) -> Transplant | None:
    """The new vocabulary that the arguments of `plan_growth` ask for; no weight is read.

    Args:
        loading: arguments of `from_pretrained`.

    Raises:
        GrowthError: a model without a vocabulary, a tokenizer that cannot be loaded or that shares no token with the
            teacher's, or fewer rows than it has tokens.
    """
    tokenizer, old = arguments["tokenizer"], arguments["teacher_tokenizer"]
    if tokenizer is None:
        if old is not None:
            problem = "It is read where a tokenizer of the student's own is given, and there is none."
            raise GrowthError(
                "teacher_tokenizer", type(old).__name__, problem, "Give tokenizer= too, or leave it out."
            )
        return None
    held, count = _vocabulary(teacher.config)
    new = _load("tokenizer", tokenizer, loading)
    theirs = _load("teacher_tokenizer", old, loading) if old is not None else _beside(teacher)
    wanted = arguments["vocab_size"]
    rows = token_rows(new, theirs, wanted, count)
    length = padded_vocabulary(teacher.config, len(rows.sources), arguments["pad_vocab_to_multiple_of"])
    rows = rows if length == len(rows.sources) else token_rows(new, theirs, length, count)
    ids = TokenIds(new, rows, arguments["config_overrides"] or {})

    def resized(length: int) -> dict[str, Any]:
        """Overrides for a vocabulary of that size."""
        inner: dict[str, Any] = {part: dict.fromkeys(names, length) for part, names in held.items() if part}
        return {**dict.fromkeys(held.get("", ()), length), **inner}

    changes = ids.of_config(teacher.config)
    for key, value in resized(len(rows.sources)).items():
        changes[key] = {**changes.get(key, {}), **value} if isinstance(value, dict) else value
    longer = rebuild(teacher.config, {}, resized(count + PROBE))
    axes = _token_axes(teacher.skeleton, build(type(teacher.skeleton), longer, "meta"), count)
    config = rebuild(teacher.config, {}, changes)
    return Transplant(rows, axes, config, ids.of_generation(teacher.generation_config), rule, arguments["seed"])


PROBE = 8
"""By how many rows a vocabulary is larger with which the axes that are rows are found."""


def _vocabulary(config: PreTrainedConfig) -> tuple[dict[str, list[str]], int]:
    """({part of a composite config, "" for the whole: the attributes that hold the size of the vocabulary}, the size).

    Parts for other inputs may have vocabularies of other sizes.
    """
    name = type(config).__name__
    parts = {key: part for key, part in config.__dict__.items() if isinstance(part, PreTrainedConfig)}
    try:
        text = config.get_text_config(decoder=True)
    except ValueError:  # it has several
        text = config
    counts = {value for one in attributes(text, "vocab_size") if (value := text.to_dict()[one]) is not None}
    if not counts:
        raise GrowthError("tokenizer", name, f"{name} stores no vocab_size: it reads no tokens.", "Leave it out.")
    if len(counts) > 1:
        problem = f"{name} has several vocabularies, and which of them is the tokenizer's is not clear."
        raise GrowthError("tokenizer", name, problem, "Leave it out.")
    count = counts.pop()
    held = {
        key: [one for one in attributes(part, "vocab_size") if part.to_dict()[one] == count]
        for key, part in {"": config, **parts}.items()
    }
    return {key: names for key, names in held.items() if names}, count


def _token_axes(model: PreTrainedModel, longer: PreTrainedModel, count: int) -> dict[str, int]:
    """Name -> the axis of `model` that is as long as the vocabulary: another in a model with a longer one."""
    axes: dict[str, int] = {}
    ours = tensors(model)
    for name, tensor in tensors(longer).items():
        changed = [dim for dim, length in enumerate(ours[name].shape) if length != tensor.shape[dim]]
        if not changed:
            continue
        if len(changed) > 1 or ours[name].shape[changed[0]] != count:
            problem = (
                f"{name} of {type(model).__name__} has no row for each of {count} tokens: {tuple(ours[name].shape)}."
            )
            raise GrowthError("tokenizer", type(model).__name__, problem, "Leave it out.")
        axes[name] = changed[0]
    if not axes:
        problem = f"{type(model).__name__} has no parameter with a row for each token."
        raise GrowthError("tokenizer", type(model).__name__, problem, "Leave it out.")
    return axes


def _load(argument: str, tokenizer: Tokenizer, loading: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return tokenizer
    kwargs = {key: value for key, value in loading.items() if key not in ("revision", "subfolder", "code_revision")}
    if away := no_connection(str(tokenizer), loading):
        raise GrowthError(argument, str(tokenizer), away, HOW)
    found = saved_tokenizer(str(tokenizer), kwargs)
    if not isinstance(found, str):
        return found
    problem = f"No tokenizer can be loaded from there: {found}"
    raise GrowthError(argument, str(tokenizer), problem, "Give an id or path with one, or the tokenizer itself.")


def _beside(teacher: Teacher) -> PreTrainedTokenizerBase:
    """The tokenizer saved with the teacher."""
    name, loading = teacher.checkpoint or (str(teacher.config.name_or_path), {"local_files_only": True})
    found = saved_tokenizer(name, loading) if name else "it is a model that was loaded from no folder."
    if not isinstance(found, str):
        return found
    problem = f"The tokenizer of the teacher {teacher.name} cannot be loaded: {found}"
    raise GrowthError("teacher_tokenizer", None, problem, "Give teacher_tokenizer=, the one that it was trained with.")
