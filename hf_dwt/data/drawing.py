"""Words drawn from a teacher: spans that are filled, or the end of a text that is written anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from ..forward.rows import Rows
from ..modes import evaluation_mode
from ..objective.chunked import chunks
from ..teachers.frozen import FrozenTeacher

LONGEST = 3
"""Tokens of a span at the most."""


@dataclass(frozen=True)
class Proposal:
    """Words for some places of one example.

    example: its number in the batch.
    places: n of its tokens, ascending.
    words: K candidates of n token ids each.
    """

    example: int
    places: list[int]
    words: list[list[int]]


@dataclass(frozen=True)
class Drawing:
    """How words are drawn.

    temperature: that the teacher's logits are divided by.
    banned: token ids that are never drawn: special ones, and those that the tokenizer has not.
    mask_id: of the token that stands for a masked one; None for a causal teacher.
    pad_id: of padding.
    """

    temperature: float
    banned: tuple[int, ...]
    mask_id: int | None
    pad_id: int

    def draw(self, logits: Any, generator: torch.Generator) -> Tensor:
        """(n,) token ids from logits (n, P), tensors or made slice by slice."""
        found = []
        for part in chunks(logits):
            own = logits[part].float().cpu() / self.temperature
            own[:, list(self.banned)] = -torch.inf
            found.append(torch.multinomial(torch.softmax(own, -1), 1, generator=generator).squeeze(1))
        return torch.cat(found)


def random_spans(places: Sequence[int], count: int, generator: torch.Generator) -> list[list[int]]:
    """Spans of 1 to `LONGEST` of the places that follow each other, `count` places in all."""
    free, spans = set(places), list[list[int]]()
    for index in torch.randperm(len(places), generator=generator).tolist():
        length = int(torch.randint(1, LONGEST + 1, (), generator=generator))
        span: list[int] = []
        while len(span) < min(length, count) and (place := places[index] + len(span)) in free:
            span.append(place)
        if span:
            free -= set(span)
            spans.append(span)
            count -= len(span)
        if count == 0:
            break
    return spans


@torch.no_grad()
def filled(
    teacher: FrozenTeacher,
    texts: Sequence[tuple[int, Sequence[int], list[list[int]]]],
    candidates: int,
    how: Drawing,
    generator: torch.Generator,
) -> list[Proposal]:
    """Spans of texts, filled by a masked language model from the left: each word given those before it in its span.

    The first words of all spans are drawn at once while all spans are masked, then the second words, and so on.

    Args:
        teacher: the model.
        texts: of each example its number, token ids and spans.
        candidates: K.
        how: words are drawn.
        generator: of the draws.
    """
    longest = max(len(ids) for _, ids, _ in texts)
    whole = torch.full((len(texts), longest), how.pad_id)
    mask, turns = torch.zeros_like(whole), torch.full_like(whole, -1)  # at which turn a place is filled
    for number, (_, ids, spans) in enumerate(texts):
        whole[number, : len(ids)], mask[number, : len(ids)] = torch.tensor(ids), 1
        for span in spans:
            turns[number, span] = torch.arange(len(span))
    whole[turns >= 0] = how.mask_id or 0
    whole, mask, turns = (each.repeat(candidates, 1) for each in (whole, mask, turns))
    device = next(teacher.model.parameters()).device
    for turn in range(int(turns.max()) + 1):
        places = torch.nonzero(turns.flatten() == turn).squeeze(1)
        batch = {"input_ids": whole.to(device), "attention_mask": mask.to(device)}
        rows = Rows(places.to(device), whole.flatten()[places].to(device), longest)
        whole.view(-1)[places] = how.draw(teacher.logits(batch, rows), generator)
    shaped = whole.view(candidates, len(texts), longest)
    return [
        Proposal(example, places, shaped[:, number, places].tolist())
        for number, (example, _, spans) in enumerate(texts)
        for places in [sorted(place for span in spans for place in span)]
    ]


@torch.no_grad()
def continued(
    teacher: FrozenTeacher,
    texts: Sequence[tuple[int, Sequence[int], list[int]]],
    candidates: int,
    how: Drawing,
    seed: int,
) -> list[Proposal]:
    """Texts of which a causal language model writes some places anew, given what stands before the first of them.

    Args:
        teacher: the model.
        texts: of each example its number, token ids and the places, which follow each other.
        candidates: K.
        how: words are drawn.
        seed: of the draws.
    """
    longest = max(places[0] for _, _, places in texts)
    prefixes = torch.full((len(texts), longest), how.pad_id)
    mask = torch.zeros_like(prefixes)
    for number, (_, ids, places) in enumerate(texts):  # the words follow the prefix, so padding is on the left
        prefixes[number, longest - places[0] :] = torch.tensor(ids[: places[0]])
        mask[number, longest - places[0] :] = 1
    device = next(teacher.model.parameters()).device
    most = max(len(places) for _, _, places in texts)
    model: Any = teacher.model
    with evaluation_mode(model), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        written = model.generate(
            prefixes.to(device), attention_mask=mask.to(device), generation_config=_sampling(how, candidates, most)
        )
    words = written[:, longest:].cpu().view(len(texts), candidates, most)
    return [
        Proposal(example, places, words[number, :, : len(places)].tolist())
        for number, (example, _, places) in enumerate(texts)
    ]


def _sampling(how: Drawing, candidates: int, words: int) -> GenerationConfig:
    """The whole distribution, whatever the model's own config would cut off or weigh."""
    return GenerationConfig(
        do_sample=True,
        temperature=how.temperature,
        top_k=0,
        top_p=1.0,
        typical_p=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        num_beams=1,
        num_return_sequences=candidates,
        max_new_tokens=words,
        min_new_tokens=words,
        suppress_tokens=list(how.banned),
        pad_token_id=how.pad_id,
    )
