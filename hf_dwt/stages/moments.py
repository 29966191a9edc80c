"""Adam's moments from one stage to the next, mapped as the parameters were grown."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..arguments import DistillationArguments
from ..errors import ArgumentError, DistillationError
from ..growth import GrowthPlan
from ..growth.gradients import GradientMap, gradient_map

MOMENTS_FILE = "_moments.safetensors"
"""In the folder of a stage that another one follows with `optimizer="grown"`; by this name it is in no push."""
_POWERS = {"exp_avg": 1, "exp_avg_sq": 2}
_STEP = "step"


def moment_problems(last: DistillationArguments | None, args: DistillationArguments) -> list[DistillationError]:
    """Why a stage cannot have the moments of the one before it, whose arguments are `last`, apart from its growth."""
    if last is None:
        problem = "has no stage before it whose moments could be mapped."
        return [ArgumentError("optimizer", "grown", problem, "Use optimizer='fresh' in the first stage.")]
    fix = "Leave it out, in the stage before too, or use optimizer='fresh'."
    problems: list[DistillationError] = []
    for one in (args, last):
        optim = getattr(one.optim, "value", one.optim)
        if optim not in ("adamw_torch", "adamw_torch_fused"):
            problem = "keeps no moments that optimizer='grown' can map."
            problems.append(ArgumentError("optim", optim, problem, fix))
        for name in ("fsdp", "deepspeed", "parallelism_config"):
            if value := getattr(one, name, None):
                problem = "spreads moments over processes, and optimizer='grown' maps whole ones."
                problems.append(ArgumentError(name, value, problem, fix))
    problems = list({(one.argument, repr(one.value)): one for one in problems}.values())  # of both stages alike
    if last.load_best_model_at_end:
        problem = "gives the stage before a student of another step than the moments that optimizer='grown' maps."
        problems.append(ArgumentError("load_best_model_at_end", True, problem, fix))
    return problems


def save_moments(folder: Path, model: nn.Module, optimizer: Any) -> None:
    """Write what Adam knows of each parameter into the folder of a stage, by the name of the parameter."""
    found = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if key in _POWERS or key == _STEP:
                found[f"{name}/{key}"] = torch.as_tensor(value).detach().cpu().contiguous()
    save_file(found, folder / MOMENTS_FILE)


def moments_file(folder: Path) -> Path:
    """Where a finished stage has left its moments.

    Raises:
        ArgumentError: it has left none.
    """
    file = folder / MOMENTS_FILE
    if not file.is_file():
        problem = f"needs {MOMENTS_FILE} in {folder.name!r}, which was run when no stage asked for it."
        fix = "Use optimizer='fresh'; or remove that folder, so that the stage is run again."
        raise ArgumentError("optimizer", "grown", problem, fix)
    return file


class GrownMoments(TrainerCallback):
    """Gives the optimizer the moments of the stage before, when training starts at its first step.

    A parameter that has none starts anew, with a count of steps of its own; the others go on with that of the stage
    before, so that the correction of the bias goes on as well.

    Args:
        folder: of the stage before.
        growth: of the student in between; None where it has not grown.

    Raises:
        ArgumentError: that stage has left no moments.
        GrowthError: the growth does not say what becomes of them.
    """

    def __init__(self, folder: Path, growth: GrowthPlan | None) -> None:
        self._moments: Mapping[str, Tensor] = load_file(moments_file(folder))
        self._map: GradientMap | None = None if growth is None else gradient_map(growth)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Any = None,
        **kwargs: object,
    ) -> None:
        if state.global_step or model is None:  # a checkpoint has its own
            return
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        known = optimizer.state_dict()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        found = {index: dict(self._of(names[id(one)])) for index, one in enumerate(parameters) if id(one) in names}
        # It puts each value where its parameter is, and in the type that it wants.
        optimizer.load_state_dict({**known, "state": {index: one for index, one in found.items() if one}})

    def _of(self, name: str) -> Iterator[tuple[str, Tensor]]:
        """The moments of a parameter, and its number of steps."""
        source = name if self._map is None else self._map.sources.get(name, "")
        for key in (*_POWERS, _STEP):
            value = self._moments.get(f"{source}/{key}")
            if value is None:
                return
            yield key, value if self._map is None or key == _STEP else self._map(name, value, _POWERS[key])
