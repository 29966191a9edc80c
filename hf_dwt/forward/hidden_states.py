"""Hidden states of chosen layers at the rows alone: what hooks keep of a forward pass.

`output_hidden_states` would keep those of all layers at all positions.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from ..errors import ArgumentError
from ..tasks import Task, plain_model
from .calls import Batch
from .rows import Rows

INPUTS = ("decoder_input_ids", "decoder_inputs_embeds", "input_ids", "inputs_embeds")
"""Entries of a batch that have the positions which a head sees, the first that is there."""

Layer = int | str
"""A number from 1 to the depth, or "last": what the body puts out, behind its final norm."""


def layers_of(model: nn.Module) -> tuple[str, list[nn.Module]]:
    """The path of the list of layers of a model, of its decoder beside an encoder, and the layers; "" without a list.

    It is the longest list of modules that lies in no other list, as a list of experts does.
    """
    plain = plain_model(model)
    within = plain.get_decoder() if plain.config.is_encoder_decoder or _is_composite(plain) else plain
    found: list[nn.ModuleList] = []

    def find(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, nn.ModuleList):
                found.append(child)
            else:
                find(child)

    find(within)
    if not found:
        return "", []
    longest = max(found, key=len)
    return next(path for path, module in plain.named_modules() if module is longest), list(longest)


def _is_composite(model: nn.Module) -> bool:
    """Whether a model has other parts than that for text, which may have more layers."""
    config = plain_model(model).config
    return config.get_text_config() is not config


def width_of(model: nn.Module) -> int | None:
    """Channels of a model's hidden states, by its config; None where that has no such entry."""
    width = getattr(plain_model(model).config.get_text_config(decoder=True), "hidden_size", None)
    return width if type(width) is int else None


def body_of(model: nn.Module) -> nn.Module:
    """What stands before the head: the base model, or the decoder of a model that has none of its own (T5)."""
    plain = plain_model(model)
    return plain.base_model if plain.base_model is not plain else plain.get_decoder()


class HiddenStates:
    """The hidden states of one pass, (m, H) of each layer that was asked for.

    m are the n rows of the batch. Where a row is no position, as in the classification of whole texts, they are all
    positions of the labelled examples but padding.

    Args:
        model: without the wrappers of distributed training.
        task: its task.
        layers: which.
    """

    def __init__(self, model: nn.Module, task: Task, layers: Collection[Layer]) -> None:
        self._model, self._task, self._layers = model, task, layers
        self._found: dict[Layer, Tensor] = {}
        self._whole: dict[Layer, Tensor] = {}  # (B, L, H) until they are asked for
        self._rows: Rows | None = None
        self._texts: Tensor | None = None  # (B * L,) the example of each position
        self._of_example: Tensor | None = None  # (B,) its rows, where a row is no position

    def __getitem__(self, layer: Layer) -> Tensor:
        if layer in self._whole:
            self._found[layer] = self._taken(layer, self._whole.pop(layer))
        if layer not in self._found:
            fix = "Give other layers, or none."
            raise ArgumentError("hidden_layers", layer, "was not run in a pass of the model.", fix)
        return self._found[layer]

    @property
    def examples(self) -> Tensor:
        """(m,) the example of each, ascending."""
        assert self._rows is not None and self._texts is not None
        return self._texts[self._rows.positions]

    @property
    def shares(self) -> Tensor | None:
        """(m,) how much each counts of the rows that it belongs to; None where it is one."""
        if self._task.by_position or self._of_example is None:
            return None
        examples, place, counts = torch.unique_consecutive(self.examples, return_inverse=True, return_counts=True)
        shares: Tensor = (self._of_example[examples] / counts)[place]
        return shares

    @contextmanager
    def hooked(self, inputs: Batch, rows: Rows) -> Iterator[None]:
        """In the block a call of the model with these inputs is one that is kept."""
        self._rows = rows if self._task.by_position else self._positions(inputs, rows)
        self._texts = _texts(inputs, self._rows.length)
        self._found.clear()
        self._whole.clear()
        layers = layers_of(self._model)[1]
        with ExitStack() as stack:
            for layer in self._layers:
                module = layers[layer - 1] if isinstance(layer, int) else body_of(self._model)
                stack.callback(module.register_forward_hook(self._hook(layer)).remove)
            yield

    def _hook(self, layer: Layer) -> Callable[[nn.Module, object, object], None]:
        def keep(module: nn.Module, _args: object, output: object) -> None:
            hidden = _first(output)
            checkpointed = module.training and bool(getattr(module, "gradient_checkpointing", False))
            if not checkpointed:
                self._found[layer] = self._taken(layer, hidden)
                return
            if not torch.is_grad_enabled():
                problem = "runs layers without gradients at first, so that none would reach them from hidden_term."
                fix = "Set use_reentrant=False."
                raise ArgumentError("gradient_checkpointing_kwargs", {"use_reentrant": True}, problem, fix)
            # The hook may lie within what is run again, which must save the same tensors without it.
            self._whole[layer] = hidden

        return keep

    def _taken(self, layer: Layer, hidden: Tensor) -> Tensor:
        """(m, H) of (B, L, H); virtual tokens of an adapter stand before the text."""
        assert self._rows is not None and self._texts is not None
        length = self._rows.length
        size = len(self._texts) // length
        if hidden.dim() != 3 or hidden.shape[0] != size or hidden.shape[1] < length:
            problem = f"puts out {tuple(hidden.shape)}, and not a vector for each of {size} x {length} positions."
            fix = "Leave hidden_term out for this model, or load it with attn_implementation='sdpa'."
            raise ArgumentError("hidden_layers", layer, problem, fix)
        return self._rows.take(hidden[:, -length:])

    def _positions(self, inputs: Batch, rows: Rows) -> Rows:
        """All positions of labelled examples but padding."""
        ids = next(inputs[name] for name in INPUTS[2:] if inputs.get(name) is not None)
        mask = inputs.get("attention_mask")
        if not isinstance(mask, Tensor) or mask.dim() != 2:
            mask = torch.ones(ids.shape[:2], dtype=torch.long, device=ids.device)
        self._of_example = torch.bincount(rows.examples, minlength=len(mask))
        kept = (mask != 0) & (self._of_example > 0).unsqueeze(1)
        positions = kept.reshape(-1).nonzero().squeeze(1)
        return Rows(positions, rows.labels, mask.shape[1])


def _texts(inputs: Batch, length: int) -> Tensor:
    """(B * L,) the example of each position; each of several that a collator laid one behind the other.

    As in transformers these are told apart by position ids, which begin again, where there is one row and no mask.
    """
    given = next(inputs[name] for name in INPUTS if inputs.get(name) is not None)
    places, positions = given.shape[0] * length, inputs.get("position_ids")
    if given.shape[0] > 1 or not isinstance(positions, Tensor) or inputs.get("attention_mask") is not None:
        return torch.arange(places, device=given.device) // length
    begins = positions[0].diff(prepend=positions[0, :1] - 1) != 1
    return begins.cumsum(0)


def _first(output: object) -> Tensor:
    """The first tensor of what a layer or a body puts out."""
    if isinstance(output, Tensor):
        return output
    first: Tensor = output[0]  # type: ignore[index]
    return first
