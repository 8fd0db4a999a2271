"""One picture of how a run goes: losses by stream, task and sigma, gradient and rate, what the judges say."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..media import replacing
from .metrics import BINS, Average, Record
from .tasks import TASKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .validation import Sample

log = logging.getLogger("unitalk")

INCHES, DPI = (10, 7), 100  # 1000 x 700 pixels
POINTS = 1500  # of one line at most
SMOOTH, LEAST = 1 / 25, 8  # what a running average looks back: a share of the points, and at least so many
INK, GREY, PALE = "#1f2430", "#7a8190", "#e6e8ec"
STREAMS = {"video": "#2f6db5", "audio": "#d9702b", "mouth": "#3f9367", "alignment": "#8d67b8"}
SIGMA = ("#bcd4ee", "#7fb0e0", "#3f7fc4", "#123f7d")  # light is little noise
COLORS = (
    "#2f6db5", "#d9702b", "#3f9367", "#8d67b8", "#c2a52b", "#b8475a", "#3aa0a8", "#7a8190", "#a8643d",
)  # fmt: skip
SCORE_NAMES = {
    "sync_r": "sync r",
    "words": "words heard",
    "timbre": "timbre distance",
    "pitch": "pitch, cents off",
    "first_frame": "first frame, dB",
    "silence": "silence",
    "loudness": "loudness, dB",
    "lag": "lag, frames",
}  # in the order of interest
ROWS = 6  # scores at most

Line = Sequence[tuple[int, float]]
"""(step, value)"""


def draw_curves(records: Sequence[Record], path: Path, samples: Sequence[Sample] = ()) -> None:
    """Write the picture as PNG, whole or not at all; nothing without records.

    Without matplotlib a warning is logged instead: a run does not fail for want of a picture.
    """
    if not records:
        return
    try:
        from matplotlib.figure import Figure
    except ImportError:
        log.warning("%s is not drawn, because matplotlib is missing; pip install matplotlib", path.name)
        return
    figure = Figure(INCHES, DPI, layout="constrained")
    panels = _panels(records, samples)
    axes = figure.subplot_mosaic(_mosaic(list(panels)))
    for name, draw in panels.items():
        draw(axes[name])
    figure.suptitle(headline(records), x=0.012, ha="left", fontsize=12, color=INK)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1, wspace=0.03, hspace=0.04)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def headline(records: Sequence[Record]) -> str:
    last, seconds = records[-1], sum(one.seconds for one in records)
    return f"step {last.step} of {last.of} · {seconds / 60:.0f} min · {last.memory} MB"


def _panels(records: Sequence[Record], samples: Sequence[Sample]) -> dict[str, Callable[[Any], None]]:
    """Name -> what draws it, for what there is to see."""
    tasks = [task for task in TASKS if any(one.task == task for one in records)]
    panels = {"loss": partial(_streams, records=records)}
    if len(tasks) > 1:
        panels["tasks"] = partial(_tasks, records=records, tasks=tasks)
    if samples:
        panels["scores"] = partial(_scores, samples=samples)
    titles = {"video": "picture, by sigma", "audio": "sound, by sigma"}
    for stream, title in titles.items():
        if lines := sigma_lines(records, stream):
            panels[stream] = partial(_sigma, title=title, records=records, lines=lines)
    panels["run"] = partial(_run, records=records)
    return panels


def _mosaic(names: list[str]) -> list[list[str]]:
    """Two rows of three; where a panel is missing, the first of its row is wider."""
    half = sum(name in ("loss", "tasks", "scores") for name in names)
    rows = names[:half], names[half:]
    return [[row[0]] * (4 - len(row)) + row[1:] for row in rows]


# --- numbers ---------------------------------------------------------------------------------------------


def stream_lines(records: Sequence[Record]) -> dict[str, Line]:
    names = dict.fromkeys(name for one in records for name in one.losses)
    return {name: [(one.step, one.losses[name]) for one in records if name in one.losses] for name in names}


def task_lines(records: Sequence[Record], tasks: Sequence[str]) -> dict[str, Line]:
    return {task: [(one.step, one.loss) for one in records if one.task == task] for task in tasks}


def sigma_lines(records: Sequence[Record], stream: str) -> dict[str, Line]:
    """Quarter of sigma -> losses of the steps that had one; only quarters that have any."""
    found: dict[str, list[tuple[int, float]]] = {label: [] for label in BINS}
    for one in (record for record in records if stream in record.bins):
        for label, (total, count) in zip(BINS, one.bins[stream], strict=True):
            if count:
                found[label].append((one.step, total / count))
    return {label: line for label, line in found.items() if line}


def score_lines(samples: Sequence[Sample]) -> dict[str, Line]:
    """Score -> its mean size over the clips of each step: a lag in either direction is one."""
    found: dict[str, list[tuple[int, float]]] = {}
    for name in SCORE_NAMES:
        values: dict[int, list[float]] = {}
        for one in samples:
            if name in one.scores:
                values.setdefault(one.step, []).append(
                    abs(one.scores[name]) if name == "lag" else one.scores[name]
                )
        if values:
            found[name] = [(step, sum(all_) / len(all_)) for step, all_ in values.items()]
    return found


def smoothed(line: Line) -> Line:
    """A running average over a share of the line."""
    average = Average(1 - 1 / max(LEAST, SMOOTH * len(line)))
    return [(step, average.add(value)) for step, value in line]


def thinned(line: Line) -> Line:
    """Every so manieth point and the last one."""
    return [*line[: -1 : max(1, len(line) // POINTS)], line[-1]]


# --- drawing ---------------------------------------------------------------------------------------------


def _streams(axes: Axes, records: Sequence[Record]) -> None:
    _frame(axes, "loss", records)
    lines = stream_lines(records)
    for name, line in lines.items():
        _plot(axes, line, STREAMS[name], alpha=0.18, lw=0.8)
    _smooth_lines(axes, lines, STREAMS)


def _tasks(axes: Axes, records: Sequence[Record], tasks: Sequence[str]) -> None:
    _frame(axes, "loss, by task", records)
    _smooth_lines(axes, task_lines(records, tasks), dict(zip(TASKS, COLORS, strict=True)))


def _sigma(axes: Axes, title: str, records: Sequence[Record], lines: Mapping[str, Line]) -> None:
    _frame(axes, title, records)
    _smooth_lines(axes, lines, dict(zip(BINS, SIGMA, strict=True)))


def _smooth_lines(axes: Axes, lines: Mapping[str, Line], colors: Mapping[str, str]) -> None:
    """The running averages, named, on a scale that they fill: single bad steps do not set it."""
    highest = []  # the beginning left out: where a run starts from nothing, it falls within a few steps
    for name, line in lines.items():
        smooth = smoothed(line)
        _plot(axes, smooth, colors[name], label=name)
        highest.append(max(value for _, value in smooth[len(smooth) // 20 :]))
    axes.set_ylim(0, 1.35 * max(highest) or 1)  # room for the names
    columns = {"ncols": min(3, -(-len(lines) // 2)), "columnspacing": 1.2, "handlelength": 1.2}
    axes.legend(fontsize=8, frameon=False, labelcolor=INK, loc="upper right", **columns)


def _run(axes: Axes, records: Sequence[Record]) -> None:
    """Gradient and learning rate, each on an axis of its own."""
    _frame(axes, "gradient norm and learning rate", records)
    gradient = [(one.step, one.gradient) for one in records]
    _plot(axes, gradient, GREY, alpha=0.25, lw=0.8)
    _plot(axes, smoothed(gradient), GREY)
    axes.set_ylim(0, 1.4 * max(value for _, value in smoothed(gradient)) or 1)
    axes.text(0.02, 0.97, "gradient", color=GREY, fontsize=8, transform=axes.transAxes, va="top")
    rates, color = axes.twinx(), STREAMS["audio"]
    _plot(rates, [(one.step, one.rate) for one in records], color)
    rates.set_ylim(0, 1.15 * max(one.rate for one in records) or 1)
    rates.tick_params(labelsize=8, colors=color, length=0)
    rates.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-") if value else "0")
    rates.text(0.98, 0.97, "rate", color=color, fontsize=8, transform=axes.transAxes, va="top", ha="right")
    rates.spines[:].set_visible(False)


def _scores(axes: Axes, samples: Sequence[Sample]) -> None:
    """A small line for each score, with its first and its last value."""
    _title(axes, "validation clips")
    axes.axis("off")
    lines = list(score_lines(samples).items())[:ROWS]
    height = 1 / max(4, len(lines))
    for row, (name, line) in enumerate(lines):
        small = axes.inset_axes((0.0, 1 - (row + 1) * height, 0.74, 0.55 * height))
        small.plot(*zip(*line, strict=True), color=STREAMS["video"], linewidth=1.6, marker=".", markersize=4)
        small.axis("off")
        small.margins(x=0.02, y=0.2)
        small.set_title(SCORE_NAMES[name], loc="left", fontsize=8, color=INK, pad=1)
        shown = f"{line[0][1]:.3g} → {line[-1][1]:.3g}"
        axes.text(0.78, 1 - (row + 0.72) * height, shown, fontsize=8, color=INK, transform=axes.transAxes)


def _plot(axes: Axes, line: Line, color: str, lw: float = 1.8, **options: Any) -> None:
    """A line, or dots where there are too few points for one."""
    dots = "." if len(line) < 3 else ""
    axes.plot(*zip(*thinned(line), strict=True), color=color, lw=lw, marker=dots, **options)


def _frame(axes: Axes, title: str, records: Sequence[Record]) -> None:
    _title(axes, title)
    axes.grid(color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.tick_params(labelsize=8, colors=INK, length=0)
    axes.set_xlim(0, 1.01 * records[-1].step)
    axes.locator_params(axis="x", integer=True)


def _title(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=9, fontweight="bold", color=INK)
