"""Waveform <-> latent through the three parts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unitalk_core.models.audio_codec import AudioCodec
from unitalk_core.models.audio_vae import AUDIO_VAE_TINY, AudioVAE
from unitalk_core.models.griffin_lim import GriffinLim
from unitalk_core.models.mel import MEL_16K, MEL_44K, Mel
from unitalk_core.models.vocos import Vocos, VocosConfig

VAE = replace(AUDIO_VAE_TINY, width=4)
VOCOS = VocosConfig(mels=80, n_fft=1024, hop=256, width=16, hidden=24, depth=1)


def build(vocoder=None) -> AudioCodec:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AudioCodec(Mel(MEL_16K), AudioVAE(VAE), vocoder or Vocos(VOCOS)).eval()


def draw(*shape: int) -> Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("vocoder", [None, GriffinLim(MEL_16K, iterations=2)])
def test_latents_and_samples_keep_their_ratio(vocoder):
    codec = build(vocoder)
    assert (codec.sample_rate, codec.stride, codec.channels) == (16000, 512, 20)
    latent = codec.encode(draw(2, 9 * 512))
    assert latent.shape == (2, 20, 9)
    waveform = codec.decode(latent)
    assert waveform.shape == (2, 9 * 512)
    assert waveform.abs().max() <= 1


def test_one_latent_is_enough():
    codec = build()
    assert codec.decode(codec.encode(draw(1, 512))).shape == (1, 512)


@pytest.mark.parametrize(
    ("samples", "legal"), [(513, "512 or 1024"), (100, "512 or 1024"), (1535, "1024 or 1536")]
)
def test_a_broken_latent_is_refused_with_the_nearest_lengths(samples: int, legal: str):
    with pytest.raises(ValueError, match=f"multiple of 512 samples, got {samples}; use {legal}"):
        build().encode(draw(1, samples))


@pytest.mark.parametrize(("samples", "padded"), [(1, 512), (512, 512), (1025, 1536)])
def test_padding_is_silence_up_to_a_whole_latent(samples: int, padded: int):
    waveform = build().pad(draw(1, samples))
    assert waveform.shape == (1, padded)
    assert torch.equal(waveform[:, :samples], draw(1, samples))
    assert not waveform[:, samples:].any()


def test_stereo_without_mixing_is_refused():
    with pytest.raises(ValueError, match=r"\(batch, samples\), got shape \(1, 2, 512\)"):
        build().encode(draw(1, 2, 512))


def test_values_that_are_not_finite_are_refused():
    codec = build()
    waveform, latent = draw(1, 1024), draw(1, 20, 2)
    waveform[0, 7], latent[0, 3, 1] = torch.inf, torch.nan
    with pytest.raises(ValueError, match=r"waveform has 1 values that are not finite \(of 1024\)"):
        codec.encode(waveform)
    with pytest.raises(ValueError, match=r"audio latent has 1 values that are not finite \(of 40\)"):
        codec.decode(latent)


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="mel 128, VAE 80, vocoder 80"):
        AudioCodec(Mel(MEL_44K), AudioVAE(VAE), Vocos(VOCOS))
    with pytest.raises(ValueError, match="makes 128 samples a frame, the mel has 256"):
        AudioCodec(Mel(MEL_16K), AudioVAE(VAE), Vocos(replace(VOCOS, hop=128)))


def test_half_precision_weights_make_a_float32_waveform():
    codec = build().bfloat16()
    assert codec.encode(draw(1, 1024)).dtype == torch.bfloat16
    assert codec.decode(draw(1, 20, 2)).dtype == torch.float32
