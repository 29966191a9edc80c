"""How a model yields logits for the rows alone, and no sooner than they are needed.

A language model's head costs a product with the whole vocabulary for each position it is given. Only the rows need
it, so the hidden states are gathered at the rows between the model's body and its head, by a hook on the body: the
model is still called through its own forward. Where its last layer is a plain linear map, what is wanted of the logits
is computed within that layer's forward, from `LinearLogits`, which are multiplied chunk by chunk.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from ..modes import trial_mode
from ..objective.logits import Logits
from ..precision import in_full_precision
from ..tasks import Task, is_compiled, model_class, plain_model
from .calls import Batch, Outputs, called_for_logits, logits_at, logits_of_outputs
from .head import Reduce, Sums, joined, reducing
from .hidden_states import INPUTS, HiddenStates, Layer, body_of
from .last_layer import LARGEST_SHARE, at_rows, close, find_last_modules, may_restrict
from .logit_transform import LogitTransform, measure_transform
from .rows import Rows, select_rows
from .sharding import stays_whole

logger = logging.getLogger(__name__)


class RowLogits:
    """Logits of one model at the rows of a batch.

    Args:
        model: the model itself, without the wrappers of distributed training.
        task: its task; the rows are gathered before the head of a language model.
        gather: False takes the logits of all positions first, always, as is done of a model that is compiled as a
            whole, or whose sequence is longer than the text (prompt tuning).
        defer: False makes the logits of all rows at once, always.
        agree: whether something holds on every process, given whether it does on this one. All processes must run a
            model whose weights are spread over them in the same way.

    Gathering is right where the head treats every position alike, deferring where it is a linear map with nothing but
    a scale and a soft cap behind it. Neither is assumed: both are tried, once, on a tiny batch before the first use; a
    model that fails a trial gets the logits of all rows, or of all positions, which is always right.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        gather: bool = True,
        defer: bool = True,
        agree: Callable[[bool], bool] = bool,
    ) -> None:
        self.model = model
        gather = gather and not is_compiled(model) and not adds_tokens(model)
        self.gathers: bool | None = None if gather and task.vocabulary else False
        self.last_modules: tuple[nn.Module, ...] | None = None
        self._may_defer, self._agree = defer, agree
        self._last: tuple[nn.Linear, LogitTransform] | None = None
        self._keeps_head = False
        self._task = task
        self._hidden: HiddenStates | None = None
        if task.vocabulary and not gather:
            name = model_class(model).__name__
            logger.info("The head of %s gets every position: it is compiled, or has virtual tokens before it.", name)

    @property
    def defers(self) -> bool:
        """Whether the head was proven linear, so that logits are made when they are needed."""
        return self._last is not None

    def __call__(self, call: nn.Module, inputs: Batch, rows: Rows) -> Logits:
        """(n, C) logits; see `reduced` for the arguments."""
        kept: list[Logits] = []

        def keep(logits: Logits, _outputs: Outputs | None) -> Sums:
            kept.append(logits if self._keeps_head else logits[:])
            return {}

        self.reduced(call, inputs, rows, keep)
        return kept[0]

    def reduced(
        self, call: nn.Module, inputs: Batch, rows: Rows, reduce: Reduce, every_position: bool = False
    ) -> tuple[Outputs, Sums]:
        """The model's outputs, and what `reduce` makes of the (n, C) logits at the rows.

        Args:
            call: the model, or the wrapper of distributed training through which it must be called.
            inputs: its arguments, without labels.
            rows: the positions wanted.
            reduce: called once; within the forward of a head that is proven linear, where its weight is whole.
            every_position: the outputs are to have the logits of all positions; otherwise of none, all or the rows.
        """
        with called_for_logits(self.model):
            if self.gathers is None and not every_position:
                self._try(call)
            if not self.gathers or every_position:
                with self._hooked(inputs, rows):
                    outputs = call(**inputs)
                return outputs, reduce(logits_at(outputs, rows, self._task), outputs)
            modules = self._modules_at_rows(inputs, rows)
            # Hooks run in this order: a layer puts out all positions before they are kept, as the body does.
            with at_rows(modules, rows), self._hooked(inputs, rows), gathering(self.model, rows):
                return self._reduced_at_rows(call, inputs, reduce)

    @contextmanager
    def giving(self, layers: Collection[Layer]) -> Iterator[HiddenStates]:
        """In the block calls also give the hidden states of those layers at the rows, before they are reduced."""
        self._hidden = HiddenStates(self.model, self._task, layers)
        try:
            yield self._hidden
        finally:
            self._hidden = None

    def _hooked(self, inputs: Batch, rows: Rows) -> AbstractContextManager[None]:
        return nullcontext() if self._hidden is None else self._hidden.hooked(inputs, rows)

    def _reduced_at_rows(self, call: nn.Module, inputs: Batch, reduce: Reduce) -> tuple[Outputs, Sums]:
        """As `reduced`, of a model whose head sees the rows alone."""
        if self._last is None:
            outputs = call(**inputs)
            return outputs, reduce(logits_of_outputs(outputs)[0], outputs)
        with reducing(*self._last, reduce) as found:
            outputs = call(**inputs)
        logits = logits_of_outputs(outputs)
        # A head that was replaced since (a resized vocabulary) has made its logits itself.
        return outputs, joined(found[0], logits) if found else reduce(logits[0], outputs)

    def _modules_at_rows(self, inputs: Batch, rows: Rows) -> tuple[nn.Module, ...]:
        """The modules to run at the rows alone, for this batch.

        They are looked for whatever the batch: a trial runs the model, and other processes have other batches.
        """
        if self.last_modules is None and may_restrict(self.model):
            found = self._find_last_modules()
            self.last_modules = found if self._agree(bool(found)) else ()
        few = rows.positions.numel() <= LARGEST_SHARE * _positions(inputs)
        return self.last_modules if self.last_modules and few and may_restrict(self.model) else ()

    def _find_last_modules(self) -> tuple[nn.Module, ...]:
        try:
            with trial_mode(self.model):
                inputs, rows = trial_batch(self.model)

                def logits() -> Tensor:
                    with gathering(self.model, rows):
                        outputs = self.model(**inputs)
                    if isinstance(outputs, Mapping) and outputs.get("aux_loss") is not None:
                        raise ValueError("routers are balanced over all positions")
                    return logits_of_outputs(outputs)[0]

                return in_full_precision(
                    lambda allowed: find_last_modules(self.model, logits, rows, allowed), self.model
                )
        except torch.OutOfMemoryError:  # no property of the model; the Trainer may go on with smaller batches
            raise
        except Exception as error:  # the logits of all positions are always right
            logger.debug(
                "The trial of the last-layer restriction of %s failed: %r", model_class(self.model).__name__, error
            )
            return ()

    def _try(self, call: nn.Module) -> None:
        try:
            with trial_mode(call):
                inputs, rows = trial_batch(self.model)

                def trial(allowed: float) -> None:
                    self.gathers = self._head_is_position_wise(call, inputs, rows, allowed)
                    if self.gathers and self._may_defer:
                        self._last = self._measure(inputs, rows)

                in_full_precision(trial, self.model)
        except torch.OutOfMemoryError:
            self.gathers = None
            raise
        # Whatever a model does with a batch it did not expect, the logits of all positions remain right.
        except Exception as error:
            logger.debug("Trial of %s failed: %r", model_class(self.model).__name__, error)
        self.gathers = self._agree(bool(self.gathers))
        if not self._agree(self.gathers and self.defers):
            self._last = None
        name = model_class(self.model).__name__
        if not self.gathers:
            logger.info("The head of %s gets every position, not only the rows.", name)
        elif self._may_defer and not self.defers:
            logger.info("The head of %s makes the logits of all rows at once: not a linear map as it stands.", name)

    @torch.no_grad()
    def _head_is_position_wise(self, call: nn.Module, inputs: Batch, rows: Rows, allowed: float) -> bool:
        every = logits_at(call(**inputs), rows)
        with gathering(self.model, rows):
            gathered = logits_of_outputs(call(**inputs))
        return gathered.shape == (1, *every.shape) and close(gathered[0], every, allowed)

    def _measure(self, inputs: Batch, rows: Rows) -> tuple[nn.Linear, LogitTransform] | None:
        """The last layer and what is behind it, if that is all that the logits are made of."""
        head: nn.Module | None = plain_model(self.model).get_output_embeddings()
        # FSDP derives a class of its own from the head's.
        if not isinstance(head, nn.Linear) or type(head).forward is not nn.Linear.forward or "forward" in vars(head):
            return None

        self._keeps_head = stays_whole(head)

        def logits() -> Tensor:
            with gathering(self.model, rows):
                return logits_of_outputs(self.model(**inputs))

        transform = measure_transform(head, logits, (1, rows.positions.numel(), head.out_features))
        return None if transform is None else (head, transform)


def adds_tokens(model: nn.Module) -> bool:
    """Whether an adapter puts virtual tokens before the text: logits of the text are then the last ones."""
    configs = getattr(model, "peft_config", None)
    return any(config.is_prompt_learning for config in configs.values()) if isinstance(configs, dict) else False


@contextmanager
def gathering(model: nn.Module, rows: Rows) -> Iterator[None]:
    """In the block the model's head sees the hidden states of the rows, (1, n, H), in place of (B, L, H)."""

    def gather(_module: nn.Module, _args: object, output: ModelOutput | tuple[Tensor, ...]) -> object:
        hidden = output[0]
        kept = rows.take(hidden).unsqueeze(0)
        if isinstance(output, tuple):
            return kept, *output[1:]
        output[next(iter(output))] = kept
        return output

    handle = body_of(model).register_forward_hook(gather)
    try:
        yield
    finally:
        handle.remove()


def _positions(inputs: Batch) -> int:
    """B * L of the batch, as the head sees it."""
    for name in INPUTS:
        if inputs.get(name) is not None:
            return int(inputs[name].shape[:2].numel())
    return 0


def trial_batch(model: nn.Module) -> tuple[dict[str, Tensor], Rows]:
    """Two short examples, the second padded, and some rows of both."""
    config = plain_model(model).config
    device = next(model.parameters()).device
    ids = torch.randint(config.get_text_config().vocab_size, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"].flip(0)
    labels = torch.tensor([[-100, 0, 0, -100, -100, 0, -100], [0, -100, -100, 0, 0, -100, -100]], device=device)
    return inputs, select_rows(labels, shifts=False)
