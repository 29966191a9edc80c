"""The compiled loss of a chunk: that of `loss_kernel="auto"`, at weights that move; and no compiler, said at once."""

import shutil
from typing import Any

import pytest
import torch
from torch._inductor import config

from hf_dwt.errors import ArgumentError
from hf_dwt.objective import Weights, chunked, distillation_terms, require_compiler

from .test_chunked import CLASSES, draw

# Of torch's own compiler, when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs a C++ compiler, g++")
def test_compiled_chunks_are_the_others_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums and gradients. The weights of the first step must not stay in what was compiled for it."""
    monkeypatch.setattr(chunked, "BYTES_ON_CPU", 4 * CLASSES * 4)
    monkeypatch.setattr(chunked, "LEAST_ROWS", 1)
    student, labels, said = draw(torch.float32, rows=12)
    leaves = [student.hidden, student.weight, student.bias]

    def found(compiled: bool, weights: Weights) -> dict[str, Any]:
        terms = distillation_terms(student, labels, said(CLASSES, False), weights, compiled=compiled)
        gradients = torch.autograd.grad(terms["loss"], leaves)
        return {name: value.detach() for name, value in terms.items()} | dict(zip("hwb", gradients, strict=True))

    steps = [Weights(0.9, 0.7), Weights(0.4, 0.6), Weights(0.2, 0.1)]
    for weights in steps:
        expected, compiled = found(False, weights), found(True, weights)
        assert expected.keys() == compiled.keys()
        for name, value in expected.items():
            torch.testing.assert_close(compiled[name], value, rtol=1e-5, atol=1e-5)
    first, last = (found(False, weights)["h"] for weights in (steps[0], steps[-1]))
    assert (first - last).abs().max() > 0.1


def test_a_missing_compiler_is_said_by_name() -> None:
    words = "'compile'.*cannot be compiled for cpu.*no-such-compiler.*C\\+\\+ compiler.*'auto'"
    missing = config.patch({"cpp.cxx": ("no-such-compiler",)})  # type: ignore[attr-defined]
    with missing, pytest.raises(ArgumentError, match=words):
        require_compiler(torch.device("cpu"))
