"""The programs in examples/ do what they promise, run as a newcomer would run them."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from hf_dwt.errors import DataError

pytestmark = pytest.mark.examples

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    # HfArgumentParser resolves the annotations of dataclasses through sys.modules.
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run = example("run_mlm_dwt")


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YAML file for four steps on a text of one's own, with the shipped teacher named as any other would be."""
    place = tmp_path_factory.mktemp("own")
    text = (EXAMPLES / "data" / "train.txt").read_text(encoding="utf-8").splitlines()[:120]
    (place / "text.txt").write_text("\n".join(text), encoding="utf-8")
    lines = {
        "teacher": EXAMPLES / "data" / "weak_teacher",
        "hidden_size": 96,
        "num_hidden_layers": 3,
        "train_file": place / "text.txt",
        "output_dir": place / "student",
        "max_steps": 4,
        "learning_rate": "2e-3",  # YAML reads this as a string
        "soft_weight_schedule": "knowledge_inheritance",
        "soft_weight_schedule_kwargs": '{"until": 0.5}',
        "eval_strategy": "steps",
        "eval_steps": 2,
        "eval_on_start": "true",
        "save_steps": 2,
        "logging_steps": 1,
        "baseline": "true",
    }
    (place / "run.yaml").write_text("\n".join(f"{key}: {value}" for key, value in lines.items()), encoding="utf-8")
    return place / "run.yaml"


def test_the_cache_alone_is_made_and_nothing_else(flags: Path, tmp_path: Path) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out"
    line = [str(flags), "--teacher_cache", str(cache), "--teacher_cache_only", "true", "--output_dir", str(out)]
    assert run.main([*line, "--push_to_hub", "true"]) == {}
    assert json.loads((cache / "cache.json").read_text())["epochs"] == [0]
    assert not list(out.iterdir())


@pytest.fixture(scope="module")
def finished(flags: Path) -> dict[str, Any]:
    return run.main([str(flags)])


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    def loads(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something was loaded")

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", loads)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", loads)
    monkeypatch.setattr("datasets.load_dataset", loads)


def test_help_loads_no_model_and_no_data(nothing_loads: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run.main(["--help"])
    told = capsys.readouterr().out
    assert end.value.code == 0
    for name in ("--teacher", "--dataset_name", "--soft_weight_schedule", "--learning_rate", "--push_to_hub"):
        assert name in told


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--bogus", "3"], "--bogus"),
        (["--hiden-size", "3"], "Did you mean '--hidden_size'?"),
        (["--teacher", "some/model"], "--hidden_size"),
        (["--train_file", "nowhere.txt"], "nowhere.txt"),
        (["nowhere.yaml"], "nowhere.yaml"),
        (["--soft_weight_schedule", "constnt"], "Did you mean 'constant'"),
        (["--learning_rate", "fast"], "--learning_rate"),
    ],
)
def test_wrong_flags_are_told_before_anything_is_loaded(
    argv: list[str], told: str, nothing_loads: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run.main(argv)
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert told in error
    assert len(error) < 500  # the reason is not buried under two hundred flags


def test_the_example_values_hold_only_for_its_own_teacher(tmp_path: Path) -> None:
    own_teacher, _, example_args = run.parse([])
    assert own_teacher.teacher == run.EXAMPLE["teacher"]
    assert example_args.learning_rate == run.EXAMPLE["learning_rate"]
    assert run.parse(["--learning_rate", "1e-3"])[2].learning_rate == 1e-3

    other, data, args = run.parse(["--teacher", "some/model", "--hidden_size", "256"])
    stock = transformers.TrainingArguments(output_dir=str(tmp_path))
    assert other.teacher == ["some/model"]
    assert data.train_file == run.EXAMPLE_TEXT["train_file"]  # no data was named
    assert (args.learning_rate, args.max_steps) == (stock.learning_rate, stock.max_steps)
    assert run.parse(["--dataset_name", "some/data"])[1].train_file is None


def test_several_teachers_are_named_one_by_one_and_each_has_its_row(flags: Path, tmp_path: Path) -> None:
    line = [
        str(flags),
        "--teacher",
        str(EXAMPLES / "data" / "weak_teacher"),
        "--output_dir",
        str(tmp_path / "student"),
    ]
    assert len(run.parse(line)[0].teacher) == 2
    results = run.main([*line, "--max_steps", "2", "--baseline", "false"])
    assert list(results) == ["teacher 0", "teacher 1", "student"]
    record = json.loads((tmp_path / "student" / "run.json").read_text(encoding="utf-8"))
    assert list(record["teacher"]["teachers"]) == ["0", "1"]


def test_planted_domains_runs_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    planted, file = example("planted_domains"), tmp_path / "results.json"
    arms = ["equal", "cross_entropy example", "policy"]
    line = ["--quick", "--results", str(file), "--arms"]
    planted.main([*line, *arms[:1]])
    first = json.loads(file.read_text(encoding="utf-8"))["runs"]
    runs = planted.main([*line, *arms])["runs"]
    assert list(runs) == [f"{arm} / 0" for arm in arms] and all(runs[key] == figures for key, figures in first.items())
    figures = runs["cross_entropy example / 0"]
    weights = [figures[f"code_teacher_weight_{name}"] for name in ("prose", "code", "permuted")]
    assert sum(weights) == pytest.approx(1.0, abs=1e-4) and weights[1] > weights[2]
    shown = capsys.readouterr().out
    assert "| policy |" in shown and "NOT MET" in shown  # after four steps
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- planted domains -->\nold\n<!-- /planted domains -->\nbehind\n")
    planted.main(["--report", "--results", str(file), "--page", str(page)])
    written = page.read_text()
    assert "| policy |" in written and "old" not in written
    assert written.startswith("before") and written.endswith("behind\n")


def test_a_teacher_that_learns_is_compared_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    program, file = example("online_teacher"), tmp_path / "results.json"
    line = ["--quick", "--steps", "4", "--results", str(file)]
    runs = program.main(line)["runs"]
    timed = [f"{arm}, equal seconds" for arm in program.TIMED]
    assert list(runs) == [f"{arm} / 0" for arm in (*program.ARMS, *timed)]
    assert runs["online / 0"]["teacher_soft_loss"] and "teacher_own_loss" not in runs["frozen / 0"]
    assert runs["labels / 0"]["teacher_own_loss"] == runs["labels / 0"]["teacher_hard_loss"]
    frozen, own, equal = (runs[f"{arm} / 0"] for arm in ("frozen", "online", "online, equal seconds"))
    assert equal["steps"] == max(1, round(10 * frozen["seconds"] / own["seconds"]))
    assert frozen["teacher_loss"] == pytest.approx(own["teacher_loss"], abs=0.1)
    del runs["trained on / 0"]
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "runs": runs}), encoding="utf-8")
    again = program.main(line)["runs"]
    assert list(again)[-1] == "trained on / 0" and {**again, "trained on / 0": None} == {
        **runs,
        "trained on / 0": None,
    }
    assert "| online, equal seconds |" in capsys.readouterr().out


def test_growth_in_stages_is_compared_at_equal_operations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    program, file, page = example("grow_in_stages"), tmp_path / "results.json", tmp_path / "page.md"
    arms = ["rising", "one jump", "one jump, equal operations", "fresh, no warm-up", "grown, no warm-up"]
    runs = program.main(["--quick", "--results", str(file), "--arms", *arms])["runs"]
    rising, jump, equal, fresh, grown = (runs[f"{arm} / 0"] for arm in arms)
    assert equal["steps"] == round(16 * rising["flops"] / jump["flops"]) < jump["steps"] == rising["steps"]
    assert len(fresh["curve"]) == len(grown["curve"]) == 8
    assert (
        grown["curve"][0] < fresh["curve"][0] - 0.2
    )  # a first step of Adam's without moments is as large as it can be
    page.write_text("".join(f"<!-- {name} -->\nold\n<!-- /{name} -->\n" for name in program.TABLES))
    program.main(["--report", "--results", str(file), "--page", str(page)])
    assert "| one jump, equal operations |" in page.read_text() and "old" not in page.read_text()


def test_planted_facts_are_scored_dropped_and_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    program, file, page = example("find_bad_data"), tmp_path / "results.json", tmp_path / "page.md"
    facts = program.facts_of(program.parse(["--quick"]), 0)
    wrong = [line for line in facts.lines if line.planted]
    assert len(facts.lines) == len(facts.right) == 48 and len(wrong) == len(facts.asked) == 4
    assert {(line.person, line.wording) for line in facts.lines}.isdisjoint((q.person, q.wording) for q in facts.asked)
    assert all(line.town != right.town for line, right in zip(facts.lines, facts.right, strict=True) if line.planted)
    runs = program.main(["--quick", "--results", str(file), "--regimes", "unknown", "--methods", "BM25", "mean"])[
        "runs"
    ]
    assert list(runs) == ["unknown, BM25 / 0", "unknown, mean / 0"]
    assert runs["unknown, BM25 / 0"]["all"] > 0.9  # most lines are prose
    assert all(0 <= run[name] <= 1 for run in runs.values() for name in ("all", "found", "knows", "wrong again"))
    page.write_text("<!-- planted facts -->\nold\n<!-- /planted facts -->\n")
    program.main(["--report", "--results", str(file), "--page", str(page)])
    shown = f"| unknown | {runs['unknown, mean / 0']['knows']:.0%} | mean |"
    assert shown in page.read_text() and "old" not in page.read_text()


def test_a_chosen_half_is_compared_with_a_random_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    program, file = example("select_data"), tmp_path / "results.json"
    arms = ["all", "random", "attribution", "salt, alone"]
    runs = program.main(["--quick", "--results", str(file), "--arms", *arms])["runs"]
    assert list(runs) == [f"{arm} / 0" for arm in arms] and len({run["loss"] for run in runs.values()}) == 4


def test_the_stages_of_ernie_tiny_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    text = (EXAMPLES / "data" / "train.txt").read_text(encoding="utf-8").splitlines()
    lines = [json.dumps({"text": line, "label": f"{number % 2}"}) for number, line in enumerate(text[:60])]
    (tmp_path / "topics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    program, file = example("ernie_tiny"), tmp_path / "results.json"
    line = ["--topics", str(tmp_path / "topics.jsonl"), "--results", str(file), "--quick", "--arms"]
    runs = program.main([*line, "four stages", "grown, fine-tuning"])["runs"]
    assert {run["steps"] for run in runs.values()} == {8}
    assert all(0 < run["accuracy"] < 1 for run in runs.values())
    with pytest.raises(SystemExit):
        program.main(["--results", str(file)])  # no topics


def test_a_file_of_flags_is_read_as_flags_and_later_flags_win(flags: Path) -> None:
    model_args, _, args = run.parse([str(flags), "--max_steps", "9", "--init", "random"])
    assert (model_args.hidden_size, model_args.baseline, model_args.init) == (96, True, "random")
    assert (args.learning_rate, args.max_steps) == (2e-3, 9)
    assert args.soft_weight_schedule_kwargs == {"until": 0.5}


def test_the_results_are_written_and_hold_curves_of_all_that_was_trained(
    flags: Path, finished: dict[str, Any]
) -> None:
    written = json.loads((flags.parent / "student" / "results.json").read_text(encoding="utf-8"))
    assert written == finished
    assert list(written) == ["teacher", "student", "baseline"]
    record = json.loads((EXAMPLES / "data" / "weak_teacher" / "all_results.json").read_text(encoding="utf-8"))
    assert written["teacher"]["seconds"] == record["train_runtime"]
    assert written["student"]["parameters"] == written["baseline"]["parameters"] > written["teacher"]["parameters"]
    for row in written.values():
        assert row["perplexity"] == pytest.approx(torch.tensor(row["loss"]).exp().item(), rel=1e-3)
        assert 0 <= row["accuracy"] <= 1
    for name in ("student", "baseline"):
        assert 0 < written[name]["curve_blocks"] <= written[name]["blocks"] == written["teacher"]["blocks"]
        curve = written[name]["curve"]
        assert [point["step"] for point in curve] == [0, 2, 4]
        assert 0 == curve[0]["seconds"] < curve[1]["seconds"] < curve[2]["seconds"] <= written[name]["seconds"] + 0.1
        assert ("eval_teacher_loss" in curve[0]) == (name == "student")


def test_a_killed_run_resumes_to_the_same_student(flags: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    curve = run.main([str(flags), f"--output_dir={whole}", "--baseline=false"])["student"]["curve"]
    shutil.copytree(whole / "checkpoint-2", broken / "checkpoint-2")
    resume = [f"--output_dir={broken}", "--baseline=false", "--resume_from_checkpoint=last"]
    resumed = run.main([str(flags), *resume])["student"]["curve"]
    straight, joined, at_2 = (
        load_file(place / "model.safetensors") for place in (whole, broken, whole / "checkpoint-2")
    )
    assert all(torch.equal(straight[name], joined[name]) for name in straight)
    assert not all(torch.equal(straight[name], at_2[name]) for name in straight)
    assert [point["step"] for point in resumed] == [0, 2, 4]  # 2, where it began again, once
    assert resumed[:2] == curve[:2]  # with the seconds that were spent before
    assert resumed[2]["eval_loss"] == curve[2]["eval_loss"]
    assert resumed[2]["seconds"] > resumed[1]["seconds"]


def test_the_saved_student_is_a_plain_model(
    flags: Path, finished: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "hf_dwt"]:
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    with pytest.raises(ImportError):
        import hf_dwt  # noqa: F401
    place = flags.parent / "student"
    model = transformers.AutoModelForMaskedLM.from_pretrained(place)
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    logits = model(**tokenizer("we [MASK] here", return_tensors="pt")).logits
    assert type(model) is transformers.ModernBertForMaskedLM and logits.shape[-1] == 512
    assert (model.config.hidden_size, len(model.model.layers)) == (96, 3)


def test_a_named_student_is_trained_as_it_is(flags: Path, finished: dict[str, Any], tmp_path: Path) -> None:
    argv = [f"--student={flags.parent / 'student'}", f"--train_file={flags.parent / 'text.txt'}"]
    argv += [f"--output_dir={tmp_path}", "--max_steps=1", "--save_strategy=no", "--max_seq_length=32"]
    results = run.main(argv)
    assert list(results) == ["student"]  # no teacher was named: none is run
    assert results["student"]["parameters"] == finished["student"]["parameters"]


def test_text_that_cannot_be_used_is_told(flags: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--text_column may be one of text"):
        run.main([str(flags), "--output_dir", str(tmp_path), "--text_column", "content"])
    (tmp_path / "short.txt").write_text("Too short.\n" * 4, encoding="utf-8")
    with pytest.raises(DataError, match="does not fill a block of 64"):
        run.main([str(flags), "--output_dir", str(tmp_path), "--train_file", str(tmp_path / "short.txt")])


def test_the_weak_teacher_can_be_made_again(tmp_path: Path) -> None:
    record = example("make_weak_teacher").main([f"--output_dir={tmp_path}", "--max_steps=2", "--hidden_size=16"])
    shipped, made = (
        transformers.AutoTokenizer.from_pretrained(place) for place in (EXAMPLES / "data" / "weak_teacher", tmp_path)
    )
    assert shipped.get_vocab() == made.get_vocab()
    assert made.decode(made("The World")["input_ids"]) == "[CLS] the world [SEP]"
    assert made.mask_token_id == 4
    assert made.model_max_length == 64
    assert 5.5 < record["eval_loss"] < 6.5  # log(512) = 6.24: it knows nothing yet
    transformers.AutoModelForMaskedLM.from_pretrained(tmp_path)


def test_the_picture_is_drawn_and_finds_the_crossing(finished: dict[str, Any], tmp_path: Path) -> None:
    plot = example("plot_curves")
    curve = [{"seconds": 0.0, "eval_loss": 4.0}, {"seconds": 10.0, "eval_loss": 3.0}]
    assert plot.seconds_to(curve, 3.25) == pytest.approx(7.5)
    assert plot.seconds_to(curve, 5.0) == 0.0
    assert plot.seconds_to(curve, 2.0) is None
    (tmp_path / "results.json").write_text(json.dumps(finished), encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "above\n<!-- results: written by `make readme` -->\nold\n<!-- /results -->\nbelow\n", encoding="utf-8"
    )
    plot.main([str(tmp_path / "results.json"), "--output", str(tmp_path / "curves.png"), "--table", str(page)])
    (tmp_path / "other.md").write_text("It is <!-- teacher's loss -->9<!-- /teacher's loss --> nats.")
    (tmp_path / "bare.md").touch()
    plot.write_results(finished, tmp_path / "other.md")
    loss = f"{finished['teacher']['loss']:.3f}"
    assert (tmp_path / "other.md").read_text() == f"It is <!-- teacher's loss -->{loss}<!-- /teacher's loss --> nats."
    with pytest.raises(SystemExit, match="bare.md has no '<!-- results"):
        plot.write_results(finished, tmp_path / "bare.md")
    text = page.read_text(encoding="utf-8")
    assert f"{finished['student']['loss']:.3f}" in text
    assert "old" not in text
    assert text.startswith("above\n")
    assert text.endswith("<!-- /results -->\nbelow\n")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_default_run_ends_a_quarter_nat_below_its_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The promise of the example, with its own values but for fewer looks on the way: the longest test of all."""
    monkeypatch.chdir(tmp_path)
    results = run.main(["--eval_steps=200"])
    record = json.loads((EXAMPLES / "data" / "weak_teacher" / "all_results.json").read_text(encoding="utf-8"))
    assert results["teacher"]["loss"] == pytest.approx(record["eval_loss"], abs=0.1)  # other masks
    assert results["student"]["loss"] <= results["teacher"]["loss"] - 0.25
    assert [point["step"] for point in results["student"]["curve"]] == [0, 200, 400, 600]
    assert transformers.AutoModelForMaskedLM.from_pretrained("student").config.hidden_size == 128
    assert "[MASK]" in capsys.readouterr().out


def test_what_an_older_teacher_is_worth_under_another_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Right after growth a student with the teacher's embeddings is ahead of one without; and it can be taught."""
    monkeypatch.syspath_prepend(EXAMPLES)
    program = example("another_tokenizer")
    monkeypatch.chdir(tmp_path)
    text = (EXAMPLES / "data" / "train.txt").read_text(encoding="utf-8").splitlines()
    Path("train.txt").write_text("\n".join(text[:300]), encoding="utf-8")
    Path("valid.txt").write_text("\n".join(text[300:400]), encoding="utf-8")
    flags = ["--train_file=train.txt", "--valid_file=valid.txt", "--steps=1", "--evaluations=1", "--held_out=64"]
    flags += ["--seeds=0", "--causal_steps=1"]
    arms = ["transplanted, taught", "random rows"]
    rows = program.main([*flags, "--results=figures.json", "--tasks=masked", "--arms", *arms])
    assert json.loads(Path("figures.json").read_text()) == json.loads(json.dumps(rows))
    transplanted, random_rows = (row["bits per character"] for row in rows)
    assert transplanted.keys() == random_rows.keys() == {0, 1}
    assert transplanted[0] < random_rows[0] - 0.2 < 4.5
    assert 0.5 < rows[0]["rows taught"] < 0.9 and "rows taught" not in rows[1]
    assert f"| {transplanted[1]:.3f} | {random_rows[1] - transplanted[1]:+.3f} |" in capsys.readouterr().out
    (row,) = program.main([*flags, "--tasks=causal", "--arms", "scratch, taught"])
    assert 2 < row["bits per character"][0] < 4.5  # log2(1024) bits for a token of some three characters
    assert 0.5 < row["rows taught"] < 0.9


def test_an_interval_is_that_of_students_t(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    assert example("another_tokenizer").interval([1.0, 2.0, 3.0]) == "+2.000 ± 2.484"


def test_text_that_a_teacher_makes_is_compared_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    program, file, page = example("teacher_proposals"), tmp_path / "results.json", tmp_path / "page.md"
    line = ["--quick", "--results", str(file), "--arms"]
    first = program.main([*line, "static masks"])["runs"]
    arms = ["static masks", "dynamic masks", "random words", "disagreement"]
    runs = program.main([*line, *arms])["runs"]
    timed = "disagreement, equal seconds"
    assert list(runs) == [f"64 KB, {arm} / 0" for arm in (*arms, timed)]
    assert all(runs[key] == figures for key, figures in first.items())
    plain, own, equal = (runs[f"64 KB, {arm} / 0"] for arm in ("dynamic masks", "disagreement", timed))
    assert own["making text"] > 0 and "making text" not in plain
    assert equal["steps"] == max(1, round(3 * plain["seconds"] / own["seconds"]))
    losses = [runs[f"64 KB, {arm} / 0"]["loss"] for arm in arms]
    assert len(set(losses)) == len(losses) and max(losses) - min(losses) < 0.1  # after three steps from one student
    page.write_text("before\n<!-- teacher proposals -->\nold\n<!-- /teacher proposals -->\nbehind\n")
    program.main(["--report", "--results", str(file), "--page", str(page)])
    assert "| disagreement, equal seconds |" in capsys.readouterr().out and "| random words |" in page.read_text()
