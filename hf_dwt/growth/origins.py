"""Which of the teacher's tensors one of the student's comes from, by name and layer."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, tied ones once."""
    persistent = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in persistent}
    return dict(model.named_parameters()) | buffers


def every_tensor(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under each of their names; tied ones have several."""
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


Layers = Mapping[str, Sequence[int | None]]
"""Path of a list of layers -> the teacher's layer for each of the student's, None for none."""


def source_name(name: str, teacher: nn.Module, layers: Layers) -> str | None:
    """The teacher's name for a student's parameter, by `layers`; in other lists index i becomes min(i, L - 1)."""
    parts: list[str] = []
    module: nn.Module | None = teacher
    for part in name.split("."):
        sources = layers.get(".".join(parts))
        if part.isdigit() and (sources is not None or isinstance(module, nn.ModuleList)):
            assert module is not None
            source = min(int(part), len(list(module.children())) - 1) if sources is None else sources[int(part)]
            if source is None:
                return None
            part = str(source)
        module = getattr(module, part, None)
        parts.append(part)
    return ".".join(parts)
