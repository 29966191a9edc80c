"""The last layer of a model, run otherwise for a while: its logits are used where its weight is, and not returned.

Every engine that shards a model (FSDP, ZeRO-3) makes the weight whole in hooks around the forward of its module, and
nowhere else. What needs all logits is therefore done inside the forward of the head.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..objective.logits import LinearLogits, Logits
from ..precision import autocast_to
from .calls import Outputs
from .logit_transform import LogitTransform, run_as

Sums = dict[str, Tensor]
"""Named results of the rows' logits."""
Reduce = Callable[[Logits, Outputs | None], Sums]
"""From the (n, C) logits at the rows to what is needed of them; with the model's outputs, where it has run."""


@contextmanager
def reducing(head: nn.Linear, transform: LogitTransform, reduce: Reduce) -> Iterator[list[Sums]]:
    """In the block the head returns logits of no rows, (1, 0, C); the sums are in the list once it was called.

    The empty logits depend on all sums that have a gradient. So the model's outputs do, from which engines find out
    which parameters were used, and when to gather them in the backward pass; see `joined`.
    """
    found: list[Sums] = []

    def forward(hidden: Tensor) -> Tensor:
        kind = hidden.device.type
        dtype = autocast_to(kind)
        logits = LinearLogits(hidden[0], head.weight, head.bias, transform.scale, transform.cap, dtype)
        with torch.autocast(kind, enabled=False):  # the sums are in fp32, and the product knows its own type
            found.append(reduce(logits, None))
        total = sum((value for value in found[-1].values() if value.requires_grad), hidden.new_zeros(()))
        # FSDP2 warns of modules that return a view.
        return total.to(dtype or head.weight.dtype).expand(1, 0, logits.shape[1]).clone()

    with run_as(head, forward):
        yield found


def joined(sums: Sums, nothing: Tensor) -> Sums:
    """The sums, so that a backward pass from any of them goes through the outputs of the wrapped model first.

    Args:
        sums: of `reducing`.
        nothing: the logits of no rows among the model's outputs.
    """
    zero = nothing.sum()
    return {name: value + zero.to(value.dtype) if value.requires_grad else value for name, value in sums.items()}
