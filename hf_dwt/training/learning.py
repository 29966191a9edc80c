"""What learns beside the student: its optimizer, and its state in checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import TeacherError
from ..teachers.composed import LearningPart

WEIGHTS, OPTIMIZER = "teacher_learning.safetensors", "teacher_learning_optimizer.pt"
"""Files of a checkpoint; never pushed."""


class LearningParts(TrainerCallback):
    """Parameters that learn beside the student, by an AdamW of their own, equal on all processes.

    They are in no wrapper of an engine: gradients are averaged over processes before each step, as
    DistributedDataParallel does. Each start of the training loop begins with the values that they had at first, unless
    a checkpoint was loaded.

    Args:
        parts: by name.
        accelerator: of the run.
        args: of the run, for the optimizer's numbers and the norm to clip to.
    """

    def __init__(self, parts: Mapping[str, LearningPart], accelerator: Accelerator, args: TrainingArguments) -> None:
        self.parts, self._accelerator, self._args = dict(parts), accelerator, args
        self._optimizer: torch.optim.Optimizer | None = None
        self._loaded = False
        self._first = {name: value.clone() for name, value in self._tensors().items()}

    def _tensors(self) -> dict[str, Tensor]:
        """All that checkpoints keep, by name."""
        kept = {f"{key}.{name}": value for key, part in self.parts.items() for name, value in part.state.items()}
        return {**{name: p.detach() for name, p in self._named().items()}, **kept}

    def _named(self) -> dict[str, nn.Parameter]:
        named = {key: part.module.named_parameters() for key, part in self.parts.items()}
        return {f"{key}.{name}": p for key, found in named.items() for name, p in found if p.requires_grad}

    def _begin(self) -> None:
        if not self.parts:
            return
        if not self._loaded:
            for name, value in self._tensors().items():
                value.copy_(self._first[name])
            self._optimizer = self._new_optimizer()
        self._loaded = False

    def _new_optimizer(self) -> torch.optim.Optimizer:
        args = self._args
        groups = [
            {
                "params": [p for p in part.module.parameters() if p.requires_grad],
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
        self._begin()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A step, at the student's place in its schedule, where something has a gradient on some process."""
        if self._optimizer is None:
            return
        parameters = list(self._named().values())
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        has = torch.tensor(float(any(p.grad is not None for p in parameters)), device=self._accelerator.device)
        if self._accelerator.num_processes > 1:
            flat = self._mean(torch.cat([*(g.flatten().to(has.device) for g in gradients), has.view(1)]))
            has, pieces = flat[-1], flat[:-1].split([g.numel() for g in gradients])
            gradients = [piece.view_as(g).to(g.device) for piece, g in zip(pieces, gradients, strict=True)]
        if has > 0:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            if args.max_grad_norm:
                nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)
            for group in self._optimizer.param_groups:
                group["lr"] = group["initial_lr"] * _factor(kwargs.get("optimizer"))
            self._optimizer.step()
        self._optimizer.zero_grad()
        for part in self.parts.values():
            if part.stepped is not None:
                part.stepped(self._mean)

    def _mean(self, tensor: Tensor) -> Tensor:
        """Over processes; on the device of training, which alone a backend may reduce on."""
        mean: Tensor = self._accelerator.reduce(tensor.to(self._accelerator.device), reduction="mean")
        return mean

    # ---- checkpoints ----

    def save(self, folder: str, writes: bool) -> None:
        """Write the state into a checkpoint, on the process that writes."""
        if self._optimizer is None or not writes:
            return
        Path(folder).mkdir(parents=True, exist_ok=True)
        state = {name: value.cpu().contiguous() for name, value in self._tensors().items()}
        save_file(state, Path(folder, WEIGHTS))
        torch.save(self._optimizer.state_dict(), Path(folder, OPTIMIZER))

    def load(self, checkpoint: str) -> None:
        """Go on from a checkpoint.

        Raises:
            TeacherError: it is of a run in which something else learnt, or nothing.
        """
        if not self.parts:
            return
        if not Path(checkpoint, WEIGHTS).is_file():
            problem = f"has no {WEIGHTS}: it is of a run whose teacher did not learn."
            raise TeacherError("resume_from_checkpoint", checkpoint, problem, "Resume with the teacher of that run.")
        found, own = load_file(Path(checkpoint, WEIGHTS)), self._tensors()
        if {name: value.shape for name, value in found.items()} != {name: p.shape for name, p in own.items()}:
            problem = f"holds other learning parameters than the teacher has ({len(found)} there, {len(own)} here)."
            raise TeacherError("resume_from_checkpoint", checkpoint, problem, "Resume with the teacher of that run.")
        for name, value in own.items():
            value.copy_(found[name])
        self._optimizer = self._new_optimizer()
        self._optimizer.load_state_dict(torch.load(Path(checkpoint, OPTIMIZER), weights_only=True))
        self._loaded = True


def _factor(optimizer: Any) -> float:
    """The student's learning rate as a share of its highest."""
    group = optimizer.param_groups[0] if optimizer is not None and optimizer.param_groups else {}
    highest = group.get("initial_lr") or 0.0
    return float(group["lr"] / highest) if highest else 1.0
