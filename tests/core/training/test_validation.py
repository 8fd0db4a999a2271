"""Clips along the way: with sound, the same each time, judged, and without a trace in the training."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import nn

from unitalk_core.av import Clip
from unitalk_core.media import read_video, write_clip, write_wav
from unitalk_core.pipeline import Bundle, Request
from unitalk_core.training.config import Validation, ValidationPrompt
from unitalk_core.training.validation import FOLDER, Validator, read_scores, scores, undisturbed, words_heard

RATE = 16000
PROMPTS = [
    ValidationPrompt(say="hello", seconds=0.84, seed=3),
    ValidationPrompt(scene="a woman", seconds=0.84),
]
QUICK = Validation(every=1, steps=2)


class Doubled(nn.Module):
    """Another model than the bundle's, called like it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args, **options):
        return self.inner(*args, **options).map(lambda velocity: 2 * velocity)


def validator(bundle: Bundle, out, prompts=PROMPTS, **options) -> Validator:
    return Validator(bundle, QUICK, prompts, out, (64, 64), **options)


def names(out) -> list[str]:
    return sorted(path.name for path in (out / FOLDER).iterdir())


def test_every_prompt_becomes_a_clip_with_sound_and_a_line_of_scores(tiny_bundle, tmp_path):
    samples = validator(tiny_bundle, tmp_path).make(7, tiny_bundle.model)
    assert names(tmp_path) == ["scores.jsonl", "step-000007-0.mp4", "step-000007-1.mp4"]
    assert read_scores(tmp_path / FOLDER) == samples
    assert [(one.step, one.say) for one in samples] == [(7, "hello"), (7, "")]
    clip = read_video(tmp_path / FOLDER / samples[0].clip)
    assert clip.frames.shape == (21, 256, 256, 3)
    assert clip.waveform.shape[1] > 0.7 * RATE
    assert {"loudness", "silence", "sync_r", "lag"} <= samples[0].scores.keys()


def test_the_same_weights_make_the_same_clip_and_others_another(tiny_bundle, tmp_path):
    made = validator(tiny_bundle, tmp_path)
    first = [one.scores for one in made.make(1, tiny_bundle.model)]
    assert [one.scores for one in made.make(2, tiny_bundle.model)] == first
    assert [one.scores for one in made.make(3, Doubled(tiny_bundle.model))] != first


def test_a_resumed_run_replaces_what_it_makes_again(tiny_bundle, tmp_path):
    for step in (1, 2, 3, 2):
        validator(tiny_bundle, tmp_path, PROMPTS[:1]).make(step, tiny_bundle.model)
    assert [one.step for one in read_scores(tmp_path / FOLDER)] == [1, 2]


def test_the_training_does_not_notice(tiny_bundle, tmp_path):
    tiny_bundle.model.train()
    tiny_bundle.model.video_model.head.eval()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    validator(tiny_bundle, tmp_path, PROMPTS[:1]).make(1, tiny_bundle.model)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert tiny_bundle.model.training
    assert tiny_bundle.model.audio_model.head.training
    assert not tiny_bundle.model.video_model.head.training
    assert all(one.grad is None for one in tiny_bundle.model.parameters())
    tiny_bundle.model.eval()


def test_modes_come_back_after_an_error_too(tiny_bundle):
    tiny_bundle.model.train()
    with pytest.raises(KeyboardInterrupt), undisturbed(tiny_bundle):
        assert not tiny_bundle.model.training
        raise KeyboardInterrupt
    assert tiny_bundle.model.training
    tiny_bundle.model.eval()


def test_an_interrupted_validation_leaves_whole_files_only(tiny_bundle, tmp_path):
    made = validator(tiny_bundle, tmp_path)
    made.make(1, tiny_bundle.model)
    calls = []

    def stop(i, _):
        calls.append(i)
        if len(calls) == 3:  # in the second clip
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.make(2, tiny_bundle.model, stop)
    assert [one.step for one in read_scores(tmp_path / FOLDER)] == [1, 1]
    assert names(tmp_path)[1:] == ["step-000001-0.mp4", "step-000001-1.mp4", "step-000002-0.mp4"]
    read_video(tmp_path / FOLDER / "step-000002-0.mp4")


def test_what_a_killed_process_left_is_removed(tiny_bundle, tmp_path):
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / ".step-000001-0.mp4.abc.part").write_bytes(b"half")
    validator(tiny_bundle, tmp_path)
    assert names(tmp_path) == []


def test_other_processes_make_the_same_and_write_nothing(tiny_bundle, tmp_path):
    one = validator(tiny_bundle, tmp_path / "a", PROMPTS[:1]).make(1, tiny_bundle.model)
    other = validator(tiny_bundle, tmp_path / "b", PROMPTS[:1], main=False).make(1, tiny_bundle.model)
    assert one == other
    assert not (tmp_path / "b").exists()


def test_prompts_that_cannot_be_made_are_refused_before_the_training(tiny_bundle, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nobody\.wav"):
        validator(tiny_bundle, tmp_path, [ValidationPrompt(say="hello", voice="nobody.wav")])
    with pytest.raises(ValueError, match="seconds must be above 0 and at most"):
        validator(tiny_bundle, tmp_path, [ValidationPrompt(say="hello", seconds=99)])


def test_a_given_voice_and_image_are_scored(tiny_bundle, tmp_path):
    voice = tone(220)
    write_wav(tmp_path / "voice.wav", voice[None], RATE)
    write_clip(tmp_path / "face.mp4", Clip(torch.rand(3, 64, 64, 3), None, Fraction(25), RATE))
    prompt = ValidationPrompt(
        say="hello", seconds=0.84, voice=str(tmp_path / "voice.wav"), image=str(tmp_path / "face.mp4")
    )
    (sample,) = validator(tiny_bundle, tmp_path, [prompt]).make(1, tiny_bundle.model)
    assert {"timbre", "first_frame"} <= sample.scores.keys()


def tone(hertz: float, seconds: float = 1.2) -> torch.Tensor:
    time = torch.arange(round(seconds * RATE)) / RATE
    return sum(0.2 / k * torch.sin(2 * math.pi * hertz * k * time) for k in range(1, 8))


def clip_of(waveform: torch.Tensor) -> Clip:
    frames = torch.full((30, 64, 64, 3), 0.5)
    return Clip(frames, waveform[None], Fraction(25), RATE)


def test_scores_know_the_truth():
    same = scores(clip_of(tone(200)), Request(scene="x", voice=tone(200), image=torch.full((64, 64, 3), 0.5)))
    other = scores(clip_of(tone(200)), Request(scene="x", voice=tone(300), image=torch.zeros(64, 64, 3)))
    assert same["timbre"] == pytest.approx(0, abs=1e-3)
    assert other["timbre"] > 1
    assert same["pitch"] < 10
    assert other["pitch"] == pytest.approx(702, abs=20)  # a fifth
    assert same["first_frame"] > 60
    assert other["first_frame"] == pytest.approx(6.02, abs=0.01)
    assert same["silence"] == 0


def test_silence_is_silent_and_has_no_pitch():
    half = tone(200)
    half[len(half) // 2 :] = 0
    assert scores(clip_of(half), Request(scene="x"))["silence"] == pytest.approx(0.5, abs=0.05)
    none = scores(clip_of(torch.zeros(19200)), Request(scene="x", voice=tone(200)))
    assert none["silence"] == 1
    assert none["loudness"] == -120
    assert "pitch" not in none


def test_a_clip_without_a_picture_has_no_sync():
    heard = scores(replace(clip_of(tone(200)), frames=None), Request(scene="x"))
    assert heard.keys() == {"loudness", "silence"}


def test_words_are_judged_where_the_judge_can_say_something():
    pytest.importorskip("pocketsphinx", reason="the word judge: pip install pocketsphinx")
    pytest.importorskip("espeakng_loader", reason="clips need espeak-ng: pip install espeakng-loader")
    from unitalk_core.data.synthetic import synthesize_clip

    heard = []
    for i in range(6):
        clip = synthesize_clip(2, i, frames=False, held_out=True)
        heard.append(words_heard(clip.say, clip.waveform, RATE))
    heard = [one for one in heard if one is not None]
    assert sum(heard) / len(heard) > 0.6
    for nothing in ("", "a cat", "schönes Wetter", "xqzzvy potato"):
        assert words_heard(nothing, tone(200), RATE) is None
    assert words_heard("wonderful potato", tone(200), RATE) < 1


def test_without_the_word_judge_there_are_no_words(monkeypatch):
    monkeypatch.setattr("unitalk_core.training.validation.find_spec", lambda _: None)
    assert words_heard("wonderful potato", tone(200), RATE) is None
