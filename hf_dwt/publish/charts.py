"""What all pictures share: their look, and labels beside the lines in place of a legend."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .run_record import write_whole

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.transforms import Bbox

# Told apart by colour-blind eyes too, and dark enough to be read as text on white.
BLUE, ORANGE, VIOLET, GREY = "#0060b0", "#c04a00", "#8a3ffc", "#595959"
WIDTH, DPI = 8.0, 150  # inches, dots of an inch: a page shows 1200 dots on about 800, so that 11 points are 15 high
LOOK: dict[str, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 2,
    "lines.markersize": 4,
    "figure.dpi": DPI,
}
MOST_MARKERS = 60  # more would hide the line
_GAP, _CLEAR, _TRIED = 11, 50, 60  # pixels from a label to its line, and to others if possible; places tried


@contextmanager
def look() -> Iterator[None]:
    """The look of every picture, whatever the reader's own settings of matplotlib are."""
    from matplotlib import style

    with style.context(["default", LOOK]):
        yield


def new_figure(height: float) -> "Figure":
    """An empty figure of `height` inches, for `figure.subplots()`."""
    # Not pyplot: it would keep the figure, and choose a window system.
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def save(figure: "Figure", path: Path) -> None:
    """Write the figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_whole(path, content.getvalue())


def marker(points: int) -> str | None:
    """The marker of a line of so many points."""
    return "o" if points <= MOST_MARKERS else None


def label_lines(figure: "Figure") -> None:
    """Write the label of each line of each panel beside it, where it covers the least; within the panel."""
    import numpy as np

    figure.draw_without_rendering()  # the layout is final: places below are in pixels of it
    for panel in figure.axes:
        area = panel.get_window_extent()
        lines = {line: _pixels(line) for line in panel.lines}
        written = [np.empty((0, 2))]  # points that fill the labels so far
        for line, own in lines.items():
            label = str(line.get_label())
            if label.startswith("_"):  # matplotlib's name of a line without a label
                continue
            text = panel.text(0, 0, label, color=line.get_color(), transform=panel.transAxes, in_layout=False)
            size = text.get_window_extent()
            others = np.concatenate([*(points for other, points in lines.items() if other is not line), *written])
            x, y = _best_place(own, others, area, size.width, size.height)
            text.set_position(tuple(panel.transAxes.inverted().transform((x, y))))
            grid = np.meshgrid(np.linspace(x, x + size.width, 100), np.linspace(y, y + size.height, 10))
            written.append(np.stack([part.ravel() for part in grid], axis=1))


def _pixels(line: "Line2D") -> "np.ndarray":
    """Points (N, 2) along a line as it is drawn; none in its gaps."""
    import numpy as np

    points = line.get_transform().transform(line.get_path().vertices)
    if line.get_linestyle() != "None":
        places = np.linspace(0, len(points) - 1, 1000)
        between = [np.interp(places, np.arange(len(points)), points[:, axis]) for axis in (0, 1)]
        points = np.concatenate([points, np.stack(between, axis=1)])
    drawn: np.ndarray = points[np.isfinite(points).all(axis=1)]
    return drawn


def _best_place(
    own: "np.ndarray", others: "np.ndarray", area: "Bbox", width: float, height: float
) -> tuple[float, float]:
    """The lower left corner of a label (`width` x `height`) just above or below its own line.

    Best is where it covers the fewest points of others, then where its line is flat and the others are far.
    """
    import numpy as np

    right = max(area.x1 - width - _GAP, area.x0 + _GAP)
    lowest, best = (np.inf, np.inf), (right, (area.y0 + area.y1 - height) / 2)  # of a line outside the panel
    for x in np.linspace(right, area.x0 + _GAP, _TRIED):
        near = own[np.abs(own[:, 0] - x - width / 2) <= width / 2 + _GAP, 1]
        for y in (near.max() + _GAP, near.min() - _GAP - height) if len(near) else ():
            inside = min(max(y, area.y0 + _GAP), area.y1 - height - _GAP)
            aside = np.abs(others - (x + width / 2, inside + height / 2)) - (width / 2, height / 2)
            distances = np.maximum(aside.max(axis=1, initial=-np.inf), 0)
            clear = min(float(distances.min(initial=np.inf)), _CLEAR)
            cost = float((distances < _GAP).sum() + abs(inside - y)), float(np.ptp(near)) - clear
            if cost < lowest:
                lowest, best = cost, (float(x), float(inside))
    return best
