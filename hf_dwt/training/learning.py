"""What learns beside the student: its optimizer, and its state in checkpoints."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import ArgumentError
from ..teachers.composed import LearningPart

logger = logging.getLogger(__name__)

FILE = "teacher_learning.pt"
"""Of a checkpoint: what has been learnt beside the student, by a teacher or for a hidden term, and the state of its
optimizer. It is pushed with whole checkpoints alone."""


class LearningParts(TrainerCallback):
    """Parameters that learn beside the student, by an AdamW of their own, equal on all processes.

    They are in no wrapper of an engine: gradients are averaged over processes before each step, as
    DistributedDataParallel does, and clipped by the norm of each part. Each start of the training loop begins with the
    values that they had at first, unless a checkpoint was loaded.

    Args:
        parts: by name.
        accelerator: of the run.
        args: of the run, for the optimizer's numbers and the norm to clip to.
    """

    def __init__(self, parts: Mapping[str, LearningPart], accelerator: Accelerator, args: TrainingArguments) -> None:
        self.parts, self._accelerator, self._args = dict(parts), accelerator, args
        self._optimizer: torch.optim.Optimizer | None = None
        self._loaded = False
        self._first = {name: value.clone() for name, value in self._state().items()}

    def _state(self) -> dict[str, Tensor]:
        """All that checkpoints keep, by name: parameters that learn, and what the parts keep beside them."""
        found: dict[str, Tensor] = {}
        for key, part in self.parts.items():
            named = {name: p.detach() for name, p in part.module.named_parameters() if p.requires_grad}
            found |= {f"{key}.{name}": value for name, value in [*named.items(), *part.state.items()]}
        return found

    def _fill(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self._state().items():
                value.copy_(values[name])

    def _new_optimizer(self) -> torch.optim.Optimizer:
        args = self._args
        groups = [
            {
                "params": _learning(part.module),
                "lr": part.learning_rate,
                "initial_lr": part.learning_rate,
                "weight_decay": part.weight_decay,
            }
            for part in self.parts.values()
        ]
        return torch.optim.AdamW(groups, betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin anew, or go on from what was loaded."""
        if not self.parts:
            return
        if not self._loaded:
            self._fill(self._of_the_first_process(self._first))
            self._optimizer = self._new_optimizer()
        self._loaded = False
        for part in self.parts.values():  # a start before this one may have been broken off within a step
            part.module.zero_grad()

    def _of_the_first_process(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: broadcast(value.to(self._accelerator.device)) for name, value in values.items()}

    # ---- a step ----

    def backward(self, loss: Tensor) -> None:
        """The backward pass of a micro-batch's share of the parts' own losses, under the scaler of fp16.

        Parts without one have gradients of the student's backward pass.
        """
        if loss.requires_grad:
            scaler = self._accelerator.scaler
            (loss if scaler is None else scaler.scale(loss)).backward()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A step, at the student's place in its schedule, where something has a gradient on some process."""
        if self._optimizer is None:
            return
        parameters = [p for part in self.parts.values() for p in _learning(part.module)]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        has = torch.tensor(float(any(p.grad is not None for p in parameters)))
        if self._accelerator.num_processes > 1:
            flat = self._mean(torch.cat([each.flatten().to(self._accelerator.device) for each in (*gradients, has)]))
            pieces = flat.split([*(p.numel() for p in parameters), 1])
            gradients = [piece.view_as(p).to(p) for piece, p in zip(pieces, parameters, strict=False)]
            has = pieces[-1]
        if has > 0:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            self._step(_factor(kwargs.get("optimizer")))
        for part in self.parts.values():
            if part.stepped is not None:
                part.stepped(self._mean)

    def _mean(self, tensor: Tensor) -> Tensor:
        """Over processes; on the device of training, which alone a backend may reduce on."""
        mean: Tensor = self._accelerator.reduce(tensor.to(self._accelerator.device), reduction="mean")
        return mean

    def _step(self, factor: float) -> None:
        assert self._optimizer is not None
        scaler, norms = self._accelerator.scaler, []
        for group in self._optimizer.param_groups:
            if scaler is not None:
                for parameter in group["params"]:
                    parameter.grad.div_(scaler.get_scale())
            norms.append(nn.utils.clip_grad_norm_(group["params"], self._args.max_grad_norm or math.inf))
            group["lr"] = group["initial_lr"] * factor
        if scaler is None or all(map(math.isfinite, norms)):  # a scaler leaves out steps whose gradients overflow
            self._optimizer.step()
        self._optimizer.zero_grad()

    # ---- checkpoints ----

    def save(self, folder: str, writes: bool) -> None:
        """Write the state into a checkpoint, on the process that writes."""
        if self._optimizer is None or not writes:
            return
        Path(folder).mkdir(parents=True, exist_ok=True)
        torch.save({"state": self._state(), "optimizer": self._optimizer.state_dict()}, Path(folder, FILE))

    def load(self, checkpoint: str) -> None:
        """Go on from a checkpoint.

        Raises:
            ArgumentError: it is of a run in which something else learnt beside the student, or nothing.
        """
        self._loaded = False
        if not self.parts:
            return
        fix = "Resume with the teacher and hidden_term of that run, or start without resume_from_checkpoint."
        if not Path(checkpoint, FILE).is_file():
            problem = f"has no {FILE}: nothing learnt beside the student of its run, or it is of save_only_model=True."
            raise ArgumentError("resume_from_checkpoint", checkpoint, problem, fix)
        found = torch.load(Path(checkpoint, FILE), map_location="cpu", weights_only=True)
        there, here = ({name: value.shape for name, value in each.items()} for each in (found["state"], self._state()))
        if there != here:
            other = min(name for name in there | here if there.get(name) != here.get(name))
            problem = f"holds other parts than learn beside the student now: {other!r}, for one, differs."
            raise ArgumentError("resume_from_checkpoint", checkpoint, problem, fix)
        self._fill(found["state"])
        self._optimizer = self._new_optimizer()
        self._optimizer.load_state_dict(found["optimizer"])
        for group, part in zip(self._optimizer.param_groups, self.parts.values(), strict=True):  # as they are now
            group |= {"initial_lr": part.learning_rate, "weight_decay": part.weight_decay}
        self._loaded = True

    def load_best(self, checkpoint: str) -> None:
        """Take what had been learnt at the best checkpoint, at the end of training."""
        if not self.parts:
            return
        if Path(checkpoint, FILE).is_file():
            self._fill(torch.load(Path(checkpoint, FILE), map_location="cpu", weights_only=True)["state"])
        else:  # of save_only_model=True
            logger.warning("%s has no %s: what learns beside the best student stays as it is.", checkpoint, FILE)


def _learning(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _factor(optimizer: Any) -> float:
    """The student's learning rate as a share of its highest."""
    if optimizer is None or not optimizer.param_groups:
        return 1.0
    group = optimizer.param_groups[0]
    highest = group.get("initial_lr") or getattr(optimizer, "defaults", {}).get("lr") or 0.0
    return float(group["lr"] / highest) if highest else 1.0
