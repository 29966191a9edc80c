"""Tiny random models of real architectures, for every test that must hold across architectures.

Every parameter is moved off its initial value: a norm of weight 1 and bias 0, or a bias of 0, lets wrong code pass.
Dropout is 0 everywhere, so train mode computes what eval mode computes.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    BartConfig,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    RobertaConfig,
    T5Config,
    ViTConfig,
)
from transformers.models import auto

VOCAB = 64
"""Size of the vocabulary of every text model. Ids 0 to 3 are kept for special tokens."""
POSITIONS = 40
LABELS = 3
"""Number of classes of the classifiers."""

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ENCODER = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
    **NO_DROPOUT,
}
DECODER = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": POSITIONS,
    "attention_dropout": 0.0,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

# name -> (config class, Auto class, config values). Where an architecture renames an attribute, its own name is used.
BUILDERS: dict[str, tuple[type[PreTrainedConfig], str, dict[str, Any]]] = {
    "bert": (BertConfig, "AutoModelForMaskedLM", ENCODER),
    "bert-token-classification": (
        BertConfig,
        "AutoModelForTokenClassification",
        {**ENCODER, "num_labels": LABELS, "classifier_dropout": 0.0},
    ),
    "roberta": (RobertaConfig, "AutoModelForMaskedLM", {**ENCODER, "bos_token_id": 1, "eos_token_id": 2}),
    "distilbert": (
        DistilBertConfig,
        "AutoModelForMaskedLM",
        {
            "vocab_size": VOCAB,
            "dim": 16,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 32,
            "max_position_embeddings": POSITIONS,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "pad_token_id": 0,
        },
    ),
    "electra": (ElectraConfig, "AutoModelForMaskedLM", {**ENCODER, "embedding_size": 12}),
    "modernbert": (
        ModernBertConfig,
        "AutoModelForMaskedLM",
        {
            "vocab_size": VOCAB,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "max_position_embeddings": POSITIONS,
            "global_attn_every_n_layers": 2,
            "local_attention": 8,
            "attention_dropout": 0.0,
            "mlp_dropout": 0.0,
            "embedding_dropout": 0.0,
            **SPECIAL,
        },
    ),
    "gpt2": (
        GPT2Config,
        "AutoModelForCausalLM",
        {
            "vocab_size": VOCAB,
            "n_embd": 16,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": POSITIONS,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "llama": (LlamaConfig, "AutoModelForCausalLM", DECODER),
    # head_dim differs from hidden_size / heads, so the two cannot be confused.
    "qwen3": (Qwen3Config, "AutoModelForCausalLM", {**DECODER, "head_dim": 8, "tie_word_embeddings": True}),
    "t5": (
        T5Config,
        "AutoModelForSeq2SeqLM",
        {
            "vocab_size": VOCAB,
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 32,
            "num_layers": 2,
            "num_heads": 2,
            "relative_attention_num_buckets": 8,
            "dropout_rate": 0.0,
            "pad_token_id": 0,
            "eos_token_id": 2,
            "decoder_start_token_id": 0,
        },
    ),
    "bart": (
        BartConfig,
        "AutoModelForSeq2SeqLM",
        {
            "vocab_size": VOCAB,
            "d_model": 16,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "max_position_embeddings": POSITIONS,
            "dropout": 0.0,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": 2,
        },
    ),
    "vit": (
        ViTConfig,
        "AutoModelForImageClassification",
        {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "image_size": 8,
            "patch_size": 4,
            "num_labels": LABELS,
            **NO_DROPOUT,
        },
    ),
}


def tiny(name: str, *, seed: int = 0, **sizes: Any) -> PreTrainedModel:
    """A tiny model of the architecture `name` (a key of `BUILDERS`), randomised, in eval mode.

    Args:
        name: architecture.
        seed: of every weight; the global random state stays as it was.
        **sizes: config values that replace the ones above, under the architecture's own names.
    """
    config_class, auto_name, values = BUILDERS[name]
    auto_class: Callable[..., PreTrainedModel] = getattr(auto, auto_name).from_config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto_class(config_class(**{**values, **sizes}))
    return randomise(model, seed).eval()


def randomise(model: PreTrainedModel, seed: int = 0, scale: float = 0.1) -> PreTrainedModel:
    """Move every parameter of `model` off its initial value by normal noise of deviation `scale`, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * scale)
    return model


def batch(model: PreTrainedModel, *, size: int = 2, length: int = 7, seed: int = 0) -> dict[str, torch.Tensor]:
    """Inputs and labels that `model` accepts: ids of shape (size, length), or pixels for an image classifier.

    The last row of a text batch ends in two padded positions; their labels are -100 where labels are per token.
    """
    generator = torch.Generator().manual_seed(seed)
    config: Any = model.config
    if hasattr(config, "image_size"):
        shape = (size, config.num_channels, config.image_size, config.image_size)
        pixels = torch.randn(shape, generator=generator)
        return {"pixel_values": pixels, "labels": torch.randint(0, config.num_labels, (size,), generator=generator)}
    ids = torch.randint(4, config.vocab_size, (size, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, -2:] = 0
    ids[mask == 0] = 0
    classes = config.num_labels if type(model).__name__.endswith("TokenClassification") else config.vocab_size
    labels = torch.randint(0, classes, (size, length), generator=generator).masked_fill(mask == 0, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
