"""A perfect model scores as the truth does, a senseless one as chance does, and the report says which."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from unitalk_core.av import Clip
from unitalk_core.config import OVI_720
from unitalk_core.evaluation import report
from unitalk_core.evaluation.report import THRESHOLDS, evaluate, request
from unitalk_core.pipeline import Bundle, Request, check_request

pytest.importorskip("pocketsphinx", reason="the word judge: pip install pocketsphinx")
pytest.importorskip("espeakng_loader", reason="clips need espeak-ng: pip install espeakng-loader")

KEYS = {"value", "low", "high", "baseline", "ceiling", "threshold", "passed"}


@pytest.fixture(scope="module")
def truths() -> list[Any]:
    return report.draw_held_out(0, 8)


@pytest.fixture(autouse=True)
def _drawn_once(monkeypatch: pytest.MonkeyPatch, truths: list[Any]) -> None:
    monkeypatch.setattr(report, "draw_held_out", lambda _, count: truths[:count])


def test_held_out_clips_take_turns_with_words_and_voices(truths: list[Any]) -> None:
    from unitalk_core.data.synthetic import VOICES, unseen_words

    unseen_voices = {voice.name for voice in VOICES if voice.held_out}
    for i, one in enumerate(truths):
        assert one.held_out and set(one.say.split()) <= set(report.long_words())
        assert (set(one.say.split()) <= unseen_words()) == (i % 2 == 1)
        assert (one.voice in unseen_voices) == (i % 4 >= 2)


def test_a_perfect_model_reaches_the_ceiling(tiny_bundle: Bundle, truths: list[Any]) -> None:
    by_text = {one.say: one for one in truths}
    done: list[tuple[int, int]] = []
    measures = evaluate(
        tiny_bundle, 8, 0, lambda *at: done.append(at), tasks=("text", "given"),
        make=lambda _, asked: by_text[asked.say].clip,
    )  # fmt: skip
    assert done == [(i, 8) for i in range(1, 9)]
    assert THRESHOLDS.keys() <= measures.keys()
    assert all(one.keys() == KEYS for one in measures.values())
    for name, one in measures.items():
        assert one["ceiling"] is None or one["value"] == one["ceiling"], name
        assert one["low"] <= one["value"] <= one["high"], name
    assert measures["sync.r"]["passed"] and measures["words.all"]["value"] > 0.8
    assert measures["words.all"]["baseline"] < 0.3 and measures["face.identity"]["baseline"] == 1 / 8


def test_a_senseless_model_misses_everything(tiny_bundle: Bundle) -> None:
    def make(_: Bundle, asked: Request) -> Clip:
        dice = torch.Generator().manual_seed(asked.seed)
        frames = round(asked.seconds * 25)
        picture = torch.rand(frames, 64, 64, 3, generator=dice)
        form = tiny_bundle.config.format
        return Clip(picture, 0.1 * torch.randn(1, frames * 640, generator=dice), form.fps, form.sample_rate)

    measures = evaluate(tiny_bundle, 8, 0, tasks=("text", "given"), make=make)
    for name in ("words.seen", "words.unseen", "sync.r", "voice.f0_cents", "face.identity"):
        assert measures[name]["passed"] is False, name
    assert abs(measures["sync.r"]["value"]) < 0.3


def test_what_is_asked_for_is_legal_and_has_the_truths_length(tiny_bundle: Bundle, truths: list[Any]) -> None:
    for truth in truths[:3]:
        text, given = request("text", truth, 1), request("given", truth, 1)
        assert text.voice is None and text.image is None
        assert given.voice is truth.reference and given.image.shape == (64, 64, 3)
        dub, drive = request("dub", truth, 1), request("drive", truth, 1)
        assert dub.keep_audio is None and drive.keep_video is None
        assert torch.equal(drive.keep_audio, truth.waveform)
        for asked in (given, dub, drive):
            assert check_request(tiny_bundle.config, asked) == len(truth.frames)


def test_the_codec_gives_a_clip_of_the_same_length(tiny_bundle: Bundle, truths: list[Any]) -> None:
    shortest = min(truths, key=lambda one: len(one.frames))
    coded = report.recoded(tiny_bundle, shortest)
    assert coded.frames.shape == shortest.frames.shape
    assert abs(coded.waveform.shape[-1] - len(shortest.waveform)) <= 640


def test_bad_requests_are_sentences(tiny_bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="at least 8 clips, got 3"):
        evaluate(tiny_bundle, 3)
    with pytest.raises(ValueError, match="tasks are text, given, dub, drive, codec, got sing"):
        evaluate(tiny_bundle, 8, tasks=("sing",))
    with pytest.raises(ValueError, match="24 fps, 16000 Hz and reads ovi-720"):
        evaluate(replace(tiny_bundle, config=OVI_720), 8)
