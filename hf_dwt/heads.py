"""How a model yields logits for the rows alone.

A language model's head costs a product with the whole vocabulary for each position it is given. Only the rows need
it, so the hidden states are gathered at the rows between the model's body and its head, by a hook on the body: the
model is still called through its own forward, and keeps its own head, scales and soft caps.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .rows import Rows, select_rows
from .tail import LARGEST_SHARE, at_rows, find_tail, may_restrict
from .tasks import Task, plain_model

logger = logging.getLogger(__name__)


class RowLogits:
    """Logits of one model at the rows of a batch.

    Args:
        model: the model itself, without the wrappers of distributed training.
        task: its task; the rows are gathered before the head of a language model.
        gather: False takes the logits of all positions first, always.

    Gathering is right where the head treats every position alike. That is not assumed but tried, once, on a tiny
    batch before the first use; a model that fails the trial gets the logits of all positions, which is always right.
    """

    def __init__(self, model: nn.Module, task: Task, gather: bool = True) -> None:
        self.model = model
        self.gathers: bool | None = None if gather and task.vocabulary else False
        self.tail: tuple[nn.Module, ...] | None = None

    def __call__(self, call: Callable[..., Any], inputs: Mapping[str, Any], rows: Rows) -> Tensor:
        """(n, C) logits.

        Args:
            call: the model, or the wrapper of distributed training through which it must be called.
            inputs: its arguments, without labels.
            rows: the positions wanted.
        """
        return logits_of(self.outputs(call, inputs, rows), rows)

    def outputs(self, call: Callable[..., Any], inputs: Mapping[str, Any], rows: Rows) -> Any:
        """The model's outputs; their logits are (1, n, C) where rows were gathered, else of all positions."""
        if self.gathers is None:
            self.gathers = self._head_is_position_wise(call)
        if not self.gathers:
            return call(**inputs)
        tail = self._tail(call, inputs, rows)  # its trial gathers rows of its own
        with gathering(self.model, rows), at_rows(tail, rows):
            return call(**inputs)

    def _tail(self, call: Any, inputs: Mapping[str, Any], rows: Rows) -> tuple[nn.Module, ...]:
        """The modules to run at the rows alone, for this batch."""
        if rows.positions.numel() > LARGEST_SHARE * _positions(inputs) or not may_restrict(self.model, call):
            return ()
        if self.tail is None:
            self.tail = self._find_tail()
        return self.tail

    def _find_tail(self) -> tuple[nn.Module, ...]:
        training = self.model.training
        self.model.eval()
        try:
            inputs, rows = _trial_batch(self.model)

            def logits() -> Tensor:
                with gathering(self.model, rows):
                    outputs = self.model(**inputs)
                if isinstance(outputs, Mapping) and outputs.get("aux_loss") is not None:
                    raise ValueError("routers are balanced over all positions")
                return logits_of_outputs(outputs)[0]

            return find_tail(self.model, logits, rows)
        except Exception as error:  # what all positions say is always right
            logger.debug("Trial of the tail of %s failed: %r", type(self.model).__name__, error)
            return ()
        finally:
            self.model.train(training)

    @torch.no_grad()
    def _head_is_position_wise(self, call: Any) -> bool:
        training = call.training
        call.eval()
        try:
            inputs, rows = _trial_batch(self.model)
            every = rows.take(logits_of_outputs(call(**inputs)))
            with gathering(self.model, rows):
                gathered = logits_of_outputs(call(**inputs))
            scale = every.float().abs().max().clamp(min=1.0)
            tolerance = 1e-4 if every.dtype in (torch.float32, torch.float64) else 5e-2
            equal = gathered.shape == (1, *every.shape) and bool(
                (gathered[0] - every).float().abs().max() <= tolerance * scale
            )
        # Whatever a model does with a batch it did not expect, the logits of all positions remain right.
        except Exception as error:
            logger.debug("Trial of %s failed: %r", type(self.model).__name__, error)
            equal = False
        finally:
            call.train(training)
        if not equal:
            logger.info("The head of %s gets every position, not only the rows.", type(self.model).__name__)
        return equal


def logits_of_outputs(outputs: Any) -> Tensor:
    """The logits of a model's outputs, be they a dict or a tuple."""
    return outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]


def logits_of(outputs: Any, rows: Rows) -> Tensor:
    """(n, C) logits at the rows, from outputs over the rows alone or over all positions."""
    logits = logits_of_outputs(outputs)
    return logits[0] if logits.shape[:-1] == (1, rows.positions.numel()) else rows.take(logits)


@contextmanager
def gathering(model: nn.Module, rows: Rows) -> Iterator[None]:
    """Within it the model's head sees the hidden states of the rows, (1, n, H), in place of (B, L, H)."""

    def gather(_module: nn.Module, _args: Any, output: Any) -> Any:
        hidden = output[0]
        kept = rows.take(hidden).unsqueeze(0)
        if isinstance(output, tuple):
            return kept, *output[1:]
        output[next(iter(output))] = kept
        return output

    handle = _body(model).register_forward_hook(gather)
    try:
        yield
    finally:
        handle.remove()


def _positions(inputs: Mapping[str, Any]) -> int:
    """B * L of the batch, as the head sees it."""
    for name in ("decoder_input_ids", "decoder_inputs_embeds", "input_ids", "inputs_embeds"):
        if inputs.get(name) is not None:
            return inputs[name].shape[0] * inputs[name].shape[1]
    return 0


def _body(model: nn.Module) -> nn.Module:
    """What stands before the head: the base model, or the decoder of a model that has none of its own (T5)."""
    model = plain_model(model)
    body = model.base_model
    return body if body is not model else model.get_decoder()  # type: ignore[return-value,operator]


def _trial_batch(model: nn.Module) -> tuple[dict[str, Tensor], Rows]:
    """Two short examples, the second padded, and some rows of both."""
    config: Any = plain_model(model).config
    device = next(model.parameters()).device
    ids = torch.randint(config.get_text_config().vocab_size, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"].flip(0)
    labels = torch.tensor([[-100, 0, 0, -100, -100, 0, -100], [0, -100, -100, 0, 0, -100, -100]], device=device)
    return inputs, select_rows(labels, shifts=False)
