"""The step cache: it skips where both streams hardly change, never outside its range, and says how often."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from unitalk_core.av import AV
from unitalk_core.diffusion.cache import Reuse, StepCache
from unitalk_core.diffusion.denoiser import Conditioning, Denoiser
from unitalk_core.diffusion.guidance import UNGUIDED, Guidance, Term, Without
from unitalk_core.diffusion.samplers import sample_euler
from unitalk_core.diffusion.schedules import sigma_at, sigmas_euler

WORDS = Conditioning(AV(torch.ones(1, 2, 4), torch.ones(1, 2, 4)))
NOISE = AV(torch.randn(1, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 5, 7))


class Network:
    """A velocity that turns with the latent: slowly in the picture, as told in the sound."""

    def __init__(self, turn: float = 0.1) -> None:
        self.calls, self.turn = 0, turn

    def __call__(self, latent: AV, _timestep: AV, _context: AV, _reference: AV | None, **_: object) -> AV:
        self.calls += 1
        return AV(1 + 0.1 * latent.video, 1 + self.turn * latent.audio)


def memory(picture: float, sound: float, start: float = 0.0, end: float = 1.0) -> Reuse:
    return Reuse(StepCache(AV(picture, sound), start, end), partial(sigma_at, shift=3.0))


def sampled(network: Network, reuse: Reuse | None, guidance: Guidance = UNGUIDED) -> AV:
    denoiser = Denoiser(network, WORDS, WORDS, guidance, shift=3.0, reuse=reuse)
    return sample_euler(denoiser, NOISE, sigmas_euler(20, 3.0))


def test_a_threshold_of_nothing_skips_nothing() -> None:
    network, reuse = Network(), memory(0.0, 0.0)
    assert torch.equal(sampled(network, reuse).video, sampled(Network(), None).video)
    assert (network.calls, reuse.calls, reuse.skipped) == (20, 20, 0)


def test_skipped_steps_are_not_run_and_the_result_stays_near() -> None:
    network, reuse = Network(), memory(0.05, 0.05)
    made, whole = sampled(network, reuse), sampled(Network(), None)
    assert reuse.skipped > 5 and network.calls == 20 - reuse.skipped
    assert (made.video - whole.video).abs().max() < 0.05
    assert str(reuse) == f"{reuse.skipped} of 20 steps taken from the cache"


@pytest.mark.parametrize("limits", [(0.05, 0.0), (0.0, 0.05)])
def test_one_stream_alone_cannot_skip_a_step(limits: tuple[float, float]) -> None:
    reuse = memory(*limits)
    sampled(Network(), reuse)
    assert reuse.skipped == 0


def test_a_stream_that_turns_faster_is_computed_more_often() -> None:
    calm, wild = memory(0.05, 0.05), memory(0.05, 0.05)
    sampled(Network(0.1), calm)
    sampled(Network(1.5), wild)
    assert wild.skipped < calm.skipped


def test_steps_outside_the_range_are_computed() -> None:
    everywhere, within = memory(1.0, 1.0), memory(1.0, 1.0, 0.3, 0.6)
    sampled(Network(), everywhere)
    sampled(Network(), within)
    assert everywhere.skipped == 18  # two steps teach it
    assert 0 < within.skipped < 9


def test_all_passes_of_a_step_are_skipped_together_and_a_new_one_is_computed() -> None:
    network, reuse = Network(), memory(1.0, 1.0)
    late = Guidance((Term(Without(text=True), AV(2.0, 2.0), 0.5, 1.0),))
    sampled(network, reuse, late)
    assert reuse.skipped == 17
    assert network.calls == 2 + 2  # two full ones, then both of the step in which the second begins


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: StepCache(AV(-0.1, 0.1)), "threshold of a step cache must be from 0 to 1, got -0.1"),
        (lambda: StepCache(AV(0.1, 2.0)), "got 2"),
        (lambda: StepCache(AV(0.1, 0.1), 0.9, 0.2), "start before it ends"),
    ],
)
def test_impossible_settings_get_a_sentence(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_an_absent_stream_has_no_say() -> None:
    reuse = memory(0.0, 0.05)
    sound = AV(None, torch.ones(1, 5, 7))
    reuse.learn(sound, sound)
    reuse.learn(sound.map(lambda one: one * 1.1), sound)
    reuse.stored["sound"] = sound
    assert reuse.skips(sound.map(lambda one: one * 1.2), 0.5, ["sound"])
