"""The straight path: its ends, and conversions that undo each other."""

from __future__ import annotations

import torch

from unitalk_core.diffusion.path import (
    denoised_to_velocity,
    mix,
    velocity_between,
    velocity_to_denoised,
    velocity_to_noise,
)


def test_the_path_goes_from_data_to_noise_with_its_velocity() -> None:
    data, noise = torch.randn(2, 3, 4, 5).unbind(0)
    assert torch.equal(mix(data, noise, 0.0), data)
    assert torch.equal(mix(data, noise, 1.0), noise)
    step = mix(data, noise, 0.6) - mix(data, noise, 0.5)
    torch.testing.assert_close(step, 0.1 * velocity_between(data, noise), atol=1e-6, rtol=1e-5)


def test_conversions_agree_with_the_path_at_any_sigma_per_sample() -> None:
    data, noise = torch.randn(2, 3, 4, 5).unbind(0)
    sigma = torch.tensor([0.1, 0.5, 1.0])[:, None, None]
    x, velocity = mix(data, noise, sigma), velocity_between(data, noise)
    torch.testing.assert_close(velocity_to_denoised(x, velocity, sigma), data)
    torch.testing.assert_close(velocity_to_noise(x, velocity, sigma), noise)
    torch.testing.assert_close(denoised_to_velocity(x, data, sigma), velocity, atol=1e-5, rtol=1e-5)
