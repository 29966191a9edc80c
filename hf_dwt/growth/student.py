"""The student before it is initialised: its class, its shapes, its own random numbers."""

import copy
from collections.abc import Callable

from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import GrowthError
from .building import blank, build, own_randomness
from .checkpoint import Teacher
from .config.rebuild import CONFIG_ERRORS
from .config.sizes import size
from .depth.rules import copied_layers
from .origins import every_tensor, source_name


def own_initialisation(
    teacher: Teacher,
    config: PreTrainedConfig,
    seed: int,
    skip: bool = False,
    build_by: Callable[[Callable[[], PreTrainedModel]], PreTrainedModel] = lambda make: make(),
) -> PreTrainedModel:
    """The student as its class initialises it under `seed`, with the teacher's dtype and generation config.

    Args:
        skip: leave it `blank`, for a strategy that writes all of it.
        build_by: calls what builds the student; one that is written to disk is built without memory.
    """
    model_class = type(teacher.skeleton)
    with own_randomness(seed):
        # Remote code may compute in its constructor what nothing computes again.
        make = blank if skip and not model_class.is_custom_code() else build
        student = build_by(lambda: make(model_class, config, "cpu"))
    if teacher.generation_config is not None and student.can_generate():
        # Not through its dict, which loses that it was loaded as it is: such a config is saved with a warning where
        # a changed one is refused.
        student.generation_config = copy.deepcopy(teacher.generation_config)
    return student


def check_shapes(teacher: PreTrainedModel, config: PreTrainedConfig, depth: str) -> None:
    """Before memory is spent: no axis shrinks, no parameter of the teacher is left without a place, and no matrix is
    put between those that were trained.

    Raises:
        GrowthError: naming the first parameter for which this does not hold.
    """
    try:
        student = build(type(teacher), config, "meta")
    except (*CONFIG_ERRORS, AssertionError, RuntimeError) as error:
        problem = f"{type(teacher).__name__} refuses these sizes: {str(error).strip()}"
        raise GrowthError("config", changed_numbers(teacher.config, config), problem, "Choose other sizes.") from error
    theirs, used = dict(teacher.named_parameters(remove_duplicate=False)), set()
    layers = copied_layers(teacher, student, depth)
    for name, parameter in student.named_parameters(remove_duplicate=False):
        origin = source_name(name, teacher, layers)
        if origin is None:
            continue
        if origin not in theirs:
            if parameter.ndim > 1 and origin.rpartition(".")[2] == "weight":
                problem = "The teacher has no such matrix: a random one would stand between trained parts."
                fix = "Give the attributes that move together, or leave those that decide whether it exists."
                raise GrowthError(name, tuple(parameter.shape), problem, fix)
            continue
        used.add(origin)
        new, old = tuple(parameter.shape), tuple(theirs[origin].shape)
        if len(new) != len(old) or any(n < o for n, o in zip(new, old, strict=True)):
            problem = f"The teacher's {origin} has shape {old}; the student's would be smaller."
            raise GrowthError(
                name, new, problem, "Make the sizes or config_overrides that shape it at least as large."
            )
    if head := _tied_anew(teacher, student):
        problem = f"The teacher's {head} is a matrix of its own, and would be dropped for the one it is tied to."
        raise GrowthError("tie_word_embeddings", True, problem, "Leave it out.")
    if wider := _wider_without_effect(teacher, student):
        problem = f"No parameter of {type(teacher).__name__} depends on it."
        raise GrowthError(
            "hidden_size", wider, problem, "Give the attribute that it is built from in config_overrides."
        )
    if unplaced := sorted(theirs.keys() - used):
        problem = f"With these sizes the student has no place for {len(unplaced)} of the teacher's parameters."
        fix = "Keep the depth, and widths that decide whether a projection exists, at least as they are."
        raise GrowthError(unplaced[0], tuple(theirs[unplaced[0]].shape), problem, fix)


def _tied_anew(teacher: PreTrainedModel, student: PreTrainedModel) -> str | None:
    """A parameter that is one of its own in the teacher, and in the student another's under a further name."""
    flags = [
        {key for c in _configs(m.config) for key, tied in c.__dict__.items() if key.startswith("tie_") and tied}
        for m in (teacher, student)
    ]
    if flags[0] >= flags[1]:
        return None
    ours, theirs = every_tensor(student), every_tensor(teacher)
    first: dict[int, str] = {}
    for name, tensor in ours.items():
        other = first.setdefault(id(tensor), name)
        if name in theirs and other in theirs and theirs[name] is not theirs[other]:
            return name
    return None


def _configs(config: PreTrainedConfig) -> list[PreTrainedConfig]:
    """A config and the parts it is composed of."""
    parts = [value for value in config.__dict__.values() if isinstance(value, PreTrainedConfig)]
    return [config, *(inner for part in parts for inner in _configs(part))]


def _wider_without_effect(teacher: PreTrainedModel, student: PreTrainedModel) -> int | None:
    """The student's hidden size, if it is larger and all shapes are the teacher's (Swin derives it from others)."""
    new, old = size(student.config, "hidden_size"), size(teacher.config, "hidden_size")
    shapes = [sorted(tuple(p.shape) for p in model.parameters()) for model in (teacher, student)]
    return new if new is not None and old is not None and new > old and shapes[0] == shapes[1] else None


def changed_numbers(old: PreTrainedConfig, new: PreTrainedConfig) -> dict[str, tuple[int | None, int | None]]:
    """Config attribute -> (teacher's value, student's), for every number that differs."""
    before, after = old.to_dict(), new.to_dict()
    return {
        key: (before.get(key), value)
        for key, value in after.items()
        if type(value) is int and value != before.get(key) and isinstance(before.get(key), int | None)
    }
