"""The picture of a preview: frames in a row, and below them the sound in the colours that were meant."""

from __future__ import annotations

import pytest
import torch

from nodes.preview import FRAMES, WIDTH, SoundMap, film_strip, sound_picture
from unitalk_core.weights.loading import EMBEDDED, load_audio_vae

FACTORS, BIAS = torch.randn(48, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.0, -0.2])


def coloured(latent: torch.Tensor) -> torch.Tensor:
    """(1, c, h, w) -> (h, w, 3), as the host does."""
    return latent[0].movedim(0, -1) @ FACTORS + BIAS


def test_frames_stand_in_a_row_and_the_sound_is_grey_below():
    video = torch.arange(9.0)[:, None, None].expand(1, 48, 9, 4, 6)
    sound = torch.rand(80, 30, generator=torch.Generator().manual_seed(1))
    strip = film_strip(video, sound, FACTORS, BIAS)
    assert strip.shape[3] >= WIDTH and strip.shape[3] % FRAMES == 0
    rows, width = strip.shape[2] * 2 // 3, strip.shape[3] // FRAMES
    first, last = strip[0, 0, :rows, :width], strip[0, 0, :rows, -width:]
    torch.testing.assert_close(first, torch.zeros(rows, width))
    torch.testing.assert_close(last, torch.full((rows, width), 8.0))
    below = coloured(strip)[rows:]
    torch.testing.assert_close(below[..., 0], below[..., 2], atol=1e-4, rtol=1e-4)
    assert below.min() > -1.001 and below.max() < 1.001


def test_a_single_frame_and_a_single_latent_are_enough():
    strip = film_strip(torch.zeros(2, 48, 1, 3, 5), torch.ones(20, 1), FACTORS, BIAS)
    assert strip.shape[:2] == (1, 48) and strip.isfinite().all()
    assert sound_picture(torch.zeros(20, 1), None).isfinite().all()


def test_a_linear_codec_is_found_exactly():
    generator = torch.Generator().manual_seed(0)
    weights, offset = torch.randn(160, 20, generator=generator), torch.randn(160, 1, generator=generator)
    latent = torch.randn(2, 20, 300, generator=generator)
    mel = (weights @ latent + offset).unflatten(1, (2, 80)).movedim(1, -1).flatten(2)
    found = SoundMap.fitted(latent, mel)
    torch.testing.assert_close(found(latent[0]), mel[0], atol=0.2, rtol=0.05)


def test_deep_sounds_are_below_and_loud_ones_bright():
    picture = sound_picture(torch.ones(1, 3), SoundMap(torch.tensor([[9.0, 1.0]]), torch.zeros(2), 2))
    assert picture.tolist() == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.skipif(not (EMBEDDED / "audio_vae.safetensors").is_file(), reason="no miniature is shipped here")
def test_the_shipped_audio_vae_is_nearly_linear():
    """Fitted to latents drawn by chance, the map finds the mel of others."""
    vae = load_audio_vae(EMBEDDED / "audio_vae.safetensors")
    draw = torch.Generator().manual_seed(0)
    known, other = (torch.randn(1, vae.config.latent_channels, 256, generator=draw) for _ in range(2))
    with torch.no_grad():
        sound_map, mel = SoundMap.fitted(known, vae.decode(known)), vae.decode(other)[0]
    assert torch.corrcoef(torch.stack([sound_map(other[0]).flatten(), mel.flatten()]))[0, 1] > 0.8
