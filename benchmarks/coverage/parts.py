"""Sizes of a composite config, given for the parts that have them."""

from transformers import PreTrainedConfig

from hf_dwt.errors import GrowthError
from hf_dwt.growth.config.larger import larger_config
from hf_dwt.growth.config.sizes import size

PARTS = ("text_config", "encoder", "decoder", "encoder_config", "decoder_config", "global_config", "vision_config")
"""Parts of a composite config that may be the model proper, in the order they are looked for."""


def belongs_to_a_part(config: PreTrainedConfig, role: str) -> bool:
    """Whether the class takes the size from a part of the config, so that it has to be given for that part."""
    if not any(isinstance(part, PreTrainedConfig) for part in config.__dict__.values()):
        return False
    try:
        larger_config(config, {role: 2 * (size(config, role) or 1)})
    except GrowthError as error:
        return "derives it" in error.problem
    return False


def part_overrides(config: PreTrainedConfig, role: str, times: int, by: int, main: str) -> dict[str, object]:
    """Overrides by which the size `role` of the parts of `config` is multiplied by `times / by`.

    Args:
        main: name of the part that is meant alone, where there is one.
    """
    parts = {key: getattr(config, key) for key in PARTS if isinstance(getattr(config, key, None), PreTrainedConfig)}
    parts = {main: parts[main]} if main in parts else parts
    overrides: dict[str, object] = {}
    for key, part in parts.items():
        old = size(part, role)
        if old is None:
            if inner := part_overrides(part, role, times, by, main):
                overrides[key] = inner
            continue
        small, large = part.to_dict(), larger_config(part, {role: old * times // by}).to_dict()
        changed = {name for name in small if name in large and large[name] != small[name]} - {"transformers_version"}
        overrides[key] = {name: new for name, new in large.items() if name in changed}
    return overrides
