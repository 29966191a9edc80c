"""Which types are covered, and what they are asked to grow by, for configs of any kind."""

from dataclasses import dataclass
from typing import Any

import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from benchmarks.coverage.drawn import FIRST, runs
from benchmarks.coverage.parts import belongs_to_a_part, part_overrides
from hf_dwt.errors import GrowthError
from hf_dwt.growth.config.larger import larger_config
from hf_dwt.growth.config.names import LAYERS_OF_STAGES, PROPORTIONAL, SIZES, STAGES, WITH_STAGES
from hf_dwt.growth.config.sizes import size
from hf_dwt.growth.strategies import INITS
from hf_dwt.growth.strategy import Ratio

MAPS = {
    "masked-lm": "MASKED_LM",
    "causal-lm": "CAUSAL_LM",
    "seq2seq-lm": "SEQ_TO_SEQ_CAUSAL_LM",
    "sequence-classification": "SEQUENCE_CLASSIFICATION",
    "image-classification": "IMAGE_CLASSIFICATION",
}
"""Our name of a map -> its name in transformers' modeling_auto."""


@dataclass(frozen=True)
class Growth:
    """What a type is asked to do.

    Args:
        init: name of the strategy.
        size: the size that grows.
        ratios: the first is taken, or at drawn sizes the first at which heads stay whole.
    """

    init: str
    size: str
    ratios: tuple[Ratio, ...]

    def __str__(self) -> str:
        times, by = self.ratios[0]
        return f"{'depth' if self.size == 'num_hidden_layers' else 'width'} x {times / by:g}"


def growths() -> dict[str, Growth]:
    """Name -> what is measured: the first exact strategy's width and depth, and the width of every other exact one."""
    first, *others = (strategy for strategy in INITS.values() if strategy.exact)
    return {
        "width": Growth(first.name, "hidden_size", first.ratios),
        "depth": Growth(first.name, "num_hidden_layers", ((2, 1),)),
        **{strategy.name: Growth(strategy.name, "hidden_size", strategy.ratios) for strategy in others},
    }


def types(task: str) -> dict[str, str]:
    """Model type -> class name, of a map."""
    names = getattr(modeling_auto, f"MODEL_FOR_{MAPS[task]}_MAPPING_NAMES")
    return {kind: name if isinstance(name, str) else name[0] for kind, name in names.items()}


def model_class_of(task: str, model_type: str) -> type[PreTrainedModel]:
    """The class of a type; `PreTrainedModel` of one that is not in the map, such as a part of a composite."""
    return getattr(transformers, types(task).get(model_type, ""), PreTrainedModel)


def wider(task: str, config: PreTrainedConfig, times: int, by: int) -> PreTrainedConfig:
    """A config whose width, and all that grows with it, is multiplied by `times / by`.

    Raises:
        GrowthError: it is not legal.
    """
    wanted = multiplied(task, config, "hidden_size", times, by)
    return larger_config(config, {k: v for k, v in wanted.items() if k in SIZES}, wanted.get("config_overrides"))


def arguments(task: str, growth: str, config: PreTrainedConfig, setting: str = FIRST) -> dict[str, Any]:
    """Arguments of `from_weak_teacher` for one of `growths()`."""
    wanted = growths()[growth]
    ratio = _ratio(task, config, wanted.ratios) if setting != FIRST else wanted.ratios[0]
    return {"init": wanted.init, **multiplied(task, config, wanted.size, *ratio)}


def _ratio(task: str, config: PreTrainedConfig, ratios: tuple[Ratio, ...]) -> Ratio:
    """The first that leaves heads and groups whole and can be run; the first of all where none does."""
    text, model_class = config.get_text_config(), model_class_of(task, config.model_type)
    several = [getattr(text, name, 1) for name in PROPORTIONAL[""]]
    for times, by in ratios if len(ratios) > 1 else ():
        if all(type(n) is not int or n == 1 or n * times % by == 0 for n in several):
            try:
                larger = wider(task, config, times, by)
            except GrowthError:
                continue
            if runs(model_class, larger):
                return times, by
    return ratios[0]


def multiplied(task: str, config: PreTrainedConfig, role: str, times: int, by: int) -> dict[str, Any]:
    """Arguments for the size `role` times `times / by`: by its name or, of a composite config, for its parts."""
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
    image = model_class_of(task, config.model_type).main_input_name == "pixel_values"
    main = "vision_config" if image else "text_config"
    return {"config_overrides": part_overrides(config, role, times, by, main)}


def _times(value: Any, times: int, by: int, image: bool = False) -> Any:
    """A width, or a list of them, times `times / by`; what is no width (the channels of an image) stays."""
    if isinstance(value, list):
        return [one if image and one == value[0] == 3 else _times(one, times, by) for one in value]
    return value * times / by if isinstance(value, float) else value * times // by
