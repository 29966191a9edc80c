"""What every placement is: a record for the user, and what it takes of a device."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ...parts import Part
from .layers import Size


@dataclass(frozen=True, kw_only=True)
class Placement(Part[[nn.Module, torch.device], nn.Module]):
    """The record of a placement.

    Its function returns the teacher as it is to be run: the model that it is given, or a copy where placing would
    change that.

    Args:
        memory: what a process keeps on its device, as a formula: W bytes that are no layer, L bytes of all layers, l
            of the largest, n processes.
        bytes_needed: the same, of a size and a number of processes.
        traffic: what each forward pass moves.
        splits: whether it moves layers away from the device, so that the teacher must be a plain model.
        processes: the fewest that it needs.
        away: the kind of device on which layers lie between calls; None where they stay on that of the process.
        missing: a sentence on what this installation lacks for it, or "".
    """

    memory: str
    bytes_needed: Callable[[Size, int], int]
    traffic: str
    splits: bool
    processes: int = 1
    away: str | None = None
    missing: str = ""
