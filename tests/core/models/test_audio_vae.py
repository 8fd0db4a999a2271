"""The mel VAE at toy size: lengths, folding, latent statistics."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unitalk_core.models.audio_vae import (
    AUDIO_VAE_TINY,
    AudioVAE,
    AudioVAEConfig,
    fold,
    is_folded,
    mp_silu,
    mp_sum,
    pixel_norm,
    project_weights,
)

TOY = AudioVAEConfig(mels=8, latent_channels=3, width=4)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def build(config: AudioVAEConfig = TOY) -> AudioVAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AudioVAE(config).eval()
    project_weights(vae)
    return vae.requires_grad_(False)


@pytest.mark.parametrize("down", [(), (0,), (0, 1)])
def test_the_encoder_divides_time_and_the_decoder_multiplies_it(down: tuple[int, ...]):
    vae = build(replace(TOY, down=down))
    stride = 2 ** len(down)
    assert vae.config.stride == stride
    latent = vae.encode(draw(2, 8, 16))
    assert latent.shape == (2, 3, 16 // stride)
    assert vae.decode(latent).shape == (2, 8, 16)


def test_an_odd_last_frame_is_dropped_by_the_encoder():
    vae, mel = build(), draw(1, 8, 13)
    assert vae.encode(mel).shape == (1, 3, 6)


def test_mels_and_latents_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"a mel must be \(batch, 8, 2 or more\), got \(1, 8, 1\)"):
        build().encode(draw(1, 8, 1))
    with pytest.raises(ValueError, match=r"a mel must be .* got \(1, 9, 4\)"):
        build().encode(draw(1, 9, 4))
    with pytest.raises(ValueError, match=r"an audio latent must be \(batch, 3, n\), got \(1, 4, 4\)"):
        build().decode(draw(1, 4, 4))


def test_latent_statistics_standardise_and_are_undone():
    vae, mel = build(), draw(1, 8, 12)
    raw, decoded = vae.encode(mel), vae.decode(vae.encode(mel))
    vae.config = replace(TOY, latent_mean=(1.0, 2.0, 3.0), latent_std=(0.5, 1.0, 2.0))
    mean, std = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0.5], [1.0], [2.0]])
    torch.testing.assert_close(vae.encode(mel), (raw - mean) / std)
    torch.testing.assert_close(vae.posterior(mel)[0], raw)
    torch.testing.assert_close(vae.decode(vae.encode(mel)), decoded)


def test_mel_statistics_belong_to_the_weights():
    vae, mel = build(), draw(1, 8, 12)
    other = build()
    other.data_mean.fill_(2.0)
    other.data_std.fill_(3.0)
    torch.testing.assert_close(other.encode(mel * 3 + 2), vae.encode(mel), atol=1e-5, rtol=0)
    torch.testing.assert_close(other.decode(draw(1, 3, 4)), vae.decode(draw(1, 3, 4)) * 3 + 2)


def test_folding_brings_every_row_to_norm_one_whatever_its_scale():
    raw = {name: 5 * one if one.dim() == 3 else one for name, one in build().state_dict().items()}
    assert not is_folded(raw)
    folded = fold(raw)
    assert is_folded(folded)
    for name, one in folded.items():
        if name.endswith(".weight"):
            norms = one.flatten(1).norm(dim=1)
            torch.testing.assert_close(norms, torch.ones_like(norms), atol=2e-3, rtol=0)
    assert torch.equal(folded["data_std"], raw["data_std"])


def test_folding_twice_is_refused():
    with pytest.raises(ValueError, match="folded already"):
        fold(build().state_dict())


def test_folded_weights_are_known_after_rounding_to_half_precision():
    assert is_folded({name: one.bfloat16() for name, one in build().state_dict().items()})


def test_projection_leaves_the_output_layers_free():
    vae = AudioVAE(TOY).requires_grad_(False)
    vae.encoder.conv_out.weight.mul_(7)
    before = vae.encoder.conv_out.weight.clone()
    project_weights(vae)
    assert torch.equal(vae.encoder.conv_out.weight, before)
    norms = vae.encoder.mid.block_1.conv1.weight.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


@pytest.mark.parametrize("config", [TOY, AUDIO_VAE_TINY, replace(TOY, blocks=1, down=(0, 1), kernel=5)])
def test_sizes_are_read_off_the_weights(config: AudioVAEConfig):
    with torch.device("meta"):
        assert AudioVAEConfig.from_tensors(AudioVAE(config).state_dict()) == config


def test_the_configuration_survives_json():
    config = replace(TOY, latent_mean=(0.1, 0.2, 0.3), latent_std=(1.0, 1.0, 1.5))
    assert AudioVAEConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_mean": (1.0,)}, "latent_mean needs 3 values, got 1"),
        ({"down": (2,)}, "must name levels of 0..1"),
    ],
)
def test_an_impossible_configuration_is_refused(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        replace(TOY, **change)


def test_the_building_blocks_keep_unit_magnitude():
    a, b = draw(4, 64, 500), draw(4, 64, 500, seed=1)
    for kept in (mp_silu(a), mp_sum(a, b), pixel_norm(9 * a)):
        assert kept.square().mean().sqrt().item() == pytest.approx(1, abs=0.02)
