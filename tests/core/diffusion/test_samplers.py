"""Samplers as a whole: exact where they can be, better with order and steps, one code for both streams."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch

from unitalk_core.av import AV
from unitalk_core.diffusion.samplers import (
    SAMPLERS,
    sample_dpmpp_2m,
    sample_dpmpp_3m,
    sample_euler,
    sample_heun,
    sample_unipc,
)
from unitalk_core.diffusion.schedules import SCHEDULES, sigmas_dpmpp, sigmas_unipc


def noise() -> AV:
    generator = torch.Generator().manual_seed(0)
    return AV(
        torch.randn(1, 3, 2, 4, 4, generator=generator, dtype=torch.float64),
        torch.randn(1, 5, 7, generator=generator, dtype=torch.float64),
    )


def gaussian(x: AV, sigma: torch.Tensor, spread: float = 0.5, mean: float = 0.3) -> AV:
    """The exact denoiser for data that are normal with this mean and spread."""
    alpha, sigma = 1 - sigma.double(), sigma.double()
    gain = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2)
    return x.map(lambda one: mean + gain * (one - alpha * mean))


def exact(x: AV, start: float, spread: float = 0.5, mean: float = 0.3) -> AV:
    """Where the probability flow of `gaussian` ends."""
    scale = math.sqrt((1 - start) ** 2 * spread**2 + start**2)
    return x.map(lambda one: mean + spread * (one - (1 - start) * mean) / scale)


def error(x: AV, want: AV) -> float:
    return max((a - b).abs().max().item() for a, b in zip(x.present(), want.present(), strict=True))


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_an_exact_estimate_is_reached(name: str, steps: int) -> None:
    data = noise()
    out = SAMPLERS[name](lambda _x, _sigma: data, noise().map(lambda one: one + 2), SCHEDULES[name](steps, 5))
    assert error(out, data) < 1e-6


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_more_steps_come_nearer_to_the_true_flow(name: str) -> None:
    errors = []
    for steps in (8, 64):
        sigmas = SCHEDULES[name](steps, 3)
        errors.append(error(SAMPLERS[name](gaussian, noise(), sigmas), exact(noise(), sigmas[0].item())))
    assert errors[1] < 0.2 * errors[0] and errors[1] < 0.1


def order_of(sample, steps: int = 40) -> float:
    """How fast the error falls with the steps: log2 of its ratio at twice as many.

    Even steps in lambda within the flow, after two that are shorter by a square: an error of the first order
    at the start would hide all higher ones.
    """
    errors = []
    for count in (steps, 2 * steps):
        span = 4.4 / count
        lam = torch.cat([torch.arange(2) * span**2, 2 * span**2 + torch.arange(count + 1) * span]) - 2.2
        sigmas = torch.sigmoid(-lam.double())
        here = exact(sample(gaussian, noise(), sigmas), sigmas[-1].item())
        errors.append(error(here, exact(noise(), sigmas[0].item())))
    return math.log2(errors[0] / errors[1])


def test_the_error_falls_with_the_order_of_the_solver() -> None:
    solvers = {
        1: partial(sample_dpmpp_2m, order=1),
        2: partial(sample_dpmpp_2m, lower_order_final=False),
        3: partial(sample_dpmpp_3m, lower_order_final=False),
    }
    found = {order: order_of(solver) for order, solver in solvers.items()}
    assert all(abs(slope - order) < 0.3 for order, slope in found.items()), found


def test_higher_orders_need_fewer_steps() -> None:
    sigmas = sigmas_unipc(24, 3)
    want = exact(noise(), sigmas[0].item())
    euler = error(sample_euler(gaussian, noise(), sigmas), want)
    for sampler, options in [
        (sample_heun, {}),
        (sample_unipc, {}),
        (sample_unipc, {"order": 3}),
        (sample_unipc, {"solver_type": "bh1"}),
        (sample_dpmpp_2m, {}),
        (sample_dpmpp_2m, {"solver_type": "heun"}),
        (sample_dpmpp_2m, {"order": 3}),
        (sample_dpmpp_3m, {}),
    ]:
        assert error(sampler(gaussian, noise(), sigmas, **options), want) < 0.3 * euler, (sampler, options)
    first = error(sample_unipc(gaussian, noise(), sigmas, order=1, disable_corrector=range(24)), want)
    assert first > 0.3 * euler


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_a_stream_does_not_notice_the_other(name: str) -> None:
    sigmas, x = SCHEDULES[name](9, 5), noise()
    both = SAMPLERS[name](gaussian, x, sigmas)
    video = SAMPLERS[name](gaussian, AV(x.video, None), sigmas)
    audio = SAMPLERS[name](gaussian, AV(None, x.audio), sigmas)
    assert video.audio is None and audio.video is None
    assert torch.equal(both.video, video.video) and torch.equal(both.audio, audio.audio)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_samplers_are_pure_and_report_each_step(name: str) -> None:
    sigmas, x, seen = SCHEDULES[name](6, 5), noise(), []
    before = x.map(torch.clone)
    first = SAMPLERS[name](gaussian, x, sigmas, lambda i, denoised: seen.append((i, denoised.video.shape)))
    assert error(x, before) == 0
    assert seen == [(i, x.video.shape) for i in range(6)]
    assert error(SAMPLERS[name](gaussian, x, sigmas), first) == 0


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_what_on_step_raises_ends_the_run(name: str) -> None:
    calls = []

    def stop(i: int, _denoised: AV) -> None:
        if i == 2:
            raise KeyboardInterrupt

    def denoise(x: AV, sigma: torch.Tensor) -> AV:
        calls.append(sigma.item())
        return gaussian(x, sigma)

    with pytest.raises(KeyboardInterrupt):
        SAMPLERS[name](denoise, noise(), SCHEDULES[name](8, 5), stop)
    assert len(set(calls)) <= 4


@pytest.mark.parametrize("name", ["unipc", "dpmpp_2m"])
def test_any_falling_list_of_sigmas_stays_finite(name: str) -> None:
    orders = [{"order": order} for order in (1, 2, 3)]
    kinds = ["bh1", "bh2"] if name == "unipc" else ["midpoint", "heun"]
    lists = [[1, 0.9, 0.9, 0.4, 0], [1, 0.999999, 0.5, 0.2], [0.7, 0.3, 1e-6, 0], [0.5, 0], [1, 0.5]]
    for options, kind, last, sigmas in itertools.product(orders, kinds, (True, False), lists):
        given = {**options, "solver_type": kind, "lower_order_final": last}
        out = SAMPLERS[name](gaussian, noise(), torch.tensor(sigmas, dtype=torch.float64), **given)
        assert all(torch.isfinite(one).all() for one in out.present()), (given, sigmas)


def test_a_list_that_stops_early_is_continued_by_another() -> None:
    sigmas = sigmas_dpmpp(40, 3)
    half = sample_euler(gaussian, noise(), sigmas[:20])
    whole = sample_euler(gaussian, noise(), sigmas)
    assert error(sample_euler(gaussian, half, sigmas[19:]), whole) < 1e-12


@pytest.mark.parametrize(
    "sigmas", [[1.0], [0.2, 0.5, 0.0], [1.5, 0.5, 0.0], [0.5, 0.0, 0.0], [0.5, -0.1], [[1.0, 0.0]]]
)
@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_lists_that_do_not_fall_are_refused(name: str, sigmas: list) -> None:
    with pytest.raises(ValueError, match="sigmas must fall from at most 1 to 0"):
        SAMPLERS[name](gaussian, noise(), torch.tensor(sigmas))


def test_unknown_options_are_refused() -> None:
    sigmas = sigmas_unipc(4, 5)
    with pytest.raises(ValueError, match="order must be one of 1, 2, 3, got 4"):
        sample_unipc(gaussian, noise(), sigmas, order=4)
    with pytest.raises(ValueError, match="solver_type must be one of midpoint, heun, got bh2"):
        sample_dpmpp_2m(gaussian, noise(), sigmas, solver_type="bh2")
