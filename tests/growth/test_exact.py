"""Exact growth on twelve representative types: what a student owes its teacher."""

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from benchmarks.coverage.measure import arguments, tiny_teacher
from hf_dwt import from_weak_teacher
from hf_dwt.errors import GrowthError, GrowthNotPreservedError
from hf_dwt.growth.proxy.activations import main_output
from hf_dwt.growth.proxy.batches import random_batch
from hf_dwt.growth.proxy.model import Proxies, proxy
from hf_dwt.growth.width.layouts import named_sizes
from hf_dwt.growth.width.mapping import apply_plan, kind, make_plan
from hf_dwt.growth.width.search import NotFound, Search, find_recipe

TWELVE = {
    "bert": "masked-lm",
    "roberta": "masked-lm",
    "modernbert": "masked-lm",
    "deberta-v2": "masked-lm",
    "gpt2": "causal-lm",
    "gpt_neox": "causal-lm",
    "llama": "causal-lm",
    "qwen3": "causal-lm",
    "gemma3_text": "causal-lm",
    "mixtral": "causal-lm",
    "t5": "seq2seq-lm",
    "vit": "image-classification",
}
PRE_NORM = ("gpt2", "gpt_neox", "llama", "qwen3", "gemma3_text", "mixtral", "t5", "vit")
GENERATORS = [name for name, task in TWELVE.items() if task in ("causal-lm", "seq2seq-lm")]
CASES = [
    *((name, "width") for name in TWELVE),
    *((name, "depth") for name in TWELVE),
    *((name, "pad") for name in PRE_NORM),
]


@functools.cache
def teacher_of(name: str) -> PreTrainedModel:
    return tiny_teacher(TWELVE[name], name)


def grow(name: str, growth: str = "width", **more: Any) -> PreTrainedModel:
    teacher = teacher_of(name)
    return from_weak_teacher(teacher, **arguments(TWELVE[name], growth, teacher.config), **more)


@functools.cache
def _once(name: str, growth: str) -> PreTrainedModel:
    return grow(name, growth)


def grown(name: str, growth: str = "width") -> PreTrainedModel:
    """A student of one's own, of which there is one growth for all tests."""
    return copy.deepcopy(_once(name, growth))


@torch.no_grad()
def apart(one: PreTrainedModel, other: PreTrainedModel, seed: int = 77) -> float:
    """Largest difference of outputs on a batch that growing did not see."""
    batch = random_batch(one, seed)
    a, b = (main_output(model.eval()(**batch)) for model in (one, other))
    return ((a - b).abs().max() / a.abs().max().clamp_min(1)).item()


@pytest.mark.parametrize(("name", "growth"), CASES)
def test_the_student_computes_what_the_teacher_does(name: str, growth: str) -> None:
    teacher, student = teacher_of(name), grown(name, growth)
    assert student.num_parameters() > teacher.num_parameters()
    assert type(student) is type(teacher)
    assert apart(teacher, student) < 2e-5
    assert student.growth_report.preserved and student.growth_report.difference < 2e-5
    # Counter-case: any one matrix off by a little is seen.
    with torch.no_grad():
        next(p for p in student.parameters() if p.ndim > 1).mul_(1.05)
    assert apart(teacher, student) > 1e-4


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "modernbert"])
def test_a_wrong_layout_is_not_the_same_function(name: str) -> None:
    """A fused projection read as another arrangement of its blocks."""
    teacher = teacher_of(name)
    student = proxy(type(teacher), grown(name).config, seed=0)
    sizes = named_sizes(teacher.config, student.config)
    recipe = find_recipe(Proxies(teacher, student.config))
    fused = [key for key, layout in recipe.layouts.items() if teacher_axis(teacher, key) == 96]
    assert fused
    for keys, bound in (([], (0, 2e-5)), (fused, (1e-2, 1e9))):
        wrong = recipe
        for key in keys:
            wrong = wrong.with_layout([key], (3,) if recipe.layouts[key][0] == (1,) else (1,))
        apply_plan(make_plan(teacher, student, wrong, sizes), teacher, student, symmetry=0.5)
        assert bound[0] <= apart(teacher, student) < bound[1]


def teacher_axis(teacher: PreTrainedModel, key: tuple[str, int]) -> int:
    """Length of the axis in the first layer, 0 where it has no such parameter."""
    weight = teacher.state_dict().get(key[0].replace("*", "0", 1))
    return 0 if weight is None else weight.shape[key[1]]


@pytest.mark.parametrize("growth", ["width", "depth"])
@pytest.mark.parametrize("name", GENERATORS)
def test_cached_generation_is_the_teachers(name: str, growth: str) -> None:
    teacher, student = teacher_of(name), grown(name, growth)
    ids = torch.randint(4, 60, (2, 5), generator=torch.Generator().manual_seed(3))
    options = {"max_new_tokens": 8, "do_sample": False, "use_cache": True, "pad_token_id": 0}
    if name == "t5":
        options["decoder_start_token_id"] = 0
    wanted, got = (model.generate(ids, attention_mask=torch.ones_like(ids), **options) for model in (teacher, student))
    assert torch.equal(wanted, got)
    assert not torch.equal(wanted[:1], wanted[1:])


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_kept(name: str, dtype: torch.dtype) -> None:
    teacher = tiny_teacher(TWELVE[name], name).to(dtype)
    student = from_weak_teacher(teacher, hidden_size=64, init="clone")
    assert student.dtype is dtype and student.growth_report.preserved
    assert student.growth_report.difference < 0.1


@pytest.mark.parametrize(
    ("name", "symmetry"),
    [*((name, 0.5) for name in TWELVE), *((name, 0.0) for name in ("bert", "gpt2", "llama", "t5"))],
)
def test_copies_part_in_training_only_if_asymmetric(name: str, symmetry: float) -> None:
    student = grow(name, symmetry=symmetry)

    def apart_by() -> dict[str, float]:
        vectors = {n: p for n, p in student.named_parameters() if p.ndim == 1 and len(p) % 2 == 0}
        halves = {n: p.detach().chunk(2) for n, p in vectors.items()}
        return {n: float((one - other).abs().max()) for n, (one, other) in halves.items()}

    copies = [n for n, gap in apart_by().items() if gap == 0]
    optimiser = torch.optim.SGD(student.parameters(), lr=0.1)
    student(**random_batch(student, 5)).logits.log_softmax(-1)[..., 1].mean().backward()
    optimiser.step()
    assert copies and (max(apart_by()[n] for n in copies) > 1e-6) is (symmetry > 0)


@pytest.mark.parametrize(("name", "growth"), CASES)
def test_every_parameter_learns_within_two_steps(name: str, growth: str) -> None:
    student = grown(name, growth).train()
    optimiser = torch.optim.SGD(student.parameters(), lr=0.01)
    seen: set[str] = set()
    for seed in range(2):
        optimiser.zero_grad()
        student(**random_batch(student, seed)).logits.log_softmax(-1)[..., seed].mean().backward()
        seen |= {n for n, p in student.named_parameters() if p.grad is not None and p.grad.any()}
        optimiser.step()
    still = {n for n, _ in student.named_parameters()} - seen
    # what the teacher does not learn with its own shape either, such as a pooler that this head does not read
    teacher = teacher_of(name).train()
    teacher(**random_batch(teacher, 0)).logits.log_softmax(-1)[..., 0].mean().backward()
    idle = {kind(n) for n, p in teacher.named_parameters() if p.grad is None or not p.grad.any()}
    assert {kind(n) for n in still} <= idle and len(idle) < 4


@pytest.mark.parametrize("name", ["modernbert", "deberta-v2", "gpt2", "mixtral", "t5", "vit"])
def test_growing_in_two_steps_computes_the_same(name: str) -> None:
    teacher = teacher_of(name)
    middle = from_weak_teacher(teacher, hidden_size=64, init="clone")
    assert apart(teacher, from_weak_teacher(middle, hidden_size=128, num_hidden_layers=4, init="clone")) < 2e-5


@pytest.mark.parametrize(
    ("name", "init"), [*((name, "clone") for name in TWELVE), *((name, "pad") for name in PRE_NORM[::3])]
)
def test_the_teachers_size_is_the_teacher(name: str, init: str) -> None:
    teacher = teacher_of(name)
    student = from_weak_teacher(teacher, init=init)
    ours = student.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in teacher.state_dict().items())


@pytest.mark.parametrize("depth", ["append", "interleave"])
@pytest.mark.parametrize("name", ["bert", "roberta", "llama", "gpt2", "t5"])
def test_new_layers_hand_on_what_they_read(name: str, depth: str) -> None:
    student = from_weak_teacher(teacher_of(name), num_hidden_layers=5, init="clone", depth=depth)
    assert apart(teacher_of(name), student) < 2e-5


def test_copied_layers_are_not_the_same_function() -> None:
    with pytest.raises(GrowthNotPreservedError, match="outputs differ"):
        from_weak_teacher(teacher_of("llama"), num_hidden_layers=4, init="clone", depth="stack")


@pytest.mark.parametrize("name", ["deberta-v2", "gpt_neox", "gemma3_text", "mixtral", "t5"])
def test_a_student_is_a_stock_checkpoint(name: str, tmp_path: Path) -> None:
    """Saved and loaded again it is the same bit for bit; tied stays tied; the same seed gives the same weights.

    Of types that test_student.py has not, and of one that it has.
    """
    teacher, student = teacher_of(name), grow(name, seed=3)
    student.save_pretrained(tmp_path)
    loaded, info = type(teacher).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    again, other = grow(name, seed=3).state_dict(), grow(name, seed=4).state_dict()
    for key, value in student.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value) and torch.equal(again[key], value)
    assert any(not torch.equal(other[key], value) for key, value in again.items())
    assert shared(student) == shared(teacher)


def shared(model: PreTrainedModel) -> list[tuple[str, ...]]:
    """Names of parameters that are one."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return sorted(tuple(sorted(group)) for group in names.values() if len(group) > 1)


def test_what_no_batch_reaches_is_reported() -> None:
    """A vision tower beside a text model is grown by what its modules look like, and said to be unproven."""
    teacher = tiny_teacher("causal-lm", "git")
    report = from_weak_teacher(teacher, **arguments("causal-lm", "width", teacher.config)).growth_report
    assert report.unproven and all("image_encoder" in name or "visual_projection" in name for name in report.unproven)
    assert "unproven" in str(report) and report.to_dict()["unproven"] == list(report.unproven)
    assert not grown("llama").growth_report.unproven


def test_a_proxy_that_ignores_its_input_proves_nothing() -> None:
    teacher, student = tiny_teacher("causal-lm", "llama"), grown("llama")
    with torch.no_grad():
        teacher.model.norm.weight.zero_()
    with pytest.raises(NotFound, match="does not depend"):
        Search(teacher, student, random_batch(teacher, 0)).run()


REFUSED = [
    ("fnet", "masked-lm", {"hidden_size": 64}, "clone", "fourier"),
    ("xglm", "causal-lm", {"hidden_size": 64}, "clone", "self_attn_layer_norm"),
    ("bert", "masked-lm", {"hidden_size": 48}, "pad", "outputs differ.*pre-norm"),
    ("minimax", "causal-lm", {"num_hidden_layers": 4}, "clone", "normalises the residual stream"),
    ("bert", "masked-lm", {"hidden_size": 16}, "clone", "smaller than the teacher"),
]


@pytest.mark.parametrize(("name", "task", "sizes", "init", "words"), REFUSED)
def test_what_is_not_exact_is_refused(name: str, task: str, sizes: dict[str, int], init: str, words: str) -> None:
    with pytest.raises(GrowthError, match=words):
        from_weak_teacher(tiny_teacher(task, name), **sizes, init=init)
