"""Draw the pictures of the pages: `python docs/pictures.py`; with --measure after the two short runs they are of.

Whatever a picture shows comes from hf_dwt: schedules are called, matrices are grown, layers follow the rules, and the
logs are those of runs that docs/runs.json keeps. Pictures of measurements are made by what measured them.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_dwt.publish.charts import BLUE, GREY, ORANGE, VIOLET, label_lines, look, new_figure, save

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads are slower than one on models this small
DOCS = Path(__file__).resolve().parent
EXAMPLES = DOCS.parent / "examples"
RUNS = DOCS / "runs.json"
STARTS = {"remap": "a remapped start", "random": "a random start"}


# ---- runs ----


def measure() -> dict[str, list[dict[str, float]]]:
    """The logs of two runs of 300 steps under "auto", as in the README but for the start: about a minute."""
    from datasets import load_dataset
    from transformers import AutoTokenizer, DataCollatorForLanguageModeling

    from hf_dwt import DistillationArguments, DistillationTrainer, from_weak_teacher

    teacher = str(EXAMPLES / "data" / "weak_teacher")
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    text = load_dataset("text", data_files=str(EXAMPLES / "data" / "train.txt"), split="train")

    def blocks(rows: Any) -> dict[str, list[list[int]]]:
        ids = [token for row in tokenizer(rows["text"], verbose=False)["input_ids"] for token in row]
        return {"input_ids": [ids[i : i + 64] for i in range(0, len(ids) - 63, 64)]}

    data = text.map(blocks, batched=True, remove_columns="text")
    logs = {}
    for start in STARTS:
        with tempfile.TemporaryDirectory() as folder:
            trainer = DistillationTrainer(
                model=from_weak_teacher(teacher, hidden_size=128, init=start),
                teacher_model=teacher,
                args=DistillationArguments(
                    folder,
                    max_steps=300,
                    logging_steps=5,
                    logging_first_step=True,
                    per_device_train_batch_size=32,
                    learning_rate=4e-3,
                    save_strategy="no",
                    report_to="none",
                ),
                train_dataset=data,
                data_collator=DataCollatorForLanguageModeling(tokenizer),
                processing_class=tokenizer,
            )
            trainer.train()
        logs[start] = [
            {name: round(value, 5) for name, value in log.items()}
            for log in trainer.state.log_history
            if "hard_loss" in log
        ]
    return logs


def series(log: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """(steps, values) of the entries that have the figure."""
    found = [(entry["step"], entry[name]) for entry in log if name in entry]
    return [step for step, _ in found], [value for _, value in found]


# ---- schedules.md ----


def weights_panel(panel: "Axes", title: str, x: list[float], hard: list[float], soft: list[float]) -> None:
    panel.plot(x, hard, color=GREY, label="hard")
    panel.plot(x, soft, color=VIOLET, label="soft")
    panel.set_title(title, fontsize=11)
    panel.set_ylim(-0.05, max(1.3, *(1.15 * value for value in (*hard, *soft))))


def draw_schedules(runs: dict[str, list[dict[str, float]]]) -> None:
    """Each schedule at its defaults; "auto" as the two runs went."""
    from hf_dwt.schedules import SCHEDULES

    figure = new_figure(8.5)
    panels = figure.subplots(-(-(len(SCHEDULES) + len(runs)) // 2), 2, sharex=True).ravel()
    for panel, (start, log) in zip(panels, runs.items(), strict=False):
        # Once the soft term has ended, the weights are not logged any more: they are 1 and 0.
        hard = [entry.get("hard_weight", 1.0) for entry in log]
        soft = [entry.get("soft_weight", 0.0) for entry in log]
        weights_panel(panel, f'"auto" from {STARTS[start]}', [entry["step"] / 300 for entry in log], hard, soft)
    progress = [step / 500 for step in range(501)]
    for panel, (name, schedule) in zip(panels[len(runs) :], SCHEDULES.items(), strict=False):
        factors = [schedule(at) for at in progress]
        weights_panel(panel, f'"{name}"', progress, *map(list, zip(*factors, strict=True)))
    for panel in panels[-2:]:
        panel.set_xlabel("share of training")
    for panel in panels[::2]:
        panel.set_ylabel("factor")
    label_lines(figure)
    save(figure, DOCS / "schedules.png")


# ---- growing.md ----


def grown_matrices() -> dict[str, "np.ndarray"]:
    """A matrix of a tiny teacher, and what it becomes in students that are twice as wide."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from hf_dwt import from_weak_teacher

    name = "model.layers.0.mlp.down_proj.weight"
    torch.manual_seed(3)
    teacher = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32,
            hidden_size=4,
            intermediate_size=6,
            num_hidden_layers=1,
            num_attention_heads=1,
            head_dim=4,
            initializer_range=0.15,
            pad_token_id=0,
        )
    )
    with torch.no_grad():
        teacher.get_parameter(name).copy_(torch.randn(4, 6).clamp(-2, 2))
    found = {"the teacher's matrix": teacher.get_parameter(name)}
    titles = {
        "remap": "remap: the overlap is copied,\nthe rest is initialised",
        "clone": "clone: four copies, and side by side\ntwo of them add up to the weight",
    }
    for init, title in titles.items():
        found[title] = from_weak_teacher(teacher, hidden_size=8, init=init).get_parameter(name)
    return {title: parameter.detach().numpy() for title, parameter in found.items()}


def draw_matrices() -> None:
    import numpy as np
    from matplotlib.patches import Rectangle

    matrices = grown_matrices()
    height, width = matrices["the teacher's matrix"].shape
    figure = new_figure(5.4)
    grid = figure.add_gridspec(2, 2, height_ratios=[2, 3])
    panels = [figure.add_subplot(grid[0, :]), figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])]
    for panel, (title, values) in zip(panels, matrices.items(), strict=True):
        panel.imshow(values, cmap="RdBu", vmin=-2.5, vmax=2.5)
        for (row, column), value in np.ndenumerate(np.round(values, 1) + 0.0):  # + 0.0: no -0.0
            colour = "w" if abs(value) > 1.5 else "k"
            panel.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=8, color=colour)
        corners = (
            [(0, 0)]
            if title.startswith("remap")
            else list(np.ndindex(values.shape[0] // height, values.shape[1] // width))
        )
        for down, right in corners:
            corner = (right * width - 0.5, down * height - 0.5)
            panel.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="k", linewidth=1.8, clip_on=False))
        panel.set_title(title, fontsize=11, loc="center")
        panel.set_axis_off()
    save(figure, DOCS / "matrix.png")


def draw_depth() -> None:
    """The layers of a student of five by each rule, from three."""
    from matplotlib.patches import Rectangle

    from hf_dwt.growth.depth.rules import DEPTHS

    colours = [BLUE, ORANGE, VIOLET]  # of the teacher's layers
    figure = new_figure(3.0)
    panel = figure.subplots()
    columns = {"the teacher": [(layer, False) for layer in range(3)]}
    columns |= {f'"{name}"': rule(3, 5) for name, rule in DEPTHS.items()}
    for x, layers in enumerate(columns.values()):
        for y, (source, new) in enumerate(layers):
            style: dict[str, Any] = {"facecolor": "white" if new else colours[source], "edgecolor": colours[source]}
            panel.add_patch(
                Rectangle((x - 0.4, y - 0.4), 0.8, 0.8, linewidth=2, linestyle="--" if new else "-", **style)
            )
            text = f"{source}, returns\nwhat it reads" if new else str(source)
            panel.text(x, y, text, ha="center", va="center", fontsize=8 if new else 11, color="k" if new else "w")
    panel.set_xticks(range(len(columns)), list(columns))
    panel.set_yticks(range(5), [f"layer {layer}" for layer in range(5)])
    panel.set_xlim(-0.6, len(columns) - 0.4)
    panel.set_ylim(-0.6, 4.6)
    panel.grid(False)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    save(figure, DOCS / "depth.png")


# ---- logs.md ----


def draw_log(log: list[dict[str, float]]) -> None:
    """What is logged of a run, over its steps."""
    figure = new_figure(6.8)
    terms, margin, weights = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [3, 2, 2]})
    for name, colour in (("hard_loss", BLUE), ("soft_loss", VIOLET), ("loss", GREY)):
        terms.plot(*series(log, name), color=colour, label=name)
    terms.set_ylabel("nats a row")
    margin.plot(*series(log, "teacher_margin"), color=ORANGE, label="teacher_margin")
    margin.axhline(0, color=GREY, linewidth=1)
    margin.set_ylabel("nats a row")
    for name, colour in (("hard_weight", BLUE), ("soft_weight", VIOLET)):
        weights.plot(*series(log, name), color=colour, label=name)
    weights.set_ylim(-0.05, 1.3)
    weights.set_ylabel("weight")
    weights.set_xlabel("step")
    label_lines(figure)
    save(figure, DOCS / "log.png")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="run the two trainings again first")
    if parser.parse_args(argv).measure:
        RUNS.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
    runs = json.loads(RUNS.read_text(encoding="utf-8"))
    with look():
        draw_schedules(runs)
        draw_matrices()
        draw_depth()
        draw_log(runs["random"])


if __name__ == "__main__":
    main()
