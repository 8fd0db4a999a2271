"""Noise levels: where they begin and end, and the whole-numbered timesteps they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unitalk_core.diffusion.samplers import SAMPLERS
from unitalk_core.diffusion.schedules import (
    SCHEDULES,
    UNIPC_TOP,
    last_part,
    shift_sigmas,
    sigma_at,
    sigmas_dpmpp,
    sigmas_euler,
    sigmas_unipc,
    timesteps,
)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("steps", [1, 2, 7, 50, 100])
@pytest.mark.parametrize("shift", [0.5, 1.0, 5.0, 12.0])
def test_schedules_fall_from_near_one_to_zero(name: str, steps: int, shift: float) -> None:
    sigmas = SCHEDULES[name](steps, shift)
    assert sigmas.shape == (steps + 1,) and sigmas.dtype == torch.float32
    assert (sigmas.diff() < 0).all() and sigmas[-1] == 0 and 0.99 < sigmas[0] <= 1


def test_every_sampler_has_a_schedule() -> None:
    assert SAMPLERS.keys() == SCHEDULES.keys()


def test_first_timesteps_are_those_of_the_references() -> None:
    assert timesteps(sigmas_unipc(50, 5), whole=True)[:5].tolist() == [999, 995, 991, 987, 982]
    assert timesteps(sigmas_unipc(50, 5), whole=True)[-4:].tolist() == [241, 172, 92, 0]
    assert timesteps(sigmas_dpmpp(50, 5), whole=True)[:5].tolist() == [1000, 995, 991, 987, 982]
    told = timesteps(sigmas_euler(50, 5), whole=False)
    want = torch.tensor([1000, 995.8716, 991.6046, 987.1918, 24.4140])
    torch.testing.assert_close(told[[0, 1, 2, 3, -2]], want, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("schedule", "top"), [(sigmas_unipc, UNIPC_TOP), (sigmas_dpmpp, 1.0)])
def test_float32_sigmas_stand_for_the_exact_whole_timesteps(schedule, top: float) -> None:
    for steps in (3, 5, 6, 9, 20, 56, 84, 98):
        for shift in (0.5, 1.0, 2.0, 3.0, 4.0, 6.0):
            exact = shift_sigmas(np.linspace(top, 0, steps + 1)[:-1], shift)
            sigmas = schedule(steps, shift)[:-1]
            assert timesteps(sigmas, whole=True).tolist() == (exact * 1000).astype(int).tolist()
            assert np.abs(sigmas.numpy() - exact).max() < 1.3e-7


def test_shift_keeps_the_ends_and_lifts_the_middle() -> None:
    sigmas = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(shift_sigmas(sigmas, 5.0), torch.tensor([0.0, 5 / 6, 1.0]))
    assert torch.equal(shift_sigmas(sigmas, 1.0), sigmas)


@pytest.mark.parametrize(
    ("steps", "shift", "says"), [(0, 5.0, "steps"), (10, 0.0, "shift"), (10, float("nan"), "shift")]
)
def test_impossible_schedules_are_refused(steps: int, shift: float, says: str) -> None:
    with pytest.raises(ValueError, match=f"{says} must be"):
        sigmas_unipc(steps, shift)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_a_part_of_a_schedule_is_the_end_of_a_longer_one(name: str) -> None:
    assert torch.equal(last_part(name, 6, 3.0, 1.0), SCHEDULES[name](6, 3.0))
    assert torch.equal(last_part(name, 6, 3.0, 0.5), SCHEDULES[name](12, 3.0)[-7:])


@pytest.mark.parametrize("denoise", [0.0, -1.0, 1.5, float("nan")])
def test_a_part_of_nothing_or_of_more_than_all_is_refused(denoise: float) -> None:
    with pytest.raises(ValueError, match="denoise must be above 0 and at most 1"):
        last_part("euler", 4, 3.0, denoise)


def test_a_fraction_of_the_way_is_shifted_as_the_steps_are() -> None:
    assert (sigma_at(0.0, 3.0), sigma_at(1.0, 3.0)) == (1.0, 0.0)
    assert sigma_at(0.25, 3.0) == pytest.approx(sigmas_dpmpp(4, 3.0)[1].item())
