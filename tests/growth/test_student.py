"""A student is a stock model: it saves, loads, and is the same every time it is grown."""

import copy
import inspect
import random
import typing
import warnings
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from benchmarks.coverage.measure import tiny_teacher
from hf_dwt import from_weak_teacher
from hf_dwt.growth import GrowthPlan, plan_growth
from hf_dwt.growth.strategies import INITS
from tests.models import BUILDERS, batch, tiny

ARCHITECTURES = sorted(BUILDERS)
LARGER = {"hidden_size": 32, "num_hidden_layers": 3}
# A norm writes the residual stream itself, so padding cannot keep its mean (the rest is pre-norm).
NORM_WRITES = ("bart", "bert", "bert-token-classification", "distilbert", "electra", "modernbert", "roberta")
STRATEGIES = [init for init in INITS if init != "auto"]  # which is one of the others, chosen; see test_plan


def cases(first: int) -> list[tuple[str, str]]:
    """Each architecture with one strategy, and each strategy with several: files know neither of the other."""
    pairs = [(name, STRATEGIES[number % len(STRATEGIES)]) for number, name in enumerate(ARCHITECTURES, first)]
    return [(name, "remap" if init == "pad" and name in NORM_WRITES else init) for name, init in pairs]


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)


@pytest.mark.parametrize(("name", "init"), cases(1))
def test_saves_and_loads_bit_equal_as_a_stock_class(name: str, init: str, tmp_path: Path) -> None:
    teacher = tiny(name)
    student = from_weak_teacher(teacher, **LARGER, init=init)
    assert type(student) is type(teacher)
    assert type(student).__module__.startswith("transformers.")
    student.save_pretrained(tmp_path)
    again, info = type(student).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert equal(again, student)
    inputs = batch(student)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, student(**inputs).logits)
    assert "growth" not in (tmp_path / "config.json").read_text()
    if init != "aki":  # which draws nothing
        assert not equal(from_weak_teacher(teacher, **LARGER, init=init, seed=1), student)


@pytest.mark.parametrize(("name", "init"), cases(2))
def test_grown_from_a_path_is_grown_from_the_model(name: str, init: str, tmp_path: Path) -> None:
    teacher = tiny(name)
    teacher.save_pretrained(tmp_path)
    by_path, by_model = (from_weak_teacher(t, **LARGER, init=init) for t in (tmp_path, teacher))
    assert equal(by_path, by_model)
    assert by_path.config.to_dict() == {**by_model.config.to_dict(), "architectures": by_path.config.architectures}
    assert by_path.growth_report.teacher == str(tmp_path)


@pytest.mark.parametrize(("name", "init"), [("llama", init) for init in STRATEGIES] + [("t5", "clone")])
def test_seed_alone_decides(name: str, init: str) -> None:
    teacher = tiny(name)
    torch.manual_seed(1)
    state, python_state = torch.get_rng_state(), random.getstate()
    first = from_weak_teacher(teacher, **LARGER, init=init, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == python_state
    torch.manual_seed(2)
    assert equal(from_weak_teacher(teacher, **LARGER, init=init, seed=5), first)
    if init != "aki":  # which draws nothing
        assert not equal(from_weak_teacher(teacher, **LARGER, init=init, seed=6), first)


def test_the_teacher_is_not_changed() -> None:
    teacher = tiny("llama")
    before, config = copy.deepcopy(teacher), copy.deepcopy(teacher.config.to_dict())
    student = from_weak_teacher(teacher, **LARGER, rest="zeros")
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    assert equal(teacher, before)
    assert teacher.config.to_dict() == config


def test_everything_but_sizes_is_the_teachers(tmp_path: Path) -> None:
    teacher = tiny("gpt2", resid_pdrop=0.25, layer_norm_epsilon=1e-3, task_specific_params={"a": 1})
    teacher.generation_config.max_new_tokens = 7
    teacher.to(torch.bfloat16).save_pretrained(tmp_path)
    for source in (teacher, tmp_path):
        for init in INITS:
            student = from_weak_teacher(source, **LARGER, init=init)
            assert student.config.resid_pdrop == 0.25
            # Padding scales it as the mean square of the wider stream shrinks.
            assert student.config.layer_norm_epsilon == (5e-4 if init == "pad" else 1e-3)
            assert student.config.task_specific_params == {"a": 1}
            assert student.generation_config.max_new_tokens == 7
            assert student.generation_config is not teacher.generation_config
            assert student.dtype == student.config.dtype == torch.bfloat16
            assert not student.training
            assert not student.config.name_or_path


@pytest.mark.parametrize("init", INITS)
def test_a_student_is_saved_whenever_its_teacher_is(init: str, tmp_path: Path) -> None:
    """Published generation configs that transformers calls invalid are saved with a warning as they were loaded."""
    tiny("llama").save_pretrained(tmp_path / "weak")
    (tmp_path / "weak" / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.6}')
    teacher = LlamaForCausalLM.from_pretrained(tmp_path / "weak")
    teacher.save_pretrained(tmp_path / "plain")
    for number, one in enumerate((tmp_path / "weak", teacher)):
        student = from_weak_teacher(one, **LARGER, init=init)
        student.save_pretrained(tmp_path / f"student-{number}")
        saved, plain = (tmp_path / name / "generation_config.json" for name in (f"student-{number}", "plain"))
        assert saved.read_text() == plain.read_text() and '"temperature": 0.6' in saved.read_text()
        # Counter-case: what somebody changed is refused, as of the teacher, whose own stays as it is.
        student.generation_config.temperature = 0.7
        assert teacher.generation_config.temperature == 0.6
        with pytest.raises(ValueError, match="temperature"):
            student.save_pretrained(tmp_path / "changed")


def test_a_student_computes_by_the_implementations_of_its_teacher() -> None:
    teacher = tiny_teacher("causal-lm", "mixtral")
    teacher.set_experts_implementation("eager")
    teacher.set_attn_implementation("eager")
    copied = type(teacher)(type(teacher.config).from_dict(teacher.config.to_dict()))
    assert copied.config._experts_implementation != "eager"  # the dict does not hold it
    config = from_weak_teacher(teacher, hidden_size=2 * teacher.config.hidden_size).config
    assert (config._attn_implementation, config._experts_implementation) == ("eager", "eager")


def test_arguments_of_from_pretrained_reach_the_teacher(tmp_path: Path) -> None:
    tiny("bert").save_pretrained(tmp_path / "sub")
    student = from_weak_teacher(tmp_path, **LARGER, subfolder="sub", dtype="float64", attn_implementation="eager")
    assert student.dtype == torch.float64
    assert student.config._attn_implementation == "eager"
    assert from_weak_teacher(tmp_path / "sub", **LARGER).dtype == torch.float32


def test_random_reads_no_weights(tmp_path: Path) -> None:
    teacher = tiny("bert")
    teacher.config.architectures = [type(teacher).__name__]
    teacher.config.save_pretrained(tmp_path)
    student = from_weak_teacher(tmp_path, **LARGER, init="random")
    assert student.growth_report.copied == 0
    with pytest.raises(ValueError, match="teacher="):
        from_weak_teacher(tmp_path, **LARGER, init="remap")


def test_a_function_is_accepted_for_init_and_rest() -> None:
    def twos(parameter: torch.Tensor) -> None:
        parameter.fill_(2.0)

    def half(student, teacher, rest):  # type: ignore[no-untyped-def]
        sources = INITS["remap"](student, teacher, rest)
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.mul_(0.5)
        return sources

    teacher = tiny("bert")
    student = from_weak_teacher(teacher, **LARGER, init=half, rest=twos)
    weight = student.bert.encoder.layer[2].output.dense.weight
    assert torch.equal(weight[:16, :32], 0.5 * teacher.bert.encoder.layer[1].output.dense.weight)
    assert (weight[16:] == 1.0).all()
    assert (student.growth_report.init, student.growth_report.rest) == ("half", "twos")


def test_growing_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_weak_teacher(tiny("modernbert"), **LARGER).growth_report.fresh > 0


def test_editors_know_the_arguments_and_what_comes_back() -> None:
    """`from_weak_teacher` has the parameters of `plan_growth`; `tests/typed_use.py` shows it to mypy."""
    taken, planned = inspect.signature(from_weak_teacher), inspect.signature(plan_growth)
    assert list(taken.parameters.values()) == list(planned.parameters.values()) and len(taken.parameters) > 15
    hints = typing.get_type_hints(from_weak_teacher), typing.get_type_hints(plan_growth)
    assert [one["return"] for one in hints] == [PreTrainedModel, GrowthPlan]
    assert inspect.signature(from_weak_teacher).return_annotation is PreTrainedModel
