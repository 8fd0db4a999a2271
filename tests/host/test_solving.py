"""Noise, solvers and schedules in a real ComfyUI: what `inside/on_solving.py` measured, judged."""

from __future__ import annotations

import pytest

PARITY = 1e-4  # relative, host against core: the order of float32 sums differs


@pytest.mark.parametrize("sampler", ["unipc", "dpmpp_2m", "euler", "heun", "dpmpp_3m"])
def test_noise_solver_and_schedule_under_the_stock_sampler_give_the_latents_of_the_core(measured, sampler):
    assert max(measured("solvers_against_core")[sampler]) < PARITY


def test_a_solver_with_whole_timesteps_leaves_the_model_as_it_was(measured):
    assert measured("timesteps_are_exact_again")


def test_each_take_has_its_own_noise_in_the_latents_of_any_model(measured):
    found = measured("noise_of_takes")
    assert [name for name, holds in found.items() if holds is False] == []
    assert found["seed"] == 5
    assert found["three"].endswith("this latent has 3 streams; give one with a picture and a sound")


@pytest.mark.parametrize("sampler", ["box", "stock"])
def test_a_batch_of_four_is_four_single_runs_with_seeds_raised_by_one(measured, sampler):
    found = measured("batch_of_four")[sampler]
    assert max(found["picture"], found["sound"]) < PARITY
    assert found["takes"] > 0.1


def test_a_schedule_takes_the_shift_of_the_model_or_its_own(measured):
    found = measured("schedules")
    assert (found["own shift"], found["shift"], found["part"]) == (True, True, True)
    assert found["no shift"] == "ValueError: this model has no flow shift; give a shift above 0"
