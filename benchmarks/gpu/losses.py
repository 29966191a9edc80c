"""The chunked loss beside other kernels: `python -m benchmarks.gpu.losses`.

One call is a forward and a backward pass from hidden states to the gradients of hidden states and weight. The kernels
take turns on the same tensors. The distance of the weight's gradient from that in fp64 stands beside seconds and
memory, since a kernel that sums in half precision has less to do.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_dwt.objective import Targets, Weights, distillation_terms
from hf_dwt.objective.logits import LinearLogits

from ..__main__ import machine
from ..loop import allocations, interleave, peak_of, peak_on_gpu, quartiles, synchronize

ROWS_OF_REFERENCE = 256


@dataclass(frozen=True)
class Case:
    """Labelled rows, entries of the vocabulary, hidden sizes of student and teacher."""

    rows: int
    entries: int
    width: int
    teacher_width: int


CASES = {
    "gpt2": Case(4096, 50257, 768, 384),
    "llama-3": Case(4096, 128256, 2048, 1024),
    "qwen-3": Case(4096, 151936, 1024, 512),
}
TINY = {"tiny": Case(96, 301, 32, 16)}


class Heads(NamedTuple):
    """Hidden states (n, H), weights (C, H) of student and teacher, and the labels (n,)."""

    hidden: Tensor
    weight: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor
    labels: Tensor


Loss = Callable[[Heads], Tensor]
"""The mean over rows."""


def ours(heads: Heads) -> Tensor:
    teacher = Targets(LinearLogits(heads.teacher_hidden, heads.teacher_weight))
    student = LinearLogits(heads.hidden, heads.weight)
    return distillation_terms(student, heads.labels, teacher, Weights(1, 1))["loss"] / len(heads.labels)


def ours_alone(heads: Heads) -> Tensor:
    student = LinearLogits(heads.hidden, heads.weight)
    return distillation_terms(student, heads.labels, None, Weights(1, 0))["loss"] / len(heads.labels)


def dense(heads: Heads) -> Tensor:
    student = F.log_softmax(at_least_fp32(heads.hidden @ heads.weight.t()), dim=-1)
    teacher = F.log_softmax(at_least_fp32(heads.teacher_hidden @ heads.teacher_weight.t()), dim=-1)
    soft = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return F.nll_loss(student, heads.labels) + soft


def dense_alone(heads: Heads) -> Tensor:
    return F.cross_entropy(at_least_fp32(heads.hidden @ heads.weight.t()), heads.labels)


def liger(heads: Heads) -> Tensor:
    """Forward KL is its beta = 0."""
    fused = import_module("liger_kernel.chunked_loss").LigerFusedLinearJSDLoss(1.0, 1.0, beta=0.0)
    loss: Tensor = fused(*heads)
    return loss


def torch_alone(heads: Heads) -> Tensor:
    """In chunks; torch's own choice of their size."""
    options = import_module("torch.nn").LinearCrossEntropyOptions()
    loss: Tensor = F.linear_cross_entropy(heads.hidden, heads.weight, heads.labels, options=options)
    return loss


def at_least_fp32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


# term -> (kernel -> loss), ours first and the logits of all rows last
TERMS: dict[str, dict[str, Loss]] = {
    "hard term alone": {"ours": ours_alone, "torch.linear_cross_entropy": torch_alone, "dense": dense_alone},
    "both terms": {"ours": ours, "liger": liger, "dense": dense},
}


class Call:
    """One kernel on its tensors."""

    def __init__(self, loss: Loss, heads: Heads) -> None:
        self.loss, self.heads = loss, heads

    def __call__(self) -> float:
        self.heads.hidden.grad = self.heads.weight.grad = None
        loss = self.loss(self.heads)
        loss.backward()
        return loss.item()

    def take(self, steps: int) -> float:
        """Seconds of one call, the mean over `steps`."""
        synchronize()
        began = time.perf_counter()
        for _ in range(steps):
            self()
        synchronize()
        return (time.perf_counter() - began) / steps

    def peak(self) -> int:
        """Bytes at the peak of a call above what stood before it: the gradients are among them."""
        self.heads.hidden.grad = self.heads.weight.grad = None
        if self.heads.hidden.is_cuda:
            return peak_on_gpu(self)
        with allocations() as profile:
            self()
        return peak_of(profile)

    def error(self, exact: Tensor) -> float:
        """The gradient of the weight beside `exact`: the norm of the difference over the norm."""
        self()
        assert self.heads.weight.grad is not None
        return ((self.heads.weight.grad.double() - exact).norm() / exact.norm()).item()


def draw(case: Case, device: str) -> Heads:
    """Random heads in bf16 whose logits have a deviation of 2, and random labels."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=generator, device=device) * scale).to(torch.bfloat16)

    labels = torch.randint(0, case.entries, (case.rows,), generator=generator, device=device)
    return Heads(
        normal(case.rows, case.width).requires_grad_(),
        normal(case.entries, case.width, scale=2 * case.width**-0.5).requires_grad_(),
        normal(case.rows, case.teacher_width),
        normal(case.entries, case.teacher_width, scale=2 * case.teacher_width**-0.5),
        labels,
    )


def in_fp64(loss: Loss, heads: Heads) -> Tensor:
    """The gradient of the weight by automatic differentiation in fp64, some rows at a time."""
    weights = [weight.detach().double() for weight in (heads.weight, heads.teacher_weight)]
    weights[0].requires_grad_()
    rows = len(heads.labels)
    for start in range(0, rows, ROWS_OF_REFERENCE):
        part = slice(start, start + ROWS_OF_REFERENCE)
        hidden, teacher = (each[part].detach().double() for each in (heads.hidden, heads.teacher_hidden))
        some = Heads(hidden, weights[0], teacher, weights[1], heads.labels[part])
        (loss(some) * (len(hidden) / rows)).backward()
    assert weights[0].grad is not None
    return weights[0].grad


def measure(case: Case, losses: dict[str, Loss], device: str, rounds: int, calls: int) -> dict[str, Any]:
    """Every kernel of one term; those that cannot run with the reason."""
    heads = draw(case, device)
    exact = in_fp64(losses["dense"], heads)
    found: dict[str, Any] = {name: {} for name in ("loss", "gradient_error", "peak_bytes", "absent")}
    ready: dict[str, Call] = {}
    for name, loss in losses.items():
        call = Call(loss, heads)
        try:
            found["loss"][name] = call()  # the first call compiles
            found["gradient_error"][name] = call.error(exact)
            found["peak_bytes"][name] = call.peak()
            ready[name] = call
        except Exception as error:
            found["absent"][name] = f"{type(error).__name__}: {error}".splitlines()[0]
    found["seconds"] = interleave(ready, rounds, calls)
    return found


def lines(result: dict[str, Any]) -> list[str]:
    """A line for each kernel."""
    found = [f"{name} did not run: {why}" for name, why in result["absent"].items()]
    if "ours" not in result["seconds"]:
        return found
    seconds, peaks = result["seconds"], result["peak_bytes"]
    for name, times in seconds.items():
        low, middle, high = quartiles([own / other for own, other in zip(seconds["ours"], times, strict=True)])
        found.append(
            f"{name}: {1000 * quartiles(times)[1]:.2f} ms, ours / it {middle:.2f} ({low:.2f} to {high:.2f}); "
            f"{peaks[name] / 2**20:,.0f} MiB, ours / it {peaks['ours'] / max(peaks[name], 1):.2f}; "
            f"gradient off by {result['gradient_error'][name]:.1e}, loss {result['loss'][name]:.5f}"
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.losses", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a case that runs in a second")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=5, help="calls in a row of a turn")
    parser.add_argument("--json", type=Path, required=True, help="file that is written")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(), "device": options.device}
    cases = TINY if options.tiny else CASES
    for term, losses in TERMS.items():
        for name, case in cases.items():
            found = measure(case, losses, options.device, options.rounds, options.calls)
            results.setdefault(name, {"case": vars(case)})[term] = found
            options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            print(f"{name}, {case.entries:,} entries, {case.rows:,} rows, {term}", flush=True)
            print(*(f"  {line}" for line in lines(found)), sep="\n", flush=True)


if __name__ == "__main__":
    main()
