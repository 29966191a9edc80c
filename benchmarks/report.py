"""From the results to docs/benchmarks.md, its pictures and a line of docs/index.md: `python -m benchmarks.report`."""

import argparse
import json
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hf_dwt.publish.charts import BLUE, GREY, ORANGE, look, new_figure, save

from .contenders import CONTENDERS
from .loop import quartiles
from .sizes import LARGE, SIZES, Size

ROOT = Path(__file__).parents[1]
RESULTS, PAGE, PICTURE = ROOT / "benchmarks" / "results", ROOT / "docs" / "benchmarks.md", "benchmarks.png"
FIRST_PAGE = ROOT / "docs" / "index.md"
BEGIN, END = "<!-- results: written by `make benchmark` -->", "<!-- /results -->"
BEGIN_CUDA, PICTURE_CUDA = "<!-- results on a GPU: written by `make benchmark` -->", "benchmarks-cuda.png"
BEGIN_SPEED, END_SPEED = "<!-- speed: written by `make benchmark` -->", "<!-- /speed -->"
OTHER_TOOLS = ("torchdistill", "textbrewer", "modelopt")
PADDING = {
    "random": "drawn at random, padded to their longest",
    "group_by_length": '`train_sampling_strategy="group_by_length"`',
    "flattened": "`DataCollatorWithFlattening`: no padding",
}
# What the picture tells apart: the contenders, what they are called, their markers. The tables have each by its name.
GROUPS: tuple[tuple[tuple[str, ...], str, dict[str, Any]], ...] = (
    (("ours",), "hf_dwt with its teacher", {"color": BLUE, "marker": "o", "markersize": 8, "zorder": 3}),
    (("dense",), "the usual compute_loss in Trainer", {"color": ORANGE, "marker": "s", "markersize": 7}),
    (
        ("alone", "hidden", "sampled"),
        "hf_dwt without a teacher or with a cached one",
        {"color": BLUE, "marker": "o", "markersize": 5, "fillstyle": "none"},
    ),
    (
        ("torchdistill", "textbrewer", "modelopt", "liger", "gkd"),
        "other tools",
        {"color": GREY, "marker": "x", "markersize": 6},
    ),
)
TICKS, FINE_TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20), (0.4, 0.6, 0.8, 1, 1.5, 2, 3, 4)
HEAD = ("", "step (ms)", "ours / it (quartiles)", "tokens a second", "peak memory (MiB)", "ours / it")


def ratios(result: dict[str, Any], name: str, of: str = "ours") -> tuple[float, float, float]:
    """Quartiles of the seconds of `of` over those of `name`, round by round."""
    seconds = result["seconds"]
    return quartiles([ours / theirs for ours, theirs in zip(seconds[of], seconds[name], strict=True)])


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """One line of text for each contender, those that could not run among them."""
    size = {**SIZES, **LARGE}[result["size"]]
    peaks = result["peak_bytes"]
    lines = []
    for name, times in result["seconds"].items():
        low, middle, high = ratios(result, name)
        median = quartiles(times)[1]
        memory = f"{peaks['ours'] / peaks[name]:.2f}" if name != "ours" else ""
        lines.append(
            (
                CONTENDERS[name][0],
                f"{1000 * median:,.0f}",
                f"{middle:.2f} ({low:.2f} to {high:.2f})" if name != "ours" else "",
                f"{size.tokens[0] * size.tokens[1] / median:,.0f}",
                f"{peaks[name] / 2**20:,.0f}",
                memory,
            )
        )
    return [
        *lines,
        *((CONTENDERS[name][0], f"did not run: {why}", "", "", "", "") for name, why in result["absent"].items()),
    ]


def described(name: str, size: Size) -> str:
    """A size in words."""
    (layers, hidden), (teacher_layers, teacher_hidden) = size.student, size.teacher
    return (
        f"**{name}**: {size.family}, {layers} x {hidden}, teacher {teacher_layers} x {teacher_hidden}, "
        f"{size.vocabulary:,} entries, {size.tokens[0]} x {size.tokens[1]} tokens{', padded' if size.padding else ''}"
    )


def _floor_of(result: dict[str, Any]) -> str:
    """How many rounds, and how far our step is from its products."""
    floor, median = result["floor"], quartiles(result["seconds"]["ours"])[1]
    load = f", {result['machine']['load']:.1f} processes running before" if "load" in result["machine"] else ""
    text = f"{len(result['seconds']['ours'])} rounds{load}, at commit {result['machine']['commit']}."
    if {**SIZES, **LARGE}[result["size"]].padding:
        return text  # the products of one batch were counted, and padded batches differ
    text += (
        f" Floor: {floor['flops'] / 1e9:.1f} GFLOP in products, which alone take {1000 * floor['seconds']:,.0f} ms; "
        f"our step takes {median / floor['seconds']:.2f} times that."
    )
    if "stock_flops" in floor:
        share = floor["flops"] / floor["stock_flops"]
        text += f" The stock step counts {floor['stock_flops'] / 1e9:.1f} GFLOP: ours has {share:.2f} of it to do."
    return text


def _operators_of(result: dict[str, Any]) -> str:
    """The distance from the floor, explained by the measured shares of the operators."""
    products = result["operators"]["products"]
    distance = quartiles(result["seconds"]["ours"])[1] / result["floor"]["seconds"]
    parts = sorted(result["operators"].items(), key=lambda part: -part[1])
    named = ", ".join(f"{kind} {share:.1%}" for kind, share in parts if kind != "products" and share >= 0.005)
    at = f" at commit {result['explained_at']}" if "explained_at" in result else ""
    return (
        f"By profile{at} the products fill {products:.1%} of the step: of the distance, "
        f"{distance * products:.2f} is theirs. The rest: {named}."
    )


def section(result: dict[str, Any]) -> str:
    """A size's table, its floor and, where it was taken, its profile."""
    name = result["size"]
    lines = [described(name, {**SIZES, **LARGE}[name]), "", f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows(result)]
    lines += ["", _floor_of(result)]
    if {"layers", "stock"} <= result["seconds"].keys():
        low, middle, high = ratios(result, "stock", "layers")
        text = f"take {middle:.2f} ({low:.2f} to {high:.2f}) of the stock step: nothing on top of them can cost less."
        lines += ["", f"The student's layers alone, with nothing above them, {text}"]
    if "operators" in result and not {**SIZES, **LARGE}[name].padding:
        lines += ["", _operators_of(result)]
    if "alone" in result["seconds"]:
        said = []
        for form, words in (
            ("ours", "the teacher online"),
            ("hidden", "cached hidden states"),
            ("sampled", "cached draws"),
        ):
            if form in result["seconds"]:
                low, middle, high = ratios(result, "alone", form)
                said.append(f"{words} {middle:.2f} ({low:.2f} to {high:.2f})")
        lines += ["", f"Against the same run without a teacher: {', '.join(said)}."]
    if "shares" in result:
        parts = sorted(result["shares"].items(), key=lambda part: -part[1])
        lines += ["", "Shares of our step: " + ", ".join(f"{part} {share:.1%}" for part, share in parts) + "."]
    if "imports" in result:
        low, middle, high = result["imports"]["ratio"]
        lines += ["", f"Import of hf_dwt's trainer / of Trainer: {middle:.2f} ({low:.2f} to {high:.2f})."]
    return "\n".join(lines)


def padding_section(result: dict[str, Any]) -> str:
    """What padding costs, and what is saved by the parts of transformers that avoid it."""
    lines = [
        "## Padding",
        "",
        "| job | batches | positions that are padding | time of an epoch (quartiles) |",
        "|---" * 4 + "|",
    ]
    for job, found in result.items():
        seconds = found["seconds"]
        for name, times in seconds.items():
            low, middle, high = quartiles([t / base for t, base in zip(times, seconds["random"], strict=True)])
            ratio = f"{middle:.2f} ({low:.2f} to {high:.2f})" if name != "random" else "1"
            lines.append(f"| {job} LM | {PADDING[name]} | {found['padding'][name]:.1%} | {ratio} |")
    loads = " and ".join(f"{found['load']:.1f}" for found in result.values())
    rounds = len(next(iter(result.values()))["seconds"]["random"])
    return "\n".join([*lines, "", f"{rounds} rounds, {loads} processes running before."])


def headline(cpu: list[dict[str, Any]], cuda: list[dict[str, Any]]) -> str:
    """What a newcomer wants to know, for the first page."""
    found, found_cuda = ({result["size"]: result for result in results} for results in (cpu, cuda))

    def time(size: str, name: str) -> str:
        return f"{ratios(found[size], name)[1]:.2f}"

    def memory(size: str) -> str:
        peaks = found[size]["peak_bytes"]
        return f"{peaks['ours'] / peaks['dense']:.2f}"

    def student(size: str) -> str:
        return " x ".join(str(number) for number in {**SIZES, **LARGE}[size].student)

    others = [name for name in OTHER_TOOLS if name in found["mini"]["seconds"]]
    fastest = max(others, key=lambda name: ratios(found["mini"], name)[1])
    sentences = [
        f"On one CPU thread in fp32, a step with its teacher takes {time('mini', 'stock')} of the time of the stock "
        f"`Trainer`'s step without one (BERT, {student('mini')}, {SIZES['mini'].vocabulary:,} entries; "
        f"{time('base', 'stock')} at {student('base')}) and {time('mini', fastest)} of the time of the fastest other "
        "tool that distils.",
        f"Causal LMs make logits a chunk at a time: {memory('gpt2')} of the memory of the usual dense step at "
        f"{SIZES['gpt2'].vocabulary:,} entries, in {time('gpt2', 'dense')} of its time; {memory('qwen')} and "
        f"{time('qwen', 'dense')} at {SIZES['qwen'].vocabulary:,}.",
    ]
    if "base-large" in found_cuda:
        middle = ratios(found_cuda["base-large"], "stock")[1]
        sentences.append(
            f"On an H200 in bf16 the step with a teacher takes {middle:.2f} of the stock step (BERT, "
            f"{student('base-large')}); causal LMs are [to be measured again](benchmarks.md#on-a-gpu)."
        )
    text = " ".join(["**Cheap.** Both heads see the labelled positions alone.", *sentences])
    lines = textwrap.wrap(f"{text} [All figures](benchmarks.md).", 117, break_on_hyphens=False, break_long_words=False)
    return "- " + "\n  ".join(lines)


@look()
def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Step time and peak memory of each size, over the stock step's (the dense one's where stock did not run)."""
    figure = new_figure(2.2 + 0.36 * len(results))
    panels = figure.subplots(1, 2, sharey=True)
    for panel, kind, title in zip(panels, ("seconds", "peak_bytes"), ("Time", "Peak memory"), strict=True):
        for place, result in enumerate(results):
            base = _middle(result[kind]["stock" if "stock" in result["seconds"] else "dense"])
            values = {name: _middle(result[kind][name]) / base for name in result["seconds"]}
            panel.hlines(place, values["ours"], values["dense"], color="#c8c8c8", linewidth=1)
            for names, label, style in GROUPS:
                points = [values[name] for name in names if name in values]
                panel.plot(points, [place] * len(points), linestyle="none", label=label, **style)
        panel.axvline(1.0, color="black", linewidth=1)
        panel.set_xscale("log")
        low, high = panel.get_xlim()
        panel.set_xticks([tick for tick in (TICKS if high / low > 10 else FINE_TICKS) if low < tick < high])
        panel.set_xticks([], minor=True)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.set_title(f"{title} of a step")
    panels[0].set_yticks(range(len(results)), [_row_name(result) for result in results])
    panels[0].set_ylim(len(results) - 0.5, -0.5)
    unit = "times that of stock Trainer's step without a teacher (log scale; left of 1 is less)"
    if not all("stock" in result["seconds"] for result in results):
        unit += "\n* times that of the usual compute_loss: the stock step did not run"
    figure.supxlabel(unit, fontsize=11)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles[: len(GROUPS)], labels[: len(GROUPS)], ncols=2, frameon=False, loc="outside upper left")
    save(figure, path)


def _row_name(result: dict[str, Any]) -> str:
    size = {**SIZES, **LARGE}[result["size"]]
    name = f"{result['size']}: {size.family} {size.student[0]} x {size.student[1]}"
    return name if "stock" in result["seconds"] else f"{name} *"


def _middle(value: Any) -> float:
    return quartiles(value)[1] if isinstance(value, list) else float(value)


def read(folder: Path) -> list[dict[str, Any]]:
    paths = [folder / f"{name}.json" for name in (*SIZES, *LARGE)]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def of_machine(results: list[dict[str, Any]], expected: Iterable[str]) -> str:
    """The sizes of one machine, after what it is and what was not run on it."""
    where = results[0]["machine"]
    versions = ", ".join(f"{package} {number}" for package, number in where["versions"].items())
    missing = [name for name in expected if name not in {result["size"] for result in results}]
    head = f"{where['processor']} ({where['device']}), {where['threads']} thread, {versions}."
    head += f" Not run here: {', '.join(missing)}." if missing else ""
    return "\n\n".join([head, *(section(result) for result in results)])


def main() -> None:
    argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__).parse_args()
    cpu, cuda = read(RESULTS), read(RESULTS / "cuda")
    padding = json.loads((RESULTS / "padding.json").read_text(encoding="utf-8"))
    text = of_machine(cpu, SIZES) + "\n\n" + padding_section(padding)
    draw(cpu, PAGE.parent / PICTURE)
    page = replaced(PAGE.read_text(encoding="utf-8"), BEGIN, text)
    if cuda:
        page = replaced(page, BEGIN_CUDA, of_machine(cuda, LARGE))
        draw(cuda, PAGE.parent / PICTURE_CUDA)
    PAGE.write_text(page, encoding="utf-8")
    first = FIRST_PAGE.read_text(encoding="utf-8")
    FIRST_PAGE.write_text(replaced(first, BEGIN_SPEED, headline(cpu, cuda), END_SPEED), encoding="utf-8")


def replaced(page: str, begin: str, text: str, end: str = END) -> str:
    """The page with `text` between a marker and the next end."""
    before, rest = page.split(begin)
    return f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end, 1)[1]}"


if __name__ == "__main__":
    main()
