"""Text that the teacher makes: does a student gain by it, beside what costs less?

    python examples/teacher_proposals.py            # about 75 minutes on one CPU core; goes on where it was stopped
    python examples/teacher_proposals.py --quick    # seconds: that it runs, not what it finds

The shipped weak teacher, and a masked student of twice its width that computes the same at first (init="clone"),
trained on 64 KB and on 2 MB of text, with as many tokens in every arm; three seeds. On 64 KB a student of random
weights too, for to one that begins as its teacher no prediction of the teacher is new.

    static masks       no teacher; the masks of a text are always the same
    dynamic masks      no teacher; other masks each time
    random words       the same, with random words in as many places as the teacher would fill; they label nothing
    soft term          the teacher's soft term on the original text
    proposals          the same, with words that the teacher draws (choose="random")
    disagreement       the same, each time the one of four candidates on which both models differ most

The last three also run at equal seconds: with as many steps as the time of the dynamic masks allows, by the
processor's time of the first seed, that of making text included. A run is in the file of results as soon as it ends;
`--report` prints the table and the marks of what is there. `--text FILE` reads other text, one paragraph a line, such
as `examples/study/gather.py` makes; held-out text is the shipped one in any case.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paired
from paired import Runs, arguments, difference, keep, mean_of, of_seeds, opened, parser_of

# Models this small run up to ten times slower on two threads than on one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
WEAK = HERE / "data" / "weak_teacher"
RANDOM = ", random start"
"""Behind the name of a size."""
SIZES = {"64 KB": 65_536, "2 MB": 2_000_000, f"64 KB{RANDOM}": 65_536}
ARMS = ("static masks", "dynamic masks", "random words", "soft term", "proposals", "disagreement")
TAUGHT = ("soft term", "proposals", "disagreement")
EQUAL = ", equal seconds"
"""Behind the name of an arm."""
MASKED, SHARE, SPANS, CANDIDATES = 0.15, 0.5, 0.15, 4
Collate = Callable[[list[Any]], Any]


# ---- text ----


class RandomWords:
    """A collator around another, which puts random words where a teacher would draw some."""

    def __init__(self, collator: Collate, tokenizer: "PreTrainedTokenizerFast") -> None:
        self.collator, self.special = collator, set(tokenizer.all_special_ids)
        self.words = sorted(set(tokenizer.get_vocab().values()) - self.special)

    def __call__(self, features: list[Any]) -> Any:
        import torch

        from hf_dwt.data.drawing import random_spans

        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        changed, truths = [], torch.ones(len(features), len(features[0]["input_ids"]), dtype=torch.bool)
        for number, feature in enumerate(features):
            ids = list(feature["input_ids"])
            if torch.rand((), generator=generator) < SHARE:
                places = [place for place, token in enumerate(ids) if token not in self.special]
                spans = random_spans(places, max(1, round(SPANS * len(places))), generator)
                for place in chain.from_iterable(spans):
                    ids[place] = self.words[int(torch.randint(len(self.words), (), generator=generator))]
                    truths[number, place] = False
            changed.append({"input_ids": ids})
        return {**self.collator(changed), "hard_row_weight": truths}


def with_static_masks(text: "Dataset", collator: Collate, seed: int) -> "Dataset":
    """Each example as the collator masks it once."""
    import torch
    from datasets import Dataset

    torch.manual_seed(seed)
    batch = collator([{"input_ids": ids} for ids in text["input_ids"]])
    return Dataset.from_dict({name: value.tolist() for name, value in batch.items()})


def data_of(options: argparse.Namespace) -> tuple["PreTrainedTokenizerFast", dict[str, "Dataset"], "Dataset"]:
    """The tokenizer, the training text of each size, and held-out text."""
    from make_weak_teacher import read_blocks
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(WEAK)
    text, sizes = options.text.read_text(encoding="utf-8"), {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.sizes:
            file = Path(folder) / "text.txt"
            file.write_text(text[: SIZES[name]], encoding="utf-8")
            sizes[name] = read_blocks(file, tokenizer, 64)
    valid = read_blocks(HERE / "data" / "valid.txt", tokenizer, 64)
    return tokenizer, sizes, valid.select(range(min(len(valid), options.held_out)))


# ---- a run ----


def trained(options: argparse.Namespace, data: Any, size: str, arm: str, seed: int, steps: int) -> dict[str, Any]:
    """Figures of a student that was trained so."""
    from transformers import DataCollatorForLanguageModeling, default_data_collator, set_seed

    from hf_dwt import DistillationTrainer, from_weak_teacher
    from hf_dwt.data import TeacherProposals
    from hf_dwt.training.opening import PrintAssessment

    tokenizer, sizes, valid = data
    text, masks = sizes[size], DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED)
    collator: Any = masks
    if arm == "static masks":
        text, collator = with_static_masks(text, masks, seed), default_data_collator
    elif arm == "random words":
        collator = RandomWords(masks, tokenizer)
    elif arm in ("proposals", "disagreement"):
        choose = "random" if arm == "proposals" else arm
        collator = TeacherProposals(masks, WEAK, share=SHARE, spans=SPANS, candidates=CANDIDATES, choose=choose)
    start = "random" if size.endswith(RANDOM) else "clone"
    student: Any = from_weak_teacher(WEAK, init=start, hidden_size=options.size, seed=seed)
    set_seed(seed)
    with tempfile.TemporaryDirectory() as out:
        args = arguments(
            out,
            max_steps=steps,
            learning_rate=1e-3,
            lr_scheduler_type="linear",
            warmup_steps=max(1, steps // 20),
            soft_weight_schedule="constant",
            logging_steps=max(1, steps // 10),
            seed=seed,
        )
        run = DistillationTrainer(
            student,
            args,
            teacher_model=WEAK if arm in TAUGHT else None,
            train_dataset=text,
            processing_class=tokenizer,
            data_collator=collator,
        )
        run.remove_callback(PrintAssessment)
        began = time.process_time()
        run.train()
        seconds = time.process_time() - began
        run.data_collator = default_data_collator
        loss = run.evaluate(with_static_masks(valid, masks, 0))["eval_loss"]  # type: ignore[arg-type]  # the same in all
    figures = {"steps": steps, "seconds": round(seconds, 1), "loss": round(loss, 5)}
    return figures | ({"making text": round(collator.seconds, 1)} if isinstance(collator, TeacherProposals) else {})


def run_of(options: argparse.Namespace, data: Any, size: str, arm: str, seed: int, runs: Runs) -> dict[str, Any]:
    name, steps = arm.removesuffix(EQUAL), options.steps
    if arm.endswith(EQUAL):  # by what the first seed took for the same steps
        plain, own = (runs[f"{size}, {each} / 0"]["seconds"] for each in ("dynamic masks", name))
        steps = max(1, round(steps * plain / own))
    return trained(options, data, size, name, seed, steps)


# ---- results ----


def table(runs: Runs) -> str:
    lines = [
        "| text | arm | steps | seconds | of these, making text | held-out loss | beside dynamic masks "
        "| beside the soft term |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size in SIZES:
        for arm in [*ARMS, *(f"{name}{EQUAL}" for name in TAUGHT)]:
            key = f"{size}, {arm}"
            if not of_seeds(runs, key, "loss"):
                continue
            cells = [
                size,
                arm,
                *(f"{mean_of(runs, key, figure):.0f}" for figure in ("steps", "seconds", "making text")),
            ]
            cells.append(f"{mean_of(runs, key, 'loss'):.4f}")
            for other in ("dynamic masks", "soft term"):
                gap, half = difference(runs, key, f"{size}, {other}")
                cells.append(f"{gap:+.4f} ± {half:.4f}")
            lines.append(f"| {' | '.join('-' if cell == 'nan' else cell for cell in cells)} |")
    return "\n".join(lines)


def marks(runs: Runs) -> list[tuple[str, bool]]:
    """What the arms are held to, and whether it holds."""
    found = []
    for size in [size for size in SIZES if of_seeds(runs, f"{size}, disagreement", "loss")]:
        pairs = [("disagreement", other) for other in ("dynamic masks", "random words", "soft term", "proposals")]
        pairs += [(f"{arm}{EQUAL}", "dynamic masks") for arm in TAUGHT]
        pairs += [(f"{arm}{EQUAL}", f"soft term{EQUAL}") for arm in TAUGHT[1:]]
        for arm, other in pairs:
            gap, half = difference(runs, f"{size}, {arm}", f"{size}, {other}")
            found.append((f"{size}: {arm} {gap:+.4f} ± {half:.4f} nats beside {other}", gap + half < 0))
    return found


report = partial(paired.report, tables={"teacher proposals": table}, marks=marks)


# ---- the whole ----


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = parser_of(__doc__, HERE / "teacher_proposals.json")
    parser.add_argument("--steps", type=int, default=400, help="of a student")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="of the training text")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--text", type=Path, default=HERE / "data" / "train.txt", help="one paragraph a line")
    options = parser.parse_args(argv)
    options.size, options.held_out = 128, 320
    if options.quick:
        options.seeds, options.steps, options.held_out, options.sizes = 1, 3, 8, ["64 KB"]
    return options


def main(argv: list[str] | None = None) -> dict[str, Any]:
    options = parse(argv)
    if options.report:
        report(options.results, options.page)
        return {}
    settings = {name: getattr(options, name) for name in ("steps", "size", "held_out")} | {"text": options.text.name}
    content = opened(options.results, settings)
    runs, data = content["runs"], data_of(options)
    timed = [f"{arm}{EQUAL}" for arm in TAUGHT if {arm, "dynamic masks"} <= set(options.arms)]
    for seed in range(options.seeds):
        for size in options.sizes:
            for arm in [*options.arms, *timed]:
                if (key := f"{size}, {arm} / {seed}") not in runs:
                    keep(options.results, content, key, run_of(options, data, size, arm, seed, runs))
    report(options.results)
    return content


if __name__ == "__main__":
    main()
