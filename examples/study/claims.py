"""What is claimed of the settings, by the paper and by our guidelines: sentences that results bear out or do not."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from study.cells import AUTO, CONSTANT, KI, Cell, Study


@dataclass(frozen=True)
class Claim:
    """A sentence that says of `cell` that it ends "lower" or "higher" than `other`, or "no higher"."""

    sentence: str
    cell: Cell
    other: Cell
    says: str = "lower"

    def verdict(self, mean: float, half: float) -> str:
        """What a difference with its 95 % interval says of the claim.

        That something is no higher cannot be confirmed beyond the interval: it holds unless the interval is above 0.
        """
        if self.says == "no higher":
            return "contradicted" if mean > half else "holds"
        if abs(mean) <= half:
            return "undecided"
        return "confirmed" if (mean < 0) == (self.says == "lower") else "contradicted"


CONST: dict[str, Any] = {"soft": CONSTANT}
AUTOM: dict[str, Any] = {"soft": AUTO}


def paper(study: Study) -> Iterator[Claim]:
    """The three findings of Lee et al., 2023 (arXiv 2305.18239, section 4)."""
    good, *weaker = study.teachers
    alone, normal = Cell(good), Cell(good, **CONST)
    yield Claim("A teacher a little below the student helps, at 1 : 1", normal, alone)
    for name in weaker:
        yield Claim(f"Too weak a teacher hurts, at 1 : 1 ({name})", Cell(name, **CONST), alone, "higher")
    yield Claim("4 : 1 ends worse than 1 : 1", Cell(good, weight=4.0, **CONST), normal, "higher")
    for init in ("remap", "clone"):
        sentence = f"Starting from the teacher's parameters ({init}) ends worse than at random, both at 1 : 1"
        yield Claim(sentence, Cell(good, init=init, **CONST), normal, "higher")


def guidelines(study: Study) -> Iterator[Claim]:
    """What docs/guidelines.md advises."""
    good, *weaker = study.teachers
    alone, adaptive = Cell(good), Cell(good, **AUTOM)
    remap, clone = Cell(good, init="remap"), Cell(good, init="clone")
    yield Claim("Start from the teacher's parameters: remapped, no soft term, against random", remap, alone)
    yield Claim("Remapping is no worse than an exact clone", remap, clone, "no higher")
    yield Claim("From a random start, use the soft term: auto against none", adaptive, alone)
    yield Claim("... and let it fade: auto against constant 1 : 1", adaptive, Cell(good, **CONST))
    yield Claim("... auto against a fade over 0.3", adaptive, Cell(good, **KI), "no higher")
    for grown in (remap, clone):
        how = grown.init
        yield Claim(f"From a grown start ({how}) a constant soft term costs", _with(grown, CONST), grown, "higher")
        yield Claim(f"... none is no worse than a fade over 0.3 ({how})", grown, _with(grown, KI), "no higher")
        yield Claim(f"... auto is no worse than none ({how})", _with(grown, AUTOM), grown, "no higher")
    for name in weaker:
        taught, remapped = Cell(name, **AUTOM), Cell(name, init="remap")
        yield Claim(f"auto does no harm with a weaker teacher ({name}), random start", taught, alone, "no higher")
        yield Claim(f"... and helps ({name})", taught, alone)
        yield Claim(f"... and is no worse than a fade over 0.3 ({name})", taught, Cell(name, **KI), "no higher")
        yield Claim(f"Its parameters are still worth more than random ones ({name})", remapped, alone)
        yield Claim(f"... and auto does no harm there ({name})", _with(remapped, AUTOM), remapped, "no higher")
    for control_name, name in (("smoothing", "label smoothing"), ("virtual", "a virtual teacher")):
        control = Cell(good, voice=control_name, **CONST)
        yield Claim(f"What helps is the teacher, not smoothness: auto against {name}", adaptive, control)
    frequencies = Cell(good, voice="unigram", **KI)
    yield Claim("... nor what it knows of frequencies: a fade over 0.3 of both", Cell(good, **KI), frequencies)
    trained_on = Cell(good, student="small", init="teacher")
    sentence = "A grown student ends lower than its teacher trained on for as many operations: remap, auto"
    yield Claim(sentence, _with(remap, AUTOM), trained_on)
    if "poor" in study.groups:
        little = study.groups["poor"][0]
        yield Claim("With little text, too: remapped against random", replace(little, init="remap"), little)
        yield Claim("... and auto against none, from a random start", _with(little, AUTOM), little)


def corrections(study: Study) -> Iterator[Claim]:
    """What corrections of the teacher are worth, beside "auto" without one."""
    good = next(iter(study.teachers))
    plain, adaptive = Cell(good, **CONST), Cell(good, **AUTOM)
    for soft, unchanged in ((CONST, plain), (AUTOM, adaptive)):
        revised, refined, shifted = (Cell(good, voice=voice, **soft) for voice in ("revise", "refine", "shifted"))
        where = "at constant 1 : 1" if soft is CONST else "under auto"
        yield Claim(f"Label revision ends lower than the plain soft term, {where}", revised, unchanged)
        yield Claim("... and than the same weight of the labels on every row", revised, shifted)
        yield Claim(f"Refined logits (RLD) end lower than the plain soft term, {where}", refined, unchanged)
    for voice, what in (("revise", "revised"), ("gate", "gated")):
        sentence = f"A {what} teacher at constant 1 : 1 is no worse than auto without a correction"
        yield Claim(sentence, Cell(good, voice=voice, **CONST), adaptive, "no higher")


def hidden(study: Study) -> Iterator[Claim]:
    """What terms on hidden states are worth, beside nothing and beside "auto"."""
    good = next(iter(study.teachers))
    alone, adaptive = Cell(good), Cell(good, **AUTOM)
    for voice, what in (("late_to_early", "Late-to-early (LET)"), ("strong_features", "Masked features (weight 10)")):
        yield Claim(f"{what} from a random start: lower than no teacher", Cell(good, voice=voice), alone)
        yield Claim("... no worse than auto", Cell(good, voice=voice), adaptive, "no higher")
        yield Claim("... both together: lower than auto", Cell(good, voice=voice, **AUTOM), adaptive)
    remap = Cell(good, init="remap")
    yield Claim("LET from a grown start (remap): lower than without", replace(remap, voice="late_to_early"), remap)
    features, own = Cell(good, voice="strong_features"), Cell(good, voice="strong_self_features")
    random = Cell(good, voice="random_features")
    yield Claim("Masked features (weight 10): lower than with those of a random model", features, random)
    yield Claim("Masked features at PMD's weight: lower than no teacher", Cell(good, voice="features"), alone)
    yield Claim("Self-features (weight 0.1) without a teacher: lower than without", own, alone)
    yield Claim("... than with the features of a random model", own, random)
    yield Claim("... than label smoothing", own, Cell(good, voice="smoothing", **CONST))
    yield Claim("Self-features at Tf-FD's weight: lower than without", Cell(good, voice="self_features"), alone)


def _with(cell: Cell, soft: dict[str, Any]) -> Cell:
    return replace(cell, **soft)
