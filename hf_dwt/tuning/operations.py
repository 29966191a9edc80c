"""How many operations a forward pass of a model takes, from its shapes alone."""

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..growth.config.sizes import size
from ..tasks import plain_model
from .units import layer_of


def layer_flops(model: nn.Module, tokens: int) -> int:
    """Floating-point operations of the layers of a model for one sequence, a product and a sum being two.

    2 `tokens` for each number of a linear layer, and 4 `tokens`^2 for each channel of the queries of an attention
    layer, as torch's FlopCounterMode counts them. Embeddings, norms and the head do not count; of a layer with experts
    all do. For encoders and decoders: of an encoder-decoder both parts read as many tokens.

    Args:
        model: of transformers, within peft's wrapper too; its adapter does not count. It may be on the meta device.
        tokens: length of the sequence.
    """
    base: PreTrainedModel = plain_model(model)
    linear = channels = 0
    for name, module in base.named_modules():
        if ".lora_" in name or not isinstance(module, nn.Linear | Conv1D) or not layer_of(f"{name}.weight", base):
            continue
        linear += module.weight.numel()
    config = base.config
    width = (size(config, "num_attention_heads") or 0) * _head_dim(base)
    channels = width * (size(config, "num_hidden_layers") or 0)
    return 2 * tokens * linear + 4 * tokens**2 * channels


def _head_dim(model: PreTrainedModel) -> int:
    config = model.config
    hidden, heads = size(config, "hidden_size") or 0, size(config, "num_attention_heads") or 1
    return size(config, "head_dim") or hidden // heads
