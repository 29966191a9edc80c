"""A new adapter of peft for a model, under a seed; names that it does not have are errors with the nearest."""

import copy
import logging
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

from .errors import ArgumentError, first_line, unknown_name
from .tasks import model_class

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel  # whose import takes seconds

logger = logging.getLogger(__name__)


def with_adapter(model: nn.Module, peft_config: "PeftConfig", seed: int) -> "PeftModel":
    """A model with a new adapter, which alone learns, as `peft.get_peft_model` makes it.

    Args:
        model: changed in place, as peft does.
        peft_config: copied, since peft writes into it.
        seed: of the adapter's initialisation. The global random state stays as it was.

    Raises:
        ArgumentError: peft cannot make this one for it.
    """
    from peft import get_peft_model

    _check_names(model, peft_config)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            adapted: PeftModel = get_peft_model(model, copy.deepcopy(peft_config))
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        problem = f"peft cannot add it to {model_class(model).__name__}: {first_line(error)}"
        fix = "Give a config that peft.get_peft_model(model, peft_config) takes."
        raise ArgumentError("peft_config", type(peft_config).__name__, problem, fix) from error
    return adapted


def _check_names(model: nn.Module, config: "PeftConfig") -> None:
    """Raise where none of the target modules exists; warn of each other name that peft would pass over in silence."""
    modules = [name for name, _ in model.named_modules()]
    parameters = [name for name, _ in model.named_parameters()]
    targets, saved = getattr(config, "target_modules", None), getattr(config, "modules_to_save", None)
    inner = getattr(config, "target_parameters", None)
    linear = sorted({name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, nn.Linear)})
    absent = _absent(targets, modules)
    if absent and absent == _absent(targets, []) and not inner:
        raise unknown_name("peft_config.target_modules", absent[0], linear, '"all-linear"')
    for argument, names in (
        ("target_modules", absent),
        ("target_parameters", _absent(inner, parameters)),
        ("modules_to_save", _absent(saved, modules)),
    ):
        if names:
            logger.warning(
                "peft_config.%s: %s has no %s; the others are used.",
                argument,
                model_class(model).__name__,
                ", ".join(map(repr, names)),
            )


def _absent(wanted: str | Iterable[str] | None, names: list[str]) -> list[str]:
    """Of what peft is to look for, what is not there: a pattern of whole names, or ends of names."""
    if isinstance(wanted, str):
        found = wanted == "all-linear" or any(re.fullmatch(wanted, name) for name in names)
        return [] if found else [wanted]
    return [end for end in sorted(wanted or ()) if not any(f".{name}".endswith(f".{end}") for name in names)]
