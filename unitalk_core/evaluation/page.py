"""One page of pictures: true clips and made ones on one clock, in frames, mel, and mouth against loudness."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..av import Clip
from ..media import replacing, resample
from ..models.mel import MEL_16K, Mel
from . import sync
from .held_out import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

COLUMNS = 2
INCHES, DPI = (8.0, 4.4), 100  # of one clip
HEAD, LEFT = 0.6, 0.012  # inches of the heading; where the lines of text begin
MADE_FROM = "true clips, and clips made from their words, their voice and their first frame"
FRAMES = 8  # of a clip
QUIET, LOUD = -3.5, 0.5  # log10 mel energy, the ends of the colours
HEIGHTS = (1.45, 0.8, 1.45, 0.8, 1.0)  # true frames and mel, made frames and mel, curves
INK, GREY = "#1f2430", "#7a8190"
MOUTH, SOUND = "#2f6db5", "#d9702b"


def draw_page(results: Sequence[Result], path: Path, heading: str) -> None:
    """Write the clips, one or more, as PNG, whole or not at all."""
    from matplotlib.figure import Figure

    rows = -(-len(results) // COLUMNS)
    figure = Figure((COLUMNS * INCHES[0], rows * INCHES[1] + HEAD), DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12)
    top, body = figure.subfigures(2, 1, height_ratios=(HEAD, rows * INCHES[1]))
    top.text(LEFT, 0.5, f"{heading}\n{MADE_FROM}", fontsize=11, color=INK, va="center")
    cells = body.subfigures(rows, COLUMNS, squeeze=False)
    for cell, result in zip(cells.flat[: len(results)], results, strict=True):
        draw_clip(cell, result)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def draw_clip(cell: SubFigure, result: Result) -> None:
    """Five rows on one clock, as long as the longer of the two clips."""
    true = Result(result.truth.clip, result.truth)
    axes = cell.subplots(len(HEIGHTS), sharex=True, height_ratios=HEIGHTS)
    truth = result.truth
    cell.suptitle(f"“{truth.say}”{unseen(result)}", x=LEFT, ha="left", fontsize=11, color=INK)
    axes[0].set_title(f"{truth.scene} · {truth.sound}", loc="left", fontsize=8, color=INK)
    for row, (name, one) in enumerate({"true": true, "made": result}.items()):
        draw_frames(axes[2 * row], one.clip, name)
        draw_mel(axes[2 * row + 1], one)
    draw_curves(axes[4], result)
    axes[4].set_xlim(0, max(true.clip.seconds, result.clip.seconds))


def unseen(result: Result) -> str:
    """What of it training never had."""
    kinds = {"unseen words": result.has_unseen_words, "unseen voice": result.has_unseen_voice}
    return "".join(f" · {kind}" for kind, holds in kinds.items() if holds)


def draw_frames(axes: Axes, clip: Clip, name: str) -> None:
    picks = torch.linspace(0, len(clip.frames) - 1, FRAMES).round().long()
    strip = torch.cat(list(clip.frames[picks]), dim=1)  # (h, w * FRAMES, 3)
    axes.imshow(strip.numpy(), aspect="auto", extent=(0, clip.seconds, 0, 1), interpolation="bicubic")
    bare(axes, name)


def draw_mel(axes: Axes, result: Result) -> None:
    waveform = resample(result.waveform[None], result.clip.sample_rate, MEL_16K.sample_rate)
    mel, seconds = Mel(MEL_16K)(waveform)[0], waveform.shape[1] / MEL_16K.sample_rate
    shown = {"cmap": "magma", "vmin": QUIET, "vmax": LOUD, "aspect": "auto", "origin": "lower"}
    axes.imshow(mel.numpy(), extent=(0, seconds, 0, 1), **shown)
    bare(axes, "sound")


def draw_curves(axes: Axes, result: Result) -> None:
    """Mouth opening and loudness of the made clip, each from its least to its most."""
    fps = float(result.clip.fps)
    tracks = {"mouth": (result.opening, MOUTH), "loudness": (result.level, SOUND)}
    for place, (name, (track, color)) in enumerate(tracks.items()):
        times = (torch.arange(len(track)) + 0.5) / fps
        axes.plot(times.numpy(), unit(track).numpy(), color=color, linewidth=1.6)
        label(axes, 0.995 - 0.1 * place, name, color, ha="right")
    label(axes, 0.005, f"made: r = {sync.sync(result.opening, result.level):.2f}", INK)
    axes.set_ylim(-0.05, 1.25)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.tick_params(labelsize=8, colors=GREY, length=2)
    axes.set_yticks([])


def label(axes: Axes, place: float, text: str, color: str, **options: str) -> None:
    """On top of the axes, at a part of their width."""
    axes.text(place, 1.0, text, color=color, fontsize=8, transform=axes.transAxes, **options)


def unit(track: Tensor) -> Tensor:
    """Moved and scaled into 0..1."""
    low, high = track.aminmax()
    return (track - low) / (high - low).clamp_min(1e-9)


def bare(axes: Axes, name: str) -> None:
    axes.set_ylabel(name, fontsize=8, color=INK, rotation=0, ha="right", va="center")
    axes.set_yticks([])
    axes.tick_params(length=0, labelbottom=False)
    axes.spines[:].set_visible(False)
