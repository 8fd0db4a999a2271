"""From words to a clip: what is asked for is made, the same each time, or refused in one sentence."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from unitalk_core.av import AV, Clip
from unitalk_core.config import TINY
from unitalk_core.diffusion.guidance import Guidance, Term, Without
from unitalk_core.media import fill
from unitalk_core.pipeline import Request, Trace, check_request, generate, generate_stream, load_bundle
from unitalk_core.request import Voice, seconds_for

ASK = Request(say="good morning", seconds=0.36, steps=2)  # 9 frames


def latents(bundle, request: Request) -> AV:
    trace = Trace()
    generate(bundle, request, trace=trace)
    return trace.latents


def test_a_clip_has_the_size_that_was_asked_for(tiny_bundle):
    trace = Trace()
    clip = generate(tiny_bundle, replace(ASK, width=96, height=64), trace=trace)
    assert clip.frames.shape == (9, 64, 96, 3)
    assert clip.fps == Fraction(25)
    assert clip.frames.min() >= 0 and clip.frames.max() <= 1
    assert clip.waveform.abs().max() <= 1
    assert abs(clip.waveform.shape[1] / clip.sample_rate - 9 / 25) <= 1 / 25
    assert list(trace.seconds) == ["text", "sample", "audio", "video"]
    assert trace.latents.video.shape == (1, 48, 3, 4, 6)


@pytest.mark.parametrize("given", ["nothing", "a picture", "a sound", "an older clip"])
def test_a_clip_in_parts_is_the_clip_and_its_picture_is_decoded_when_it_is_asked_for(tiny_bundle, given):
    class Counted:
        parameters = tiny_bundle.video_vae.parameters

        def decode_chunks(self, latent):
            for part in tiny_bundle.video_vae.decode_chunks(latent):
                decoded.append(part.shape[2])
                yield part

        encode = tiny_bundle.video_vae.encode

    kept = {
        "nothing": {},
        "a picture": {"seconds": None, "keep_video": torch.rand(9, 64, 64, 3)},
        "a sound": {"seconds": None, "keep_audio": torch.rand(5000) - 0.5},
        "an older clip": {
            "continued": Clip(torch.rand(13, 64, 64, 3), torch.rand(1, 8192), Fraction(25), 16000)
        },
    }
    request, decoded = replace(ASK, **kept[given]), []
    whole = generate(tiny_bundle, request)
    stream = generate_stream(replace(tiny_bundle, video_vae=Counted()), request)
    assert not decoded and stream.outline.frames.shape == whole.frames.shape
    parts = [part.clone() for part in stream.parts]
    assert torch.equal(torch.cat(parts), whole.frames)
    assert torch.equal(stream.outline.waveform, whole.waveform)
    assert not decoded if given == "a picture" else decoded[:2] == [1, 4]


def test_the_same_seed_makes_the_same_bytes(tiny_bundle):
    one, again, other = (latents(tiny_bundle, replace(ASK, seed=seed)) for seed in (3, 3, 4))
    for a, b, c in zip(one.present(), again.present(), other.present(), strict=True):
        assert a.numpy().tobytes() == b.numpy().tobytes()
        assert not torch.equal(a, c)


def test_the_second_seed_changes_the_noise_of_the_sound_alone(tiny_bundle):
    apart = replace(ASK, seed=3, couple=(False, False))
    one, two = latents(tiny_bundle, apart), latents(tiny_bundle, replace(apart, audio_seed=4))
    assert torch.equal(one.video, two.video)
    assert not torch.equal(one.audio, two.audio)


def test_the_voice_does_not_change_with_the_size_of_the_picture(tiny_bundle):
    apart = replace(ASK, couple=(False, False))
    small, wide = latents(tiny_bundle, apart), latents(tiny_bundle, replace(apart, width=96))
    torch.testing.assert_close(small.audio, wide.audio)


@pytest.mark.parametrize("change", [{"say": "good evening"}, {"audio_cfg": 5.0}, {"sampler": "heun"}])
def test_what_is_asked_for_is_heard(tiny_bundle, change):
    assert not torch.allclose(
        latents(tiny_bundle, ASK).audio, latents(tiny_bundle, replace(ASK, **change)).audio
    )


def test_each_stream_is_led_away_from_its_own_text(tiny_bundle):
    apart = replace(ASK, couple=(False, False))
    plain = latents(tiny_bundle, apart)
    for name, stays, changes in (("scene", "audio", "video"), ("sound", "video", "audio")):
        led = latents(tiny_bundle, replace(apart, **{f"negative_{name}": "a bald man"}))
        torch.testing.assert_close(getattr(led, stays), getattr(plain, stays))
        assert not torch.allclose(getattr(led, changes), getattr(plain, changes), atol=1e-4)


def test_a_weight_takes_no_time_and_is_heard(tiny_bundle):
    assert seconds_for("good (morning:1.4)", 4.84) == seconds_for("good morning", 4.84)
    weighted = latents(tiny_bundle, replace(ASK, say="good (morning:1.4)"))
    assert not torch.allclose(latents(tiny_bundle, ASK).audio, weighted.audio)


@pytest.fixture
def listening(tiny_bundle):
    """In the embedded model the reference's values start at zero; here they are given some weight."""
    blocks = tiny_bundle.model.audio_model.blocks
    saved = [block.cross_attn.v_ref.weight.detach().clone() for block in blocks]
    for block in blocks:
        torch.nn.init.normal_(block.cross_attn.v_ref.weight, std=0.1)
    yield tiny_bundle
    for block, weight in zip(blocks, saved, strict=True):
        block.cross_attn.v_ref.weight.data.copy_(weight)


VOICE, OTHER = torch.sin(torch.arange(32000) / 20), torch.sin(torch.arange(16000) / 7)


def test_a_voice_changes_the_sound(listening):
    plain, spoken = latents(listening, ASK), latents(listening, replace(ASK, voice=VOICE))
    assert not torch.allclose(plain.audio, spoken.audio)
    long = replace(ASK, voice=VOICE.repeat(5))  # longer than the model hears
    assert latents(listening, long).audio.isfinite().all()


def test_a_voice_with_all_the_seconds_is_the_voice_of_the_clip_bit_for_bit(listening):
    plain = latents(listening, replace(ASK, voice=VOICE))
    timed = latents(listening, replace(ASK, voices=(Voice(VOICE, (0.0, None)),)))
    assert torch.equal(plain.audio, timed.audio) and torch.equal(plain.video, timed.video)


def test_two_voices_are_neither_alone(listening):
    both = replace(ASK, voice=VOICE, voices=(Voice(OTHER, (0.2, None)),))
    alone = [latents(listening, replace(ASK, voice=voice)).audio for voice in (VOICE, OTHER)]
    together = latents(listening, both).audio
    assert not any(torch.allclose(together, one) for one in alone)
    assert torch.equal(together, latents(listening, both).audio)


def test_an_image_is_the_first_frame(tiny_bundle):
    image = torch.rand(100, 200, 3)
    made = latents(tiny_bundle, replace(ASK, image=image))
    pixels = fill(image, 64, 64) * 2 - 1
    with torch.no_grad():
        first = tiny_bundle.video_vae.encode(pixels[:, :, None])
    torch.testing.assert_close(made.video[:, :, :1], first)
    free = latents(tiny_bundle, ASK)
    assert not torch.allclose(made.video[:, :, 1:], free.video[:, :, 1:])


def test_images_fill_the_clip_and_are_cut_evenly():
    image = torch.zeros(10, 30, 3)
    image[:, 10:20] = 1.0
    assert fill(image, 64, 64).shape == (1, 3, 64, 64)
    assert fill(image, 64, 64)[..., 4:-4].min() > 0.9
    assert fill(image, 96, 32).shape == (1, 3, 32, 96)


def test_each_step_is_reported_and_may_end_the_run(tiny_bundle):
    class StopError(Exception):
        pass

    seen = []

    def on_step(i, denoised):
        seen.append((i, denoised.video.shape))
        if i == 1:
            raise StopError

    with pytest.raises(StopError):
        generate(tiny_bundle, replace(ASK, steps=5), on_step)
    assert seen == [(0, (1, 48, 3, 4, 4)), (1, (1, 48, 3, 4, 4))]


BAD = {
    "no prompt": ({"say": " "}, "no prompt"),
    "no time": ({"seconds": 0.0}, "seconds must be above 0"),
    "too long": ({"seconds": 1000.0}, "at most 4.84"),
    "no number": ({"seconds": float("nan")}, "seconds"),
    "odd size": ({"width": 63}, "multiples of 32"),
    "huge size": ({"width": 32000}, "at most 2048"),
    "no steps": ({"steps": 0}, "steps must be"),
    "unknown sampler": ({"sampler": "magic"}, "must be one of unipc"),
    "strange strength": ({"audio_cfg": float("inf")}, "audio_cfg"),
    "negative seed": ({"audio_seed": -1}, "seed must be"),
    "short voice": ({"voice": torch.zeros(100)}, "at least 0.5 s"),
    "a short second voice": ({"voices": (Voice(torch.zeros(100), (0.0, None)),)}, "at least 0.5 s"),
    "a voice behind the end": ({"voices": (Voice(OTHER, (0.5, None)),)}, "ends before the voice of 0.5 s"),
    "two voices at once": (
        {"voices": (Voice(OTHER, (0.0, 0.2)), Voice(VOICE, (0.1, None)))},
        "voices of 0-0.2 s and 0.1 s to the end meet",
    ),
    "flat image": ({"image": torch.zeros(64, 64)}, "must be \\(height, width, 3\\)"),
    "too many words": ({"say": "incomprehensible " * 9, "seconds": None}, "words take about"),
    "no English": ({"say": "привет", "seconds": None}, "nothing"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_made_is_one_sentence_before_work(name):
    change, words = BAD[name]
    with pytest.raises(ValueError, match=words) as caught:
        check_request(TINY, replace(ASK, **change))
    assert "\n" not in str(caught.value)


def test_sound_alone_takes_no_image_and_no_reference_no_voice():
    silent = replace(TINY, streams=AV(TINY.streams.video, None))
    deaf = replace(TINY, streams=AV(None, TINY.streams.audio))
    with pytest.raises(ValueError, match="does not take a voice"):
        check_request(silent, replace(ASK, voice=torch.zeros(16000)))
    with pytest.raises(ValueError, match="sound only"):
        check_request(deaf, replace(ASK, image=torch.zeros(64, 64, 3)))


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_not_a_number_is_one_sentence_that_names_the_stream(tiny_bundle, stream):
    class Broken(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, *given, **options):
            velocity = self.model(*given, **options)
            return replace(velocity, **{stream: getattr(velocity, stream) * torch.nan})

    with pytest.raises(ValueError, match=f"the {stream} latent holds .* in step 1 of 2"):
        generate(replace(tiny_bundle, model=Broken(tiny_bundle.model)), ASK)


def test_longer_words_take_longer_clips():
    short, long = (seconds_for(text, 4.84) for text in ("hello", "hello, my good old friend"))
    assert 0.5 < short < long < 4.84
    assert check_request(TINY, Request(say="hello")) % 4 == 1


def test_only_known_models_load(embedded):
    with pytest.raises(FileNotFoundError, match="there is no model huge"):
        load_bundle("huge")
    with pytest.raises(ValueError, match=r"holds .*; a clip needs"):
        load_bundle(str(embedded / "vocoder.safetensors"))


def test_a_saved_model_makes_the_clips_that_it_made_before(tiny_bundle, embedded, monkeypatch):
    monkeypatch.setenv("UNITALK_EMBEDDED", str(embedded))
    loaded = load_bundle("tiny")
    one, two = latents(tiny_bundle, ASK), latents(loaded, ASK)
    assert torch.nn.functional.cosine_similarity(one.audio.flatten(), two.audio.flatten(), 0) > 0.99  # int8
    assert loaded.config == TINY


def test_words_that_the_model_does_not_know_are_named(tiny_bundle, caplog):
    tiny_bundle.text_encoder.tokenize(["a woman with a purple dragon <S>hello<E> a low roaring voice"])
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["dragon", "roaring"]


def test_a_kept_picture_comes_back_untouched_and_sets_the_length(tiny_bundle):
    frames = torch.rand(9, 40, 50, 3)
    clip = generate(tiny_bundle, replace(ASK, seconds=None, keep_video=frames))
    assert torch.equal(clip.frames, frames)
    assert abs(clip.waveform.shape[-1] / clip.sample_rate - 9 / 25) <= 1 / 25


def test_a_kept_sound_comes_back_bit_by_bit_with_silence_to_the_end_of_the_picture(tiny_bundle):
    sound = 0.1 * torch.randn(5000)
    clip = generate(tiny_bundle, replace(ASK, seconds=None, keep_audio=sound))
    assert torch.equal(clip.waveform[0, :5000], sound)
    assert not clip.waveform[0, 5000:].any()
    assert len(clip.frames) == 9  # the fewest of 4n+1 that hold 312.5 ms


def test_what_is_kept_is_encoded_and_does_not_change(tiny_bundle):
    frames, sound = torch.rand(9, 64, 64, 3), 0.1 * torch.randn(9 * 640)
    trace = Trace()
    generate(tiny_bundle, replace(ASK, seconds=None, keep_video=frames), trace=trace)
    pixels = frames.permute(3, 0, 1, 2)[None] * 2 - 1
    torch.testing.assert_close(
        trace.latents.video, tiny_bundle.video_vae.encode(pixels), rtol=1e-3, atol=1e-3
    )
    generate(tiny_bundle, replace(ASK, seconds=None, keep_audio=sound), trace=trace)
    stride = tiny_bundle.audio_codec.stride
    whole = sound[None, : len(sound) // stride * stride]
    torch.testing.assert_close(trace.latents.audio, tiny_bundle.audio_codec.encode(whole))


def test_what_is_kept_whole_does_not_look_at_what_is_made(tiny_bundle):
    told, unguided = [], Guidance((Term(Without(coupling=True), AV(1.0, 1.0)),))

    class Watched(torch.nn.Module):
        def forward(self, *given, couple, **options):
            told.append(couple)
            return tiny_bundle.model(*given, couple=couple, **options)

    watched, plain = (
        replace(tiny_bundle, model=Watched()),
        replace(ASK, seconds=None, steps=1, audio_cfg=1, video_cfg=1),
    )
    watched.model.anchor = torch.nn.Parameter(torch.zeros(1))
    for given in (
        {"keep_video": torch.zeros(5, 64, 64, 3), "guide": unguided},
        {"keep_audio": torch.zeros(3200)},
        {"seconds": 0.2},
    ):
        generate(watched, replace(plain, **given))
    assert told == [(False, True), (True, False), (True, True)]


def test_a_last_image_is_what_the_clip_comes_to_rest_at(tiny_bundle):
    first, last = torch.rand(64, 64, 3), torch.rand(100, 50, 3)
    made = latents(tiny_bundle, replace(ASK, image=first, last_image=last)).video
    still = fill(last, 64, 64)[:, :, None].expand(1, 3, 5, 64, 64) * 2 - 1
    with torch.no_grad():
        end = tiny_bundle.video_vae.encode(still)[:, :, -1]
    torch.testing.assert_close(made[:, :, -1], end, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        made[:, :, 0], latents(tiny_bundle, replace(ASK, image=first)).video[:, :, 0], rtol=0, atol=0
    )


def test_sound_alone_has_no_picture(tiny_bundle):
    clip = generate(tiny_bundle, replace(ASK, picture=False))
    assert clip.frames is None
    assert torch.isfinite(clip.waveform).all()


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"seconds": 1.0, "keep_video": torch.zeros(5, 64, 64, 3)}, "keep_video and seconds each set"),
        ({"seconds": 1.0, "keep_audio": torch.zeros(3200)}, "keep_audio and seconds each set the length"),
        ({"keep_video": torch.zeros(6, 64, 64, 3)}, r"frames must be 4n\+1, got 6"),
        ({"keep_video": torch.zeros(5, 64, 64)}, "keep_video must be"),
        ({"keep_audio": torch.zeros(16000 * 6)}, "frames must be at most 121"),
        ({"keep_audio": torch.zeros(0)}, "keep_audio must be"),
        ({"keep_audio": torch.zeros(3200), "picture": False}, "keep_audio needs a model and"),
        ({"image": torch.zeros(64, 64, 3), "picture": False}, "image needs a model and a clip"),
        ({"last_image": torch.zeros(64, 64, 3), "seconds": 0.04}, "a clip of one frame has no end"),
        ({"last_image": torch.zeros(64, 64)}, "an image must be"),
        (
            {"keep_video": torch.zeros(5, 64, 64, 3), "image": torch.zeros(64, 64, 3)},
            "keep_video is the whole picture already",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_before_work(tiny_bundle, asked, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_request(tiny_bundle.config, replace(ASK, **{"seconds": None} | asked))
