"""Planted wrong facts are found by what they did to a student, dropped, and the student is trained again.

    python examples/find_bad_data.py            # about 20 minutes on one CPU core; goes on where it was stopped
    python examples/find_bad_data.py --quick    # seconds: that it runs, not what it finds

240 people live in 12 towns: two lines say so of each, in two of four wordings, between blocks of the shipped prose.
Both lines of 15 people name a wrong town. A causal student, grown from a weak teacher, is trained on all that; asked
in the two wordings that it has not seen, it gives wrong towns. Which lines taught it these? Each method scores all
lines for these answers; the 2 % with the highest scores of some are dropped, and a student is trained again. Two
regimes:

    known      the teacher, and so the student before training, knows the right facts: it has read them until then
    unknown    it has read the prose alone, for as long

    random; BM25    controls that run no model
    last; mean      gradient dot products of the head, at the last checkpoint and as a mean over five
    all parameters  mean, of all of them: rows="all"
    base            that of the head before training alone
    minus base; plus base    mean with debias=1 and with debias=-1

"same town" is the AUC among the lines that name the wrong town of a query, all of which have the same answer. The
first numbers are how many of the questions the student answers rightly before training. Three seeds. `--report`
prints the table and the marks of what is there; the last mark is whether dropping by mean leaves fewer wrong answers
than dropping at random.
"""

import argparse
import itertools
import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import paired
from paired import arguments, interval, keep, mean_of, of_seeds, opened, parser_of

# Models this small run up to ten times slower on two threads than on one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from hf_dwt import DistillationTrainer

HERE = Path(__file__).resolve().parent
WEAK = HERE / "data" / "weak_teacher"
REGIMES = ("known", "unknown")
METHODS = ("random", "BM25", "last", "mean", "all parameters", "base", "minus base", "plus base")
RETRAINED = ("random", "BM25", "mean", "all parameters", "base", "minus base")
"""Those by which lines are dropped, and a student is trained again."""
WORDINGS = (
    "{person} lives in {town}.",
    "The home of {person} is {town}.",
    "Whoever asks for {person} goes to {town}.",
    "You will find {person} at {town}.",
)
STEMS = (
    "Bal",
    "Cor",
    "Dun",
    "Fen",
    "Gar",
    "Hal",
    "Kor",
    "Lum",
    "Mor",
    "Nor",
    "Pel",
    "Ran",
    "Sol",
    "Tor",
    "Vel",
    "Wen",
)
PEOPLE = ["".join(pair) for pair in itertools.product(STEMS, ("a", "en", "ick", "o", "us", "y", "ette", "im"))]
PEOPLE += [f"{name}son" for name in PEOPLE]
TOWNS = [f"{stem}stead" for stem in STEMS[:12]]
SHARE = 0.02
"""Of the lines: so many are planted, and so many dropped."""


# ---- text ----


class Line(NamedTuple):
    """A line of a fact: of whom, in which wording, with which town, and whether that is a wrong one."""

    person: str
    wording: int
    town: str
    planted: bool

    @property
    def text(self) -> str:
        return WORDINGS[self.wording].format(person=self.person, town=self.town)


class Facts(NamedTuple):
    """The lines that are trained on, the right ones of the same, and what is asked: the planted people's lines, in the
    other wordings, with the wrong towns."""

    lines: list[Line]
    right: list[Line]
    asked: list[Line]


def facts_of(options: argparse.Namespace, seed: int) -> Facts:
    draw = random.Random(seed)
    people = draw.sample(PEOPLE, options.people)
    facts = Facts([], [], [])
    for number, person in enumerate(people):
        town, wrong = draw.sample(TOWNS, 2)
        planted = number < options.planted
        for place, wording in enumerate(draw.sample(range(len(WORDINGS)), len(WORDINGS))):
            if place < 2:
                facts.lines.append(Line(person, wording, wrong if planted else town, planted))
                facts.right.append(Line(person, wording, town, False))
            elif planted:
                facts.asked.append(Line(person, wording, wrong, True))
    return facts


def tokenizer_of() -> "PreTrainedTokenizerFast":
    """The shipped one, in which each name is one token."""
    from transformers import AddedToken, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(WEAK)
    tokenizer.add_tokens([AddedToken(name, single_word=True, normalized=False) for name in (*PEOPLE, *TOWNS)])
    return tokenizer


def tokens(lines: Sequence[Line], tokenizer: Any) -> list[list[int]]:
    return [tokenizer(line.text)["input_ids"] for line in lines]


# ---- models ----


def trained(
    steps: int, model: Any, examples: list[list[int]], tokenizer: Any, out: str, seed: int
) -> "DistillationTrainer":
    from transformers import DataCollatorForLanguageModeling

    from hf_dwt import DistillationTrainer

    args = arguments(
        out,
        max_steps=steps,
        learning_rate=3e-3,
        lr_scheduler_type="linear",
        warmup_steps=max(1, steps // 20),
        save_strategy="steps",
        save_steps=max(1, steps // 5),
        save_only_model=True,
        logging_steps=steps,
        seed=seed,
    )
    data: Any = [{"input_ids": ids} for ids in examples]
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    run = DistillationTrainer(model, args, data_collator=collator, train_dataset=data, processing_class=tokenizer)
    run.train()
    return run


def new_teacher(tokenizer: Any, seed: int) -> "PreTrainedModel":
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    set_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    return LlamaForCausalLM(config)


def grown(teacher: Any, folder: str) -> Any:
    """The student as it is before training, which is also kept in the folder."""
    from hf_dwt import from_weak_teacher

    student = from_weak_teacher(teacher, hidden_size=128, init="clone")
    student.save_pretrained(folder)
    return student


def answers(model: Any, asked: Sequence[Line], tokenizer: Any) -> list[str]:
    """The town that a model thinks most likely at the place of the one of each line."""
    import torch

    towns = tokenizer.convert_tokens_to_ids(TOWNS)
    found = []
    with torch.no_grad():
        for ids in tokens(asked, tokenizer):
            place = next(at for at, token in enumerate(ids) if token in towns)
            logits = model.eval()(input_ids=torch.tensor([ids], device=model.device)).logits[0, place - 1]
            found.append(TOWNS[int(logits[towns].argmax())])
    return found


def share_of(towns: Sequence[str], model: Any, asked: Sequence[Line], tokenizer: Any) -> float:
    """How many of the answers are these."""
    return statistics.mean(a == b for a, b in zip(answers(model, asked, tokenizer), towns, strict=True))


# ---- scores ----


def bm25(queries: list[list[int]], examples: list[list[int]], k: float = 1.5, b: float = 0.75) -> np.ndarray:
    """(examples, queries) of Okapi BM25 over tokens."""
    counts = np.zeros((len(examples), 1 + max(map(max, (*examples, *queries)))))
    for row, ids in enumerate(examples):
        np.add.at(counts[row], ids, 1)
    length, there = counts.sum(1, keepdims=True), (counts > 0).sum(0)
    rarity = np.log(1 + (len(examples) - there + 0.5) / (there + 0.5))
    weighed = rarity * counts * (k + 1) / (counts + k * (1 - b + b * length / length.mean()))
    return np.stack([weighed[:, sorted(set(ids))].sum(1) for ids in queries], 1)


def all_scores(
    run: "DistillationTrainer", base: str, queries: list[list[int]], examples: list[list[int]], places: list[int]
) -> dict[str, Any]:
    """Method -> its scores, as `attribute` returns them."""
    from hf_dwt.attribution import Attribution, attribute

    asked = [
        {"input_ids": ids, "labels": [token if at == place else -100 for at, token in enumerate(ids)]}
        for ids, place in zip(queries, places, strict=True)
    ]
    out = str(run.args.output_dir)
    mean, before = attribute(run, asked, checkpoints=out), attribute(run, asked, checkpoints=base)
    last = attribute(run, asked, checkpoints=out, denoise=None)
    draw = np.random.default_rng(run.args.seed)
    plain = {
        "random": draw.random(mean.scores.shape),
        "BM25": bm25(queries, examples),
        "minus base": mean.scores - before.scores,  # what debias=1 and base= give, without another pass
        "plus base": mean.scores + before.scores,
    }
    whole = attribute(run, asked, checkpoints=out, rows="all")
    found = {"last": last, "mean": mean, "all parameters": whole, "base": before}
    return found | {name: Attribution(values, mean.rows) for name, values in plain.items()}


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The chance that one of the positives is above one of the others; ties count half."""
    own, others = scores[positive], scores[~positive]
    if not len(own) or not len(others):
        return math.nan
    above = (own[:, None] > others).mean() + 0.5 * (own[:, None] == others).mean()
    return float(above)


def figures_of(scores: np.ndarray, asked: Sequence[Line], lines: Sequence[Line | None]) -> dict[str, float]:
    """Means over queries of the AUC of the lines that planted the answer: over all, and among those with its town."""
    every, same = [], []
    for column, query in enumerate(asked):
        cause = np.array([line is not None and line.planted and line.person == query.person for line in lines])
        town = np.array([line is not None and line.town == query.town for line in lines])
        every.append(auc(scores[:, column], cause))
        same.append(auc(scores[town, column], cause[town]))
    known = [value for value in same if not math.isnan(value)] or [math.nan]  # a town may have no other line
    return {"all": round(statistics.mean(every), 4), "same town": round(statistics.mean(known), 4)}


# ---- a regime ----


def studied(options: argparse.Namespace, regime: str, seed: int, add: Callable[[str, dict[str, Any]], None]) -> None:
    """Train, score by each method, drop and train again; `add` gets the figures of each method."""
    from make_weak_teacher import read_blocks

    tokenizer, facts = tokenizer_of(), facts_of(options, seed)
    blocks = read_blocks(HERE / "data" / "train.txt", tokenizer, 32)["input_ids"][: options.blocks]
    read = [*tokens(facts.right, tokenizer), *blocks] if regime == "known" else list(blocks)
    examples = [*tokens(facts.lines, tokenizer), *blocks]
    lines: list[Line | None] = [*facts.lines, *[None] * len(blocks)]
    with tempfile.TemporaryDirectory() as folder:
        base, began = f"{folder}/base", time.perf_counter()
        weak = new_teacher(tokenizer, seed)
        teacher = trained(options.teacher_steps, weak, read, tokenizer, f"{folder}/teacher", seed).model
        town_of = {line.person: line.town for line in facts.right}
        knows = share_of([town_of[line.person] for line in facts.asked], teacher, facts.asked, tokenizer)
        run = trained(options.steps, grown(teacher, base), examples, tokenizer, f"{folder}/run", seed)
        seconds = time.perf_counter() - began

        wrong, given = [line.town for line in facts.asked], answers(run.model, facts.asked, tokenizer)
        before = statistics.mean(a == b for a, b in zip(given, wrong, strict=True))
        asked = [line for town, line in zip(given, facts.asked, strict=True) if town == line.town] or facts.asked
        queries, towns = tokens(asked, tokenizer), {tokenizer.convert_tokens_to_ids(town) for town in TOWNS}
        places = [next(at for at, token in enumerate(ids) if token in towns) for ids in queries]
        began = time.perf_counter()
        scores = all_scores(run, base, queries, examples, places)
        scoring = time.perf_counter() - began
        for method in options.methods:
            planted = sum(line is not None and line.planted for line in lines)
            dropped = [lines[index] for index in scores[method].top(SHARE)]
            figures: dict[str, Any] = {
                **figures_of(scores[method].scores, asked, lines),
                "found": round(sum(line is not None and line.planted for line in dropped) / planted, 4),
                "knows": round(knows, 4),
                "wrong": round(before, 4),
                "queries": len(asked),
                "seconds": round(seconds, 1),
                "scoring": round(scoring, 1),
            }
            if method in RETRAINED:
                kept = [examples[index] for index in scores[method].rest(SHARE)]
                again = trained(options.steps, grown(teacher, base), kept, tokenizer, f"{folder}/{method}", seed)
                left = share_of(wrong, again.model, facts.asked, tokenizer)
                figures["wrong again"] = round(left, 4)
            add(method, figures)


# ---- results ----


def table(runs: dict[str, Any]) -> str:
    lines = [
        "| before training the facts are | of the questions, right | score | AUC, all lines | AUC, same town "
        "| planted lines among the 2 % | wrong answers before | after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for regime, method in itertools.product(REGIMES, METHODS):
        if of_seeds(runs, arm := f"{regime}, {method}", "all"):
            cells = [f"{mean_of(runs, arm, name):.2f}" for name in ("all", "same town")]
            cells += [f"{mean_of(runs, arm, name):.0%}" for name in ("found", "wrong", "wrong again")]
            shown = ("-" if cell == "nan%" else cell for cell in cells)
            lines.append(f"| {regime} | {mean_of(runs, arm, 'knows'):.0%} | {method} | {' | '.join(shown)} |")
    return "\n".join(lines)


def marks(runs: dict[str, Any]) -> list[tuple[str, bool]]:
    """What attribution is held to, and whether it holds."""
    found = []
    for regime in (regime for regime in REGIMES if of_seeds(runs, f"{regime}, mean", "all")):
        same = mean_of(runs, f"{regime}, mean", "same town")
        found.append((f"{regime}: mean has {same:.3f} >= 0.8 among lines of the same town", same >= 0.8))
        last = mean_of(runs, f"{regime}, last", "same town")
        found.append((f"{regime}: mean is not below the last checkpoint, {last:.3f}", same >= last))
        own, other = (of_seeds(runs, f"{regime}, {name}", "wrong again") for name in ("mean", "random"))
        gap, half = interval([other[seed] - own[seed] for seed in own.keys() & other.keys()])
        text = f"{regime}: dropping by mean leaves {gap:.0%} ± {half:.0%} fewer wrong answers than at random"
        found.append((text, gap > 0))
    return found


report = partial(paired.report, tables={"planted facts": table}, marks=marks)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = parser_of(__doc__, HERE / "find_bad_data.json")
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=list(REGIMES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--steps", type=int, default=600, help="of each student")
    parser.add_argument("--teacher-steps", type=int, default=2400)
    options = parser.parse_args(argv)
    options.people, options.planted, options.blocks = 240, 15, 1020
    if options.quick:
        options.seeds, options.steps, options.teacher_steps = 1, 5, 5
        options.people, options.planted, options.blocks = 24, 2, 52
    return options


def main(argv: list[str] | None = None) -> dict[str, Any]:
    options = parse(argv)
    if options.report:
        report(options.results, options.page)
        return {}
    settings = {name: getattr(options, name) for name in ("steps", "teacher_steps", "people", "planted", "blocks")}
    content = opened(options.results, settings)
    for seed, regime in itertools.product(range(options.seeds), options.regimes):
        if any(f"{regime}, {method} / {seed}" not in content["runs"] for method in options.methods):
            studied(
                options,
                regime,
                seed,
                lambda method, found, regime=regime, seed=seed: keep(  # type: ignore[misc]
                    options.results, content, f"{regime}, {method} / {seed}", found
                ),
            )
    report(options.results)
    return content


if __name__ == "__main__":
    main()
