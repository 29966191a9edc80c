"""Which architectures grow exactly: every type of five of transformers' maps, measured by `make coverage`.

Each type is built tiny and random, every parameter moved off its initial value, and grown through `from_weak_teacher`:
width doubled (clone), depth doubled (identity layers) and width times 1.5 (pad). It is measured at four settings of
its sizes: "first", those of growth's own proxies; "a" and "b", drawn, so that widths, heads, key/value heads, FFN,
ranks, experts and vocabulary are unequal and no powers of 2; "default", the proportions of the type's default config.
What its class does not accept at other sizes stays as it is. Drawn sizes are padded by the first of 3/2, 4/3, 5/4,
5/3, 6/5, 8/7, 10/9 and 3 that leaves heads and groups whole and runs.

"Exact, 4 of 4": at every setting the student computes what its teacher does, on batches with padding that the search
did not see. "Partly": at some, and refused with a reason at the others. What is refused at the first sizes is not
tried at the others. "Text path": the compared inputs do not reach all that grew, such as a vision tower, so that the
rest is unproven; the report of a growth names it. "Image path" says the same of images. "Declared": exact, with a
layout that hf_dwt ships for this type, and refused without it at the first sizes.

A refusal that begins with a sentence about the architecture rests on that fact. "No layout in N trials" says that the
search found nothing, which is no proof that nothing is there. Padding is for pre-norm models.
"""

import argparse
import functools
import json
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel

from benchmarks.coverage.drawn import FIRST, SEEDS, SETTINGS, draw, moves
from benchmarks.coverage.growths import MAPS, arguments, growths, types, wider
from benchmarks.coverage.page import page, verdict, write
from hf_dwt.errors import DistillationError, GrowthError
from hf_dwt.growth.config.declared_layouts import LAYOUTS
from hf_dwt.growth.config.names import PROPORTIONAL
from hf_dwt.growth.proxy.activations import difference as compare_tensors
from hf_dwt.growth.proxy.activations import main_output
from hf_dwt.growth.proxy.batches import random_batch
from hf_dwt.growth.proxy.model import proxy
from hf_dwt.growth.proxy.shrink import shrink
from hf_dwt.growth.verify.compare import TOLERANCES
from hf_dwt.growth.width.layouts import model_types

HELD_OUT = SEEDS[:2]
"""Seeds of the batches that teacher and student are compared on."""

EVERY = 10
"""Types after which what was measured is written."""

HERE = Path(__file__).parent
DATA = HERE / "coverage.json"


@dataclass(frozen=True)
class Entry:
    """What happened to one type under one growth.

    Args:
        status: "exact"; "declared", exact with the help of a declaration; or "refused".
        reason: why it was refused; empty otherwise.
        difference: largest difference of outputs relative to the largest output or 1, on batches that neither the
            search nor `from_weak_teacher` saw; None where these refused. Above ten times what is allowed it is no
            rounding: growth returned a student that computes something else.
        seconds: of a processor, for the whole call.
        unproven: number of parameters that grew and that none of these batches reaches, such as a vision tower's.
    """

    status: str
    reason: str
    difference: float | None
    seconds: float
    unproven: int = 0


def tiny_config(task: str, model_type: str) -> tuple[Any, PreTrainedConfig, PreTrainedConfig]:
    """(class, tiny config, default config) of a type; raises whatever its class raises on tiny sizes."""
    model_class = getattr(transformers, types(task)[model_type])
    default = CONFIG_MAPPING[model_type]()
    parts = [part for part in default.__dict__.values() if type(part) is model_class.config_class]
    if type(default) is not model_class.config_class and parts:
        default = parts[0]
    if task == "causal-lm" and default.to_dict().get("is_decoder") is False:
        default.is_decoder = True  # an encoder's class warns, or refuses, to predict the next token otherwise
    config = shrink(default)
    if task == "sequence-classification":
        config.pad_token_id = getattr(config, "pad_token_id", None) or 0  # batches of more than one need it
        config.get_text_config().pad_token_id = config.pad_token_id
        if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
            config.decoder_start_token_id = config.pad_token_id
    return model_class, config, default


def config_at(task: str, model_type: str, setting: str) -> tuple[Any, PreTrainedConfig | None]:
    """(class, config at a setting of sizes, None where no sizes but the first are legal)."""
    model_class, tiny, default = tiny_config(task, model_type)
    return model_class, draw(model_class, tiny, default, setting, functools.partial(wider, task))


def tiny_teacher(task: str, model_type: str, setting: str = FIRST) -> PreTrainedModel:
    """The tiny random model of a type; raises whatever its class raises on tiny sizes.

    Raises:
        GrowthError: no sizes but the first are legal.
    """
    model_class, config = config_at(task, model_type, setting)
    if config is None:
        raise GrowthError("setting", setting, "Its class accepts no other sizes.", f"Use {FIRST!r}.")
    return proxy(model_class, config, seed=0)


def measure(
    task: str, model_type: str, growth: str, setting: str = FIRST, teacher: PreTrainedModel | None = None
) -> Entry:
    """Grow one type and say what happened; a declaration counts where the type is refused without it.

    Args:
        teacher: `tiny_teacher` of the same, where that is built already.
    """
    entry = _measure(task, model_type, growth, setting, teacher)
    if entry.status == "refused" or setting != FIRST:
        return entry
    names = _known_as(model_type)
    declared: list[tuple[Any, str]] = [(table, n) for table in (LAYOUTS, PROPORTIONAL) for n in names if n in table]
    if not declared:
        return entry
    kept: list[tuple[Any, str, Any]] = [(table, name, table.pop(name)) for table, name in declared]
    try:
        alone = _measure(task, model_type, growth, setting, teacher)
    finally:
        for table, name, value in kept:
            table[name] = value
    return replace(entry, status="declared" if alone.status == "refused" else "exact")


def _measure(task: str, model_type: str, growth: str, setting: str, teacher: PreTrainedModel | None) -> Entry:
    from hf_dwt import from_weak_teacher

    start = time.process_time()

    def refused(why: str) -> Entry:
        return Entry("refused", why, None, round(time.process_time() - start, 2))

    try:
        teacher = tiny_teacher(task, model_type, setting) if teacher is None else teacher
        wanted = arguments(task, growth, teacher.config, setting)
        student = from_weak_teacher(teacher, **wanted)
    except Exception as error:  # whatever a type does is its entry
        return refused(_reason(error))
    if student.num_parameters() <= teacher.num_parameters():
        stored = wanted.get("config_overrides", wanted.keys() - {"init"})
        return refused("Nothing grew." if stored else "Its config stores no such size.")
    seconds = round(time.process_time() - start, 2)
    difference = held_out(teacher, student)
    if not difference <= TOLERANCES[torch.float32]:
        return replace(refused(f"On held-out batches the outputs differ by {difference:.2g}."), difference=difference)
    unproven = len(student.growth_report.unproven)  # type: ignore[union-attr]
    return Entry("exact", "", float(f"{difference:.1g}"), seconds, unproven)


def _known_as(model_type: str) -> tuple[str, ...]:
    """The model types of its config and of the parts of that."""
    return tuple(filter(None, dict.fromkeys((model_type, *model_types(CONFIG_MAPPING[model_type]())))))


@torch.no_grad()
def held_out(teacher: PreTrainedModel, student: PreTrainedModel) -> float:
    """Largest difference on batches with padding that nothing else has used, relative to the largest output or 1."""
    worst = 0.0
    for seed in HELD_OUT:
        theirs, ours = (main_output(model.eval()(**random_batch(model, seed, size=4))) for model in (teacher, student))
        worst = max(worst, compare_tensors(ours, theirs))
    return worst


def _reason(error: Exception) -> str:
    if isinstance(error, DistillationError):
        return error.problem if error.argument == "init" else f"{error.argument}: {error.problem}"
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"


Coverage = dict[str, Any]
"""{"sizes": task -> type -> setting -> what was drawn, None where nothing could be; "growths": task -> type -> growth
-> setting -> entry}."""


def measure_type(task: str, model_type: str, wanted: Iterable[str], settings: Iterable[str]) -> tuple[Any, Any]:
    """(sizes, growths) of one type in a `Coverage`."""
    teachers: dict[str, PreTrainedModel] = {}
    sizes: dict[str, Any] = {}
    # Depth comes last: widths are found on the same proxies, which are kept from one to the next.
    order = sorted(growths().items(), key=lambda item: item[1].size == "num_hidden_layers")
    names = [name for name, _ in order if name in wanted]
    try:
        _, tiny, _ = tiny_config(task, model_type)
        first = tiny_teacher(task, model_type)
    except Exception as error:
        entry = Entry("refused", _reason(error), None, 0.0)
        return sizes, {growth: {FIRST: _stored(entry)} for growth in names}
    for setting in settings:
        if setting == FIRST:
            teachers[setting] = first
            continue
        model_class, config = config_at(task, model_type, setting)
        sizes[setting] = None if config is None else moves(tiny, config)
        if config is not None:
            teachers[setting] = proxy(model_class, config, seed=0)
    found: dict[str, Any] = {growth: {} for growth in names}
    for growth in names:
        for setting, teacher in teachers.items():
            entry = measure(task, model_type, growth, setting, teacher)
            found[growth][setting] = _stored(entry)
            if setting == FIRST and entry.status == "refused":
                break
    return sizes, found


def _stored(entry: Entry) -> dict[str, Any]:
    """What is written of an entry: nothing that depends on the machine."""
    return {key: value for key, value in asdict(entry).items() if key != "seconds"}


def run(
    coverage: Coverage, cases: list[tuple[str, str]], wanted: Iterable[str], settings: Iterable[str]
) -> Iterator[str]:
    """Measure each (task, type) into `coverage`; what was there of others stays. Yields lines for each."""
    for task, model_type in cases:
        for part, found in zip(("sizes", "growths"), measure_type(task, model_type, wanted, settings), strict=True):
            known = coverage.setdefault(part, {}).setdefault(task, {}).setdefault(model_type, {})
            for key, value in found.items():
                known[key] = {**known.get(key, {}), **value} if part == "growths" else value
        entries = coverage["growths"][task][model_type]
        lines = [f"{task:24} {model_type:24} " + "  ".join(f"{g} {' '.join(verdict(e))}" for g, e in entries.items())]
        for growth, by_setting in entries.items():
            lines += [f"{'':26}{growth} {s}: {e['reason'][:200]}" for s, e in by_setting.items() if e["reason"]]
        yield "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """`python -m benchmarks.coverage`: measure everything, or what the options say."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--task", action="append", choices=list(MAPS), help="one map; may be repeated")
    parser.add_argument("--growth", action="append", choices=list(growths()), help="one growth; may be repeated")
    parser.add_argument("--setting", action="append", choices=SETTINGS, help="one setting of sizes; may be repeated")
    parser.add_argument("--type", action="append", default=[], help="one model type; may be repeated")
    parser.add_argument("--resume", action="store_true", help="leave out types that --out has already")
    parser.add_argument("--out", type=Path, help="write JSON here as types are done; what was not measured stays")
    parser.add_argument("--docs", type=Path, help="write the table for the documentation here")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    part = options.type or options.task or options.growth or options.setting or options.resume
    coverage = (
        json.loads(options.out.read_text(encoding="utf-8")) if part and options.out and options.out.exists() else {}
    )
    known = coverage.get("growths", {}) if options.resume else {}
    cases = [
        (task, model_type)
        for task in options.task or MAPS
        for model_type in types(task)
        if (not options.type or model_type in options.type) and model_type not in known.get(task, {})
    ]
    start = time.monotonic()
    for n, line in enumerate(run(coverage, cases, options.growth or growths(), options.setting or SETTINGS)):
        print(line, flush=True)
        if options.out and n % EVERY == 0:
            write(coverage, options.out)
    print(f"{len(cases)} types in {time.monotonic() - start:.0f} s")
    if options.out:
        write(coverage, options.out)
    if options.docs:
        options.docs.write_text(page(coverage, __doc__), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
