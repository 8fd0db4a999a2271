"""How training runs blocks computes what the model computes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch

from unitalk_core.av import AV
from unitalk_core.config import OVI_720, TINY, ModelConfig
from unitalk_core.models.attention import QKV, bands_within, sdpa
from unitalk_core.models.coupling import Joint
from unitalk_core.models.mmdit import JointDiT, initialise
from unitalk_core.training.hooks import attend, plain_attention, training_hooks

SMALL = {"width": 48, "heads": 2, "depth": 2, "ffn_width": 64, "text_dim": 32, "text_len": 16}


@pytest.mark.parametrize("couple", [*product([True, False], repeat=2)])
@pytest.mark.parametrize("window", [None, 0.2])
def test_one_masked_attention_is_what_the_model_computes(couple, window):
    generator = torch.Generator().manual_seed(0)
    qkv = AV(8, 9).map(lambda n: QKV(*(torch.randn(2, 2, n, 4, generator=generator) for _ in range(3))))
    bands = None if window is None else bands_within(torch.arange(2.0), torch.arange(9) * 0.2, 4, window)
    meeting = Joint(couple, bands, plain_attention)
    masked, own = attend(meeting, qkv), meeting.attend(qkv)
    torch.testing.assert_close(masked.video, own.video)
    torch.testing.assert_close(masked.audio, own.audio)


@pytest.mark.parametrize(
    "config", [TINY, replace(TINY, couple_window=None), OVI_720], ids=["window", "full", "fusion"]
)
def test_a_model_gives_the_same_with_the_hooks_of_training(config: ModelConfig):
    config = replace(config, streams=config.streams.map(lambda stream: replace(stream, **SMALL)))
    model = JointDiT(config)
    initialise(model, 0)
    for stream in model.streams.present():
        torch.nn.init.normal_(stream.head.head.weight, std=0.1)
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator)
    channels = config.streams.map(lambda stream: stream.in_channels)
    latent = AV(draw(2, channels.video, 2, 4, 4), draw(2, channels.audio, 9))
    given = AV(torch.tensor([500.0, 100.0]), torch.tensor([500.0, 100.0])), AV(*[draw(2, 16, 32)] * 2)
    plain = model(latent, *given, couple=(False, True))
    ours = model(latent, *given, couple=(False, True), hooks=training_hooks(False, plain_attention))
    torch.testing.assert_close(ours.video, plain.video, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.audio, plain.audio, rtol=1e-4, atol=1e-5)


def test_attention_written_out_equals_sdpa():
    q, k, v = (torch.randn(2, 3, n, 8) for n in (5, 7, 7))
    mask = torch.rand(2, 1, 1, 7) > 0.3
    torch.testing.assert_close(plain_attention(q, k, v, mask), sdpa(q, k, v, mask))
