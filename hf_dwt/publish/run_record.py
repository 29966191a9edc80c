"""What is known of a run, as it stands in `run.json` beside the weights."""

import dataclasses
import json
import logging
import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from ..errors import HubError

logger = logging.getLogger(__name__)

RUN_FILE, GROWTH_FILE = "run.json", "growth.json"
# Filled in by TrainingArguments itself.
_DERIVED = ("accelerator_config", "report_to")
_PACKAGES = ("hf_dwt", "transformers", "torch", "datasets", "accelerate", "peft", "huggingface_hub")


@dataclass
class RunRecord:
    """Everything in it is JSON; what is not known is absent, None or empty.

    model: class, auto_class, task, parameters; adapter (its type) and base_model, of an adapter.
    teacher: name, hub_id, revision, parameters, license.
    growth: init, rest, seed, teacher, hub_id, copied, fresh, references.
    objective: hard_weight, soft_weight, soft_term, temperature, soft_loss_scaling, schedule, schedule_kwargs.
    training: steps, epochs, examples_per_step, tokens, padding_counted (among them), processes, seed, and seconds:
        total, teacher, data, student.
    settings: arguments that differ from their defaults.
    curve: what was logged, with the step and the seconds of training till then.
    datasets: id (of the Hub), name, revision.
    environment: hardware, python, and versions by package.
    baseline: loss, perplexity, accuracy of the same model trained without the teacher.
    asked: what the user says of the model: language, license, tags, datasets, model_name, model_id.
    """

    model: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)
    growth: dict[str, Any] = field(default_factory=dict)
    objective: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    datasets: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)

    @property
    def evaluations(self) -> dict[str, list[dict[str, float]]]:
        """The evaluations of each set in their order, with the same names ("eval_loss", ...) for every set.

        A set has the name it has in `eval_dataset`, or "" where that is no dict. The first is the main one: that of
        `metric_for_best_model`, else the first that was evaluated.
        """
        found: dict[str, list[dict[str, float]]] = {}
        for entry in self.curve:
            if (name := _evaluated_set(entry)) is not None:
                prefix = f"eval_{name}_" if name else "eval_"
                plain = {f"eval_{key[len(prefix) :]}" if key.startswith(prefix) else key: entry[key] for key in entry}
                found.setdefault(name, []).append(plain)
        wanted = str(self.settings.get("metric_for_best_model", "")).removeprefix("eval_")
        main = max((name for name in found if name and wanted.startswith(f"{name}_")), key=len, default=None)
        return found if main is None else {main: found.pop(main), **found}

    @property
    def main_evaluations(self) -> list[dict[str, float]]:
        """The evaluations of the main set; empty if there were none."""
        return next(iter(self.evaluations.values()), [])

    @property
    def metrics(self) -> dict[str, float]:
        """The last evaluation of the main set; empty if there was none."""
        return self.main_evaluations[-1] if self.main_evaluations else {}

    @property
    def overtook(self) -> dict[str, float] | None:
        """The first evaluation at which the student's loss was below its teacher's; None if never."""
        known = [entry for entry in self.main_evaluations if {"eval_loss", "eval_teacher_loss"} <= entry.keys()]
        return next((entry for entry in known if entry["eval_loss"] < entry["eval_teacher_loss"]), None)

    def save(self, folder: str | Path) -> None:
        """Write `run.json`; `overtook` is there too."""
        told = {**dataclasses.asdict(self), "overtook": self.overtook}
        write_whole(Path(folder) / RUN_FILE, json.dumps(told, indent=1, default=str) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "RunRecord":
        """Read `run.json`.

        Raises:
            HubError: there is none, or it is not one.
        """
        try:
            said = json.loads((Path(folder) / RUN_FILE).read_text(encoding="utf-8"))
            return cls(**{f.name: said[f.name] for f in dataclasses.fields(cls) if f.name in dict(said)})
        except (OSError, ValueError, TypeError) as error:
            problem = f"has no readable {RUN_FILE}, which a run leaves beside its weights ({type(error).__name__})."
            raise HubError("folder", str(folder), problem, "Give the output_dir of a run, or a checkpoint.") from error


def _evaluated_set(entry: Mapping[str, Any]) -> str | None:
    """The name of the set that a logged entry evaluates; "" for the only one, None if it is no evaluation."""
    for key in entry:
        if match := re.fullmatch(r"eval_(?:(.+)_)?runtime", key):
            return match[1] or ""
    return "" if "eval_loss" in entry else None


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it is either the old one or the new one, and no other name of the old one changes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"_{path.name}.{os.getpid()}")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def non_default_settings(args: Any) -> dict[str, Any]:
    """The fields of a dataclass of arguments that differ from their defaults, without paths and tokens."""
    # Not from a default instance: making one resets accelerate's state, in the middle of a training.
    plain, local = args.to_dict(), ("token", "_dir", "hub_", "push_to_hub", "run_name", "resume_from", "disable_tqdm")
    found = {}
    for f in dataclasses.fields(args):
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        value, default = plain.get(f.name), getattr(default, "value", default)
        derived = f.name in _DERIVED or any(word in f.name for word in local)
        if not derived and not _same_setting(value, default):
            found[f.name] = _as_json(value)
    return found


def _same_setting(value: Any, default: Any) -> bool:
    """Whether both are equal or both empty; arrays and other values that no `bool` can be made of are no defaults."""
    try:
        return value is default or bool(value == default) or not (value or default)
    except Exception:
        return False


def _as_json(value: Any) -> Any:
    """A value as it reads back from JSON, or its text where JSON has no form of it (an array, a device)."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return str(value)


def public_name(source: Any) -> str:
    """An id as it is; of a local path its last part: others have no use for the rest."""
    text = os.fspath(source)
    local = os.path.exists(text) or os.path.isabs(text) or text.startswith(".")
    return os.path.basename(os.path.abspath(text)) if local else text


def hub_id(source: Any) -> str | None:
    """A name that can only be an id of the Hub: owner/name, and nothing of that name lies here."""
    text = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
    return text if re.fullmatch(r"\w[\w.-]*/[\w.-]+", text) and not os.path.exists(text) else None


def describe_dataset(dataset: Any) -> list[dict[str, Any]]:
    """Name of a `datasets` data set; id and revision if it came from the Hub."""
    info = getattr(dataset, "info", None)
    if info is None:
        return []
    found = {}
    for url in info.download_checksums or {}:
        if match := re.match(r"hf://datasets/([^@]+)@([^/]+)/", url):
            found[match[1]] = {"id": match[1], "name": match[1], "revision": match[2]}
    name = info.dataset_name
    return list(found.values()) or ([{"id": None, "name": name, "revision": None}] if name else [])


def inherited_license(source: Any) -> str | None:
    """The license in the card of a teacher, if it has one that can be read."""
    if not isinstance(source, str | os.PathLike):
        return None
    try:
        local = Path(source) / "README.md"
        if Path(source).exists() and not local.is_file():
            return None
        found = ModelCard.load(local if local.is_file() else str(source)).data.license
    except Exception as error:  # no card, no network: the card then says nothing of it
        logger.info("The teacher's license is not known: %s", type(error).__name__)
        return None
    return found if isinstance(found, str) else None


@cache
def environment() -> dict[str, Any]:
    """Hardware, Python and the versions of what a run stands on."""
    import torch

    hardware = platform.machine()
    if torch.cuda.is_available():
        hardware = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return {"hardware": hardware, "python": platform.python_version(), "versions": _versions(_PACKAGES)}


def _versions(packages: Iterable[str]) -> Mapping[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
