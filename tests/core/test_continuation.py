"""A clip goes on: what was there stays, the new part begins where it ends, what cannot go on is refused."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from unitalk_core.av import AV, Clip
from unitalk_core.config import TINY
from unitalk_core.media import fill
from unitalk_core.pipeline import Request, Trace, check_request, generate, voice_of
from unitalk_core.request import Voice
from unitalk_core.seam import SOUND_FADE, end_of

FADE = round(SOUND_FADE * 16000)
FRAMES = 21  # 0.84 s, of which the model sees 17 frames and 21 audio latents


def clip(frames: int = FRAMES, *, size: int = 64, channels: int = 1, samples: int | None = None) -> Clip:
    """Quiet noise, whose sound has as many whole latents as fit unless told otherwise."""
    dice = torch.Generator().manual_seed(frames)
    count = TINY.format.samples(frames) if samples is None else samples
    sound = 0.1 * torch.randn(channels, count, generator=dice)
    return Clip(torch.rand(frames, size, size, 3, generator=dice), sound, Fraction(25), 16000)


ASK = Request(say="good morning", seconds=0.32, steps=2, continued=clip())  # 8 more frames


def test_the_old_clip_stays_and_the_new_part_is_added(tiny_bundle):
    old, longer = ASK.continued, generate(tiny_bundle, ASK)
    assert longer.frames.shape == (FRAMES + 8, 64, 64, 3)
    assert torch.equal(longer.frames[:FRAMES], old.frames)
    seam = old.waveform.shape[1]
    assert torch.equal(longer.waveform[:, : seam - FADE], old.waveform[:, :-FADE])
    assert not torch.equal(longer.waveform[:, seam - FADE : seam], old.waveform[:, -FADE:])
    assert longer.waveform.shape[1] == TINY.format.samples(FRAMES + 8)
    assert longer.frames.min() >= 0 and longer.frames.max() <= 1
    assert longer.waveform[:, seam:].any()


def test_the_model_gets_the_same_seconds_of_both_streams_and_keeps_them(tiny_bundle):
    trace, old = Trace(), ASK.continued
    generate(tiny_bundle, ASK, trace=trace)
    assert trace.latents.video.shape[2] == 5 + 2 and trace.latents.audio.shape[2] == 31  # of 25 frames
    pixels = old.frames[-17:].permute(3, 0, 1, 2)[None] * 2 - 1
    picture = tiny_bundle.video_vae.encode(pixels)
    sound = tiny_bundle.audio_codec.encode(old.waveform[:, -21 * 512 :])
    torch.testing.assert_close(trace.latents.video[:, :, :5], picture, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(trace.latents.audio[:, :, :21], sound)
    other = Trace()
    generate(tiny_bundle, replace(ASK, say="a good evening"), trace=other)
    assert not torch.equal(trace.latents.audio[:, :, 21:], other.latents.audio[:, :, 21:])


@pytest.mark.parametrize(("overlap", "seen"), [(0.2, 2), (0.4, 3), (0.84, 6), (3.0, 6)])
def test_the_overlap_sets_how_much_of_the_end_is_seen(tiny_bundle, overlap, seen):
    trace = Trace()
    longer = generate(tiny_bundle, replace(ASK, overlap=overlap), trace=trace)
    assert trace.latents.video.shape[2] == seen + 2
    assert len(longer.frames) == FRAMES + 8
    assert torch.equal(longer.frames[:FRAMES], ASK.continued.frames)


def test_the_sound_crosses_over_to_the_seam_without_a_click(tiny_bundle):
    old = replace(ASK.continued, waveform=torch.full((1, TINY.format.samples(FRAMES)), 0.5))
    longer = generate(tiny_bundle, replace(ASK, continued=old)).waveform[0]
    seam = old.waveform.shape[1]
    plain = generate(tiny_bundle, replace(ASK, continued=old, overlap=0.3)).waveform[0]
    for sound in (longer, plain):
        jumps = sound.diff().abs()
        assert jumps[seam - FADE - 1] < 0.1  # into the crossing
        assert jumps[seam - 1] <= jumps[seam:].max()  # out of it


def test_what_the_codec_changes_fades_out_behind_the_seam(tiny_bundle):
    """Noise through random weights is another picture; still the first new frame is near the last old one."""
    frames = generate(tiny_bundle, replace(ASK, seconds=0.6)).frames  # 16 more
    steps = (frames[FRAMES:] - frames[FRAMES - 1]).abs().mean((1, 2, 3))
    assert steps[0] < 0.5 * steps[-1]


def test_a_larger_clip_keeps_its_size_and_its_pixels(tiny_bundle):
    old = clip(size=128)
    longer = generate(tiny_bundle, replace(ASK, continued=old))
    assert longer.frames.shape == (FRAMES + 8, 128, 128, 3)
    assert torch.equal(longer.frames[:FRAMES], old.frames)


def test_a_clip_of_another_shape_is_cut_evenly(tiny_bundle):
    old = replace(ASK.continued, frames=torch.rand(FRAMES, 70, 150, 3))
    longer = generate(tiny_bundle, replace(ASK, continued=old))
    assert longer.frames.shape == (FRAMES + 8, 64, 64, 3)
    torch.testing.assert_close(longer.frames[3], fill(old.frames[3], 64, 64)[0].permute(1, 2, 0))


def test_both_channels_of_a_sound_stay(tiny_bundle):
    old = clip(channels=2)
    longer = generate(tiny_bundle, replace(ASK, continued=old)).waveform
    seam = old.waveform.shape[1]
    assert torch.equal(longer[:, : seam - FADE], old.waveform[:, :-FADE])
    assert torch.equal(longer[0, seam:], longer[1, seam:])


@pytest.mark.parametrize("more", [-640, -100, 0, 500])
@pytest.mark.parametrize("frames", [19, 20, 21])
def test_a_sound_that_ends_near_its_picture_goes_on_beside_it(tiny_bundle, frames, more):
    longer = generate(tiny_bundle, replace(ASK, continued=clip(frames, samples=640 * frames + more)))
    assert len(longer.frames) == frames + 8
    assert abs(longer.waveform.shape[1] / 16000 - len(longer.frames) / 25) <= 1 / 25


def test_a_clip_goes_on_eight_times(tiny_bundle):
    longer = ASK.continued
    for _ in range(8):
        longer = generate(tiny_bundle, replace(ASK, continued=longer))
    assert len(longer.frames) == FRAMES + 8 * 8
    assert longer.waveform.shape[1] == TINY.format.samples(FRAMES + 8 * 8)
    assert torch.equal(longer.frames[:FRAMES], ASK.continued.frames)


def test_the_words_set_how_much_is_added(tiny_bundle):
    short, long = (
        check_request(TINY, replace(ASK, say=say, seconds=None)) for say in ("hello", "hello my old friend")
    )
    assert 17 < short < long <= 121
    assert short % 4 == 1


def test_a_clip_that_ends_quietly_is_quiet_a_little_longer_and_one_that_ends_loudly_is_not():
    form, loud = TINY.format, clip(25)
    quiet = replace(loud, waveform=loud.waveform.clone())
    quiet.waveform[:, -4096:] *= 0.001
    frames, sound = end_of(quiet, 17, form)
    assert torch.equal(frames, quiet.frames[-17:])
    assert len(sound) == form.samples(17) + 4 * form.audio_stride  # 0.128 s
    assert torch.equal(sound[-2048:], sound[-4096:-2048].flip(0))
    assert len(end_of(loud, 17, form)[1]) == form.samples(17)


def test_the_shortest_continuation_still_has_sound_of_its_own(tiny_bundle):
    old = replace(ASK.continued, waveform=torch.zeros_like(ASK.continued.waveform))
    trace = Trace()
    made = generate(tiny_bundle, replace(ASK, continued=old, seconds=0.1), trace=trace)  # 4 frames
    assert len(made.frames) == len(old.frames) + 4
    assert trace.latents.audio[..., -1].abs().max() > 0


def test_its_own_voice_goes_on_unless_another_is_given():
    old, voice = clip(125), torch.rand(16000)
    heard = voice_of(TINY, replace(ASK, continued=old))
    assert torch.equal(heard, old.waveform[0, : 128 * 512])  # as much as the model hears
    assert voice_of(TINY, replace(ASK, voice=voice)) is voice
    assert voice_of(TINY, replace(ASK, continued=clip(9))) is None  # 0.36 s are too few
    silent = replace(old, waveform=torch.zeros_like(old.waveform))
    assert voice_of(TINY, replace(ASK, continued=silent)) is None
    deaf = replace(TINY, streams=AV(TINY.streams.video, replace(TINY.streams.audio, reference="none")))
    assert voice_of(deaf, ASK) is None


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"image": torch.zeros(64, 64, 3)}, "has its own picture and sound; leave out image"),
        (
            {"keep_video": torch.zeros(5, 64, 64, 3), "seconds": None},
            "has its own picture and sound; leave out keep_video",
        ),
        ({"keep_audio": torch.zeros(3200), "seconds": None}, "leave out keep_audio"),
        ({"voices": (Voice(torch.zeros(16000), (0.0, None)),)}, "continued goes on with one voice"),
        ({"picture": False}, "continued needs a model and a clip with picture and sound"),
        ({"continued": replace(clip(), waveform=None)}, "the clip to continue has no sound"),
        ({"continued": replace(clip(), frames=None)}, "the clip to continue has no picture"),
        ({"continued": replace(clip(), fps=Fraction(24))}, "25 fps and 16000 Hz, got 24 fps and 16000 Hz"),
        ({"continued": replace(clip(), sample_rate=8000)}, "got 25 fps and 8000 Hz"),
        ({"continued": clip(4)}, "at least 0.2 s, got 0.16 s"),
        ({"continued": clip(21, samples=16000)}, "the sound is 160 ms longer"),
        ({"overlap": 0.1}, "overlap must be 0.2 to 4 s, got 0.1"),
        ({"overlap": 5.0}, "overlap must be"),
        ({"overlap": float("nan")}, "overlap must be"),
        ({"seconds": 0.0}, "seconds must be above 0 and at most 4.16 behind the 0.68 s"),
        ({"seconds": 4.2}, "at most 4.16 behind the 0.68 s that the model sees of a clip, got 4.2"),
        ({"seconds": float("nan")}, "seconds must be"),
        ({"seconds": None, "say": "incomprehensible " * 4}, "words take about .* at most 4.16 s can be made"),
    ],
)
def test_what_cannot_go_on_is_one_sentence_before_work(asked, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        check_request(TINY, replace(ASK, **asked))
    assert "\n" not in str(caught.value)


def test_a_model_of_one_stream_cannot_continue():
    deaf = replace(TINY, streams=AV(TINY.streams.video, None))
    with pytest.raises(ValueError, match="continued needs a model"):
        check_request(deaf, ASK)
