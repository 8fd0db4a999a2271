"""How the training of a codec goes: smoothed losses in the log now and then, and as a picture at its end."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from ..media import replacing

log = logging.getLogger("unitalk")

EVERY = 25  # steps
KEEP = 0.98  # of a smoothed loss, per step


class Progress:
    """`progress(step, losses)` after each step; `draw(path)` writes the curves as PNG."""

    def __init__(self, name: str) -> None:
        self.name, self.start = name, time.monotonic()
        self.smooth: dict[str, float] = {}
        self.lines: dict[str, list[tuple[int, float]]] = {}

    def __call__(self, step: int, losses: dict[str, float]) -> None:
        for name, value in losses.items():
            self.smooth[name] = KEEP * self.smooth.get(name, value) + (1 - KEEP) * value
        if step % EVERY == 0:
            for name, value in self.smooth.items():
                self.lines.setdefault(name, []).append((step, value))
            shown = " ".join(f"{name} {value:.4f}" for name, value in self.smooth.items())
            log.info("%s step %d, %.0f s: %s", self.name, step, time.monotonic() - self.start, shown)

    def draw(self, path: Path) -> None:
        from matplotlib.figure import Figure

        figure = Figure((8, 5), 100, layout="constrained")
        axes = figure.subplots()
        for name, line in self.lines.items():
            axes.plot(*zip(*line, strict=True), label=name)
        axes.set(xlabel="step", ylabel="loss", yscale="log", title=self.name)
        axes.legend(frameon=False)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png")
