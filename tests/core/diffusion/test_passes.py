"""Passes of a step in one batch: the numbers of one by one, in fewer calls of the network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from unitalk_core.av import AV
from unitalk_core.config import TINY
from unitalk_core.diffusion.denoiser import Conditioning, Denoiser
from unitalk_core.diffusion.guidance import Guidance, Term, Without, cfg
from unitalk_core.diffusion.passes import MOST, batches
from unitalk_core.models.mmdit import JointDiT, initialise
from unitalk_core.models.voices import Voices
from unitalk_core.pipeline import Trace, generate
from unitalk_core.request import Request

SIZE = {"width": 48, "heads": 2, "depth": 2, "ffn_width": 64, "text_dim": 16, "text_len": 12}
SIGMA = torch.tensor(0.6377)
VOICE = torch.randn(2, 6, 20, generator=torch.Generator().manual_seed(2))
VOICES = Voices((VOICE[:, :4], VOICE.flip(1)), ((0.4, 1.3), None))
TEXT, VOICE_LESS, APART = Without(text=True), Without(voice=True), Without(coupling=True)
IMAGE, SKIPPING = Without(image=True), Without(text=True, blocks=(1,))
CASES = {  # name -> (what is left out, voice of both passes, calls of the network)
    "text": ((TEXT,), None, 1),
    "text with a voice": ((TEXT,), VOICE, 1),
    "text and voice": ((TEXT, VOICE_LESS), VOICE, 1),
    "several voices": ((TEXT, VOICE_LESS), VOICES, 1),
    "a kept picture": ((TEXT, IMAGE), VOICE, 1),
    "apart": ((TEXT, APART), None, 2),
    "skipped blocks": ((SKIPPING, VOICE_LESS), VOICE, 2),
    "everything": ((TEXT, VOICE_LESS, IMAGE, APART, SKIPPING), VOICES, 3),
}


@pytest.fixture(scope="module")
def model() -> JointDiT:
    found = JointDiT(replace(TINY, streams=TINY.streams.map(lambda one: replace(one, **SIZE)))).eval()
    initialise(found, 0)
    generator = torch.Generator().manual_seed(0)
    for parameter in found.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return found


class Counting:
    def __init__(self, model: JointDiT) -> None:
        self.model, self.calls = model, 0

    @torch.no_grad()
    def __call__(self, *args, **kwargs) -> AV:
        self.calls += 1
        return self.model(*args, **kwargs)


def denoiser(model, without, voice, **options) -> Denoiser:
    chance = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=chance)

    heard = None if voice is None else AV(None, voice)
    long, short = draw(2, 9, 16), draw(2, 5, 16)
    mask = AV(torch.ones(1, 1, 3, 1, 1), None)
    mask.video[:, :, 0] = 0
    return Denoiser(
        model,
        Conditioning(AV(long, long.flip(1)), heard),
        Conditioning(AV(short, short.flip(1)), heard),
        Guidance(tuple(Term(one, AV(2.0, 3.0)) for one in without)),
        clean=AV(draw(2, 48, 3, 4, 4), None),
        denoise_mask=mask,
        **options,
    )


@pytest.mark.parametrize("name", CASES)
def test_a_batch_of_passes_gives_their_own_numbers(model, name):
    without, voice, calls = CASES[name]
    generator = torch.Generator().manual_seed(3)
    x = AV(torch.randn(2, 48, 3, 4, 4, generator=generator), torch.randn(2, 20, 13, generator=generator))
    one, many = Counting(model), Counting(model)
    expected = denoiser(one, without, voice)(x, SIGMA)
    found = denoiser(many, without, voice, together=MOST)(x, SIGMA)
    assert (one.calls, many.calls) == (1 + len(without), calls)
    for stream in ("video", "audio"):
        torch.testing.assert_close(getattr(found, stream), getattr(expected, stream), rtol=1e-4, atol=1e-4)


def test_an_absent_stream_stays_absent_in_a_batch(model):
    many = Counting(model)
    text = Conditioning(AV(torch.ones(1, 3, 16), torch.ones(1, 3, 16)))
    found = Denoiser(many, text, text, cfg(AV(2.0, 2.0)), together=2)(AV(None, torch.ones(1, 20, 7)), SIGMA)
    assert found.video is None and found.audio.shape == (1, 20, 7) and many.calls == 1


def test_a_batch_holds_equal_forms_and_no_more_than_there_is_room_for():
    assert batches("abacaa", 8) == [[0, 2, 4, 5], [1], [3]]
    assert batches("abacaa", 3) == [[0, 2, 4], [5], [1], [3]]
    assert batches("aaa", 1) == [[0], [1], [2]]


def test_a_clip_in_batches_is_the_same_and_counts_the_same_passes(tiny_bundle):
    asked, found = Request(say="good morning", seconds=0.2, steps=2), []
    for passes in ("sequential", "batched"):
        trace = Trace()
        generate(tiny_bundle, replace(asked, passes=passes), None, trace)
        found.append(trace)
    assert [one.passes for one in found] == [4, 4]
    for stream in ("video", "audio"):
        one, other = (getattr(trace.latents, stream) for trace in found)
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
