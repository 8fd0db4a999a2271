"""The video codec's trainer: windows, a short run that learns, a decoder that learns alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from unitalk_core.models.video_vae import TINY_VAE, VideoVAE
from unitalk_core.training.loop import Budget
from unitalk_core.training.video_codec import Windows, psnr, refine_decoder, train_video_vae

SMALL = replace(
    TINY_VAE, encoder_width=4, decoder_width=4, latent_channels=8, mean=(0.0,) * 8, std=(1.0,) * 8
)


def windows(shapes=((5, 2),)) -> Windows:
    ramp = torch.linspace(0, 255, 32).to(torch.uint8)
    clip = ramp[None, None, :, None].expand(9, 32, 32, 3).clone()
    return Windows([clip, clip.flip(2)], [(8, 16, 24, 32), (8, 16, 24, 32)], 0, shapes)


def test_windows_have_the_shapes_asked_for_and_weigh_the_mouth():
    pixels, weight = windows(((9, 3),)).draw(mouth=4.0)
    assert pixels.shape == (3, 3, 9, 32, 32)
    assert pixels.min() == -1 and pixels.max() == 1
    assert weight.shape == (3, 1, 1, 32, 32)
    assert weight[0, 0, 0, 20, 10] == 4 and weight[0, 0, 0, 0, 0] == 1


def test_a_window_longer_than_every_clip_gets_a_sentence():
    with pytest.raises(ValueError, match="no clip has the 33 frames"):
        windows(((5, 1), (33, 1)))


def test_a_short_run_learns_and_measures_its_latents():
    made = windows()
    seen: list[float] = []
    budget = Budget(steps=60, learning_rate=5e-3, average=0.9, autocast=False)
    vae = train_video_vae(made, SMALL, budget, on_step=lambda _, parts: seen.append(parts["l1"]))
    assert sum(seen[-10:]) < 0.7 * sum(seen[:10])
    latent = vae.encode(made.draw(1.0)[0])
    assert 0.3 < latent.std() < 3
    assert psnr(vae, [made.frames[0]]) > psnr(VideoVAE(SMALL), [made.frames[0]])


def test_refining_the_decoder_leaves_the_encoder_as_it_was():
    torch.manual_seed(0)
    vae = VideoVAE(SMALL)
    refined = refine_decoder(vae, windows(), Budget(steps=2, autocast=False))
    for name, one in vae.state_dict().items():
        same = torch.equal(one, refined.state_dict()[name])
        assert same is name.startswith(("encoder.", "conv1.")), name
