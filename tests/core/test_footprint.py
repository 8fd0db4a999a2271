"""How much memory something takes is counted without doing it, and the count is what is there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from unitalk_core.__main__ import main
from unitalk_core.av import AV
from unitalk_core.config import OVI_720, TINY, UNITALK, WAN_VIDEO
from unitalk_core.diffusion.passes import MODES, MOST
from unitalk_core.footprint import LiveBytes, at_once, decode_bytes, step_bytes, transformer_bytes
from unitalk_core.models.video_vae import WAN_VAE
from unitalk_core.request import Request, check_request

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


def test_the_mode_decides_and_on_a_cpu_only_short_passes_are_batched_unasked():
    short, long = AV((1, 48, 7, 4, 4), (1, 20, 31)), AV((1, 48, 31, 44, 44), (1, 20, 217))
    where = torch.device("cpu"), torch.float32
    found = [[at_once(mode, TINY, shape, *where) for mode in MODES] for shape in (short, long)]
    assert found == [[MOST, MOST, 1], [1, MOST, 1]]
    with pytest.raises(ValueError, match="passes must be one of auto, batched, sequential, got two"):
        check_request(TINY, Request(say="hello", passes="two"))


@pytest.mark.parametrize(("free", "passes"), [(1.0, 1), (2.6, 2), (4.0, 3), (99.0, MOST)])
def test_on_a_gpu_as_many_passes_are_batched_as_there_is_room_for(monkeypatch, free, passes):
    """free: in steps with a part of the picture kept, as they are counted."""
    config = replace(UNITALK, streams=UNITALK.streams.map(lambda one: replace(one, **SMALL)))
    shape = config.format.latent_shape(25, 128, 128)
    step = step_bytes(config, shape, torch.bfloat16, kept=True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free * step), 0))
    for name in ("memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda _: 0)
    assert at_once("auto", config, shape, torch.device("cuda"), torch.bfloat16) == passes
