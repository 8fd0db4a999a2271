"""The page of pictures shows true clips and made ones, few or many."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from unitalk_core.evaluation.held_out import Result
from unitalk_core.evaluation.page import draw_page, unit
from unitalk_core.media import read_image

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("count", [1, 3])
def test_a_page_has_the_size_of_its_clips(tmp_path: Path, true_results: list[Result], count: int) -> None:
    draw_page(true_results[:count], tmp_path / "page.png", "a model")
    assert [path.name for path in tmp_path.iterdir()] == ["page.png"]
    rows = (count + 1) // 2
    assert read_image(tmp_path / "page.png").shape == (60 + 440 * rows, 1600, 3)


def test_true_and_made_pictures_are_both_on_it(tmp_path: Path, true_results: list[Result]) -> None:
    own = true_results[0]
    black = Result(replace(own.clip, frames=0 * own.clip.frames), own.truth)
    for name, one in {"true": own, "black": black}.items():
        draw_page([one], tmp_path / f"{name}.png", "a model")
    same, other = (read_image(tmp_path / f"{name}.png")[:, :800] for name in ("true", "black"))
    changed = (same - other).abs().amax((1, 2)) > 0.2  # rows of pixels
    assert 80 < int(changed.sum()) < 260  # the made frames, and the curve of the mouth


def test_a_curve_is_drawn_from_its_least_to_its_most(true_results: list[Result]) -> None:
    level = true_results[0].level
    assert [float(one) for one in unit(level).aminmax()] == [0.0, 1.0]
    assert float(unit(0 * level + 3).abs().max()) == 0.0
