"""Who is compared: a contender is a function that makes a Trainer, and a line in the registry.

Each does what its own documentation says, in its cheapest form that is right: where a tool's loss takes logits, it
gets those of the labelled positions alone. What the tool computes before that is its own.
"""

import copy
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Trainer

Build = Callable[..., Trainer]


def _ours(student: nn.Module, teacher: nn.Module, args: dict[str, Any], **keywords: Any) -> Trainer:
    from hf_dwt import DistillationArguments, DistillationTrainer

    # The paper's weights, which keep the teacher speaking all along: the dearest of our schedules.
    arguments = DistillationArguments(**args, soft_weight_schedule="constant")
    return DistillationTrainer(student, arguments, teacher_model=teacher, **keywords)


def _alone(student: nn.Module, _teacher: Any, args: dict[str, Any], **keywords: Any) -> Trainer:
    from hf_dwt import DistillationArguments, DistillationTrainer

    return DistillationTrainer(student, DistillationArguments(**args), **keywords)


def _cached(form: str) -> Build:
    def build(student: nn.Module, teacher: nn.Module, args: dict[str, Any], **keywords: Any) -> Trainer:
        from hf_dwt import DistillationArguments, DistillationTrainer

        # A cache needs masks that it can draw again: from the run's seed and the example.
        collator = copy.copy(keywords["data_collator"])
        collator.seed = collator.generator = None
        arguments = DistillationArguments(
            **args,
            soft_weight_schedule="constant",
            teacher_cache=f"{args['output_dir']}/{form}",
            teacher_cache_form=form,
            teacher_cache_epochs=1,
        )
        return DistillationTrainer(
            student, arguments, teacher_model=teacher, **{**keywords, "data_collator": collator}
        )

    return build


class Layers(Trainer):
    """No head, no loss over classes, no teacher: what no way of computing the objective can go below."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, *_: Any, **__: Any) -> Any:
        with self.accelerator.autocast():
            outputs = model.base_model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        loss = outputs.last_hidden_state.square().mean()
        return (loss, outputs) if return_outputs else loss


class WithTeacher(Trainer):
    """What all hand-written distillation trainers share."""

    teacher: nn.Module

    def teacher_logits(self, inputs: dict[str, Tensor]) -> Tensor:
        with torch.no_grad(), self.accelerator.autocast():
            return self.teacher(**{name: value for name, value in inputs.items() if name != "labels"}).logits

    def counted(self, inputs: dict[str, Tensor], *logits: Tensor) -> tuple[Tensor, ...]:
        """Labels and logits at the positions that count, shifted for causal LMs."""
        labels = inputs["labels"]
        if not hasattr(self.model, "cls"):
            labels, logits = labels[:, 1:], tuple(each[:, :-1] for each in logits)
        kept = labels != -100
        return labels[kept], *(each[kept] for each in logits)


class Dense(WithTeacher):
    """The subclass that tutorials show: both models' logits of every position, then the two terms."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, *_: Any, **__: Any) -> Any:
        outputs = model(**inputs)
        soft = F.kl_div(
            F.log_softmax(outputs.logits, dim=-1), F.softmax(self.teacher_logits(inputs), dim=-1), reduction="none"
        ).sum(-1)
        if hasattr(self.model, "cls"):
            mask = inputs["labels"] != -100
        else:
            mask = F.pad(inputs["labels"][:, 1:] != -100, (0, 1))
        loss = outputs.loss + (soft * mask).sum() / mask.sum()
        return (loss, outputs) if return_outputs else loss


class Torchdistill(WithTeacher):
    """torchdistill's KDLoss."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, *_: Any, **__: Any) -> Any:
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        labels, student, teacher = self.counted(inputs, outputs.logits, self.teacher_logits(inputs))
        loss = self.criterion({"head": {"output": student}}, {"head": {"output": teacher}}, labels)
        return (loss, outputs) if return_outputs else loss

    @property
    def criterion(self) -> nn.Module:
        kd_loss = import_module("torchdistill.losses.mid_level").KDLoss
        return kd_loss("head", "output", "head", "output", temperature=1.0, alpha=0.5)


class TextBrewer(WithTeacher):
    """TextBrewer's GeneralDistiller, its `train_on_batch` called in the Trainer's loop."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, *_: Any, **__: Any) -> Any:
        brewer = import_module("textbrewer")
        masked = hasattr(self.model, "cls")

        def adapt(batch: Any, outputs: Any) -> dict[str, Any]:
            logits, labels = outputs.logits, batch["labels"]
            if not masked:
                logits, labels = logits[:, :-1], labels[:, 1:]
            return {"logits": [logits], "logits_mask": [labels != -100], "losses": [outputs.loss]}

        distiller = brewer.GeneralDistiller(
            brewer.TrainingConfig(device=self.args.device, log_dir=None, output_dir=self.args.output_dir),
            brewer.DistillationConfig(temperature=1, hard_label_weight=1, kd_loss_weight=1),
            self.teacher,
            model,
            adapt,
            adapt,
        )
        loss, _terms = distiller.train_on_batch(dict(inputs), {})
        return (loss, None) if return_outputs else loss


class GKD(WithTeacher):
    """TRL's generalised Jensen-Shannon divergence, at the defaults of its GKDTrainer, on given text."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, *_: Any, **__: Any) -> Any:
        gkd = import_module("trl.experimental.gkd").GKDTrainer
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        loss = gkd.generalized_jsd_loss(
            outputs.logits[:, :-1], self.teacher_logits(inputs)[:, :-1], inputs["labels"][:, 1:], beta=0.5
        )
        return (loss, outputs) if return_outputs else loss


class Liger(WithTeacher):
    """Liger's distillation loss in chunks, compiled: forward KL is its beta = 0."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, *_: Any, **__: Any) -> Any:
        fused = import_module("liger_kernel.chunked_loss").LigerFusedLinearJSDLoss
        read = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        with self.accelerator.autocast():
            with torch.no_grad():
                theirs = self.teacher.base_model(**read).last_hidden_state[:, :-1].flatten(0, 1)  # type: ignore[operator]
            outputs = model.base_model(**read)
            ours = outputs.last_hidden_state[:, :-1].flatten(0, 1)
            heads = (each.get_output_embeddings().weight for each in (self.model, self.teacher))  # type: ignore[operator, union-attr]
            loss = fused(1.0, 1.0, beta=0.0)(ours, next(heads), theirs, next(heads), inputs["labels"][:, 1:].flatten())
        return (loss, outputs) if return_outputs else loss


def _with_teacher(trainer_class: type[WithTeacher], needs: str | None = None) -> Build:
    def build(student: nn.Module, teacher: nn.Module, args: dict[str, Any], **keywords: Any) -> Trainer:
        if needs is not None:
            import_module(needs)
        trainer = _stock(student, teacher, args, trainer_class, **keywords)
        trainer.teacher = teacher.to(trainer.args.device)  # type: ignore[attr-defined]
        return trainer

    return build


def _stock(
    student: nn.Module, _teacher: Any, args: dict[str, Any], trainer_class: type[Trainer] = Trainer, **keywords: Any
) -> Trainer:
    from transformers import TrainingArguments

    return trainer_class(student, TrainingArguments(**args), **keywords)


def _modelopt(student: nn.Module, teacher: nn.Module, args: dict[str, Any], **keywords: Any) -> Trainer:
    from transformers import TrainingArguments

    trainer_class = import_module("modelopt.torch.distill.plugins.huggingface").KDTrainer
    return trainer_class(
        student, TrainingArguments(**args), distill_args={"teacher_model": teacher, "distill": True}, **keywords
    )


Contender = tuple[str, Build, str, bool]
"""What it is, how to make it, the package it needs, whether it takes masked LMs."""
CONTENDERS: dict[str, Contender] = {
    "ours": ("hf_dwt, teacher online", _ours, "hf_dwt", True),
    "alone": ("hf_dwt, no teacher", _alone, "hf_dwt", True),
    "hidden": ("hf_dwt, teacher cached as hidden states", _cached("hidden"), "hf_dwt", True),
    "sampled": ("hf_dwt, teacher cached as 50 draws", _cached("sampled"), "hf_dwt", True),
    "stock": ("stock Trainer, no teacher", _stock, "transformers", True),
    "layers": (
        "stock Trainer, the student's layers alone: no head, no loss",
        partial(_stock, trainer_class=Layers),
        "transformers",
        True,
    ),
    "dense": ("stock Trainer with the usual dense compute_loss", _with_teacher(Dense), "transformers", True),
    "torchdistill": (
        "torchdistill's KDLoss in compute_loss",
        _with_teacher(Torchdistill, "torchdistill.losses.mid_level"),
        "torchdistill",
        True,
    ),
    "textbrewer": ("TextBrewer's GeneralDistiller", _with_teacher(TextBrewer, "textbrewer"), "textbrewer", True),
    "modelopt": ("Model-Optimizer's KDTrainer (no hard term)", _modelopt, "nvidia-modelopt", True),
    "liger": ("Liger's chunked distillation loss", _with_teacher(Liger, "liger_kernel"), "liger-kernel", False),
    "gkd": ("TRL's GKD loss (no hard term)", _with_teacher(GKD, "trl.experimental.gkd"), "trl", False),
}
