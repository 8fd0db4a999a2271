"""A measure's interval covers its mean, its verdict follows its threshold, and the table shows both."""

from __future__ import annotations

import json

import pytest
import torch

from unitalk_core.evaluation.measures import Threshold, columns, interval, mean, measure, table


def test_the_interval_covers_the_mean_and_narrows_with_more_clips() -> None:
    values = torch.rand(400, generator=torch.Generator().manual_seed(0)).tolist()
    (few_low, few_high), (low, high) = interval(values[:20]), interval(values)
    assert few_low < mean(values[:20]) < few_high
    assert high - low < 0.5 * (few_high - few_low)
    assert interval(values) == (low, high)
    assert interval([0.5] * 10) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("threshold", "value", "baseline", "passed"),
    [
        (Threshold(limit=0.4), 0.4, 0.39, True),
        (Threshold(limit=0.4), 0.39, 0.0, False),
        (Threshold(limit=0.4, margin=0.2), 0.5, 0.31, False),
        (Threshold(limit=0.4, margin=0.2), 0.5, 0.29, True),
        (Threshold(limit=0.4), 0.5, None, True),
        (Threshold(limit=120, factor=1 / 3, smaller_is_better=True), 100, 310, True),
        (Threshold(limit=120, factor=1 / 3, smaller_is_better=True), 100, 290, False),
        (Threshold(limit=120, factor=1 / 3, smaller_is_better=True), 121, 900, False),
    ],
)
def test_a_threshold_asks_for_a_value_and_a_distance_to_chance(
    threshold: Threshold, value: float, baseline: float | None, passed: bool
) -> None:
    assert threshold.passed(value, (value - 0.1, value + 0.1), baseline) is passed


@pytest.mark.parametrize(
    ("value", "between", "passed"),
    [(0.6, (0.5, 0.7), True), (0.6, (0.51, 0.7), False), (0.4, (0.3, 0.49), False), (0.5, (0.5, 0.5), True)],
)
def test_a_threshold_may_ask_the_interval_to_hold_it(
    value: float, between: tuple[float, float], passed: bool
) -> None:
    assert Threshold(limit=0.5, inside=True).passed(value, between, 0.5) is passed


def test_a_missed_threshold_is_reported_as_missed() -> None:
    missed = measure([0.1, 0.3], baseline=[0.0, 0.2], ceiling=[0.9, 0.9], threshold=Threshold(limit=0.4))
    assert (missed.value, missed.baseline, missed.ceiling, missed.threshold) == pytest.approx(
        (0.2, 0.1, 0.9, 0.4)
    )
    assert missed.passed is False
    lines = table({"sync.r": missed.to_json(), "plain": measure([1.0]).to_json()}).splitlines()
    assert lines[1].startswith("sync.r") and lines[1].endswith("MISSED") and "0.200" in lines[1]
    assert lines[2].split() == ["plain", "1.000", "1.000", "1.000"]


def test_a_measure_is_plain_json() -> None:
    stored = measure([1 / 3], threshold=Threshold(limit=0.1)).to_json()
    assert json.loads(json.dumps(stored)) == stored
    assert stored["value"] == 0.3333 and stored["passed"] is True


def test_columns_turn_rows_of_clips_into_lists() -> None:
    assert columns([(1, None), (2, 3)]) == [[1, 2], [None, 3]]


def test_no_value_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        measure([])
