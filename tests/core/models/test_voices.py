"""Two voices in one clip: each is heard in its own seconds alone, and one alone is what it was before."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.core.models.test_mmdit import SMALL, inputs, randomised
from unitalk_core.av import AV
from unitalk_core.models.attention import sdpa
from unitalk_core.models.mmdit import Hooks
from unitalk_core.models.voices import Voices, check_spans

RATE = SMALL.format.video_rate
AUDIO_RATE = SMALL.format.audio_rate
BLOCK = replace(SMALL, streams=SMALL.streams.map(lambda stream: replace(stream, depth=1)))
STEPS = 14  # of sound, 0.448 s


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def voice(seed: int, length: int = 6) -> torch.Tensor:
    return torch.randn(2, length, 20, generator=torch.Generator().manual_seed(seed))


def velocity(reference, config=BLOCK, hooks: Hooks | None = None) -> AV:
    latent, timestep, context, _ = inputs(latents=STEPS)
    both = None if reference is None else AV(reference, reference)
    return randomised(config)(latent, timestep, context, both, hooks=hooks or Hooks())


def spoken(*parts: tuple[torch.Tensor, tuple[float, float | None] | None]) -> Voices:
    latents, spans = zip(*parts, strict=True)
    return Voices.at_seconds(latents, spans, RATE)


def steps(start: float, end: float) -> list[int]:
    return [i for i in range(STEPS) if start <= i / AUDIO_RATE < end]


def test_a_voice_is_heard_by_the_sound_of_its_seconds_alone():
    one, two, three = voice(1), voice(2), voice(3, length=4)
    heard = velocity(spoken((one, (0, 0.2)), (two, (0.2, None)))).audio
    other = velocity(spoken((one, (0, 0.2)), (three, (0.2, None)))).audio
    inside, outside = steps(0.2, 1), steps(0, 0.2)
    assert torch.equal(heard[..., outside], other[..., outside])
    assert not torch.isclose(heard[..., inside], other[..., inside]).all(1).any()


def test_in_its_seconds_a_voice_is_what_it_is_alone():
    one, two = voice(1), voice(2)
    both = velocity(spoken((one, (0, 0.2)), (two, (0.2, None)))).audio
    for alone, part in ((one, steps(0, 0.2)), (two, steps(0.2, 1))):
        torch.testing.assert_close(both[..., part], velocity(alone).audio[..., part])


@pytest.mark.parametrize("span", [None, (0.0, None), (0.0, 60.0)])
def test_one_voice_throughout_is_the_plain_reference_bit_for_bit(span):
    one = voice(1)
    for config in (BLOCK, SMALL):
        plain, timed = velocity(one, config), velocity(spoken((one, span)), config)
        assert torch.equal(plain.audio, timed.audio) and torch.equal(plain.video, timed.video)


def test_without_a_voice_of_its_own_a_second_has_the_null_voice_or_the_one_for_the_rest():
    one, two = voice(1), voice(2)
    gap = velocity(spoken((one, (0.1, 0.2)))).audio
    rest = velocity(spoken((two, None), (one, (0.1, 0.2)))).audio
    outside = [*steps(0, 0.1), *steps(0.2, 1)]
    torch.testing.assert_close(gap[..., outside], velocity(None).audio[..., outside])
    torch.testing.assert_close(rest[..., outside], velocity(two).audio[..., outside])
    torch.testing.assert_close(rest[..., steps(0.1, 0.2)], gap[..., steps(0.1, 0.2)])


def test_the_picture_hears_them_too_in_its_frames():
    one, two, three = voice(1), voice(2), voice(3)
    split = 2 / RATE  # the third latent frame
    heard = velocity(spoken((one, (0, split)), (two, (split, None)))).video
    other = velocity(spoken((one, (0, split)), (three, (split, None)))).video
    assert torch.equal(heard[:, :, :2], other[:, :, :2])
    assert not torch.allclose(heard[:, :, 2], other[:, :, 2])


def test_no_attention_over_voices_is_larger_than_its_runs_and_none_has_a_mask():
    seen = []

    def watched(q, k, v, mask=None):
        seen.append((q.shape[2], k.shape[2], mask))
        return sdpa(q, k, v, mask)

    velocity(spoken((voice(1), (0, 0.2)), (voice(2), (0.2, None))), hooks=Hooks(attention=watched))
    lengths = BLOCK.streams.map(lambda stream: stream.reference_len).present()
    runs = [(tokens, keys) for tokens, keys, _ in seen if keys in lengths]
    assert runs == [(8, lengths[0]), (4, lengths[0]), (7, lengths[1]), (7, lengths[1])]
    assert all(mask is None for _, _, mask in seen)


@pytest.mark.parametrize(
    ("spans", "sentence"),
    [
        ([(1.0, 1.0)], "to a later one, got 1-1 s"),
        ([(-1.0, 1.0)], "to a later one, got -1-1 s"),
        ([(math.nan, None)], "to a later one, got nan s to the end"),
        ([(0.0, math.nan)], "to a later one"),
        ([(2.5, None)], "the clip of 2.40 s ends before the voice of 2.5 s to the end begins"),
        ([(1.0, 2.0), (0.0, 1.5)], "the voices of 0-1.5 s and 1-2 s meet"),
        ([(0.0, None), (1.0, 2.0)], "the voices of 0 s to the end and 1-2 s meet"),
    ],
)
def test_seconds_that_cannot_be_are_named(spans, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_spans(spans, 2.4)


def test_seconds_that_touch_are_fine():
    check_spans([(1.0, None), (0.0, 1.0)], 2.4)
