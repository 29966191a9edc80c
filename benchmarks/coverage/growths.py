"""Which types the coverage table measures, and what they are asked to grow by, said for configs of any kind."""

from typing import Any

import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from benchmarks.coverage.drawn import FIRST, runs
from hf_dwt.errors import GrowthError
from hf_dwt.growth.config.larger import larger_config
from hf_dwt.growth.config.names import LAYERS_OF_STAGES, PROPORTIONAL, SIZES, STAGES, WITH_STAGES
from hf_dwt.growth.config.parts import belongs_to_a_part, part_overrides
from hf_dwt.growth.config.sizes import size

MAPS = {
    "masked-lm": "MASKED_LM",
    "causal-lm": "CAUSAL_LM",
    "seq2seq-lm": "SEQ_TO_SEQ_CAUSAL_LM",
    "sequence-classification": "SEQUENCE_CLASSIFICATION",
    "image-classification": "IMAGE_CLASSIFICATION",
}
"""Our name of a map -> its name in transformers' modeling_auto."""

PADDED = ((3, 2), (4, 3), (5, 4), (5, 3), (6, 5), (8, 7), (10, 9), (3, 1))
"""Ratios of a padding; the first, or at drawn sizes the first at which heads stay whole."""


def types(task: str) -> dict[str, str]:
    """Model type -> class name, of a map."""
    names = getattr(modeling_auto, f"MODEL_FOR_{MAPS[task]}_MAPPING_NAMES")
    return {kind: name if isinstance(name, str) else name[0] for kind, name in names.items()}


def wider(task: str, config: PreTrainedConfig, times: int, by: int) -> PreTrainedConfig:
    """A config whose width, and all that grows with it, is multiplied by `times / by`.

    Raises:
        GrowthError: it is not legal.
    """
    wanted = said(task, config, "hidden_size", times, by)
    return larger_config(config, {k: v for k, v in wanted.items() if k in SIZES}, wanted.get("config_overrides"))


def arguments(task: str, growth: str, config: PreTrainedConfig, setting: str = FIRST) -> dict[str, Any]:
    """Arguments of `from_weak_teacher` for one of `GROWTHS`."""
    if growth == "depth":
        return {"init": "clone", **said(task, config, "num_hidden_layers", 2, 1)}
    init, ratio = ("clone", (2, 1)) if growth == "width" else ("pad", _padded(task, config, setting))
    return {"init": init, **said(task, config, "hidden_size", *ratio)}


def _padded(task: str, config: PreTrainedConfig, setting: str) -> tuple[int, int]:
    """The first ratio that leaves heads and groups whole and can be run; of the first setting 3 : 2."""
    text, model_class = config.get_text_config(), getattr(transformers, types(task).get(config.model_type, ""), None)
    several = [getattr(text, name, 1) for name in PROPORTIONAL[""]]
    for times, by in () if setting == FIRST else PADDED:
        if all(type(n) is not int or n == 1 or n * times % by == 0 for n in several):
            try:
                larger = wider(task, config, times, by)
            except GrowthError:
                continue
            if runs(model_class, larger):
                return times, by
    return PADDED[0]


def said(task: str, config: PreTrainedConfig, role: str, times: int, by: int) -> dict[str, Any]:
    """The role times `times / by`, said directly or, of a composite config, for its parts."""
    stored = config.to_dict()  # of lists, whether the class has lists or tuples
    depths = stored.get("depths")
    layers = {key: stored.get(key) for key in LAYERS_OF_STAGES if role == "num_hidden_layers"}
    if layers := {key: _times(value, times, by) for key, value in layers.items() if isinstance(value, list | float)}:
        return {"config_overrides": layers}
    named = {key: stored.get(key) for key in (*STAGES, *WITH_STAGES)}
    if role == "hidden_size" and (isinstance(depths, list) or size(config, role) is None):
        widths = {k: _times(v, times, by, k in STAGES) for k, v in named.items() if isinstance(v, int | float | list)}
        if widths:
            return {"config_overrides": widths}
    value = size(config, role)
    if value is not None and not belongs_to_a_part(config, role):
        return {role: value * times // by}
    model_class = getattr(transformers, types(task).get(config.model_type, ""), PreTrainedModel)
    main = "vision_config" if model_class.main_input_name == "pixel_values" else "text_config"
    return {"config_overrides": part_overrides(config, role, times, by, main)}


def _times(value: Any, times: int, by: int, image: bool = False) -> Any:
    """A width, or a list of them, times `times / by`; what is no width (the channels of an image) stays."""
    if isinstance(value, list):
        return [one if image and one == value[0] == 3 else _times(one, times, by) for one in value]
    return value * times / by if isinstance(value, float) else value * times // by
