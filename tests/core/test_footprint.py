"""How much memory something takes is counted without doing it, and the count is what is there."""

from __future__ import annotations

from dataclasses import replace

import torch

from unitalk_core.__main__ import main
from unitalk_core.av import AV
from unitalk_core.config import OVI_720, UNITALK, WAN_VIDEO
from unitalk_core.footprint import LiveBytes, decode_bytes, step_bytes, transformer_bytes
from unitalk_core.models.video_vae import WAN_VAE

SMALL = {"width": 128, "heads": 1, "depth": 3, "ffn_width": 512}


def test_tensors_are_counted_while_they_are_there_and_views_are_not():
    given = torch.empty(1000, device="meta")
    with LiveBytes() as live:
        one = given + 1
        view = one.view(10, 100)[2:]
        assert live.now == live.peak == 4000
        del one
        assert live.now == 4000
        del view
        assert live.now == 0
        torch.empty(10, device="cpu")
        assert (live.now, live.peak) == (0, 4000)


def test_a_step_takes_the_same_on_the_meta_device_and_on_a_cpu():
    config = replace(UNITALK, streams=UNITALK.streams.map(lambda one: replace(one, **SMALL)))
    shape = config.format.latent_shape(25, 128, 128)
    for kept in (False, True):
        counted, there = (
            step_bytes(config, shape, torch.float32, kept, device) for device in ("meta", "cpu")
        )
        assert 0.95 < counted / there < 1.05


def test_a_step_grows_with_the_clip_and_with_the_batch_and_decoding_only_with_the_picture():
    video = AV(replace(WAN_VIDEO, **SMALL), None)
    config = replace(UNITALK, streams=video)
    shapes = (
        config.format.latent_shape(frames, 256, 256, batch) for frames, batch in ((25, 1), (121, 1), (25, 2))
    )
    short, long, both = (step_bytes(config, AV(shape.video, None), torch.bfloat16) for shape in shapes)
    assert 1.5 < long / short < 31 / 7 and 1.5 < both / short <= 2.01
    small = replace(WAN_VAE, decoder_width=16)
    parts = [decode_bytes(small, (64, 64), torch.bfloat16, frames) for frames in (25, 241)]
    assert parts[1] < 1.1 * parts[0] < 0.6 * decode_bytes(small, (128, 64), torch.bfloat16, 25)


def test_full_size_models_take_what_their_parameters_take():
    assert transformer_bytes(OVI_720, torch.bfloat16) == 2 * 11_660_753_108


def test_info_says_what_a_step_takes(embedded, capsys):
    assert main(["info", str(embedded / "model.safetensors")]) == 0
    (line,) = (one for one in capsys.readouterr().out.splitlines() if one.startswith("sampling:"))
    assert "GB more for 4.84 s at 64 x 64 in bf16; together fits into the" in line
