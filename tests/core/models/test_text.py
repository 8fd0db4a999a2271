"""A text is read once in a run, and that changes nothing but the time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.core.models.test_mmdit import inputs, randomised
from unitalk_core.av import AV
from unitalk_core.models.mmdit import JointDiT
from unitalk_core.models.text import MOST_TEXTS, ReadingOnce, Texts


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def counted(layer: nn.Module) -> list[int]:
    calls: list[int] = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    return calls


def layers_of_text(model: JointDiT) -> list[nn.Module]:
    streams = model.streams.present()
    return [
        *(stream.text_embedding for stream in streams),
        *(layer for one in streams for b in one.blocks for layer in (b.cross_attn.k, b.cross_attn.v)),
    ]


def test_a_run_reads_each_text_once_and_makes_the_same_bit_for_bit():
    model, (latent, timestep, context, reference) = randomised(), inputs()
    calls = [counted(layer) for layer in layers_of_text(model)]
    run, other = ReadingOnce(model), context.map(lambda one: 2 * one)
    made = [
        run(latent, timestep.map(lambda t, s=step: t / s), text, reference)
        for step in (1, 2)
        for text in (context, other, context.map(torch.clone))
    ]
    assert {len(one) for one in calls} == {2}
    plain = [
        model(latent, timestep.map(lambda t, s=step: t / s), text, reference)
        for step in (1, 2)
        for text in (context, other, context)
    ]
    for one, expected in zip(made, plain, strict=True):
        one.map(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0), expected)


def test_another_run_reads_with_the_weights_of_then():
    model, (latent, timestep, context, reference) = randomised(), inputs()
    ReadingOnce(model)(latent, timestep, context, reference)
    for layer in layers_of_text(model):
        for parameter in layer.parameters():
            parameter.mul_(0.5)
    again = ReadingOnce(model)(latent, timestep, context, reference)
    again.map(torch.testing.assert_close, model(latent, timestep, context, reference))


def test_a_long_clip_keeps_nothing_of_its_text():
    model, (_, timestep, context, reference) = randomised(), inputs(batch=1)
    run = ReadingOnce(model)
    run(AV(torch.randn(1, 48, 40, 4, 4), torch.randn(1, 20, 12)), timestep, context, reference)
    kept = {layer for text in run.texts.seen for layer in text.kept.made}
    assert model.audio_model in kept
    assert model.video_model not in kept


def test_texts_that_change_with_every_step_do_not_pile_up():
    run = Texts()
    for step in range(3 * MOST_TEXTS):
        run(torch.full((1, 2, 3), float(step)))
    assert len(run.seen) == MOST_TEXTS
