"""The words of a clip beside it and inside it, in time with what is heard."""

from __future__ import annotations

from itertools import pairwise

import av
import pytest
import torch

from unitalk_core import media
from unitalk_core.subtitles import COLUMNS, Cue, add_track, cues_of, srt, write_srt

RATE = 16000


def sound(before: float, said: float, after: float) -> torch.Tensor:
    parts = [
        torch.zeros(int(before * RATE)),
        torch.rand(int(said * RATE)) - 0.5,
        torch.zeros(int(after * RATE)),
    ]
    return torch.cat(parts)[None]


def test_cues_fill_what_is_heard_without_gaps_in_proportion_to_their_letters():
    cues = cues_of("Good morning! And what a day it is.", sound(0.5, 2.0, 1.0), RATE)
    assert [cue.text for cue in cues] == ["Good morning!", "And what a day it is."]
    assert abs(cues[0].start - 500) <= 20 and abs(cues[-1].end - 2500) <= 20
    assert all(one.end == after.start for one, after in pairwise(cues))
    assert (cues[0].end - cues[0].start) / 2000 == pytest.approx(13 / 34, abs=0.02)


def test_cues_of_words_that_come_later_leave_out_what_is_heard_before():
    before = cues_of("one two", sound(0.2, 1.0, 0.2), RATE)
    waveform = torch.cat([sound(0, 1.0, 0), sound(0.2, 1.0, 0.2)], 1)
    after = cues_of("one two", waveform, RATE, since=1.0)
    assert [(one.start - 1000, one.end - 1000) for one in after] == [(one.start, one.end) for one in before]


def test_weights_and_tags_are_not_shown():
    (cue,) = cues_of("a man <S>good (morning:1.3)<E> a deep voice", sound(0, 1, 0), RATE)
    assert cue.text == "good morning"


def test_a_long_sentence_becomes_texts_of_two_lines():
    cues = cues_of("word " * 60, sound(0, 5, 0), RATE)
    assert len(cues) > 2
    for cue in cues:
        lines = cue.text.split("\n")
        assert len(lines) <= 2 and max(map(len, lines)) <= COLUMNS


def test_nothing_said_has_no_cues_and_silence_is_shared_whole():
    assert cues_of(" \n", sound(0, 1, 0), RATE) == []
    assert cues_of("hi", torch.zeros(2, RATE), RATE) == [Cue(0, 1000, "hi")]
    assert cues_of("hi", torch.zeros(1, 8), RATE)[0].end <= 1


def test_srt_has_numbers_times_and_blank_lines():
    cues = [Cue(0, 1500, "one\ntwo"), Cue(3_661_001, 3_662_000, "three")]
    assert srt(cues) == (
        "1\n00:00:00,000 --> 00:00:01,500\none\ntwo\n\n2\n01:01:01,001 --> 01:01:02,000\nthree\n"
    )


def test_a_file_beside_the_video_has_its_name(tmp_path):
    path = write_srt(tmp_path / "clip.mp4", [Cue(0, 10, "ü")])
    assert path == tmp_path / "clip.srt"
    assert "ü" in path.read_text("utf8")


def test_a_track_is_read_back_and_leaves_picture_sound_and_tags_as_they_are(tmp_path, short_clip):
    path = media.write_clip(tmp_path / "a.mp4", short_clip, {"comment": "Made by AI"})
    before = media.read_video(path)
    add_track(path, [Cue(40, 120, "good {morning}"), Cue(120, 300, "ü\ntwo")])
    after = media.read_video(path)
    assert torch.equal(before.frames, after.frames)
    assert torch.equal(before.waveform, after.waveform)
    assert (before.fps, before.sample_rate) == (after.fps, after.sample_rate)
    with av.open(str(path)) as file:
        assert file.metadata["comment"] == "Made by AI"
        packets = [one for one in file.demux(file.streams.subtitles[0]) if bytes(one)[2:]]
        shown = [(one.pts, one.pts + one.duration, bytes(one)[2:].decode()) for one in packets]
    assert shown == [(40, 120, "good {morning}"), (120, 300, "ü\ntwo")]
    assert [one.name for one in tmp_path.iterdir()] == ["a.mp4"]
