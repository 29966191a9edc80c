"""What a teacher is worth is measured as loops by hand measure it, and the verdict follows from the evidence alone."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from hf_dwt import DistillationError, assess_teacher
from hf_dwt.assess import Assessment, Figures
from hf_dwt.assess.evidence import HELPS, IF_FADED, TOO_WEAK, advice, evidence
from hf_dwt.assess.measure import calibration_error, counted_tokens, figures_of, unigram_loss
from hf_dwt.cli import main
from hf_dwt.forward.row_logits import RowLogits
from hf_dwt.tasks import TASKS, Outcome, Task, find_task
from hf_dwt.training.opening import WHAT_COMPARES, PrintAssessment

from .models import batch, tiny
from .training import history, trainer

DATA = Path(__file__).parents[1] / "examples" / "data"
TEACHER = str(DATA / "weak_teacher")
TEXT = (DATA / "valid.txt").read_text(encoding="utf-8").splitlines()[:60]


def test_the_unigram_leaves_the_label_itself_out() -> None:
    tokens, labels = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([0, 1])
    total = 5 - 1 + 3 * 0.5
    assert unigram_loss(tokens, labels) == pytest.approx(-(math.log(2.5 / total) + math.log(0.5 / total)) / 2)
    torch.manual_seed(0)
    noise = torch.randint(0, 50, (20_000,))
    assert unigram_loss(noise, noise) == pytest.approx(math.log(50), abs=0.01)


def test_the_calibration_error_is_the_one_of_its_bins() -> None:
    # bins of 1/15: three rows at 0.70, two of them right; one at 0.99 that is wrong
    confidence, right = torch.tensor([0.70, 0.70, 0.70, 0.99]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert calibration_error(confidence, right) == pytest.approx((abs(2.1 - 2) + 0.99) / 4)
    assert calibration_error(torch.ones(3), torch.ones(3)) == 0.0


@pytest.mark.parametrize("name", ["bert", "llama", "t5", "bert-token-classification"])
def test_figures_are_those_of_a_loop_over_all_positions(name: str) -> None:
    model = tiny(name)
    task, data = find_task(model), batch(model, size=3)
    data["labels"][0, 2] = -100
    with torch.no_grad():
        logits = model(**data).logits.double()
    labels = torch.nn.functional.pad(data["labels"][:, 1:], (0, 1), value=-100) if task.shifts else data["labels"]
    losses, hits = [], []
    for row, label in zip(logits.flatten(0, 1), labels.flatten(), strict=True):
        if label >= 0:
            losses.append(float(row.logsumexp(0) - row[label]))
            hits.append(bool(row.argmax() == label))
    found = figures_of(model.train(), task, [data, data])
    assert found.loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert found.accuracy == pytest.approx(sum(hits) / len(hits))
    assert model.training and all(p.requires_grad for p in model.parameters())


def known(*rows: tuple[float, dict[str, tuple[float, float]]]) -> dict[str, Any]:
    settings = {
        "random, constant": {"init": "random", "soft_weight": 1.0, "soft_weight_schedule": "constant"},
        "random, auto": {"init": "random", "soft_weight": 1.0, "soft_weight_schedule": "auto"},
        "remap, auto": {"init": "remap", "soft_weight": 1.0, "soft_weight_schedule": "auto"},
    }
    teachers = [{"name": str(share), "loss": 4.0, "explained": share, "gains": gains} for share, gains in rows]
    return {"teachers": teachers, "settings": settings, "rates": {"random": 0.002, "remap": 0.004}}


def test_the_verdict_follows_from_the_teachers_on_both_sides() -> None:
    good = (0.4, {"random, constant": (-0.3, 0.1), "random, auto": (-0.4, 0.1), "remap, auto": (-0.5, 0.1)})
    fair = (0.2, {"random, constant": (0.1, 0.1), "random, auto": (-0.2, 0.1), "remap, auto": (-0.1, 0.1)})
    poor = (0.1, {"random, constant": (0.3, 0.1), "random, auto": (-0.05, 0.1), "remap, auto": (0.2, 0.1)})
    study = known(good, fair, poor)
    said = {share: advice(share, study)[0] for share in (0.5, 0.4, 0.35, 0.29, 0.2, 0.15, 0.12, 0.05, 0.0, -1.0)}
    # at 0.35 constant gains 0.2, at 0.29 0.08, less than its interval; at 0.15 auto gains 0.125, at 0.12 0.08
    assert list(said.values()) == [HELPS, HELPS, HELPS, *[IF_FADED] * 3, *[TOO_WEAK] * 4]
    best, rows = advice(0.5, study)[1:]
    assert best == {**study["settings"]["remap, auto"], "learning_rate_factor": 2.0} and rows[0]["explained"] == 0.4
    assert advice(0.15, study)[1]["init"] == "random"  # -0.125 for its auto, +0.05 for remap's
    assert advice(0.39, known(good))[0] == TOO_WEAK and advice(0.4, known(good))[0] == HELPS  # weaker than any tried
    assert advice(-0.1, study)[1]["soft_weight"] == 0.0


def test_the_shipped_evidence_is_whole() -> None:
    found = evidence()
    shares = [row["explained"] for row in found["teachers"]]
    assert shares == sorted(shares, reverse=True) and all(0 < share < 1 for share in shares)
    assert all(setting in found["settings"] for row in found["teachers"] for setting in row["gains"])


def test_a_teacher_is_assessed_on_texts_beside_its_students() -> None:
    found = assess_teacher(TEACHER, TEXT, student={"hidden_size": 128}, samples=24)
    page = str(found)
    scratch, grown = found.students["from scratch"], found.students["grown"]
    assert found.teacher.loss + 1.0 < found.unigram < scratch.loss  # it has learnt more than frequencies
    assert grown.loss == pytest.approx(found.teacher.loss, abs=1e-3)  # grown exactly
    assert found.explained == pytest.approx(1 - found.teacher.loss / found.unigram)
    assert found.verdict in page and f"{found.teacher.loss:.3f}" in page and "student, grown" in page
    assert json.loads(json.dumps(found.to_dict()))["explained"] == found.explained
    again = assess_teacher(TEACHER, [{"text": text} for text in TEXT], samples=24)
    assert again.teacher == found.teacher and again.unigram == found.unigram


ASSESSED = [task for task in TASKS if task.outcome is Outcome.CLASS]


@pytest.mark.parametrize("task", ASSESSED, ids=lambda task: task.name)
def test_words_are_those_of_the_task(task: Task) -> None:
    figures = Figures(loss=1.0, accuracy=0.5, calibration_error=0.1)
    found = Assessment(task.name, 8, 8, 2.0, figures, verdict="helps", evidence=evidence()["teachers"][:1])
    for text in (str(found), found.line()):
        assert ("token frequencies alone" in text) == task.vocabulary
        assert ("class frequencies alone" in text) == (not task.vocabulary)
        assert ("a guess, from fill-mask models" in text) == (task.name != "fill-mask")
    assert ("these runs of tiny fill-mask models" in str(found)) == (task.name != "fill-mask")


def test_noise_is_too_weak_a_teacher() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TEACHER)
    noise = AutoModelForMaskedLM.from_config(AutoModelForMaskedLM.from_pretrained(TEACHER).config)
    found = assess_teacher(noise, TEXT, processing_class=tokenizer, samples=8)
    assert found.explained < 0 and found.verdict == TOO_WEAK and found.suggestion["soft_weight"] == 0.0


def test_classes_count_as_tokens_do() -> None:
    task = find_task(tiny("bert-token-classification"))
    assert counted_tokens([{"labels": [1, -100, 2]}, {"labels": [2]}], task, frozenset({1})).tolist() == [1, 2, 2]
    masked = find_task(tiny("bert"))
    assert counted_tokens([{"input_ids": [1, 7, 2]}], masked, frozenset({1, 2})).tolist() == [7]
    assert counted_tokens([object()], masked, frozenset()).tolist() == []


@pytest.mark.parametrize(
    ("teacher", "data", "more", "words"),
    [
        (TEACHER, [], {}, "has no examples"),
        (TEACHER, "one text", {}, "Give a list"),
        (TEACHER, ["a b"], {}, "does not fill a single block"),
        ("no/such", TEXT, {}, "no config that can be read"),
        (tiny("bert"), TEXT, {}, "is needed to read text"),
        (tiny("bert-token-classification"), TEXT, {}, "text without labels"),
        (tiny("bert"), [{"input_ids": [5, 6]}], {}, "no labels"),
        (tiny("bert"), [{"input_ids": [5, 6], "labels": [-100, -100]}], {}, "no position with a label"),
        (tiny("bert"), [{"input_ids": [5, 6], "labels": [5, 999]}], {}, "beyond the 64 classes"),
    ],
)
def test_bad_input_is_named(teacher: Any, data: Any, more: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillationError, match=words):
        assess_teacher(teacher, data, **more)


def test_a_checkpoint_without_a_head_is_refused(tmp_path: Path) -> None:
    tiny("bert").base_model.save_pretrained(tmp_path)
    with pytest.raises(DistillationError, match="no class with the head of a task"):
        assess_teacher(str(tmp_path), TEXT)


def test_the_command_says_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(TEXT), encoding="utf-8")
    assert main(["assess", TEACHER, "--text", str(text), "--samples", "24", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["teacher"]["loss"] == assess_teacher(TEACHER, TEXT, samples=24).teacher.loss
    assert main(["assess", TEACHER, "--text", str(tmp_path / "none")]) == 1
    assert "no such file" in capsys.readouterr().err


def test_the_trainer_says_so_in_one_line_and_trains_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Any] = []
    trial = RowLogits._try
    monkeypatch.setattr(RowLogits, "_try", lambda self, call: (tried.append(self.model), trial(self, call))[1])

    def run(silent: bool, **settings: Any) -> tuple[str, list[tuple[float, ...]]]:
        torch.manual_seed(0)
        tried.clear()
        own = trainer(tiny("bert", hidden_size=32), tiny("bert", seed=1), tmp_path, seed=3, **settings)
        if silent:
            own.remove_callback(PrintAssessment)
        own.train()
        assert len(tried) == len({id(model) for model in tried})  # no head is tried twice
        starts = ("The teacher's loss", WHAT_COMPARES)
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(starts)]
        return "\n".join(lines), history(own, "loss", "grad_norm")

    line, losses = run(silent=False)
    assert line.count("The teacher's loss") == 1 and TOO_WEAK in line  # random weights
    assert line.endswith(WHAT_COMPARES) and WHAT_COMPARES not in run(False, soft_weight_schedule="constant")[0]
    assert run(silent=True) == ("", losses)
    assert run(silent=False, soft_weight=0.0)[0] == ""
