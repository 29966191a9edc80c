"""On a GPU: what a CPU computes, in fp32; and in bf16, cached, accumulated and resumed the same run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_dwt import from_weak_teacher
from hf_dwt.objective import chunked
from hf_dwt.objective.logits import LinearLogits

from .models import batch, tiny
from .training import history, trainer

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("ignore"),  # of libraries that only a GPU loads
]

FIGURES = ("loss", "grad_norm", "hard_loss", "soft_loss")
NAMES = ("bert", "modernbert", "gpt2", "qwen3", "t5")


def run(name: str, out: Path, **settings: Any) -> list[tuple[float, ...]]:
    """The logged figures of five steps, with a teacher that speaks in all of them."""
    settings = {"use_cpu": False, "soft_weight_schedule": "constant", **settings}
    training = trainer(tiny(name), tiny(name, seed=1), out, **settings)
    training.train()
    rows: Any = (training._student, training.teacher.row_logits) if "teacher_cache" not in settings else ()
    if settings.get("loss_kernel") != "plain":
        assert all(logits.gathers and logits.defers for logits in rows)
    found = history(training, *FIGURES)
    assert len(set(found)) == 5 and training.args.device.type == ("cpu" if settings["use_cpu"] else "cuda")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_computes_what_a_cpu_does(name: str, tmp_path: Path) -> None:
    ours, theirs = (run(name, tmp_path, use_cpu=cpu) for cpu in (False, True))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)  # before an optimiser has spread the rounding


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_fast_paths_are_taken_and_have_the_plain_objective(name: str, bf16: bool, tmp_path: Path) -> None:
    found, plain = (run(name, tmp_path, bf16=bf16, loss_kernel=kernel) for kernel in ("auto", "plain"))
    np.testing.assert_allclose(found, plain, rtol=2e-2 if bf16 else 1e-4)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_accumulation_is_exact(name: str, tmp_path: Path) -> None:
    whole = run(name, tmp_path)
    parts = run(name, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    np.testing.assert_allclose(parts, whole, rtol=1e-4)


@pytest.mark.parametrize("form", ["hidden", "top_k"])
def test_a_cached_teacher_is_the_teacher(form: str, tmp_path: Path) -> None:
    online = run("gpt2", tmp_path / "online")
    k = {"teacher_cache_k": 64} if form == "top_k" else {}  # of 64 classes
    for _ in range(2):  # made, then read
        cached = run("gpt2", tmp_path / "run", teacher_cache=str(tmp_path / form), teacher_cache_form=form, **k)
        np.testing.assert_allclose(cached, online, rtol=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_an_offloaded_teacher_is_the_teacher(name: str, tmp_path: Path) -> None:
    there, away = (run(name, tmp_path, teacher_placement=placement) for placement in ("replicate", "offload"))
    np.testing.assert_allclose(away, there, rtol=1e-4)


def test_a_run_resumes_to_the_bit(tmp_path: Path) -> None:
    whole = run("bert", tmp_path / "whole", save_strategy="steps", save_steps=3, bf16=True)
    training = trainer(
        tiny("bert"),
        tiny("bert", seed=1),
        tmp_path / "again",
        use_cpu=False,
        soft_weight_schedule="constant",
        bf16=True,
    )
    training.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert history(training, *FIGURES)[-2:] == whole[-2:]


@pytest.mark.parametrize("name", ["bert", "gpt2", "qwen3"])
def test_growth_is_exact_on_a_gpu(name: str) -> None:
    teacher = tiny(name).eval()
    student = from_weak_teacher(teacher, init="clone", hidden_size=32, num_hidden_layers=4).eval()
    inputs = {key: value.cuda() for key, value in batch(teacher).items() if key != "labels"}
    with torch.no_grad():
        ours, theirs = student.cuda()(**inputs).logits, teacher.cuda()(**inputs).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert theirs.std() > 0.01


@pytest.mark.skipif(torch.__version__ < "2.10", reason="torch cannot add such products to fp32")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_gradient_of_the_weight_is_summed_in_fp32(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside fp64 it is several times as close as a sum of products in half precision, at a factor of 2 as well."""
    generator = torch.Generator("cuda").manual_seed(0)
    slope, hidden = (
        torch.rand(4096, n, generator=generator, device="cuda") for n in (500, 64)
    )  # roundings average out
    student = LinearLogits(hidden, torch.zeros(500, 64, device="cuda", requires_grad=True), scale=2.0, dtype=dtype)
    exact = 2 * slope.double().t() @ hidden.to(dtype).double()

    def error() -> float:
        gradients, own = chunked.Gradients(student), student.cast()
        for start in range(0, 4096 + 1, 512):  # no rows at the end, as on a process without labels
            part = slice(start, start + 512)
            gradients.add(part, slope[part], slope[part].clone(), own)
        assert gradients.weight is not None and gradients.weight.dtype == torch.float32
        return ((gradients.weight - exact).norm() / exact.norm()).item()

    with torch.no_grad():
        ours = error()
        monkeypatch.setattr(chunked, "_adds_to", lambda total, dtype: False)
        assert 0 < ours < error() / 3 < 1e-3
