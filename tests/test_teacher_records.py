"""What run.json, the card and a resumed run know of teachers that are more than one frozen model."""

from dataclasses import replace
from typing import Any

import pytest
from peft import LoraConfig

from hf_dwt import teachers
from hf_dwt.publish.card import model_card
from hf_dwt.publish.run_record import RunRecord
from hf_dwt.teachers import CorrectedTeacher, OnlineTeacher, OtherTokenizer, SeveralTeachers
from hf_dwt.teachers.composed import ComposedTeacher
from hf_dwt.training.record import objective_section, teacher_section
from hf_dwt.training.resume import warn_of_other_arguments

from .training import arguments

LORA = LoraConfig(r=2, target_modules="all-linear")
NESTED = SeveralTeachers({"a": "weak", "n": SeveralTeachers([CorrectedTeacher("weaker", "revise", eta=0.5), "w"])})
# each composed teacher -> (one of it, another with other settings, words of the first, whose idea it is)
MADE: dict[type, tuple[Any, Any, str, str]] = {
    CorrectedTeacher: (
        CorrectedTeacher("weak", "revise", eta=0.5),
        CorrectedTeacher("weak", "revise", eta=0.6),
        "corrected by revise with {'eta': 0.5}",
        "Label Revision",
    ),
    OnlineTeacher: (
        OnlineTeacher("weak", LORA, follow=0.25),
        OnlineTeacher("weak", LORA, follow=3.0),
        "follow 0.25",
        "Deep Mutual Learning",
    ),
    OtherTokenizer: (OtherTokenizer("weak"), "weak", "tokens of its own tokenizer", ""),
    SeveralTeachers: (NESTED, SeveralTeachers({"a": "weak", "n": "weaker"}), "n: cross_entropy", "Label Revision"),
}


def record(source: Any) -> RunRecord:
    objective = objective_section(arguments("unused"), has_teacher=True)
    section: Any = teacher_section(source, {}, None, {})
    return RunRecord(teacher=section, objective=objective)  # type: ignore[arg-type]


def test_every_teacher_that_is_made_of_others_is_here() -> None:
    public = (getattr(teachers, name) for name in teachers.__all__)
    composed = {one for one in public if isinstance(one, type) and hasattr(one, "same_tokenizer")}
    assert composed - {ComposedTeacher} == MADE.keys()


@pytest.mark.parametrize("kind", MADE)
def test_the_card_says_what_a_teacher_is_made_of_and_cites_it(kind: type) -> None:
    source, _, words, idea = MADE[kind]
    text = str(model_card(record(source)))
    assert words in text and idea in text
    assert words not in str(model_card(record("weak")))


@pytest.mark.parametrize("kind", MADE)
def test_a_resumed_run_says_that_its_teacher_is_another(
    kind: type, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    source, other, *_ = MADE[kind]
    record(source).save(tmp_path)
    warn_of_other_arguments(str(tmp_path), record(source))
    assert not caplog.records
    warn_of_other_arguments(str(tmp_path), record(other))
    assert "was saved under other arguments" in caplog.text


@pytest.mark.parametrize("part", [None, 0.4])
def test_the_card_compares_losses_of_the_same_rows_alone(part: float | None) -> None:
    figures = {
        "step": 5,
        "eval_loss": 3.0,
        "eval_accuracy": 0.3,
        "eval_teacher_loss": 2.0,
        "eval_teacher_accuracy": 0.1,
    }
    figures |= {} if part is None else {"eval_teacher_rows": part}
    text = str(model_card(replace(record("weak"), curve=[figures])))
    assert ("It did not come below its teacher's loss" in text) == (part is None)
    assert ("on the 40% of the rows that it knows" in text) == (part is not None)
    assert ("0.1" in text.split("weak teacher")[-1].splitlines()[0]) == (part is None)  # the accuracy
