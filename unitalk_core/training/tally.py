"""Sums and counts of the losses of one step, over passes and processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .batches import Drawn
from .metrics import BINS

LOSSES = ("video", "audio", "mouth", "alignment")
STREAMS = ("video", "audio")


class Tally:
    """(sum, count) of each loss, and of each stream's in each quarter of sigma."""

    def __init__(self) -> None:
        self.losses = torch.zeros(len(LOSSES), 2, dtype=torch.float64)
        self.quarters = torch.zeros(len(STREAMS), len(BINS), 2, dtype=torch.float64)

    def add(self, losses: Mapping[str, Tensor], drawn: Drawn) -> None:
        """losses: (b,) of the clips of a pass, on the CPU."""
        for row, name in enumerate(LOSSES):
            if name in losses:
                self.losses[row] += pairs(losses[name]).sum(0)
        for row, name in enumerate(STREAMS):
            if name in losses:
                quarter = (getattr(drawn.sigma, name).cpu() * len(BINS)).long().clamp(max=len(BINS) - 1)
                self.quarters[row].index_add_(0, quarter, pairs(losses[name]))

    def reduce(self, total: Callable[[Tensor], Tensor]) -> None:
        """Let `total` add up the numbers of all processes."""
        both = total(torch.cat([self.losses, self.quarters.flatten(0, 1)]))
        self.losses, rest = both[: len(LOSSES)], both[len(LOSSES) :]
        self.quarters = rest.unflatten(0, (len(STREAMS), len(BINS)))

    def means(self) -> dict[str, float]:
        """Of the losses that the step had."""
        return {name: total / n for name, (total, n) in zip(LOSSES, self.losses.tolist(), strict=True) if n}

    def bins(self) -> dict[str, list[list[float]]]:
        return dict(zip(STREAMS, self.quarters.tolist(), strict=True))


def pairs(values: Tensor) -> Tensor:
    """(b,) -> (b, 2) value and one."""
    return torch.stack([values, torch.ones_like(values)], 1)
