"""A tiny model of every type that transformers' maps have for a task, with a batch that it trains on."""

from collections.abc import Iterator
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from hf_dwt.growth.proxy.batches import random_batch
from hf_dwt.growth.proxy.model import proxy
from hf_dwt.growth.proxy.shrink import shrink
from hf_dwt.tasks import config_parts

from .models import LABELS

MAPS = {
    "seq2seq": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "masked": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "sequence": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "token": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
}


def every_type() -> Iterator[tuple[str, str]]:
    """(task, model type) of all maps."""
    for task, types in MAPS.items():
        yield from ((task, model_type) for model_type in types)


def routes(model_type: str) -> bool:
    """Whether a type has experts whose routers may be balanced."""
    config_class: Any = CONFIG_MAPPING[model_type]
    return any(hasattr(part, "output_router_logits") for part in (config_class, *config_class.sub_configs.values()))


def tiny_of(task: str, model_type: str) -> PreTrainedModel:
    """Random weights, no dropout, routers balanced; raises whatever its class raises on tiny sizes."""
    name = MAPS[task][model_type]
    model_class = getattr(transformers, name if isinstance(name, str) else name[0])
    config: Any = CONFIG_MAPPING[model_type]()
    parts = [part for part in vars(config).values() if type(part) is model_class.config_class]
    if type(config) is not model_class.config_class and parts:
        config = parts[0]
    if task == "causal" and config.to_dict().get("is_decoder") is False:
        config.is_decoder = True  # an encoder's class warns, or refuses, to predict the next token otherwise
    config = shrink(config)
    for part in config_parts(config):
        _settle(part)
    if task in ("sequence", "token"):
        config.num_labels = LABELS
    if task == "sequence" or getattr(config, "is_encoder_decoder", False):
        for part in (config, config.get_text_config()):
            part.pad_token_id = getattr(part, "pad_token_id", None) or 0  # batches of more than one need it
        config.decoder_start_token_id = getattr(config, "decoder_start_token_id", None) or config.pad_token_id
    return proxy(model_class, config, seed=0)


def _settle(config: PreTrainedConfig) -> None:
    """Nothing random in training, every router balanced, experts in every second layer."""
    for name, value in list(vars(config).items()):
        if isinstance(value, float) and ("drop" in name or "jitter" in name):
            setattr(config, name, 0.0)
        elif name in ("encoder_sparse_step", "decoder_sparse_step"):
            setattr(config, name, 2)
        elif name == "mlp_only_layers":
            setattr(config, name, [0])
        elif name in ("output_router_logits", "use_cache"):
            setattr(config, name, name == "output_router_logits")


def batch_of(model: PreTrainedModel, task: str) -> dict[str, Any]:
    """Three padded examples with labels, as a stock collator gives them: a causal LM's are its inputs."""
    batch = random_batch(model, seed=3)
    batch = {name: value for name, value in batch.items() if name not in ("use_cache", "decoder_input_ids")}
    ids, generator = batch["input_ids"], torch.Generator().manual_seed(1)
    if task == "sequence":
        return {**batch, "labels": torch.randint(0, LABELS, (len(ids),), generator=generator)}
    config: Any = model.config.get_text_config(**({"decoder": True} if task == "seq2seq" else {}))
    names = ("decoder_vocab_size", "vocab_size", "tgt_vocab_size")
    known = LABELS if task == "token" else next(filter(None, (getattr(config, n, None) for n in names)))
    labels = ids if task == "causal" else torch.randint(0, known, ids.shape, generator=generator)
    labels = labels.masked_fill(batch.get("attention_mask", torch.ones_like(ids)) == 0, -100)
    if task == "masked":
        labels = labels.masked_fill(torch.rand(ids.shape, generator=generator) < 0.5, -100)
    if task == "seq2seq" and hasattr(model, "prepare_decoder_input_ids_from_labels"):  # DataCollatorForSeq2Seq
        batch["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=labels)
    return {**batch, "labels": labels}
