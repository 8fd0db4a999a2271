"""Held-out clips, drawn once: two takes each of four texts."""

from __future__ import annotations

import pytest

from unitalk_core.data.synthetic import SyntheticClip
from unitalk_core.evaluation.held_out import TAKES, Result, draw_held_out


@pytest.fixture(scope="session")
def truths() -> list[SyntheticClip]:
    pytest.importorskip("espeakng_loader", reason="clips need espeak-ng: pip install espeakng-loader")
    return draw_held_out(0, 4, TAKES)


@pytest.fixture(scope="session")
def true_results(truths: list[SyntheticClip]) -> list[Result]:
    return [Result(truth.clip, truth) for truth in truths]
