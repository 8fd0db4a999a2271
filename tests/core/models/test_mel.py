"""The mel spectrogram and the transform under it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from unitalk_core.models.mel import MEL_16K, MEL_44K, Mel, MelConfig, mel_basis
from unitalk_core.models.stft import istft, stft


def sine(hertz: float, config: MelConfig, samples: int = 8192) -> torch.Tensor:
    return 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(samples) / config.sample_rate)[None]


@pytest.mark.parametrize(("samples", "frames"), [(8192, 32), (8191, 31), (8447, 32), (512, 2)])
def test_frames_are_whole_hops(samples: int, frames: int):
    assert Mel(MEL_16K)(torch.zeros(2, samples)).shape == (2, 80, frames)


@pytest.mark.parametrize("config", [MEL_16K, MEL_44K])
@pytest.mark.parametrize("hertz", [300.0, 1000.0, 3500.0])
def test_a_tone_is_loudest_in_its_own_band(config: MelConfig, hertz: float):
    loudest = Mel(config)(sine(hertz, config)).mean(-1).argmax().item()
    bins = torch.linspace(0, config.sample_rate / 2, config.n_fft // 2 + 1)
    reach = bins[mel_basis(config)[loudest] > 0]
    width = config.sample_rate / config.n_fft
    assert reach.min() - width <= hertz <= reach.max() + width


def test_wide_filters_have_unit_area():
    bin_width = MEL_44K.sample_rate / MEL_44K.n_fft
    torch.testing.assert_close(
        mel_basis(MEL_44K)[60:].sum(1) * bin_width, torch.ones(68), rtol=0.02, atol=0.0
    )


@pytest.mark.parametrize(("config", "floor"), [(MEL_16K, -5.0), (MEL_44K, math.log(1e-5))])
def test_silence_lies_on_the_floor(config: MelConfig, floor: float):
    assert Mel(config)(torch.zeros(1, 4096)).sub(floor).abs().max() < 1e-5


def test_energy_undoes_the_logarithm():
    mel = Mel(MEL_16K)
    torch.testing.assert_close(mel.energy(torch.tensor([-5.0, 0.0])), torch.tensor([1e-5, 1.0]))


def test_too_loud_a_waveform_is_clipped():
    mel, loud = Mel(MEL_16K), 3 * sine(440, MEL_16K)
    torch.testing.assert_close(mel(loud), mel(loud.clamp(-1, 1)))


def test_half_precision_input_is_computed_in_float32():
    waveform = sine(440, MEL_16K).bfloat16()
    torch.testing.assert_close(Mel(MEL_16K)(waveform), Mel(MEL_16K)(waveform.float()))


def test_a_short_waveform_is_refused_with_the_least_length():
    with pytest.raises(ValueError, match=r"at least 385 samples .* got 384"):
        Mel(MEL_16K)(torch.zeros(1, 384))


def test_a_waveform_with_channels_is_refused():
    with pytest.raises(ValueError, match=r"\(batch, samples\).*\(1, 2, 4096\)"):
        Mel(MEL_16K)(torch.zeros(1, 2, 4096))


@pytest.mark.parametrize(
    ("change", "message"), [({"hop": 300}, "hop 300 must divide"), ({"high": 9000.0}, "within 0..8000 Hz")]
)
def test_an_impossible_configuration_is_refused(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        replace(MEL_16K, **change)


def test_a_configuration_survives_json_and_refuses_unknown_fields():
    assert MelConfig.from_json(MEL_44K.to_json()) == MEL_44K
    with pytest.raises(ValueError, match="MelConfig has no field fmax"):
        MelConfig.from_json({**MEL_44K.to_json(), "fmax": 1})


@pytest.mark.parametrize(("n_fft", "hop"), [(1024, 256), (2048, 512), (512, 256)])
def test_istft_inverts_stft(n_fft: int, hop: int):
    waveform = torch.randn(2, hop * 9, generator=torch.Generator().manual_seed(0))
    spectrum = stft(waveform, n_fft, hop)
    assert spectrum.shape == (2, n_fft // 2 + 1, 9)
    torch.testing.assert_close(istft(spectrum, n_fft, hop), waveform, atol=2e-5, rtol=0)
