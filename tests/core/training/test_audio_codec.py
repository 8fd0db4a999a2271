"""The codec's trainers at toy size: they learn, repeat themselves, and refuse what cannot be trained on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unitalk_core.models.audio_vae import AUDIO_VAE_TINY, is_folded
from unitalk_core.models.mel import MEL_16K, Mel
from unitalk_core.models.vocos import VocosConfig
from unitalk_core.training.audio_codec import (
    Budget,
    Crops,
    pitch_of,
    spectral_losses,
    train_mel_vae,
    train_vocos,
)

VAE = replace(AUDIO_VAE_TINY, width=8)
VOCOS = VocosConfig(mels=80, n_fft=1024, hop=256, width=16, hidden=24, depth=1)
SHORT = Budget(steps=25, batch=4, frames=16, learning_rate=3e-3, seed=3)


@pytest.fixture(scope="module")
def waveforms() -> list[Tensor]:
    """Tones of rising pitch with a slow tremolo."""
    time = torch.arange(8000) / 16000
    tremolo = 0.3 + 0.2 * torch.sin(2 * math.pi * 6 * time)
    return [tremolo * torch.sin(2 * math.pi * 110 * 1.2**i * time) for i in range(8)]


def test_the_vae_learns_and_repeats_itself(waveforms: list[Tensor]):
    seen: list[dict[str, float]] = []
    vae = train_mel_vae(waveforms, VAE, SHORT, on_step=lambda _, losses: seen.append(losses))
    assert len(seen) == 25
    first, last = (
        {name: sum(one[name] for one in part) for name in ("loss", "mel", "blur")}
        for part in (seen[:5], seen[-5:])
    )
    assert last["mel"] < first["mel"] and last["blur"] < 0.5 * first["blur"]
    assert is_folded(vae.state_dict())
    again = train_mel_vae(waveforms, VAE, SHORT)
    assert again.config == vae.config
    assert all(torch.equal(a, b) for a, b in zip(vae.parameters(), again.parameters(), strict=True))


def test_the_vaes_latents_are_standardised(waveforms: list[Tensor]):
    vae = train_mel_vae(waveforms, VAE, replace(SHORT, steps=5))
    with torch.no_grad():
        latent = vae.encode(Mel(MEL_16K)(torch.stack(waveforms)))
    assert len(vae.config.latent_mean) == len(vae.config.latent_std) == 20
    assert latent.std((0, 2)).log().abs().mean() < 0.3


def test_the_vocoder_learns(waveforms: list[Tensor]):
    seen: list[dict[str, float]] = []
    vae = train_mel_vae(waveforms, VAE, replace(SHORT, steps=2))
    budget = replace(SHORT, steps=100, learning_rate=1e-3)
    train_vocos(waveforms, VOCOS, budget, vae=vae, on_step=lambda _, losses: seen.append(losses))
    assert sum(one["loss"] for one in seen[-5:]) < 0.9 * sum(one["loss"] for one in seen[:5])


def test_the_vocoder_learns_the_pitch_too(waveforms: list[Tensor]):
    seen: list[dict[str, float]] = []
    budget = replace(SHORT, steps=60, learning_rate=1e-2)
    train_vocos(waveforms, replace(VOCOS, sample_rate=16000), budget, on_step=lambda _, one: seen.append(one))
    assert sum(one["pitch"] for one in seen[-5:]) < 0.7 * sum(one["pitch"] for one in seen[:5])


def test_a_pitch_is_found_for_each_mel_frame_and_bridged_where_there_is_none(waveforms: list[Tensor]):
    tone = torch.sin(2 * math.pi * 110 * torch.arange(16000) / 16000)
    gap = torch.cat([tone, torch.zeros(8000), tone])
    hertz, voiced = pitch_of(gap, MEL_16K)
    assert len(hertz) == len(voiced) == len(gap) // 256
    assert (hertz[voiced > 0] / 110 - 1).abs().median() < 0.001 and hertz.isfinite().all()
    assert voiced[8:52].all() and not voiced[70:86].any() and voiced[102:144].all()
    nothing = pitch_of(torch.zeros(8000), MEL_16K)
    assert nothing.isfinite().all() and not nothing[1].any()


def test_spectral_losses_are_zero_for_equal_waveforms_and_blind_to_sign(waveforms: list[Tensor]):
    one = waveforms[2][None]
    for other in (one, -one):
        assert all(value < 1e-3 for value in spectral_losses(other, one).values())
    assert all(value > 0.1 for value in spectral_losses(waveforms[5][None], one).values())


def test_a_budget_is_steps_or_minutes():
    for wrong in ({}, {"steps": 1, "minutes": 1.0}):
        with pytest.raises(ValueError, match="steps or minutes"):
            Budget(**wrong)
    assert list(Budget(steps=4).progress()) == [0, 0.25, 0.5, 0.75]
    assert sum(1 for _ in Budget(minutes=0.0002).progress()) >= 1


def test_the_learning_rate_rises_then_falls_to_nothing():
    budget = Budget(steps=100, learning_rate=1.0, warmup=0.1)
    rates = [budget.rate(progress) for progress in budget.progress()]
    assert rates[0] < 0.05
    assert 0.9 < max(rates) <= 1
    assert rates[-1] < 0.01


def test_clips_shorter_than_a_crop_are_left_out():
    long = torch.arange(100.0)
    crops = Crops([torch.full((5,), -1.0), long], samples=10, seed=0)
    for piece in crops.draw(20):
        torch.testing.assert_close(piece, torch.arange(10.0) + piece[0])
    with pytest.raises(ValueError, match="no waveform has the 10 samples"):
        Crops([torch.zeros(5)], samples=10, seed=0)
