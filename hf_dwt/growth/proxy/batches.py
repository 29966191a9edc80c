"""Random batches that a model accepts, with padding: what teacher and student are compared on."""

import inspect
from collections.abc import Collection, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ..config.names import ROWS

Batch = Mapping[str, Tensor | bool]
"""Arguments of a model's forward."""

RESERVED = 4
"""Token ids below this are kept for special tokens, where the vocabulary is that large."""


def random_batch(model: PreTrainedModel, seed: int, size: int = 3, length: int = 8) -> Batch:
    """Inputs for `model.forward`, on its device: ids (size, length) with a padding mask, or pixels.

    The last rows of a text batch end in padding; the last position of the first row never does.
    """
    generator = torch.Generator().manual_seed(seed)
    accepted = inspect.signature(model.forward).parameters
    config = model.config
    batch: dict[str, Tensor] = {}
    if "pixel_values" in accepted and "input_ids" not in accepted:
        batch["pixel_values"] = _pixels(config, size, generator)
        if "spatial_shapes" in accepted:
            batch |= _patches(config, batch["pixel_values"])
    else:
        batch |= _text(config, accepted, size, length, generator)
        if type(model).__name__.endswith("ForSequenceClassification") and "decoder_input_ids" in batch:
            _end(batch, config)
    moved = {key: value.to(_device(model)) for key, value in batch.items()}
    return {**moved, "use_cache": False} if "use_cache" in accepted else moved


def on(batch: Batch, model: PreTrainedModel) -> Batch:
    """`batch` on the device and in the dtype of `model`."""
    return {
        key: value.to(_device(model), model.dtype if value.is_floating_point() else value.dtype)
        if isinstance(value, Tensor)
        else value
        for key, value in batch.items()
    }


def _device(model: PreTrainedModel) -> torch.device:
    """Where a model runs; on the CPU where its parameters lie on disk until then."""
    return torch.device("cpu") if model.device.type == "meta" else model.device


def _text(
    config: PreTrainedConfig, accepted: Collection[str], size: int, length: int, generator: torch.Generator
) -> dict[str, Tensor]:
    text = config.get_text_config(decoder=False) if hasattr(config, "get_text_config") else config
    vocabulary = _first(text, "vocab_size", "src_vocab_size", default=64)
    special = {v for k, v in text.to_dict().items() if k.endswith("_id") and type(v) is int}
    allowed = torch.tensor([i for i in range(min(vocabulary, 30000)) if i >= RESERVED and i not in special] or [0])
    rows = getattr(config, ROWS.get(config.model_type, ""), 1)
    ids = allowed[torch.randint(len(allowed), (size * rows, length), generator=generator)]
    mask = torch.ones((size, length), dtype=torch.long)
    if "attention_mask" in accepted:
        for row in range(1, size):
            mask[row, length - row :] = 0
        pad = getattr(text, "pad_token_id", None)
        ids = ids.masked_fill(
            mask.repeat_interleave(rows, 0) == 0, pad if type(pad) is int and 0 <= pad < vocabulary else 0
        )
    batch = {"input_ids": ids}
    if "attention_mask" in accepted:
        batch["attention_mask"] = mask
    if frames := getattr(config, "audio_length_per_tok", None):  # each token has its frames of sound
        shape = (size, config.audio_config.num_mel_bins, length * frames)
        batch["input_features"] = torch.randn(shape, generator=generator)
    if "decoder_input_ids" in accepted and getattr(config, "is_encoder_decoder", False):
        target = config.get_text_config(decoder=True)
        known = _first(target, "decoder_vocab_size", "vocab_size", "tgt_vocab_size", default=vocabulary)
        batch["decoder_input_ids"] = torch.randint(min(RESERVED, known - 1), known, (size, 5), generator=generator)
    return batch


def _end(batch: dict[str, Tensor], config: PreTrainedConfig) -> None:
    """Encoder-decoders classify at the end-of-sequence token, one a row, and shift the encoder's ids themselves."""
    del batch["decoder_input_ids"]
    last = batch["attention_mask"].sum(1) - 1
    batch["input_ids"][torch.arange(len(last)), last] = config.eos_token_id


def _pixels(config: PreTrainedConfig, size: int, generator: torch.Generator) -> Tensor:
    vision = getattr(config, "vision_config", None) or config
    side = getattr(vision, "image_size", 32) or 32
    height, width = side if isinstance(side, list | tuple) else (side, side)
    return torch.randn((size, getattr(vision, "num_channels", 3), height, width), generator=generator)


def _patches(config: PreTrainedConfig, pixels: Tensor) -> dict[str, Tensor]:
    """The same pixels as rows of patches (size, patches, pixels of one), with the shape of each image in patches."""
    vision = getattr(config, "vision_config", None) or config
    side = vision.patch_size
    rows = torch.nn.functional.unfold(pixels, side, stride=side).transpose(1, 2)
    shape = torch.tensor([[pixels.shape[2] // side, pixels.shape[3] // side]]).repeat(len(pixels), 1)
    mask = torch.ones(rows.shape[:2], dtype=torch.long)
    return {"pixel_values": rows, "spatial_shapes": shape, "pixel_attention_mask": mask}


def _first(config: PreTrainedConfig, *names: str, default: int) -> int:
    return next((v for name in names if type(v := getattr(config, name, None)) is int), default)
