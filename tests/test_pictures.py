"""Pictures: what is drawn of a run in all its forms, and that a reader finds the name of each line beside it."""

import itertools
import json
import math
import pathlib
import random
import statistics
import sys
from collections.abc import Callable
from typing import Any

import pytest
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.path import Path

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import plot_curves  # noqa: E402
import reproduce_paper  # noqa: E402
from study import pictures  # noqa: E402
from study.cells import PRESETS  # noqa: E402
from study.results import Results  # noqa: E402

from benchmarks import report  # noqa: E402
from benchmarks.contenders import CONTENDERS  # noqa: E402
from hf_dwt.publish import charts  # noqa: E402
from hf_dwt.publish.charts import MOST_MARKERS, label_lines, look, new_figure  # noqa: E402
from hf_dwt.publish.plot import MOST_SETS, draw, draw_run  # noqa: E402
from hf_dwt.publish.run_record import RunRecord  # noqa: E402

from .models import tiny  # noqa: E402
from .training import ragged_examples, trainer  # noqa: E402

Curve = list[dict[str, float]]


def curve(
    steps: int = 100,
    every: int = 5,
    name: str = "",
    teacher: float | None = 3.5,
    soft: Callable[[float], float] = lambda progress: 1.0,
    hard: Callable[[float], float] = lambda progress: 1.0,
    seconds: Callable[[float], float] = lambda progress: 60 * progress,
) -> Curve:
    """What a run logs: a training log and an evaluation every `every` steps, and an evaluation before the first."""
    noise, prefix, entries = random.Random(0), f"eval_{name}_" if name else "eval_", Curve()
    for step in range(0, steps + 1, every):
        progress = step / steps
        at = {"step": step, "seconds": seconds(progress)}
        if step:
            weights = {"soft_weight": soft(progress)} if soft(progress) else {}
            entries.append({**at, "hard_loss": 1.0} | ({"hard_weight": hard(progress), **weights} if teacher else {}))
        loss = 2.8 + 3.4 * math.exp(-4 * progress) + noise.gauss(0, 0.01)
        known = {f"{prefix}teacher_loss": teacher} if teacher else {}
        entries.append({**at, f"{prefix}loss": loss, f"{prefix}runtime": 0.1, **known})
    return entries


def without(entries: Curve, key: str, steps: Callable[[float], bool]) -> Curve:
    return [{k: v for k, v in e.items() if not (k == key and steps(e["step"]))} for e in entries]


RUNS: dict[str, Curve] = {
    "constant weights": curve(),
    "fade": curve(soft=lambda p: max(0, 1 - p / 0.3), hard=lambda p: min(1, p / 0.3)),
    "adaptive": curve(soft=lambda p: 1 / (1 + math.exp(20 * (p - 0.4)))),
    "a weight above 1": curve(soft=lambda p: 4 * (1 - p)),
    "no teacher": curve(teacher=None),
    "a teacher as good as the model": curve(teacher=2.87),
    "two evaluations": curve(every=100),
    "a single log": curve()[:1] + curve()[-2:],
    "three epochs": curve(steps=90, every=30)[1:],
    "losses that are not finite": without(curve(), "eval_loss", lambda step: step == 20 or step > 60),
    "resumed without a record": without(curve(), "seconds", lambda step: step < 50),
    "steps that became faster": curve(seconds=lambda p: 60 * min(p, 0.3) + 20 * max(0.0, p - 0.3)),
    "two evaluation sets": curve(name="wiki") + curve(name="code", teacher=4.0),
    "long": curve(steps=100_000, every=10, soft=lambda p: 1 - p),
}


def drawn(entries: Curve, **known: Any) -> Figure:
    figure = draw_run(RunRecord(curve=entries, **known))
    assert figure is not None
    return figure


def lines_of(figure: Figure, label: str) -> list[Any]:
    return [line for panel in figure.axes for line in panel.lines if line.get_label() == label]


def crosses(line: Any, box: Any) -> bool:
    points = line.get_transform().transform(line.get_path().vertices)
    stretches = [pair for pair in itertools.pairwise(points) if all(map(math.isfinite, (*pair[0], *pair[1])))]
    return any(Path([before, after]).intersects_bbox(box, filled=False) for before, after in stretches)


def each_line_has_its_label(figure: Figure) -> None:
    """Beside it, within its panel, in its colour, and covered by no line and no other label."""
    figure.draw_without_rendering()
    for panel in figure.axes:
        labels = {text.get_text(): text for text in panel.texts}
        named = [line for line in panel.lines if not line.get_label().startswith("_")]
        assert named and {line.get_label() for line in named} == labels.keys() and len(named) == len(labels)
        assert panel.get_legend() is None
        area = panel.get_window_extent()
        boxes = {label: text.get_window_extent() for label, text in labels.items()}
        assert all(area.x0 <= box.x0 and box.x1 <= area.x1 for box in boxes.values())
        assert all(area.y0 <= box.y0 and box.y1 <= area.y1 for box in boxes.values())
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes.values(), 2))
        for line, label in itertools.product(panel.lines, labels):
            assert not crosses(line, boxes[label]), (line.get_label(), label)
        for line in named:
            assert labels[line.get_label()].get_color() == line.get_color()


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are written while a test runs, in place of their files."""
    figures: list[Figure] = []
    for module in (charts, pictures, report):
        monkeypatch.setattr(module, "save", lambda figure, path: figures.append(figure))
    return figures


# ---- every picture ----


@pytest.mark.parametrize("name", RUNS)
def test_each_line_has_its_label_beside_it_and_no_label_is_covered(name: str) -> None:
    figure = drawn(RUNS[name])
    each_line_has_its_label(figure)
    assert all(panel.get_xlim()[0] == 0 for panel in figure.axes)


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_pictures_of_the_study_can_be_read(preset: str, saved: list[Figure]) -> None:
    results, timed = (
        Results(reproduce_paper.read(ROOT / "docs" / "study" / f"{name}.jsonl").values())
        for name in (preset, "timing")
    )
    pictures.draw_curves(results, timed if preset == "cpu" else Results([]), "good", pathlib.Path("curves.png"))
    pictures.draw_quality(results, PRESETS[preset], pathlib.Path("quality.png"))
    pictures.draw_square(results, "good", pathlib.Path("square.png"))
    curves, quality, square = saved
    each_line_has_its_label(curves)
    each_line_has_its_label(quality)
    assert [panel.get_title(loc="left") for panel in curves.axes if "start" in panel.get_title(loc="left")]
    assert len(curves.axes) == (4 if preset == "cpu" else 3)
    assert all(len(panel.texts) <= 5 for panel in curves.axes)
    rows = [label.get_text() for label in square.axes[0].get_yticklabels()]
    assert len(rows) == len(set(rows)) == (9 if preset == "cpu" else 6) and rows[0] == "random start, constant 1 : 1"


def test_the_picture_of_the_readme_can_be_read(saved: list[Figure]) -> None:
    plot_curves.draw(json.loads((ROOT / "docs" / "curves.json").read_text(encoding="utf-8")), pathlib.Path("x.png"))
    each_line_has_its_label(saved[0])
    assert saved[0].axes[0].get_title(loc="left").startswith("The loss that takes 171 s from scratch takes 75 s")


def test_the_picture_of_the_benchmarks_has_a_row_for_each_size_and_all_contenders(saved: list[Figure]) -> None:
    grouped = [name for names, *_ in report.GROUPS for name in names]
    assert sorted([*grouped, "stock", "layers"]) == sorted(CONTENDERS)  # the line at 1, and a bound that tables have
    results = report.read(report.RESULTS)
    report.draw(results, pathlib.Path("x.png"))
    for panel, kind in zip(saved[0].axes, ("seconds", "peak_bytes"), strict=True):
        drawn = [(x, y) for line in panel.lines for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]
        for row, result in enumerate(results):
            base, ours = (result[kind].get(name, result[kind]["dense"]) for name in ("stock", "ours"))
            ratio = statistics.median(ours) / statistics.median(base) if kind == "seconds" else ours / base
            assert any(x == pytest.approx(ratio) and y == row for x, y in drawn)
    (legend,) = saved[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [label for _, label, _ in report.GROUPS]


def test_a_reader_finds_what_ends_where_and_in_which_unit() -> None:
    def words(entries: Curve, **known: Any) -> tuple[str, str]:
        panel = drawn(entries, **known).axes[0]
        return panel.get_title(loc="left"), panel.get_ylabel()

    title, loss = words(RUNS["constant weights"], model={"task": "fill-mask"})
    assert title == "This model ends 0.64 nats below its weak teacher" and loss.endswith("(nats per masked token)")
    title, loss = words(curve(teacher=2.0), model={"task": "text2text-generation"})
    assert "0.86 nats above" in title and loss.endswith("(nats per token)")
    at = RUNS["constant weights"][-1]["eval_loss"]
    assert "at the loss of its weak teacher" in words(curve(teacher=at + 0.001))[0]
    assert words(RUNS["no teacher"])[0] == "Held-out loss from 6.21 to 2.86"
    assert words(RUNS["losses that are not finite"])[0] == "No finite loss after step 60"
    assert [panel.get_title(loc="left").split(":")[0] for panel in drawn(RUNS["two evaluation sets"]).axes[:2]] == [
        "wiki",
        "code",
    ]


# ---- what is drawn ----


def test_step_0_is_drawn_and_the_teacher_reaches_from_end_to_end() -> None:
    (model,) = lines_of(drawn(RUNS["constant weights"]), "this model")
    assert list(model.get_xdata()) == list(range(0, 101, 5)) and model.get_marker() == "o"
    assert model.get_ydata()[0] == RUNS["constant weights"][0]["eval_loss"]
    once = without(RUNS["constant weights"], "eval_teacher_loss", lambda step: step != 50)
    (teacher,) = lines_of(drawn(once), "its weak teacher")
    assert (min(teacher.get_xdata()), max(teacher.get_xdata()), set(teacher.get_ydata())) == (0, 100, {3.5})


def test_seconds_have_panels_of_their_own_only_where_they_say_something_else() -> None:
    def labels(entries: Curve) -> list[str]:
        return [label for panel in drawn(entries).axes if (label := panel.get_xlabel())]

    assert labels(RUNS["constant weights"]) == ["optimiser steps (100 took 60 seconds of training)"]
    assert labels(RUNS["steps that became faster"]) == ["optimiser steps", "seconds of training"]
    assert labels(RUNS["resumed without a record"]) == ["optimiser steps"]
    assert labels(curve(seconds=lambda p: 36_000 * p)) == ["optimiser steps (100 took 10 hours of training)"]
    slow = drawn(curve(seconds=lambda p: 36_000 * p**3))
    assert (
        max(lines_of(slow, "this model")[1].get_xdata()) == 10.0 and slow.axes[-1].get_xlabel() == "hours of training"
    )


def test_the_axis_of_the_weights_is_fixed_and_grows_with_a_larger_weight() -> None:
    limits = {name: drawn(RUNS[name]).axes[-1].get_ylim() for name in ("constant weights", "fade", "a weight above 1")}
    assert limits["constant weights"] == limits["fade"] == drawn(curve(soft=lambda p: 0.01)).axes[-1].get_ylim()
    assert limits["fade"] == (0, pytest.approx(1.1)) and limits["a weight above 1"][1] > 3.8
    assert len(drawn(RUNS["no teacher"]).axes) == 1  # no weights, no panel


def test_weights_are_those_of_the_stretches_between_logs() -> None:
    (teacher,) = lines_of(drawn(curve(every=50, soft=lambda p: float(p < 1))), "teacher")
    assert list(zip(teacher.get_xdata(), teacher.get_ydata(), strict=True)) == [(0, 1), (25, 1), (75, 0), (100, 0)]
    (both,) = lines_of(drawn(RUNS["constant weights"]), "teacher and labels")
    assert set(both.get_ydata()) == {1.0}


def test_both_weights_are_drawn_to_the_end_of_a_run_whose_teacher_stopped() -> None:
    """From then on a log has no weights."""
    entries = without(RUNS["fade"], "hard_weight", lambda step: step > 30)
    last = {name: lines_of(drawn(entries), name)[0].get_xydata()[-1].tolist() for name in ("teacher", "labels")}
    assert last == {"teacher": [100, 0], "labels": [100, 1]}


def test_a_loss_that_is_not_finite_is_a_gap() -> None:
    (model,) = lines_of(drawn(RUNS["losses that are not finite"]), "this model")
    gaps = [x for x, y in zip(model.get_xdata(), model.get_ydata(), strict=True) if math.isnan(y)]
    assert gaps == [20, *range(65, 101, 5)]


def test_a_long_run_is_a_line_without_markers() -> None:
    entries = RUNS["long"]
    assert len(entries) > 20_000
    (model,) = lines_of(drawn(entries), "this model")
    assert len(model.get_xdata()) == 10_001 and model.get_marker() == "None"
    (model,) = lines_of(drawn(curve(steps=MOST_MARKERS - 1, every=1)), "this model")
    assert model.get_marker() == "o"


def test_no_more_than_a_few_sets_are_drawn() -> None:
    many = [entry for number in range(MOST_SETS + 2) for entry in curve(name=f"set{number}")]
    assert len(lines_of(drawn(many), "this model")) == MOST_SETS


def test_less_than_a_curve_is_no_picture() -> None:
    only_trained = [entry for entry in curve() if "hard_loss" in entry]
    figures = [{"step": step, "seconds": 1.0, "eval_rouge": 0.5, "eval_runtime": 0.1} for step in range(5)]
    again = [entry for entry in curve() if entry["step"] == 100]  # the last step, evaluated again after training
    for entries in ([], only_trained, figures, curve()[:1], again + again):
        assert draw_run(RunRecord(curve=entries)) is None


def test_a_run_with_a_teacher_is_drawn_from_its_record(tmp_path: pathlib.Path) -> None:
    settings: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True, "max_steps": 2}
    more = {"eval_dataset": ragged_examples(8)}
    trainer(tiny("t5"), tiny("t5", seed=1), tmp_path, more=more, **settings).train()
    figure = drawn(RunRecord.load(tmp_path).curve, model=RunRecord.load(tmp_path).model)
    assert list(lines_of(figure, "this model")[0].get_xdata()) == [0, 1, 2]
    assert lines_of(figure, "its weak teacher") and lines_of(figure, "teacher")
    assert figure.axes[0].get_ylabel().endswith("(nats per token)")


# ---- the look ----


def test_a_picture_does_not_depend_on_the_style_that_its_reader_has_set(tmp_path: pathlib.Path) -> None:
    record = RunRecord(curve=RUNS["fade"])
    assert draw(record, tmp_path / "plain")
    with style.context(["dark_background", {"font.size": 30, "lines.linewidth": 9}]):
        assert draw(record, tmp_path / "dark")
    assert (tmp_path / "plain" / "curves.png").read_bytes() == (tmp_path / "dark" / "curves.png").read_bytes()


@look()
def test_labels_avoid_each_other_and_a_line_that_is_cut_off_keeps_its_own() -> None:
    figure = new_figure(3)
    panel = figure.subplots()
    panel.set_ylim(0, 1)
    for label, height in (("one", 0.5), ("two", 0.52), ("three", 0.54), ("above the panel", 2.0)):
        panel.plot([0, 1], [height, height], label=label)
    label_lines(figure)
    boxes = [text.get_window_extent() for text in panel.texts]
    assert len(boxes) == 4 and not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    area = panel.get_window_extent()
    assert all(area.y0 <= box.y0 and box.y1 <= area.y1 for box in boxes)
