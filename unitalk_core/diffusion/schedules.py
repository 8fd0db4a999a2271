"""Lists of noise levels: `sigmas_*(steps, shift)` gives float32 (steps + 1,), falling, the last one 0.

Each solver keeps the grid of its reference (Wan2.2 and Ovi for UniPC and DPM++, diffusers for Euler). Where a
reference hands the network a whole-numbered timestep, the grid is float32 that truncates to the same number.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

TRAINING_STEPS = 1000  # timestep = 1000 sigma
UNIPC_TOP = float(np.float32(1 - 1 / TRAINING_STEPS))  # highest sigma of the training grid, as float32


def shift_sigmas(sigmas: np.ndarray | Tensor, shift: float) -> np.ndarray | Tensor:
    """More steps at high noise: shift * sigma / (1 + (shift - 1) * sigma). 0 and 1 stay where they are."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def sigmas_unipc(steps: int, shift: float) -> Tensor:
    """Evenly from 0.999 down to, not including, 0; shifted; then 0."""
    _check(steps, shift)
    return _whole_timesteps(shift_sigmas(np.linspace(UNIPC_TOP, 0, steps + 1)[:-1], shift))


def sigmas_dpmpp(steps: int, shift: float) -> Tensor:
    """Evenly from 1 down to, not including, 0; shifted; then 0."""
    _check(steps, shift)
    return _whole_timesteps(shift_sigmas(np.linspace(1, 0, steps + 1)[:-1], shift))


def sigmas_euler(steps: int, shift: float) -> Tensor:
    """Evenly from 1 to the shifted 0.001, then shifted once more, as FlowMatchEulerDiscrete does; then 0."""
    _check(steps, shift)
    lowest = shift_sigmas(np.array(1 / TRAINING_STEPS), shift)
    return _ending_in_zero(shift_sigmas(np.linspace(1, lowest, steps), shift))


def timesteps(sigmas: Tensor, whole: bool) -> Tensor:
    """What the network is told, 1000 sigma: int64, cut off after the point (UniPC, DPM++), or float32."""
    if whole:
        return (sigmas.double() * TRAINING_STEPS).long()
    return sigmas.float() * TRAINING_STEPS


Schedule = Callable[[int, float], Tensor]
SCHEDULES: dict[str, Schedule] = {  # by the name of the sampler each one belongs to
    "unipc": sigmas_unipc,
    "dpmpp_2m": sigmas_dpmpp,
    "euler": sigmas_euler,
    "heun": sigmas_euler,
    "dpmpp_3m": sigmas_dpmpp,
}


def last_part(schedule: str, steps: int, shift: float, denoise: float = 1.0) -> Tensor:
    """Sigmas of `steps` steps, the last part of a longer schedule where `denoise` is below 1."""
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise must be above 0 and at most 1, got {denoise:g}")
    return SCHEDULES[schedule](max(steps, int(steps / denoise)), shift)[-steps - 1 :]


def sigma_at(fraction: float, shift: float) -> float:
    """The noise level after a fraction of the way from noise to data: 1 at 0, 0 at 1."""
    return float(shift_sigmas(np.float64(1 - fraction), shift))


def _check(steps: int, shift: float) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not shift > 0:
        raise ValueError(f"shift must be above 0, got {shift:g}")


def _ending_in_zero(sigmas: np.ndarray) -> Tensor:
    return torch.from_numpy(np.append(sigmas, 0).astype(np.float32))


def _whole_timesteps(exact: np.ndarray) -> Tensor:
    """float32, nudged by one ulp where rounding alone would change the whole-numbered timestep."""
    rounded, want = exact.astype(np.float32), (exact * TRAINING_STEPS).astype(np.int64)
    have = (rounded.astype(np.float64) * TRAINING_STEPS).astype(np.int64)
    rounded = np.where(have < want, np.nextafter(rounded, np.float32(2)), rounded)
    rounded = np.where(have > want, np.nextafter(rounded, np.float32(-1)), rounded)
    return _ending_in_zero(rounded)
