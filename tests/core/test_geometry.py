"""Picture sizes: legal, within the area, shaped like what was given."""

from __future__ import annotations

import pytest

from unitalk_core.geometry import fit_area, snap_area


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1920, 1080), (512, 512), (333, 777), (2000, 900)])
def test_sizes_are_legal_and_keep_the_shape(width: int, height: int) -> None:
    for area in (704 * 1280, 512 * 992):
        for found in (fit_area(width, height, area), snap_area(width, height, area)):
            assert all(side % 32 == 0 for side in found)
            assert found[0] / found[1] == pytest.approx(width / height, rel=0.08)
        assert 0.8 * area < fit_area(width, height, area)[0] * fit_area(width, height, area)[1] <= area


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="must be positive, got 0 x 5 and 100"):
        snap_area(0, 5, 100)
    with pytest.raises(ValueError, match="no size in multiples of 32"):
        fit_area(10_000, 10, 5000)
