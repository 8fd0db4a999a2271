"""The plain loop that every small training shares: a budget of steps or minutes, AdamW, averaged weights."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .muon import MuonAdamW

OnStep = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long to train, and with what: either `steps` or `minutes`, which depends on the machine's speed."""

    steps: int | None = None
    minutes: float | None = None
    batch: int = 16
    frames: int = 64  # mel frames of one crop
    learning_rate: float = 1e-3
    muon: float = 0.0  # rate of all matrices and convolutions, by Muon in place of AdamW
    warmup: float = 0.02  # share of the budget
    average: float = 0.999  # of the weights, per step
    seed: int = 0
    device: str = "cpu"
    autocast: bool = True  # bfloat16 in the network, float32 in the losses
    compile: bool = False  # minutes at the start, then nearly twice as fast

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError(f"a budget is steps or minutes, got {self.steps} steps, {self.minutes} minutes")

    def precision(self) -> torch.autocast:
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.autocast)

    def progress(self) -> Iterator[float]:
        """0 at the first step, towards 1 at the last; ends when the budget is spent."""
        if self.steps is not None:
            yield from (i / self.steps for i in range(self.steps))
            return
        start = time.monotonic()
        while (share := (time.monotonic() - start) / (60 * self.minutes)) < 1:
            yield share

    def rate(self, progress: float) -> float:
        """Learning rate: linear warm-up, then half a cosine to zero."""
        rise = min(1.0, (progress + 1e-3) / self.warmup)
        return self.learning_rate * rise * (1 + math.cos(math.pi * progress)) / 2


def parameter_groups(model: nn.Module, width: int | None = None) -> list[dict[str, object]]:
    """What learns, by its "share" of the learning rate: with Adam, a sum over more inputs moves faster.

    width: a layer that sums n > width inputs learns at width / n of the rate; None: all learn alike.
    The rule for hidden layers of maximal update parametrization (Yang and others, arXiv 2203.03466).
    """
    shares = {
        layer.weight: min(1.0, width / layer.weight[0].numel())
        for layer in model.modules()
        if width is not None and isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    }
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault(shares.get(parameter, 1.0), []).append(parameter)
    return [{"params": members, "share": share} for share, members in groups.items()]


def optimizer_of(model: nn.Module, budget: Budget) -> torch.optim.Optimizer:
    options = {"betas": (0.9, 0.98), "weight_decay": 0.0}
    if not budget.muon:
        return torch.optim.AdamW(parameter_groups(model), **options)
    learning = [one for one in model.parameters() if one.requires_grad]
    matrices, rest = ([one for one in learning if (one[0].numel() > 1) is matrix] for matrix in (True, False))
    turned = {"params": matrices, "share": budget.muon / budget.learning_rate, "muon": True}
    return MuonAdamW([{"params": rest, "share": 1.0}, turned], **options)


def fit(
    model: nn.Module,
    budget: Budget,
    losses: Callable[[], dict[str, Tensor]],
    on_step: OnStep | None,
    after: Callable[[nn.Module], None] | None = None,
) -> nn.Module:
    """Minimise losses()["loss"]; returns the average of the weights along the way, on the CPU."""
    averaged = copy.deepcopy(model)
    optimizer = optimizer_of(model, budget)
    for i, progress in enumerate(budget.progress()):
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * budget.rate(progress)
        parts = losses()
        if not parts["loss"].isfinite():
            raise ValueError(
                f"the loss of {type(model).__name__} is not finite at step {i}; lower the learning rate"
            )
        optimizer.zero_grad()
        parts["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if after is not None:
            after(model)
        _average(averaged, model, min(budget.average, (i + 1) / (i + 10)))
        if on_step is not None:
            on_step(i, {name: part.item() for name, part in parts.items()})
    if after is not None:
        after(averaged)
    return averaged.cpu().eval()


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, keep: float) -> None:
    for mine, new in zip(averaged.parameters(), model.parameters(), strict=True):
        mine.lerp_(new, 1 - keep)
