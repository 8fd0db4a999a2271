"""BigVGAN, Vocos and Griffin-Lim: all turn (b, mels, t) into (b, t * hop)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.utils.parametrizations import weight_norm

from unitalk_core.models.griffin_lim import GriffinLim, magnitude_from_mel
from unitalk_core.models.mel import MEL_16K, Mel
from unitalk_core.models.source import harmonic_source
from unitalk_core.models.vocoder import (
    BIGVGAN_16K,
    BIGVGAN_44K,
    Activation,
    BigVGAN,
    BigVGANConfig,
    fold_weight_norm,
)
from unitalk_core.models.vocos import VOCOS_TINY, Track, Vocos, VocosConfig, start_from_mel

TOY = BigVGANConfig(
    mels=6, width=16, rates=(4, 2), kernels=(8, 4), block_kernels=(3, 5), block_dilations=((1, 3), (1, 3))
)
TOY_VOCOS = VocosConfig(mels=80, n_fft=1024, hop=256, width=16, hidden=24, depth=2)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def build(config: BigVGANConfig = TOY) -> BigVGAN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BigVGAN(config).eval().requires_grad_(False)


def voice(seconds: float = 0.5) -> Tensor:
    """(1, n) harmonics of a gliding pitch."""
    time = torch.arange(int(seconds * 62.5) * 256) / 16000
    phase = 2 * math.pi * (150 * time + 20 * time.square())
    return sum(torch.sin(k * phase) / k for k in range(1, 12))[None] * 0.2


@pytest.mark.parametrize("final", ["tanh", "clamp"])
def test_bigvgan_makes_whole_hops_within_bounds(final: str):
    waveform = build(replace(TOY, final=final))(50 * draw(2, 6, 5))
    assert waveform.shape == (2, 5 * TOY.hop)
    assert waveform.abs().max() <= 1


def test_the_presets_make_the_mels_hop():
    assert (BIGVGAN_16K.hop, BIGVGAN_44K.hop) == (256, 512)


def test_bigvgan_refuses_another_number_of_mels():
    with pytest.raises(ValueError, match=r"\(batch, 6, frames\), got \(1, 7, 5\)"):
        build()(draw(1, 7, 5))


def test_the_anti_aliased_activation_is_the_activation_on_a_constant():
    activation = Activation(3).requires_grad_(False)
    activation.act.alpha.copy_(torch.tensor([0.1, -0.4, 0.7]))
    activation.act.beta.copy_(torch.tensor([0.3, 0.0, -0.5]))
    flat = torch.tensor([0.5, -1.0, 2.0]).view(1, 3, 1).expand(1, 3, 40)
    torch.testing.assert_close(activation(flat), activation.act(flat))


def as_old_pair(name: str, weight: Tensor) -> dict[str, Tensor]:
    norm = weight.flatten(1).norm(dim=1).view(-1, 1, 1)
    return {f"{name}.weight_g": norm, f"{name}.weight_v": 3 * weight}


def as_new_pair(name: str, weight: Tensor) -> dict[str, Tensor]:
    old = as_old_pair(name, weight)
    stem = f"{name}.parametrizations.weight.original"
    return {f"{stem}0": old[f"{name}.weight_g"], f"{stem}1": old[f"{name}.weight_v"]}


@pytest.mark.parametrize("spell", [as_old_pair, as_new_pair])
def test_every_spelling_of_weight_norm_folds_to_the_same_weights(spell):
    plain = build().state_dict()
    stored: dict[str, Tensor] = {}
    for name, one in plain.items():
        is_conv = name.endswith(".weight")
        stored |= spell(name.removesuffix(".weight"), one) if is_conv else {name: one}
    folded = fold_weight_norm(stored)
    assert folded.keys() == plain.keys() == fold_weight_norm(plain).keys()
    for name, one in plain.items():
        torch.testing.assert_close(folded[name], one)


def test_folding_agrees_with_torch_on_transposed_convolutions():
    layer = weight_norm(torch.nn.ConvTranspose1d(3, 5, 4))
    stored = {f"ups.0.0.{name}": one for name, one in layer.state_dict().items()}
    torch.testing.assert_close(fold_weight_norm(stored)["ups.0.0.weight"], layer.weight.detach())


def test_half_a_weight_norm_pair_is_refused():
    with pytest.raises(ValueError, match=r"conv_pre is incomplete: conv_pre.weight_g is missing"):
        fold_weight_norm({"conv_pre.weight_v": draw(4, 6, 7)})


def test_another_low_pass_filter_is_refused():
    tensors = build().state_dict()
    rounded = {name: one.half() for name, one in tensors.items()}
    assert fold_weight_norm(rounded).keys() == tensors.keys()
    tensors["activation_post.upsample.filter"] = torch.full((1, 1, 12), 1 / 12)
    with pytest.raises(ValueError, match=r"activation_post.upsample.filter is not the 12-tap low-pass"):
        fold_weight_norm(tensors)


@pytest.mark.parametrize(
    "config", [replace(BIGVGAN_16K, width=64), replace(BIGVGAN_44K, width=64, block_kernels=(3, 7, 9))]
)
def test_bigvgan_sizes_are_read_off_the_weights(config: BigVGANConfig):
    with torch.device("meta"):
        assert BigVGANConfig.from_tensors(BigVGAN(config).state_dict()) == config
    assert BigVGANConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernels": (8,)}, "2 rates need as many kernels, got 1"),
        ({"kernels": (7, 4)}, "must exceed rates"),
        ({"width": 6}, "cannot be halved 2 times"),
        ({"final": "relu"}, "'tanh' or 'clamp', got 'relu'"),
        ({"block_kernels": (3,)}, "1 block kernels, 2 dilations"),
    ],
)
def test_an_impossible_bigvgan_is_refused(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        replace(TOY, **change)


def test_vocos_makes_whole_hops_and_refuses_other_mels():
    vocos = Vocos(TOY_VOCOS).requires_grad_(False)
    assert vocos(draw(2, 80, 7)).shape == (2, 7 * 256)
    with pytest.raises(ValueError, match=r"\(batch, 80, frames\), got \(1, 128, 7\)"):
        vocos(draw(1, 128, 7))


def test_vocos_reads_the_magnitude_off_the_mel_before_training():
    mel, vocos = Mel(MEL_16K), Vocos(TOY_VOCOS).requires_grad_(False)
    target = mel(voice())
    start_from_mel(vocos, MEL_16K)
    magnitude = vocos.spectrum(target, vocos.trunk(target), None).abs()
    again = (mel.basis @ magnitude).clamp(min=1e-5).log10()
    assert (again - target).abs().mean() < 0.15


def share_at_harmonics(waveform: Tensor, hertz: float) -> float:
    """Of the energy of one second, what lies within 2 Hz of a multiple of `hertz`."""
    energy = torch.fft.rfft(waveform[0, :16000] * torch.hann_window(16000)).abs().square()
    away = torch.arange(len(energy)) % hertz
    return float(energy[(away <= 2) | (away >= hertz - 2)].sum() / energy.sum())


def test_a_harmonic_source_has_the_pitch_it_is_told():
    voiced = torch.ones(1, 70)
    source = harmonic_source(110 * voiced, voiced, 256, 16000)
    assert source.shape == (1, 70 * 256)
    assert source.std() == pytest.approx(1, abs=0.05)
    assert share_at_harmonics(source, 110) > 0.98
    assert share_at_harmonics(source, 90) < 0.3
    noise = harmonic_source(110 * voiced, 0 * voiced, 256, 16000)
    assert share_at_harmonics(noise, 110) < 0.1
    two = voiced.repeat(2, 1)
    torch.testing.assert_close(harmonic_source(110 * two, 0 * two, 256, 16000)[1:], noise)


def test_vocos_speaks_at_the_pitch_of_its_source():
    """Before any training, of an even mel: the phases alone make the pitch."""
    mel, vocos = (
        torch.full((1, 80, 70), -1.0),
        Vocos(replace(TOY_VOCOS, sample_rate=16000)).requires_grad_(False),
    )
    start_from_mel(vocos, MEL_16K)
    tokens, voiced = vocos.trunk(mel), torch.full((1, 70), 9.0)
    for hertz in (100.0, 130.0):
        spoken = vocos.render(mel, tokens, Track(torch.full((1, 70), hertz), voiced))
        assert share_at_harmonics(spoken, hertz) > 0.4
        assert share_at_harmonics(spoken, 113) < 0.2
    found = vocos.track(tokens).hertz
    assert 60 <= found.min() <= found.max() <= 480
    assert vocos(mel).shape == (1, 70 * 256)


def test_vocos_tiny_is_small():
    with torch.device("meta"):
        count = sum(one.numel() for one in Vocos(VOCOS_TINY).parameters())
    assert 2.0e6 < count < 2.8e6


def test_griffin_lim_is_deterministic_and_its_mel_is_close():
    mel, griffin_lim = Mel(MEL_16K), GriffinLim(MEL_16K)
    target = mel(voice())
    waveform = griffin_lim(target)
    assert waveform.shape == (1, target.shape[2] * 256)
    assert torch.equal(waveform, griffin_lim(target))
    assert (mel(waveform) - target).abs().mean() < 0.15


def test_more_iterations_bring_griffin_lim_closer():
    mel = Mel(MEL_16K)
    target = mel(voice())
    few, many = (GriffinLim(MEL_16K, n)(target) for n in (1, 32))
    assert (mel(many) - target).abs().mean() < 0.7 * (mel(few) - target).abs().mean()


def test_griffin_lim_items_of_a_batch_do_not_mix():
    griffin_lim, mels = GriffinLim(MEL_16K, 4), draw(2, 80, 6) * 0.3 - 2
    torch.testing.assert_close(griffin_lim(mels)[1:], griffin_lim(mels[1:]), atol=1e-4, rtol=1e-3)


def test_magnitudes_from_a_mel_are_positive_and_have_that_mel():
    mel = Mel(MEL_16K)
    target = mel(voice())
    magnitude = magnitude_from_mel(mel, target)
    assert magnitude.min() >= 0
    again = (mel.basis @ magnitude).clamp(min=1e-5).log10()
    assert (again - target).abs().mean() < 0.04


def test_griffin_lim_refuses_what_it_cannot_invert():
    with pytest.raises(ValueError, match=r"\(batch, 80, 2 or more\), got \(1, 80, 1\)"):
        GriffinLim(MEL_16K)(draw(1, 80, 1))
    with pytest.raises(ValueError, match=r"iterations above 0 .* got 0 and 0\.99"):
        GriffinLim(MEL_16K, 0)
