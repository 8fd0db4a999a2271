"""VAEs and vocoders as their authors publish them, in a real ComfyUI."""

from __future__ import annotations

import pytest

PARITY = 1e-5  # relative: gains and directions are multiplied out in float32
HEARD = {"16k": (16000, [2, 20, 9]), "44k": (44100, [2, 40, 9])}


@pytest.mark.parametrize("rate", HEARD)
@pytest.mark.parametrize("form", ["", " in one"])
def test_mmaudio_and_bigvgan_load_in_their_authors_spelling_and_in_comfyuis(measured, rate, form):
    difference, *heard = measured("audio_files")[rate + form]
    assert difference < PARITY
    assert tuple(heard) == HEARD[rate]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("other rate", "bigvgan_generator.pt do not belong together: the audio codec's parts must share the"),
        ("swapped", "best_netG.pt holds no audio vae but BigVGAN"),
        ("half", "weight norm of conv_pre is incomplete: conv_pre.weight_g is missing"),
        ("lacking", "lacking.pth looks like a MMAudio VAE but lacks decoder.mid.attn_1.qkv.weight"),
        ("cut", "cut.pth is cut off or no .pth file"),
    ],
)
def test_what_does_not_fit_is_named(measured, wrong, sentence):
    assert sentence in measured("wrong_audio_files")[wrong]


def test_the_stock_loader_reads_every_name_of_the_authors_wan_vae(measured):
    assert measured("wan_vae_names") == {"same": True, "tensors": 196}
