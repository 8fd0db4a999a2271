"""Picture sizes a model can make near a given shape: the rules of Wan2.2 and of Ovi."""

from __future__ import annotations

import math

STEP = 32  # pixels per token, each side


def fit_area(width: int, height: int, area: int, step: int = STEP) -> tuple[int, int]:
    """(width, height) of at most `area` pixels in multiples of `step`, shaped like the given picture; Wan2.2.

    One side is rounded down, the other fills the area; of the two ways, the one nearer the given shape wins.
    """
    _check(width, height, area)
    ratio = width / height
    wide = (area * ratio) ** 0.5
    found = []
    for first, upright in ((wide, False), (area / wide, True)):
        one = int(first // step * step)
        other = int(area / one // step * step) if one else 0
        if one and other:
            found.append((other, one) if upright else (one, other))
    if not found:
        raise ValueError(
            f"no size in multiples of {step} has the shape of {width} x {height} within {area} pixels"
        )
    return min(reversed(found), key=lambda size: _bend(size[0] / size[1], ratio))


def snap_area(width: int, height: int, area: int, step: int = STEP) -> tuple[int, int]:
    """(width, height) of about `area` pixels, sides the nearest multiples of `step`, halves to even; Ovi."""
    _check(width, height, area)
    scale = math.sqrt(area / (width * height))
    return tuple(max(step, round(round(side * scale) / step) * step) for side in (width, height))


def _bend(ours: float, given: float) -> float:
    return max(ours / given, given / ours)


def _check(width: int, height: int, area: int) -> None:
    if min(width, height, area) < 1:
        raise ValueError(f"width, height and area must be positive, got {width} x {height} and {area}")
