"""The study runs each cell once, chooses learning rates by itself, goes on where it was stopped, and reports."""

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.examples

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

import reproduce_paper  # noqa: E402
from study import report  # noqa: E402
from study.candidates import CANDIDATES, shifted  # noqa: E402
from study.cells import CONSTANT, PRESETS, TUNING_SEED, Cell, Study  # noqa: E402
from study.claims import Claim, corrections, guidelines, hidden, paper  # noqa: E402
from study.downstream import TaskData  # noqa: E402
from study.results import Results, cost_at, evidence  # noqa: E402
from study.run import Unigram, Virtual  # noqa: E402

from hf_dwt import DistillationArguments  # noqa: E402
from hf_dwt.assess.evidence import advice  # noqa: E402
from hf_dwt.forward.rows import Rows  # noqa: E402
from hf_dwt.growth.strategies import INITS  # noqa: E402
from hf_dwt.objective.corrections.revise import revise  # noqa: E402

TINY = Study(
    teachers={"good": (3, 0)},
    small={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    students={"wide": {"hidden_size": 32}, "small": {}},
    steps=4,
    batch=4,
    length=16,
    vocabulary=64,
    rates=(1e-3, 1e-2),
    first_rate=1e-3,
    teacher_rate=1e-2,
    seeds=(0, 1),
    groups={
        "main": (Cell("good"), Cell("good", init="clone", soft="auto"), Cell("good", soft=CONSTANT, voice="virtual")),
        "depth": (
            Cell("good", soft=CONSTANT, voice="unigram"),
            Cell("good", soft=CONSTANT, voice="gate"),
            Cell("good", init="teacher", student="small"),
        ),
    },
)


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    place = tmp_path_factory.mktemp("study")
    for name in ("train", "valid"):
        lines = (EXAMPLES / "data" / f"{name}.txt").read_text(encoding="utf-8").splitlines()[:8]
        (place / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    files = [f"--{name}_file={place / name}.txt" for name in ("train", "valid")]
    lines = [json.dumps({"text": f"word {n % 2} and more", "label": n % 2}) for n in range(20)]
    (place / "parity.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return [*files, f"--results={place / 'results.jsonl'}", f"--work_dir={place}", f"--tasks={place / 'parity.jsonl'}"]


@pytest.fixture(scope="module")
def rows(flags: list[str]) -> list[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "cpu", TINY)
        patch.setattr("study.run.EVALUATIONS", 2)
        reproduce_paper.main([*flags[:-1], "--groups", "main"])  # without the downstream task
        file = Path(flags[2].split("=")[1])
        first = file.read_text(encoding="utf-8")
        # a process that was stopped within a line; the rest is never run again
        file.write_text(first[:-40], encoding="utf-8")
        reproduce_paper.main(flags)
        second = file.read_text(encoding="utf-8")
    lost = first.splitlines()[-1]
    kept = first.splitlines()[:-1]
    assert second.splitlines()[: len(kept)] == kept and json.loads(lost)["key"] in second
    return list(reproduce_paper.read(file).values())


def test_every_cell_is_run_once(rows: list[dict[str, Any]]) -> None:
    cells = TINY.cells()
    tuning = [row for row in rows if row["cell"]["seed"] == TUNING_SEED]
    assert {row["key"] for row in rows if row not in tuning} == {cell.key for cell in cells}
    assert len(cells) == 12 and len(tuning) == 2 * 3  # three starts: random, clone, the teacher itself
    tried = [row["tasks"]["parity"] for row in rows if "tasks" in row]
    assert len(tried) >= 6 and all(0 <= accuracy <= 1 for accuracy in tried)
    for row in rows:
        costs = [(point["seconds"], point["cpu_seconds"], point["flops"]) for point in row["curve"]]
        assert row["curve"][0]["step"] == 0 and all(a < b for a, b in zip(costs[0], costs[-1], strict=True))


def test_the_rate_is_the_best_of_its_own_start(rows: list[dict[str, Any]]) -> None:
    chosen = {}
    for init in ("random", "clone", "teacher"):
        own = [row for row in rows if row["cell"]["init"] == init]
        tried = {row["rate"]: row["loss"] for row in own if row["cell"]["seed"] == TUNING_SEED}
        assert len(set(tried.values())) == 2
        (chosen[init],) = {row["rate"] for row in own if row["cell"]["seed"] != TUNING_SEED}
        assert tried[chosen[init]] == min(tried.values())


def test_rates_are_searched_towards_lower_losses() -> None:
    study = replace(PRESETS["cpu"], rates=(1.0, 2.0, 4.0, 8.0, 16.0), first_rate=4.0)
    for best, order in ((2.0, [4.0, 8.0, 2.0, 1.0]), (16.0, [4.0, 8.0, 16.0]), (4.0, [4.0, 8.0, 2.0])):
        losses: dict[str, float] = {}
        tried = []
        while isinstance(trial := study.rate(Cell("good", init="pad"), losses), Cell):
            assert trial.rate is not None and trial.init == "pad" and trial.seed == TUNING_SEED
            tried.append(trial.rate)
            losses[trial.key] = abs(math.log(trial.rate / best))
        assert tried == order and trial == best
    assert study.rate(Cell("good", rate=3.0), {}) == 3.0


def test_candidates_are_arguments_of_a_run() -> None:
    for arguments in CANDIDATES.values():
        made = DistillationArguments("unused", use_cpu=True, **arguments)
        assert (made.correction() is None) == (made.hidden() is not None)


def test_the_control_of_revision_moves_as_much_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 200, 5, generator=generator)
    labels = torch.randint(0, 5, (200,), generator=generator)
    share = shifted(student, teacher, labels, 0.0).share
    wanted = revise(student, teacher, labels, 0.0).share
    assert share is not None and wanted is not None
    assert share.std() < 1e-6 < wanted.std() and share.sum().item() == pytest.approx(wanted.sum().item(), rel=1e-5)


def test_controls_say_what_they_should(rows: list[dict[str, Any]]) -> None:
    losses = {row["cell"]["voice"]: row["loss"] for row in rows if row["cell"]["init"] == "random"}
    assert len({losses[voice] for voice in ("teacher", "unigram", "gate")}) == 3
    labels = torch.tensor([3, 0])
    virtual, unigram = (
        torch.softmax(voice.targets({}, Rows(labels, labels, 2)).logits, -1)
        for voice in (Virtual(5), Unigram([[1, 1, 2], [1]], 5))
    )
    assert virtual[0].tolist() == pytest.approx([0.0025, 0.0025, 0.0025, 0.99, 0.0025])
    assert virtual[1, 0].item() == pytest.approx(0.99)
    assert unigram[0].tolist() == unigram[1].tolist() == pytest.approx([n / 6.5 for n in (0.5, 3.5, 1.5, 0.5, 0.5)])


def test_the_report_is_made_of_the_results(
    rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- main -->\n<!-- /main -->\nafter\n<!-- cells of depth -->\n<!-- /cells of depth -->\n",
        encoding="utf-8",
    )
    report.write(TINY, rows, rows, [page], tmp_path / "study")
    text = page.read_text(encoding="utf-8")
    own = [row["loss"] for row in rows if row["cell"] == json.loads(json.dumps(vars(Cell("good", seed=0))))]
    other = [row["loss"] for row in rows if row["cell"] == json.loads(json.dumps(vars(Cell("good", seed=1))))]
    mean = (own[0] + other[0]) / 2
    assert f"| random | {mean:.3f} ± " in text and text.startswith("before") and "after" in text
    assert all((tmp_path / "study" / f"{name}.png").stat().st_size > 1000 for name in ("curves", "quality", "square"))
    report.write(TINY, rows, rows, [page], tmp_path / "study")
    assert page.read_text(encoding="utf-8") == text


def test_differences_have_an_interval_from_the_spread_of_their_starts() -> None:
    def row(cell: Cell, seed: int, loss: float) -> dict[str, Any]:
        return {"cell": {**vars(cell), "seed": seed}, "loss": loss}

    one, two, other = Cell("good", soft="auto"), Cell("good", soft=CONSTANT), Cell("good", init="clone")
    same = [row(one, s, 3.0) for s in range(3)] + [row(other, s, 2.0) for s in range(3)]
    noise = [row(Cell("good", voice="unigram", soft=CONSTANT), s, 4.0 + s) for s in range(3)]
    results = Results([*same, *noise, *(row(two, s, 2.9 + 0.1 * s) for s in range(3))])
    # both hear a model: variances 0 and 0.01 over two seeds each, pooled to 0.005 with four degrees: t = 2.776;
    # the unigram's spread, a hundred times theirs, is none of theirs
    assert results.difference(two, one) == pytest.approx((0.0, 2.776 * (2 * 0.005 / 3) ** 0.5))
    # the other start has no spread, so the degrees are the four of the first (Welch and Satterthwaite)
    assert results.difference(other, two) == pytest.approx((-1.0, 2.776 * (0.005 / 3) ** 0.5))
    spread = [row(other, s, 2.0 + 0.05 * s) for s in range(3)]
    results = Results([*same[:3], *spread, *(row(two, s, 2.9 + 0.1 * s) for s in range(3))])
    # (0.005 + 0.0025)^2 / (0.005^2 / 4 + 0.0025^2 / 2) = 6.0: t = 2.447
    assert results.difference(other, two)[1] == pytest.approx(2.447 * (0.0075 / 3) ** 0.5)  # type: ignore[index]
    assert Results([row(one, 0, 3.0), row(two, 0, 2.0)]).difference(two, one) is None


def test_a_claim_needs_its_interval() -> None:
    higher, lower, bounded = (Claim("", Cell("good"), Cell("good"), says) for says in ("higher", "lower", "no higher"))
    pairs = ((0.2, 0.1), (-0.2, 0.1), (0.1, 0.2), (-0.1, 0.2))
    assert [higher.verdict(*pair) for pair in pairs] == ["confirmed", "contradicted", "undecided", "undecided"]
    assert [lower.verdict(*pair) for pair in pairs] == ["contradicted", "confirmed", "undecided", "undecided"]
    assert [bounded.verdict(*pair) for pair in pairs] == ["contradicted", "holds", "holds", "holds"]


def test_claims_are_of_cells_that_the_study_runs() -> None:
    study = PRESETS["cpu"]
    run = {replace(cell, seed=0) for cell in study.cells()}
    claims = [*paper(study), *guidelines(study), *corrections(study), *hidden(study)]
    assert len(claims) > 20 and all({claim.cell, claim.other} <= run for claim in claims)


def test_evidence_is_what_an_assessment_reads(rows: list[dict[str, Any]]) -> None:
    told = evidence(Results(rows), TINY, unigram=4.0)
    (teacher,) = told["teachers"]
    assert teacher["explained"] == pytest.approx(1 - teacher["loss"] / 4.0, abs=1e-4)
    assert set(teacher["gains"]) == {"clone, auto"}  # the one setting of the table that was run
    assert told["rates"].keys() == {"random", "clone"}
    suggestion = advice(0.5, told)[1]
    assert suggestion["learning_rate_factor"] == told["rates"][suggestion["init"]] / told["rates"]["random"]
    for setting in told["settings"].values():  # as a user would write them
        DistillationArguments("none", **{k: v for k, v in setting.items() if k != "init"})
        assert setting["init"] in INITS


def test_cost_at_a_loss_is_read_between_evaluations() -> None:
    curve = [{"step": 0, "eval_loss": 6.0}, {"step": 10, "eval_loss": 4.0}, {"step": 20, "eval_loss": 3.0}]
    assert cost_at(curve, 5.0, "step") == 5.0
    assert cost_at(curve, 3.25, "step") == 17.5
    assert cost_at(curve, 2.9, "step") is None


def test_the_pages_have_the_figures_of_the_results() -> None:
    study, docs = PRESETS["cpu"], EXAMPLES.parent / "docs"
    found, timed = (
        Results(list(reproduce_paper.read(docs / "study" / name).values())) for name in ("cpu.jsonl", "timing.jsonl")
    )
    texts = {
        "index.md": report.headline(found, timed, study),
        "guidelines.md": report.claims_table(found, study, guidelines(study)),
        "paper.md": report.claims_table(found, study, paper(study)),
    }
    for page, text in texts.items():
        assert text in (docs / page).read_text(encoding="utf-8"), page
    for claims in (corrections, hidden):
        assert report.claims_table(found, study, claims(study)) in (docs / "guidelines.md").read_text(encoding="utf-8")


def test_differences_in_the_text_of_the_study_are_those_of_the_results() -> None:
    docs = EXAMPLES.parent / "docs"
    found = Results(list(reproduce_paper.read(docs / "study" / "cpu.jsonl").values()))
    whole, deep = Cell("good"), Cell("good", student="deep")
    wide, clone = replace(whole, init="remap"), replace(deep, init="clone", depth="append")
    pairs = [
        (replace(whole, share=0.125), whole),
        (replace(wide, share=0.125), wide),
        (replace(deep, init="remap"), deep),
        (replace(deep, init="remap"), clone),
        (replace(clone, depth="interleave"), clone),
    ]
    written_by_results = re.compile(r"<!-- [^/].*?-->.*?<!-- /.*?-->", re.DOTALL)
    study, advice_page = ((docs / page).read_text(encoding="utf-8") for page in ("paper.md", "guidelines.md"))
    tables = "".join(written_by_results.findall(study + advice_page))
    figures = re.findall(r"[-+]?\d\.\d+ ± \d\.\d+", written_by_results.sub("", study))
    own = [figure for figure in figures if figure.lstrip("-+") not in tables]
    assert [figure.lstrip("+") for figure in own] == [found.gain(*pair).lstrip("+") for pair in pairs]


def test_the_preset_is_what_the_page_says() -> None:
    study = PRESETS["cpu"]
    assert len({cell.key for cell in study.cells()}) == len(study.cells()) == 233
    assert len(study.teachers) == 4 and len(study.seeds) >= 3


def test_the_rates_that_a_search_will_ask_for_are_its_own_tuning_cells() -> None:
    study = PRESETS["gpu"]
    tuning = {cell for cell in study.cells() if cell.rate is not None}
    assert len(study.cells()) == 33 and len(tuning) == 9 and {cell.seed for cell in tuning} == {TUNING_SEED}
    for start in (replace(cell, rate=None, seed=0) for cell in tuning):
        best = sorted(cell.rate or 0.0 for cell in tuning if cell.start == start.start)[1]
        losses = {cell.key: abs(math.log((cell.rate or 0.0) / best)) for cell in tuning}
        assert study.rate(start, losses) == best  # the middle one of the three, and no other is wanted


def test_cells_are_chosen_and_ordered_by_what_their_lines_say(capsys: pytest.CaptureFixture[str]) -> None:
    reproduce_paper.main(["--list", "--groups", "main", "--only", "remap auto", "clone none seed 2", "--share", "1/1"])
    lines = [line.split(maxsplit=1)[1].strip() for line in capsys.readouterr().out.splitlines()]
    assert lines == [*(f"good wide remap auto seed {seed}" for seed in range(3)), "good wide clone none seed 2"]


def test_a_task_without_labels_is_refused(tmp_path: Path) -> None:
    for lines, words in (('{"text": "a"}', "line 1"), ('{"text": "a", "label": 1}', "two labels")):
        (tmp_path / "task.jsonl").write_text(lines, encoding="utf-8")
        with pytest.raises(SystemExit, match=words):
            TaskData(tmp_path / "task.jsonl")


def test_bad_flags_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, words in (
        (["--share", "3/2"], "i/n"),
        (["--groups", "nothing"], "main"),
        (["--tasks", "x"], "no such"),
    ):
        with pytest.raises(SystemExit):
            reproduce_paper.main(argv)
        assert words in capsys.readouterr().err
