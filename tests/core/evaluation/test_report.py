"""A perfect model scores as the truth does, a senseless one as chance does, and the report says which."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

from unitalk_core.av import Clip
from unitalk_core.config import OVI_720
from unitalk_core.data.synthetic import SyntheticClip
from unitalk_core.evaluation import report
from unitalk_core.evaluation.held_out import TAKES, Result
from unitalk_core.evaluation.judges import Row
from unitalk_core.evaluation.measures import interval
from unitalk_core.evaluation.report import JUDGES, THRESHOLDS, evaluate, measured, request
from unitalk_core.pipeline import Bundle, Request, check_request

pytest.importorskip("pocketsphinx", reason="the word judge: pip install pocketsphinx")
pytest.importorskip("espeakng_loader", reason="clips need espeak-ng: pip install espeakng-loader")

KEYS = {"value", "low", "high", "baseline", "ceiling", "threshold", "passed"}
MADE = [task for task in JUDGES if task != "codec"]


@pytest.fixture(autouse=True)
def _drawn_once(monkeypatch: pytest.MonkeyPatch, truths: list[SyntheticClip]) -> None:
    monkeypatch.setattr(report, "draw_held_out", lambda _, texts, takes: truths[: texts * takes])


def test_a_perfect_model_reaches_the_ceiling(tiny_bundle: Bundle, truths: list[SyntheticClip]) -> None:
    done: list[tuple[int, int]] = []
    shown: list[Result] = []
    measures = evaluate(
        tiny_bundle, 8, 0, lambda *at: done.append(at), shown, tasks=MADE,
        make=lambda _, asked: truths[asked.seed].clip,
    )  # fmt: skip
    assert done == [(i, 40) for i in range(1, 41)]
    assert [one.truth for one in shown] == truths[::TAKES]
    assert THRESHOLDS.keys() - measures.keys() == {"codec.video_db"}
    assert all(one.keys() == KEYS for one in measures.values())
    for name, one in measures.items():
        assert one["ceiling"] is None or one["value"] == one["ceiling"], name
        assert one["low"] <= one["value"] <= one["high"], name
    missed = {name for name, one in measures.items() if one["passed"] is False}
    assert missed == {"couple_off.sync.own_wins", "couple_off.sync.lag_control"}  # it needs no coupling
    assert measures["words.all"]["value"] > 0.8 and measures["words.all"]["baseline"] < 0.3


def the_true_clip(truths: list[SyntheticClip], _: Bundle, asked: Request) -> Clip:
    return truths[asked.seed].clip


def test_the_result_does_not_depend_on_the_number_of_processes(
    tiny_bundle: Bundle, truths: list[SyntheticClip]
) -> None:
    one, two = (
        evaluate(tiny_bundle, 8, tasks=("drive",), make=partial(the_true_clip, truths), processes=count)
        for count in (1, 2)
    )
    assert one == two


def test_a_model_that_keeps_time_by_the_text_is_found_out(
    tiny_bundle: Bundle, truths: list[SyntheticClip]
) -> None:
    def make(_: Bundle, asked: Request) -> Clip:
        i = asked.seed
        return replace(truths[i].clip, frames=truths[i - i % TAKES].clip.frames)

    measures = evaluate(tiny_bundle, 8, 0, tasks=("text", "couple_off"), make=make)
    assert measures["sync.own_wins"]["value"] == measures["sync.own_wins"]["baseline"] == 0.5
    assert measures["sync.own_wins"]["passed"] is False
    assert measures["couple_off.sync.own_wins"]["passed"] is True


def test_a_senseless_model_misses_everything(tiny_bundle: Bundle) -> None:
    def make(_: Bundle, asked: Request) -> Clip:
        dice = torch.Generator().manual_seed(asked.seed)
        frames = round(asked.seconds * 25)
        picture = torch.rand(frames, 64, 64, 3, generator=dice)
        form = tiny_bundle.config.format
        return Clip(picture, 0.1 * torch.randn(1, frames * 640, generator=dice), form.fps, form.sample_rate)

    measures = evaluate(tiny_bundle, 8, 0, tasks=("text", "given"), make=make)
    for name in (
        "words.seen",
        "words.unseen",
        "sync.r",
        "sync.lag_control",
        "voice.f0_cents",
        "face.identity",
    ):
        assert measures[name]["passed"] is False, name
    assert abs(measures["sync.r"]["value"]) < 0.3


def test_what_is_asked_for_is_legal_and_has_the_truths_length(
    tiny_bundle: Bundle, truths: list[SyntheticClip]
) -> None:
    for truth in truths[:3]:
        asked = {task: request(task, truth, 1, truth.seconds) for task in MADE}
        assert asked["text"].voice is None and asked["text"].image is None
        assert asked["couple_off"] == replace(asked["text"], couple=(False, False))
        assert asked["given"].voice is truth.reference and asked["given"].image.shape == (64, 64, 3)
        assert asked["dub"].keep_audio is None and asked["drive"].keep_video is None
        assert torch.equal(asked["drive"].keep_audio, truth.waveform)
        for one in asked.values():
            assert check_request(tiny_bundle.config, one) == len(truth.frames)


def test_takes_are_asked_for_with_one_length_and_two_seeds(truths: list[SyntheticClip]) -> None:
    asked = report.asked_of("text", truths, 7)
    assert [one.seed for one in asked] == list(range(7, 15))
    for first, second in zip(asked[::TAKES], asked[1::TAKES], strict=True):
        assert replace(first, seed=0) == replace(second, seed=0)


def test_a_measure_stands_beside_the_ones_it_is_compared_with() -> None:
    rows = {
        "sync.own_wins": [Row(1.0, 0.5, 1.0)] * 4,
        "couple_off.sync.own_wins": [Row(0.0, 0.5, 1.0), Row(1.0, 0.5, 1.0)] * 2,
        "sync.r": [Row(0.6, 0.1, 0.8)] * 4,
        "dub.sync.r": [Row(0.53, 0.1, 0.8)] * 4,
        "face.first_frame_db": [Row(26.0, 12.0)] * 4,
        "codec.face.first_frame_db": [Row(28.0, 12.0)] * 4,
    }
    found = measured(rows)
    assert found["sync.own_wins"].baseline == found["couple_off.sync.own_wins"].value == 0.5
    assert (found["dub.sync.r"].threshold, found["dub.sync.r"].passed) == (pytest.approx(0.52), True)
    assert found["face.first_frame_db"].ceiling == 28.0
    assert found["codec.face.first_frame_db"].ceiling is None
    alone = measured({"dub.sync.r": rows["dub.sync.r"]})["dub.sync.r"]
    assert alone.threshold is None and alone.passed is None


def test_the_interval_is_over_texts_and_not_over_takes() -> None:
    scores = [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    found = measured({"words.seen": [Row(one) for one in scores]})["words.seen"]
    assert (found.low, found.high) == interval(scores[::TAKES])
    assert found.high - found.low > interval(scores)[1] - interval(scores)[0]


def test_a_clip_is_timed_on_one_core_and_the_cores_are_given_back(
    tiny_bundle: Bundle, truths: list[SyntheticClip]
) -> None:
    before, seen = torch.get_num_threads(), []

    def make(_: Bundle, asked: Request) -> Clip:
        seen.append((torch.get_num_threads(), asked.seconds))
        raise KeyboardInterrupt

    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            report.seconds_a_clip(tiny_bundle, truths, 0, make)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [(1, pytest.approx(sum(one.seconds for one in truths) / 8))]


def test_the_codec_gives_a_clip_of_the_same_length(tiny_bundle: Bundle, truths: list[SyntheticClip]) -> None:
    shortest = min(truths, key=lambda one: len(one.frames))
    coded = report.recoded(tiny_bundle, shortest)
    assert coded.frames.shape == shortest.frames.shape
    assert abs(coded.waveform.shape[-1] - len(shortest.waveform)) <= 640


@pytest.mark.parametrize(
    ("clips", "tasks", "sentence"),
    [
        (3, MADE, "at least 8 clips, got 3"),
        (9, MADE, "two clips of each text, got 9; use 8 or 10"),
        (8, ("sing",), "tasks are text, couple_off, given, dub, drive, codec, continue, got sing"),
    ],
)
def test_bad_requests_are_sentences(
    tiny_bundle: Bundle, clips: int, tasks: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        evaluate(tiny_bundle, clips, tasks=tasks)


def test_without_the_word_judge_it_does_not_start(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pocketsphinx"):
        evaluate(tiny_bundle, 8)


def test_a_model_of_another_format_is_refused(tiny_bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="24 fps, 16000 Hz and reads ovi-720"):
        evaluate(replace(tiny_bundle, config=OVI_720), 8)
