"""What a model's own loss adds to the cross-entropy of the rows, found by measuring: no attribute holds it.

A mixture of experts adds the balance of its routers, which stays part of the loss. Some classes have another loss
altogether, which training here replaces, with a warning.
"""

import logging
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..batches.seeds import kept_random_state
from ..modes import trial_mode
from ..objective.logits import at_least_fp32
from ..precision import EXACT, tolerance
from ..tasks import IGNORED, Task, config_parts, is_compiled, model_class, plain_model
from .calls import Outputs, called_for_logits, logits_at, logits_of_outputs
from .last_layer import close
from .row_logits import trial_batch
from .rows import Rows, select_rows

logger = logging.getLogger(__name__)

FACTORS = ("router_aux_loss_coef", "aux_loss_coef", "moe_loss_weight")
"""What a model, its config or a part of that calls the factor of `aux_loss`."""


class OwnLoss(NamedTuple):
    """What a model's own loss adds to the cross-entropy of the rows.

    factor: of `aux_loss` in its outputs.
    ask: call the model with labels, for what it adds has no known name; that is then the rest of its own loss.
    """

    factor: float = 0.0
    ask: bool = False

    def added(self, outputs: Outputs, rows: Rows) -> Tensor | None:
        """What the model adds, a mean over the rows; None if nothing.

        Args:
            outputs: of the model; if `ask`, it was called with labels, for the logits of all positions.
            rows: the n rows.
        """
        if not isinstance(outputs, Mapping) or not rows.labels.numel():
            return None
        if self.ask:
            loss: Tensor = outputs["loss"]
            return loss - F.cross_entropy(at_least_fp32(logits_at(outputs, rows)), rows.labels)
        balance = outputs.get("aux_loss") if self.factor else None
        return None if balance is None else self.factor * balance


class _Trial(NamedTuple):
    """Of a tiny batch.

    own, shifted, unshifted: the model's own loss, and the cross-entropy with and without a shift, means over its rows.
    balance: `aux_loss`, if there is one.
    sees_ahead: whether logits depend on the tokens after them.
    """

    own: float
    shifted: float
    unshifted: float
    balance: float | None
    sees_ahead: bool


def own_loss(call: nn.Module, model: nn.Module, task: Task, failed: list[Exception] | None = None) -> OwnLoss:
    """What training has to add to the cross-entropy; warns where the model's own loss is another one.

    Args:
        call: the model, or the wrapper of distributed training through which it must be called.
        model: the model itself.
        task: its task.
        failed: gets the error of a model that could not be measured.
    """
    if not task.vocabulary:  # classifiers of transformers share one loss, without a balance
        return OwnLoss()
    factor, balanced = _factor(model), _balances_routers(model)
    try:
        trial = _trial(call, model, task)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a model that cannot be run on this batch may be run on the user's
        logger.info("The own loss of %s could not be measured: %r", model_class(model).__name__, error)
        if failed is not None:
            failed.append(error)
        return OwnLoss(factor or 0.0, balanced and factor is None)
    if task.shifts and trial.sees_ahead:
        logger.warning(
            "%s attends to the tokens after a position, so it sees the one that it is to predict there. An encoder's "
            "class needs is_decoder=True in its config; XLNet needs perm_mask in the batch.",
            model_class(model).__name__,
        )
    expected = trial.shifted if task.shifts else trial.unshifted
    if balanced or trial.balance is not None:
        if (
            factor is not None
            and trial.balance is not None
            and _close(model, trial.own, expected + factor * trial.balance)
        ):
            return OwnLoss(factor)
        return OwnLoss(ask=True)
    if not _close(model, trial.own, expected):
        name = model_class(model).__name__
        if task.shifts and _close(model, trial.own, trial.unshifted):
            logger.warning(
                "%s does not shift labels in its own loss: with labels that equal its inputs it would learn to copy. "
                "It is trained here as every causal language model: the label of a token is predicted one before it.",
                name,
            )
        else:
            logger.warning(
                "%s has a loss of its own (%.4g on a trial batch). It is trained on the cross-entropy of its labels "
                "here (%.4g), as all models of its task: give compute_loss_func to train on another.",
                name,
                trial.own,
                expected,
            )
    return OwnLoss()


@torch.no_grad()
def _trial(call: nn.Module, model: nn.Module, task: Task) -> _Trial:
    """Run the model on a tiny batch with labels, in evaluation mode."""
    call = plain_model(model) if is_compiled(call) else call  # which would be compiled for this batch's size
    inputs, _ = trial_batch(model)
    labels = inputs.get("decoder_input_ids", inputs["input_ids"]).masked_fill(inputs["attention_mask"] == 0, IGNORED)
    labels[:, 0] = IGNORED  # under prompt tuning peft predicts it too, from the virtual tokens
    other = inputs["input_ids"].clone()
    other[0, -1] = (other[0, -1] + 1) % int(other.max())
    with trial_mode(call), kept_random_state(), called_for_logits(model):
        outputs = call(**inputs, labels=labels)
        if task.shifts:
            before, after = (
                logits_of_outputs(one)[0, :-1] for one in (outputs, call(**{**inputs, "input_ids": other}))
            )
    shifted, unshifted = (_cross_entropy(outputs, select_rows(labels, shifts)) for shifts in (True, False))
    balance = outputs.get("aux_loss")
    sees_ahead = task.shifts and not close(after, before, tolerance(model))
    return _Trial(float(outputs["loss"]), shifted, unshifted, None if balance is None else float(balance), sees_ahead)


def _cross_entropy(outputs: Outputs, rows: Rows) -> float:
    return float(F.cross_entropy(at_least_fp32(logits_at(outputs, rows)), rows.labels))


def _close(model: nn.Module, own: float, expected: float) -> bool:
    """Up to rounding: some classes compute their loss in the type of their logits."""
    allowed = 1e-2 if tolerance(model) > EXACT else 1e-5
    return abs(own - expected) <= allowed * max(1.0, abs(expected))


def _factor(model: nn.Module) -> float | None:
    plain = plain_model(model)
    known = (vars(holder).get(name) for holder in (plain, *config_parts(plain.config)) for name in FACTORS)
    return next((float(value) for value in known if isinstance(value, float | int)), None)


def _balances_routers(model: nn.Module) -> bool:
    """Whether the config asks for the routers' outputs, which makes their balance part of the loss."""
    config = plain_model(model).config
    return any(vars(part).get("output_router_logits") for part in config_parts(config))
