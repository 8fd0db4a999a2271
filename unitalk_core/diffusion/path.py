"""The straight path between data and noise, in Wan's sign and time: architecture.md f and h.1.

x = (1 - sigma) data + sigma noise; velocity = dx/dsigma = noise - data; alpha = 1 - sigma.
`sigma` is a number or a tensor that broadcasts against the latent.
"""

from __future__ import annotations

from torch import Tensor

Sigma = float | Tensor


def mix(data: Tensor, noise: Tensor, sigma: Sigma) -> Tensor:
    """The point of the path at noise level `sigma`: data at 0, noise at 1."""
    return (1 - sigma) * data + sigma * noise


def velocity_between(data: Tensor, noise: Tensor) -> Tensor:
    """What the network learns to predict anywhere on the path."""
    return noise - data


def velocity_to_denoised(x: Tensor, velocity: Tensor, sigma: Sigma) -> Tensor:
    """The data that `x` is on the way to."""
    return x - sigma * velocity


def denoised_to_velocity(x: Tensor, denoised: Tensor, sigma: Sigma) -> Tensor:
    """The inverse of `velocity_to_denoised`, for sigma above 0."""
    return (x - denoised) / sigma


def velocity_to_noise(x: Tensor, velocity: Tensor, sigma: Sigma) -> Tensor:
    """The noise that `x` came from."""
    return x + (1 - sigma) * velocity
