"""Every option of distillation, on top of `transformers.TrainingArguments`."""

import copy
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments

from .argument_types import field_problems
from .errors import DistillationError, raise_all, require_known_arguments
from .objective import SOFT_TERMS
from .objective.corrections import CORRECTIONS, get_correction
from .objective.hidden import HIDDEN_TERMS, get_hidden_term
from .objective.hidden.layers import Layer, Pair
from .objective.hidden.record import HiddenTerm
from .objective.scaling import SCALINGS
from .objective.targets import Correct
from .option_checks import option_problems
from .parts import Part, help_text
from .schedules import SCHEDULES, choices, get_schedule
from .schedules.record import Curve
from .teachers.cache.formats import FORMATS, format_help
from .teachers.placement import AUTO, placement_help

if TYPE_CHECKING:
    NameOrCallable = str | Callable[..., Any]
    LayersOrJson = str | Mapping[Layer, Layer] | Sequence[Layer | Pair]
else:
    NameOrCallable = LayersOrJson = str  # what a command line can give: HfArgumentParser reads the annotation


class _SignatureOfInit:
    """The signature of the __init__ of the class that is asked."""

    def __get__(self, instance: object, owner: type) -> inspect.Signature:
        signature = inspect.signature(owner.__init__)  # type: ignore[misc]
        return signature.replace(parameters=list(signature.parameters.values())[1:])


@dataclass
class DistillationArguments(TrainingArguments):
    """`TrainingArguments` plus the weak-teacher objective (Lee et al., 2023, arXiv 2305.18239).

        loss = hard_weight * CE(labels, student) + soft_weight * KL(teacher^tau || student^tau)

    averaged over the positions that carry a label. The paper's own setting is
    `soft_weight_schedule="constant"` with both weights at 1.

    Args:
        hard_weight: weight of the hard term, alpha_h in the paper. At least 0.
        soft_weight: weight of the soft term, alpha_s in the paper. At least 0; at 0 the teacher is not run in
            training, no schedule applies, and the loss is `hard_weight` times the plain loss.
        soft_weight_schedule: how both weights move with training progress: a name of `hf_dwt.schedules.SCHEDULES`
            or a callable from progress in [0, 1] to (factor of hard_weight, factor of soft_weight); or "auto", by the
            teacher margin (see `hf_dwt.schedules.adaptive`).
        soft_weight_schedule_kwargs: parameters of that schedule, a dict or JSON, such as {"until": 0.3}.
        soft_term: the divergence of the soft term: a name of `hf_dwt.objective.SOFT_TERMS` or a callable.
        temperature: tau, above 0; divides the logits of both models in the soft term only.
        teacher_correction: how the teacher's predictions are corrected row by row: a name of
            `hf_dwt.objective.corrections.CORRECTIONS`, or a callable from the student's logits (m, C), the teacher's
            (m, P), the labels (m,) and the progress of training to `Targets`. None leaves them as they are.
        teacher_correction_kwargs: parameters of that correction, a dict or JSON, such as {"eta": 0.9}.
        hidden_term: what compares hidden states of layers: a name of `hf_dwt.objective.hidden.HIDDEN_TERMS`, or a
            callable from rows of the student (n, H), rows of what supervises (n, H) and the example of each row (n,)
            to losses (n,). None has no such term.
        hidden_weight: of its mean over the rows and pairs of layers. At least 0; at 0 the run is the one without it.
            None is the weight of the term's source.
        hidden_weight_schedule: how that weight moves: a name of `hf_dwt.schedules.SCHEDULES`, whose factor of the
            soft weight counts, or such a callable.
        hidden_weight_schedule_kwargs: parameters of that schedule, a dict or JSON.
        hidden_layers: a dict {student's layer: teacher's layer}, a list of such pairs, or a list of the student's
            layers; or JSON of one of them. A layer is a number from 1 on, one below 0 from the last back, or "last",
            what the body puts out behind its final norm. None is the term's default.
        hidden_term_kwargs: parameters of that term, a dict or JSON, such as {"pool": true}.
        soft_loss_scaling: "none" (the paper's form) or "tau_squared", which keeps the size of the soft term's
            gradient when tau changes (Hinton et al., 2015, arXiv 1503.02531, section 2).
        loss_kernel: "auto" makes the logits of both models for a chunk of rows at a time, with their gradients, where
            a head is proven to be linear; "plain" makes those of all rows at once. The loss is the same.
        teacher_model_init_kwargs: arguments of `from_pretrained` for a teacher given by id or path (revision,
            dtype, token, ...), a dict or JSON.
        teacher_placement: where the teacher's weights lie while it is not run: a name of
            `hf_dwt.teachers.placement.PLACEMENTS`, or "auto", the first that fits the device beside the student. The
            steps are the same. A model that is given as `teacher_model` stays as it is under "shard" and "offload",
            which place a copy; "replicate" moves it to the device.
        teacher_cache: a folder that keeps the teacher's targets for the training data, so that it is run for each
            example once and not in each epoch and run. Made when training starts, or beforehand: see
            `teacher_cache_only`.
        teacher_cache_form: what is kept of a row: a name of `hf_dwt.teachers.cache.formats.FORMATS`, or "auto", the
            smallest of the unbiased formats. Classifications keep their logits.
        teacher_cache_k: classes a row of "top_k" (most likely) and "sampled" (draws).
        teacher_cache_epochs: epochs of random masks in the cache; masks repeat after as many. Without random masks
            one epoch is all there is.
        teacher_cache_only: `train` makes the cache and ends the program (exit code 0) before the first step, so that
            nothing that a script does after training is done; nothing is pushed. In Python,
            `DistillationTrainer.build_teacher_cache` does the same and returns.
        save_on_interrupt: on SIGINT (Ctrl-C) and SIGTERM a whole checkpoint is saved at the end of the step, and the
            signal has its effect after that. A second Ctrl-C ends the run at once.

    Raises:
        ArgumentError: a value out of range or a name that does not exist; several at once as a `SetupError`.
    """

    _VALID_DICT_FIELDS = [  # noqa: RUF012 (a class attribute of the base, not a field)
        *TrainingArguments._VALID_DICT_FIELDS,
        "soft_weight_schedule_kwargs",
        "teacher_correction_kwargs",
        "hidden_weight_schedule_kwargs",
        "hidden_term_kwargs",
        "teacher_model_init_kwargs",
    ]

    hard_weight: float = field(default=1.0, metadata={"help": "Weight of the hard term (labels)."})
    soft_weight: float = field(default=1.0, metadata={"help": "Weight of the soft term (teacher)."})
    soft_weight_schedule: NameOrCallable = field(
        default="auto",
        metadata={"help": f"How both weights change: {help_text(choices())}."},
    )
    soft_weight_schedule_kwargs: dict[str, object] | str | None = field(
        default=None, metadata={"help": "Parameters of the schedule as JSON, such as '{\"until\": 0.3}'."}
    )
    soft_term: NameOrCallable = field(
        default="forward_kl", metadata={"help": f"Divergence of the soft term: {help_text(SOFT_TERMS)}."}
    )
    temperature: float = field(default=1.0, metadata={"help": "tau, of both models, in the soft term."})
    teacher_correction: NameOrCallable | None = field(
        default=None, metadata={"help": f"Correction of the teacher, row by row: {help_text(CORRECTIONS)}."}
    )
    teacher_correction_kwargs: dict[str, object] | str | None = field(
        default=None, metadata={"help": "Parameters of the correction as JSON, such as '{\"eta\": 0.9}'."}
    )
    hidden_term: NameOrCallable | None = field(
        default=None, metadata={"help": f"Term on hidden states of layers: {help_text(HIDDEN_TERMS)}."}
    )
    hidden_weight: float | None = field(
        default=None, metadata={"help": "Weight of the hidden term; by default that of its source."}
    )
    hidden_weight_schedule: NameOrCallable = field(
        default="constant",
        metadata={"help": f"How it changes, by the factor of the soft weight: {', '.join(SCHEDULES)}."},
    )
    hidden_weight_schedule_kwargs: dict[str, object] | str | None = field(
        default=None, metadata={"help": "Parameters of that schedule as JSON."}
    )
    hidden_layers: LayersOrJson | None = field(
        default=None,
        metadata={"help": "Layers that it compares, as JSON: '{\"2\": \"last\"}' (student's: teacher's) or '[2, 4]'."},
    )
    hidden_term_kwargs: dict[str, object] | str | None = field(
        default=None, metadata={"help": "Parameters of the term as JSON, such as '{\"pool\": true}'."}
    )
    soft_loss_scaling: str = field(
        default="none", metadata={"help": f"Factor of the soft term: {help_text(SCALINGS)}."}
    )
    loss_kernel: str = field(
        default="auto",
        metadata={"help": "auto (logits in chunks of rows where the head allows it) or plain (all at once)."},
    )
    teacher_model_init_kwargs: dict[str, object] | str | None = field(
        default=None, metadata={"help": "from_pretrained arguments of the teacher as JSON."}
    )
    teacher_placement: str = field(
        default=AUTO, metadata={"help": f"Where the teacher's weights lie between its uses: {placement_help()}."}
    )
    teacher_cache: str | None = field(
        default=None, metadata={"help": "Folder that keeps the teacher's targets for the training data."}
    )
    teacher_cache_form: str = field(default="hidden", metadata={"help": f"What it keeps of a row: {format_help()}."})
    teacher_cache_k: int = field(default=50, metadata={"help": "Classes a row of the forms top_k and sampled."})
    teacher_cache_epochs: int = field(default=10, metadata={"help": "Epochs of random masks, which then repeat."})
    teacher_cache_only: bool = field(
        default=False, metadata={"help": "Make the cache and end before the first step: nothing is trained or pushed."}
    )
    save_on_interrupt: bool = field(
        default=False, metadata={"help": "Save a checkpoint on Ctrl-C and SIGTERM, at the end of the step."}
    )

    # As that of __init__, which inspect would not find behind __new__.
    __signature__ = _SignatureOfInit()

    def __new__(cls, *args: object, **named: object) -> "DistillationArguments":
        # Name a misspelt argument before the generated __init__ raises a bare TypeError for it.
        taken = inspect.signature(cls).parameters.values()
        if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in taken):
            require_known_arguments(named, [parameter.name for parameter in taken], cls.__name__)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        raise_all(field_problems(self) + self.problems())
        self.teacher_cache = self.teacher_cache and os.fspath(self.teacher_cache)
        self.push_to_hub = self.push_to_hub and not self.teacher_cache_only
        super().__post_init__()

    def schedule(self) -> Curve | None:
        """From progress to (factor of hard_weight, factor of soft_weight); None for "auto", which is no curve."""
        return get_schedule(self.soft_weight_schedule, self.soft_weight_schedule_kwargs)  # type: ignore[arg-type]

    def correction(self) -> Correct | None:
        """From a chunk of both models' logits to corrected targets; None without a correction."""
        return get_correction(self.teacher_correction, self.teacher_correction_kwargs)  # type: ignore[arg-type]

    def hidden(self) -> HiddenTerm | None:
        """The record of the term on hidden states, with the parameters and the weight of the run; None without one."""
        term = get_hidden_term(self.hidden_term, self.hidden_term_kwargs)  # type: ignore[arg-type]
        return term if term is None or self.hidden_weight is None else replace(term, weight=self.hidden_weight)

    def hidden_schedule(self) -> Curve:
        """From progress to factors, of which the second is that of the hidden term's weight."""
        given: Any = self.hidden_weight_schedule_kwargs  # JSON is a dict by now
        curve = get_schedule(self.hidden_weight_schedule, given, "hidden_weight_schedule")
        assert curve is not None  # of "auto" alone, which is none of these
        return curve

    def parts(self) -> list[Part[..., object]]:
        """The records of the parts that the options choose, where they have one."""
        registries: dict[str, Mapping[str, Part[..., object]]] = {
            "soft_weight_schedule": choices(),
            "soft_term": SOFT_TERMS,
            "teacher_correction": CORRECTIONS,
            **({"hidden_term": HIDDEN_TERMS} if self.hidden_weight != 0 else {}),
            "soft_loss_scaling": SCALINGS,
            **({"teacher_cache_form": FORMATS} if self.teacher_cache else {}),
        }
        given = [(parts, getattr(self, name)) for name, parts in registries.items()]
        chosen = [parts.get(value) if isinstance(value, str) else value for parts, value in given]
        return [part for part in chosen if isinstance(part, Part)]

    @classmethod
    def of(cls, args: TrainingArguments) -> "DistillationArguments":
        """Arguments as they are, or with the defaults of distillation for plain `TrainingArguments`.

        No instance is made for it in the usual way: that resets accelerate's state, which is the whole process's.
        """
        if isinstance(args, cls):
            return args
        twin = object.__new__(cls)
        twin.__dict__.update({f.name: f.default for f in fields(cls) if not hasattr(args, f.name)}, **vars(args))
        return twin

    def problems(self) -> list[DistillationError]:
        """What distillation cannot run with, as the values are now: a search may have set them."""
        return option_problems(self)

    def to_dict(self) -> dict[str, Any]:
        """As the base class, with callables by name and no token of the teacher, so that it stays JSON."""
        return {key: _plain(value) for key, value in super().to_dict().items()}

    def __getstate__(self) -> dict[str, object]:
        # What is pickled into `training_args.bin`, and pushed with it: no token, no callable.
        return {key: None if key.endswith("_token") else _plain(value) for key, value in self.__dict__.items()}

    def __copy__(self) -> "DistillationArguments":
        # A copy within the process keeps what a pickle must not.
        return self.__deepcopy__({}, deep=False)

    def __deepcopy__(self, memo: dict[int, object], deep: bool = True) -> "DistillationArguments":
        twin = object.__new__(type(self))
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo) if deep else self.__dict__)
        return twin


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: None if key in ("token", "use_auth_token") else _plain(item) for key, item in value.items()}
    if isinstance(value, Part):
        return value.name
    if callable(value) and not isinstance(value, type):
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return value
