"""Where the time of our step goes, in the Trainer's own loop; and what importing hf_dwt adds to importing Trainer."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from .loop import Turns, quartiles, synchronize


class Timed:
    """Counts the seconds that methods take, those of what they call among them taken off."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._within: list[float] = []

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """Time `owner.method` under `name`."""
        original: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            synchronize()
            self._within.append(0.0)
            began = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                synchronize()
                spent = time.perf_counter() - began
                inner = self._within.pop()
                self.seconds[name] = self.seconds.get(name, 0.0) + spent - inner
                if self._within:
                    self._within[-1] += spent

        setattr(owner, method, timed)


def shares(turn: Turns, steps: int) -> dict[str, float]:
    """Share of the step by part; what is in none of them is "rest"."""
    timed = Timed()
    trainer = turn.trainer
    timed.wrap(trainer, "get_batch_samples", "batch")
    timed.wrap(trainer, "_prepare_inputs", "batch")
    timed.wrap(trainer.teacher, "targets", "teacher")
    timed.wrap(trainer, "compute_loss", "forward")
    timed.wrap(trainer.accelerator, "backward", "backward")
    timed.wrap(trainer.accelerator, "clip_grad_norm_", "clipping")
    timed.wrap(trainer.optimizer, "step", "optimiser")
    timed.wrap(trainer.model, "zero_grad", "zeroing")
    timed.wrap(trainer, "log", "logging")
    turn.take(1)
    timed.seconds.clear()
    whole = turn.take(steps) * steps
    parts = {name: spent / whole for name, spent in timed.seconds.items()}
    return {**parts, "rest": 1.0 - sum(parts.values())}


PRODUCTS = r"aten::(mm|addmm|bmm|baddbmm|addmm_|_scaled_dot_product_(?!attention_math).*)"
# What else an operator belongs to, by the first pattern that its name or that of one around it matches.
KINDS: dict[str, str] = {
    "attention beside its products": r"aten::_?scaled_dot_product_attention.*|aten::_softmax_backward_data",
    "optimiser and clipping": r"Optimizer\..*|aten::_fused_adamw_|aten::_foreach_.*|aten::linalg_vector_norm",
    "dropout": r"aten::(dropout|bernoulli_|native_dropout.*)",
    "norms and activations": r"aten::(native_layer_norm.*|layer_norm|gelu.*|tanh.*|silu.*|rsqrt|pow|mean)",
    "embeddings": r"aten::embedding.*",
}
VOCABULARY, REST, BETWEEN = "soft-max and losses over the vocabulary", "other operators", "between operators"


def operators(turn: Turns, steps: int, vocabulary: int) -> dict[str, float]:
    """Share of the step by kind of operator, each without those inside it, on a CPU; the rest is between them.

    Whatever has the vocabulary as its last axis and is no product belongs to the soft-maxes and losses.
    """
    events, whole = turn.profiled(steps)
    found = dict.fromkeys(["products", VOCABULARY, *KINDS, REST], 0.0)
    for event in events:
        if not event.name.startswith("ProfilerStep"):
            found[_kind(event, vocabulary)] += event.self_cpu_time_total / 1e6 / whole
    return {**found, BETWEEN: 1.0 - sum(found.values())}


def _kind(event: Any, vocabulary: int) -> str:
    if re.fullmatch(PRODUCTS, event.name):
        return "products"
    if any(isinstance(shape, list) and len(shape) > 1 and shape[-1] == vocabulary for shape in event.input_shapes):
        return VOCABULARY
    around = event
    while around is not None:
        for kind, pattern in KINDS.items():
            if re.fullmatch(pattern, around.name):
                return kind
        around = around.cpu_parent
    return REST


IMPORTS = {"Trainer": "from transformers import Trainer", "hf_dwt": "from hf_dwt import DistillationTrainer"}


def import_ratio(rounds: int) -> dict[str, Any]:
    """Seconds of the import of each in a fresh process, in turns, and the quartiles of the ratio."""
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(rounds):
        for name, statement in IMPORTS.items():
            code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
            ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            seconds[name].append(float(ran.stdout.split()[-1]))
    ratios = [ours / theirs for ours, theirs in zip(seconds["hf_dwt"], seconds["Trainer"], strict=True)]
    return {"seconds": seconds, "ratio": quartiles(ratios)}
