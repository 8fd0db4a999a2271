"""Rotary positions and the timestep sinusoid of the Wan2.2 trunk (reference: Wan2.2 wan/modules/model.py).

n tokens · d head width · the d/2 pairs of a head are split over (time, row, column)
"""

from __future__ import annotations

import torch
from torch import Tensor

THETA = 10000.0


def axis_widths(head_dim: int) -> tuple[int, int, int]:
    """Real channels of a head given to (time, row, column): 44, 42, 42 for 128."""
    space = 2 * (head_dim // 6)
    return head_dim - 2 * space, space, space


def rope_angles(positions: Tensor, head_dim: int) -> Tensor:
    """Angles in float64. positions: (n, 3) of (time, row, column) -> (n, head_dim / 2)."""
    angles = []
    for axis, width in enumerate(axis_widths(head_dim)):
        pair = torch.arange(0, width, 2, dtype=torch.float64, device=positions.device)
        angles.append(positions[:, axis, None].double() * THETA ** (-pair / width))
    return torch.cat(angles, dim=1)


def grid_positions(frames: int, rows: int, columns: int, device: torch.device | None = None) -> Tensor:
    """(frames * rows * columns, 3): token order is frame, then row, then column."""
    axes = [torch.arange(size, dtype=torch.float64, device=device) for size in (frames, rows, columns)]
    return torch.cartesian_prod(*axes).reshape(-1, 3)


def time_positions(count: int, scale: float, device: torch.device | None = None) -> Tensor:
    """(count, 3): scaled time at row 0, column 0, which leaves the spatial pairs unrotated (Ovi)."""
    time = torch.arange(count, dtype=torch.float64, device=device) * scale
    return torch.stack([time, torch.zeros_like(time), torch.zeros_like(time)], dim=1)


def rotation(angles: Tensor) -> Tensor:
    """(n, d/2) angles -> (2, n, d/2) cosines and sines in float32."""
    return torch.stack([angles.cos(), angles.sin()]).float()


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn neighbouring channel pairs. x: (b, heads, n, d), turn: (2, n, d/2) -> (b, heads, n, d)."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # which fuses real numbers only
        return _rotate_real(pairs, turn).to(x)
    turned = torch.view_as_complex(pairs) * torch.complex(*turn)
    return torch.view_as_real(turned).flatten(-2).to(x)


def _rotate_real(pairs: Tensor, turn: Tensor) -> Tensor:
    (even, odd), (cos, sin) = pairs.unbind(-1), turn
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


def sinusoid(timestep: Tensor, width: int) -> Tensor:
    """(k,) timesteps on the 0..1000 scale -> (k, width) in float64, cosines first."""
    half = width // 2
    step = torch.arange(half, dtype=torch.float64, device=timestep.device) / half
    angles = timestep.double()[:, None] * THETA**-step
    return torch.cat([angles.cos(), angles.sin()], dim=1)
