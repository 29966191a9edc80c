"""Draw held-out loss against seconds of training from the results.json that run_mlm_dwt.py --baseline leaves.

    python examples/run_mlm_dwt.py --baseline --max_steps 1500 --eval_steps 50 --curve_samples 100000 \\
        --output_dir outputs/readme
    python examples/plot_curves.py outputs/readme/results.json --output docs/curves.png \\
        --table README.md docs/index.md examples/data/README.md

The second command needs matplotlib; --table also writes the results into Markdown files, between two markers each: the
table, or the teacher's loss. `make readme` runs both; docs/curves.json is the results.json behind docs/curves.png.
With --curve_samples above the number of held-out blocks the curves are of all of them, and end at the table's figures.
"""

import argparse
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results.json of a run with --baseline")
    parser.add_argument("--output", type=Path, default=Path("curves.png"))
    parser.add_argument("--table", type=Path, nargs="*", default=[], help="Markdown files to write the results into")
    return parser.parse_args(argv)


def table(results: dict[str, Any]) -> str:
    """The results in Markdown, and when the student reached the loss that the baseline ends at."""
    names = {"teacher": "the weak teacher", "student": "student with the teacher", "baseline": "student from scratch"}
    lines = [
        "| held-out text | parameters | loss (nats) | perplexity | accuracy | training |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in results.items():
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.0f} s"
        figures = f"{row['loss']:.3f} | {row['perplexity']:.1f} | {row['accuracy']:.1%}"
        lines.append(f"| {names[name]} | {row['parameters']:,} | {figures} | {seconds} |")
    student, baseline = results["student"]["curve"], results["baseline"]["curve"]
    if (reached := seconds_to(student, baseline[-1]["eval_loss"])) is not None:
        share = reached / baseline[-1]["seconds"]
        lines += [
            "",
            f"The student reaches the last loss of the model from scratch in {share:.0%} of the time.",
        ]
    return "\n".join(lines)


# (before, after) what is written -> what that is
PLACES: dict[tuple[str, str], Callable[[dict[str, Any]], str]] = {
    ("<!-- results: written by `make readme` -->\n", "<!-- /results -->"): lambda r: f"\n{table(r)}\n\n",
    ("<!-- teacher's loss -->", "<!-- /teacher's loss -->"): lambda r: f"{r['teacher']['loss']:.3f}",
}


def write_results(results: dict[str, Any], page: Path) -> None:
    """Write into the places that the page has."""
    text = page.read_text(encoding="utf-8")
    places = {ends: of for ends, of in PLACES.items() if all(end in text for end in ends)}
    if not places:
        wanted = " or ".join(f"{start.strip()!r} and {end!r}" for start, end in PLACES)
        raise SystemExit(f"error: {page} has no {wanted} to write between")
    for (start, end), of in places.items():
        before, rest = text.split(start)
        text = f"{before}{start}{of(results)}{end}{rest.split(end, 1)[1]}"
    page.write_text(text, encoding="utf-8")


def seconds_to(curve: list[dict[str, float]], loss: float) -> float | None:
    """When the curve first comes down to `loss`, between two evaluations by a straight line; None if never."""
    if curve[0]["eval_loss"] <= loss:
        return curve[0]["seconds"]
    for before, after in pairwise(curve):
        if after["eval_loss"] <= loss:
            share = (before["eval_loss"] - loss) / (before["eval_loss"] - after["eval_loss"])
            return before["seconds"] + share * (after["seconds"] - before["seconds"])
    return None


def draw(results: dict[str, Any], output: Path) -> None:
    from hf_dwt.publish.charts import BLUE, GREY, ORANGE, label_lines, look, marker, new_figure, save

    student, baseline = results["student"]["curve"], results["baseline"]["curve"]
    with look():
        figure = new_figure(4.5)
        panel = figure.subplots()
        lines = ((baseline, ORANGE, "from scratch, no teacher"), (student, BLUE, "with its weak teacher"))
        for curve, colour, label in lines:
            points = [(point["seconds"], point["eval_loss"]) for point in curve]
            panel.plot(
                *zip(*points, strict=True), color=colour, marker=marker(len(points)), clip_on=False, label=label
            )
        # On the blocks of the curves: those of the table where the run evaluated all of them, as `make readme` does.
        teacher = student[0]["eval_teacher_loss"]
        panel.axhline(teacher, color=GREY, linestyle="--", linewidth=1.5, label="the weak teacher itself")
        goal, end = baseline[-1]["eval_loss"], baseline[-1]["seconds"]
        if (reached := seconds_to(student, goal)) is not None:
            panel.plot([reached, end], [goal, goal], color=BLUE, linestyle=":", linewidth=1.5)
            panel.plot([reached], [goal], marker="D", color=BLUE, markersize=8)
            panel.set_title(
                f"The loss that takes {end:.0f} s from scratch takes {reached:.0f} s with the weak teacher"
            )
        panel.set_xlabel("seconds of training (the teacher's forward passes included)")
        panel.set_ylabel("held-out loss (nats per masked token)")
        panel.set_xlim(left=0)
        label_lines(figure)
        save(figure, output)


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    results = json.loads(options.results.read_text(encoding="utf-8"))
    if "baseline" not in results or "teacher" not in results:
        raise SystemExit(f"error: {options.results} is not of a run with a teacher and --baseline")
    draw(results, options.output)
    print(options.output)
    for page in options.table:
        write_results(results, page)


if __name__ == "__main__":
    main()
