"""Which architectures grow exactly: every type of five of transformers' maps, measured. `make ledger` writes it down.

Each type is built tiny and random, every parameter moved off its initial value, and grown through `from_weak_teacher`:
width doubled (clone), depth doubled (identity layers) and width times 1.5 (pad). Teacher and student are compared on
batches with padding that the search did not see. "Text path": the compared inputs do not reach all that grew, such as
a vision tower, so that the rest is unproven; the report of a growth names it. "Image path" says the same of images.
"Declared": exact, with a layout that hf_dwt ships for this type, and refused without it.

A refusal that begins with a sentence about the architecture rests on that fact. "No layout in N trials" or "not done
within" say that the search found nothing, which is no proof that nothing is there. Padding is for pre-norm models.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from ..errors import DistillationError
from .declarations import LAYERS_OF_STAGES, PROPORTIONAL, STAGES, WITH_STAGES
from .declared_layouts import LAYOUTS
from .inputs import random_batch
from .layouts import model_types
from .parts import belongs_to_a_part, part_overrides
from .proof import TOLERANCES, proxy
from .records import difference as compare_tensors
from .records import main_output
from .refusals import WHY_NOT
from .shrink import shrink
from .sizes import size

MAPS = {
    "masked-lm": "MASKED_LM",
    "causal-lm": "CAUSAL_LM",
    "seq2seq-lm": "SEQ_TO_SEQ_CAUSAL_LM",
    "sequence-classification": "SEQUENCE_CLASSIFICATION",
    "image-classification": "IMAGE_CLASSIFICATION",
}
"""Our name of a map -> its name in transformers' modeling_auto."""

HELD_OUT = (9001, 9002)
"""Seeds of the batches that teacher and student are compared on."""

GROWTHS = ("width", "depth", "pad")
"""What is tried: width doubled, depth doubled, width times 1.5."""

HERE = Path(__file__).parent
DATA = HERE / "ledger.json"


@dataclass(frozen=True)
class Entry:
    """What happened to one type under one growth.

    Args:
        status: "exact"; "declared", exact with the help of a declaration; or "refused".
        reason: why it was refused; empty otherwise.
        difference: largest difference of outputs relative to the largest output or 1, on batches that neither the
            search nor `from_weak_teacher` saw; None where refused.
        seconds: of a processor, for the whole call.
        unproven: number of parameters that grew and that none of these batches reaches, such as a vision tower's.
    """

    status: str
    reason: str
    difference: float | None
    seconds: float
    unproven: int = 0


def types(task: str) -> dict[str, str]:
    """Model type -> class name, of a map."""
    names = getattr(modeling_auto, f"MODEL_FOR_{MAPS[task]}_MAPPING_NAMES")
    return {kind: name if isinstance(name, str) else name[0] for kind, name in names.items()}


def tiny_teacher(task: str, model_type: str) -> PreTrainedModel:
    """The tiny random model of a type; raises whatever its class raises on tiny sizes."""
    model_class = getattr(transformers, types(task)[model_type])
    config = CONFIG_MAPPING[model_type]()
    parts = [part for part in config.__dict__.values() if type(part) is model_class.config_class]
    if type(config) is not model_class.config_class and parts:
        config = parts[0]
    if task == "causal-lm" and config.to_dict().get("is_decoder") is False:
        config.is_decoder = True  # an encoder's class warns, or refuses, to predict the next token otherwise
    config = shrink(config)
    if task == "sequence-classification":
        config.pad_token_id = getattr(config, "pad_token_id", None) or 0  # batches of more than one need it
        config.get_text_config().pad_token_id = config.pad_token_id
        if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
            config.decoder_start_token_id = config.pad_token_id
    return proxy(model_class, config, seed=0)


def arguments(task: str, growth: str, config: PreTrainedConfig) -> dict[str, Any]:
    """Arguments of `from_weak_teacher` for one of `GROWTHS`."""
    if growth == "depth":
        return {"init": "clone", **_said(task, config, "num_hidden_layers", 2, 1)}
    init, *ratio = ("clone", 2, 1) if growth == "width" else ("pad", 3, 2)
    return {"init": init, **_said(task, config, "hidden_size", *ratio)}


def _measure(task: str, model_type: str, growth: str) -> Entry:
    from . import from_weak_teacher

    start = time.process_time()
    try:
        teacher = tiny_teacher(task, model_type)
        wanted = arguments(task, growth, teacher.config)
        student = from_weak_teacher(teacher, **wanted)
        if student.num_parameters() <= teacher.num_parameters():
            said = wanted.get("config_overrides", wanted.keys() - {"init"})
            why = "Nothing grew." if said else "Its config stores no such size."
            return Entry("refused", why, None, round(time.process_time() - start, 2))
    except Exception as error:  # whatever a type does is its entry
        return Entry("refused", _reason(error), None, round(time.process_time() - start, 2))
    seconds = round(time.process_time() - start, 2)
    difference = held_out(teacher, student)
    if not difference <= TOLERANCES[torch.float32]:
        return Entry("refused", f"On held-out batches the outputs differ by {difference:.1g}.", None, seconds)
    unproven = len(student.growth_report.unproven)  # type: ignore[union-attr]
    return Entry("exact", "", float(f"{difference:.1g}"), seconds, unproven)


def measure(task: str, model_type: str, growth: str) -> Entry:
    """Grow one type and say what happened; a declaration counts where the type is refused without it."""
    entry = _measure(task, model_type, growth)
    if entry.status == "refused":
        return entry
    names = _known_as(model_type)
    declared: list[tuple[Any, str]] = [(table, n) for table in (LAYOUTS, PROPORTIONAL) for n in names if n in table]
    if not declared:
        return entry
    kept: list[tuple[Any, str, Any]] = [(table, name, table.pop(name)) for table, name in declared]
    try:
        alone = _measure(task, model_type, growth)
    finally:
        for table, name, value in kept:
            table[name] = value
    return replace(entry, status="declared" if alone.status == "refused" else "exact")


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


def _said(task: str, config: PreTrainedConfig, role: str, times: int, by: int) -> dict[str, Any]:
    """The role times `times / by`, said directly or, of a composite config, for its parts."""
    depths = getattr(config, "depths", None)
    layers = {key: getattr(config, key, None) for key in LAYERS_OF_STAGES if role == "num_hidden_layers"}
    if layers := {key: _times(value, times, by) for key, value in layers.items() if isinstance(value, list | float)}:
        return {"config_overrides": layers}
    named = {key: getattr(config, key, None) for key in (*STAGES, *WITH_STAGES)}
    if role == "hidden_size" and (isinstance(depths, list) or size(config, role) is None):
        widths = {k: _times(v, times, by, k in STAGES) for k, v in named.items() if isinstance(v, int | float | list)}
        if widths:
            return {"config_overrides": widths}
    value = size(config, role)
    if value is not None and not belongs_to_a_part(config, role):
        return {role: value * times // by}
    model_class = getattr(transformers, types(task).get(config.model_type, ""), PreTrainedModel)
    main = "vision_config" if model_class.main_input_name == "pixel_values" else "text_config"
    return {"config_overrides": part_overrides(config, role, times, by, main)}


def _times(value: Any, times: int, by: int, image: bool = False) -> Any:
    """A width, or a list of them, times `times / by`; what is no width (the channels of an image) stays."""
    if isinstance(value, list):
        return [one if image and one == value[0] == 3 else _times(one, times, by) for one in value]
    return value * times / by if isinstance(value, float) else value * times // by


def _reason(error: Exception) -> str:
    if isinstance(error, DistillationError):
        return f"{error.argument}: {error.problem}"
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"


def run(tasks: list[str], growths: list[str], only: list[str], show: Callable[[str], None]) -> dict[str, Any]:
    """Task -> model type -> growth -> entry."""
    ledger: dict[str, Any] = {}
    for task in tasks:
        ledger[task] = {}
        for model_type in types(task):
            if only and model_type not in only:
                continue
            entries = ledger[task][model_type] = {g: asdict(measure(task, model_type, g)) for g in growths}
            show(f"{task:24} {model_type:24} " + "  ".join(f"{g} {e['status']}" for g, e in entries.items()))
            for growth, entry in entries.items():
                if entry["reason"]:
                    show(f"{'':26}{growth}: {entry['reason'][:200]}")
    return ledger


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`old` with the entries of `new` in the place of its own: task -> model type -> growth -> entry."""
    whole = {**old, **{task: {**old.get(task, {}), **types} for task, types in new.items()}}
    for task, types in new.items():
        for model_type, entries in types.items():
            whole[task][model_type] = {**old.get(task, {}).get(model_type, {}), **entries}
    return whole


def totals(ledger: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Task -> growth -> "exact + declared of all"."""
    return {
        task: {
            growth: f"{sum(e[growth]['status'] != 'refused' for e in types.values() if growth in e)} of {len(types)}"
            for growth in GROWTHS
            if any(growth in e for e in types.values())
        }
        for task, types in ledger.items()
    }


def page(ledger: dict[str, Any]) -> str:
    """The ledger as Markdown: totals, and a row for each type."""
    lines = ["# Which architectures grow exactly", "", __doc__.split("\n\n", 1)[1].strip(), ""]
    lines += ["Written by `make ledger` from `hf_dwt/growth/ledger.json`; not by hand.", ""]
    lines += ["| map | width x 2 | depth x 2 | width x 1.5 |", "|---|---|---|---|"]
    for task, found in totals(ledger).items():
        lines.append(f"| {task} | " + " | ".join(found.get(growth, "") for growth in GROWTHS) + " |")
    for task, entries in ledger.items():
        lines += ["", f"## {task}", "", "| type | width x 2 | depth x 2 | width x 1.5 | refused because |"]
        lines.append("|---|---|---|---|---|")
        for model_type, by_growth in sorted(entries.items()):
            status = " | ".join(_shown(by_growth[growth], task) for growth in GROWTHS)
            reasons = dict.fromkeys(e["reason"] for e in by_growth.values() if e["reason"])
            text = " ".join(filter(None, [WHY_NOT.get(model_type, ""), *reasons])).replace("|", "/").replace("\n", " ")
            lines.append(f"| {model_type} | {status} | {text} |")
    return "\n".join(lines) + "\n"


def _shown(entry: dict[str, Any], task: str) -> str:
    path = "" if not entry["unproven"] else " (image path)" if task == "image-classification" else " (text path)"
    return entry["status"] + path


def main(argv: list[str] | None = None) -> int:
    """`python -m hf_dwt.growth.ledger`: measure everything, or what the options say."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--task", action="append", choices=list(MAPS), help="one map; may be repeated")
    parser.add_argument("--growth", action="append", choices=GROWTHS, help="one growth; may be repeated")
    parser.add_argument("--type", action="append", default=[], help="one model type; may be repeated")
    parser.add_argument("--out", type=Path, help="write JSON here; what was not measured stays")
    parser.add_argument("--docs", type=Path, help="write the table for the documentation here")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    start = time.monotonic()
    ledger = run(options.task or list(MAPS), options.growth or list(GROWTHS), options.type, print)
    for task, found in totals(ledger).items():
        print(f"{task:24} " + ", ".join(f"{growth} {count}" for growth, count in found.items()))
    seconds = sorted(e["seconds"] for task in ledger.values() for entries in task.values() for e in entries.values())
    print(
        f"{len(seconds)} growths in {time.monotonic() - start:.0f} s; median {seconds[len(seconds) // 2]:.2f} s, "
        f"longest {seconds[-1]:.1f} s"
    )
    if options.out and options.out.exists() and (options.type or options.task or options.growth):
        ledger = merged(json.loads(options.out.read_text(encoding="utf-8")), ledger)
    if options.out:
        options.out.write_text(json.dumps(ledger, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if options.docs:
        options.docs.parent.mkdir(parents=True, exist_ok=True)
        options.docs.write_text(page(ledger), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
