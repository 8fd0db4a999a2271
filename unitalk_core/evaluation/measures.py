"""One measured number beside what chance and the truth would score, with a bootstrap interval over clips."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

RESAMPLES = 2000
COLUMNS = ("value", "low", "high", "baseline", "ceiling", "threshold")


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """What a measure has to reach.

    margin: distance to the baseline too; factor: at most this share of it; inside: the interval has to hold
    the limit; of: the limit counts from the value of this other measure.
    """

    limit: float
    margin: float = 0.0
    factor: float | None = None
    smaller_is_better: bool = False
    inside: bool = False
    of: str | None = None

    def passed(self, value: float, between: tuple[float, float], baseline: float | None) -> bool:
        """value: the mean; between: its interval."""
        if self.inside:
            return between[0] <= self.limit <= between[1]
        if self.smaller_is_better:
            far = self.factor is None or baseline is None or value <= self.factor * baseline
            return value <= self.limit and far
        return value >= self.limit and (baseline is None or value >= baseline + self.margin)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A mean over clips, its 95 % interval; baseline: shuffled clips or chance; ceiling: the true clips."""

    value: float
    low: float
    high: float
    baseline: float | None = None
    ceiling: float | None = None
    threshold: float | None = None
    passed: bool | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: round(one, 4) if isinstance(one, float) else one for name, one in asdict(self).items()}


def mean(values: Sequence[float]) -> float:
    if not values:
        raise ValueError("a mean needs at least one value")
    return math.fsum(values) / len(values)


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Bootstrap 95 % interval of the mean (percentiles of resampled means); the same for the same values."""
    data = torch.tensor(values, dtype=torch.float64)
    draw = torch.randint(len(data), (RESAMPLES, len(data)), generator=torch.Generator().manual_seed(seed))
    means = data[draw].mean(1)
    return float(means.quantile(0.025)), float(means.quantile(0.975))


def measure(
    values: Sequence[float],
    baseline: Sequence[float] | None = None,
    ceiling: Sequence[float] | None = None,
    threshold: Threshold | None = None,
) -> Measure:
    """One number per clip -> a `Measure`. Baseline and ceiling: one number per clip, or a single one."""
    value, (low, high) = mean(values), interval(values)
    chance = None if baseline is None else mean(baseline)
    return Measure(
        value=value,
        low=low,
        high=high,
        baseline=chance,
        ceiling=None if ceiling is None else mean(ceiling),
        threshold=None if threshold is None else threshold.limit,
        passed=None if threshold is None else threshold.passed(value, (low, high), chance),
    )


def columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """One row per clip -> one list per column."""
    return [list(column) for column in zip(*rows, strict=True)]


def table(report: Mapping[str, Mapping[str, Any]]) -> str:
    """The report as lines of text, one measure a line."""
    width = max(len("measure"), *map(len, report))
    lines = [f"{'measure':{width}}" + "".join(f"{name:>11}" for name in COLUMNS) + "  passed"]
    for name, one in report.items():
        cells = ("" if one[column] is None else f"{one[column]:.3f}" for column in COLUMNS)
        verdict = {None: "", True: "  yes", False: "  MISSED"}[one["passed"]]
        lines.append(f"{name:{width}}" + "".join(f"{cell:>11}" for cell in cells) + verdict)
    return "\n".join(lines)
