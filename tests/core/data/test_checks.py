"""Checks: every clip that cannot be used is refused in a sentence that helps; a good one is left alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import pytest
import torch

from unitalk_core import media
from unitalk_core.config import TINY, UNITALK
from unitalk_core.data.checks import check_rows, refuse
from unitalk_core.data.clips import Row, read_rows

from .conftest import CAPTION, Recording

SIZE = (64, 64)


def check(folder: Path, **changes: object):
    row = replace(read_rows(folder)[0], **changes)
    return check_rows([row], TINY, SIZE)[0]


def test_a_good_clip_has_nothing_against_it(record):
    found = check(record("a"))
    assert (found.reasons, found.notes) == ((), ())
    assert (found.name, found.seconds, found.frames) == ("a", 13 / 25, 13)


def broken(tmp_path: Path) -> dict[str, tuple[object, str]]:
    """What is wrong -> (what is written to a.mp4, what the sentence says)."""
    good = Recording().clip
    return {
        "too short": (Recording(frames=3).clip, r"lasts 0.12 s and must last 0.20 s"),
        "too long": (
            Recording(frames=125).clip,
            r"lasts 5.00 s and the longest is 4.84 s; cut it into pieces",
        ),
        "too small": (Recording(size=(64, 48)).clip, "64 x 48, smaller than the 64 x 64"),
        "no sound": (replace(good, waveform=None), "has no sound"),
        "silent": (replace(good, waveform=good.waveform * 0), "its sound is silent"),
        "garbage": (b"garbage", "cannot be read as a video"),
        "empty": (b"", "cannot be read as a video"),
    }


@pytest.mark.parametrize("wrong", broken(Path()))
def test_a_bad_file_is_refused_with_one_sentence(tmp_path, wrong):
    made, said = broken(tmp_path)[wrong]
    path = tmp_path / "a.mp4"
    path.write_bytes(made) if isinstance(made, bytes) else media.write_clip(path, made)
    (tmp_path / "a.txt").write_text(CAPTION, encoding="utf-8")
    found = check(tmp_path)
    assert len(found.reasons) == 1
    assert said.replace("\\", "") in found.reasons[0]
    assert "\n" not in found.reasons[0]


def test_a_cut_off_file_is_refused(record):
    path = record("a", frames=61) / "a.mp4"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert check(path.parent).reasons


def test_a_missing_file_is_named(tmp_path):
    row = Row(name="a", video=tmp_path / "gone.mp4", speech="hi")
    assert "there is no file" in check_rows([row], TINY, SIZE)[0].reasons[0]


def write_apart(path: Path, sound: torch.Tensor, starts: int = 0) -> None:
    """A clip whose sound is as long as it wants, and begins `starts` samples late."""
    clip = Recording(frames=25).clip
    with av.open(str(path), "w") as file:
        video, audio = file.add_stream("libx264", rate=25), file.add_stream("aac", rate=16000, layout="mono")
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        for frame in (clip.frames * 255).byte():
            file.mux(video.encode(av.VideoFrame.from_ndarray(frame.numpy(), format="rgb24")))
        file.mux(video.encode())
        samples = av.AudioFrame.from_ndarray(sound.numpy(), format="fltp", layout="mono")
        samples.sample_rate, samples.pts = 16000, starts
        file.mux(audio.encode(samples))
        file.mux(audio.encode())


@pytest.mark.parametrize(
    ("samples", "starts", "said"),
    [
        (16000 + 4800, 0, "ends 300 ms after"),
        (16000 - 4800, 0, "ends 300 ms before"),
        (16000 - 4800, 4800, "begins 236 ms after"),
        (16000 + 400, 0, ""),
    ],
)
def test_sound_and_picture_end_together(tmp_path, samples, starts, said):
    write_apart(tmp_path / "a.mp4", Recording(frames=40).clip.waveform[:, :samples], starts)
    (tmp_path / "a.txt").write_text(CAPTION, encoding="utf-8")
    reasons = check(tmp_path).reasons
    assert (said in reasons[0] and "50 ms are allowed" in reasons[0]) if said else not reasons


def test_a_sound_that_is_no_number_is_refused(tmp_path):
    clip = Recording().clip
    clip.waveform[0, 700] = torch.nan
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        video, audio = (
            file.add_stream("libx264", rate=25),
            file.add_stream("pcm_f32le", rate=16000, layout="mono"),
        )
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        for frame in (clip.frames * 255).byte():
            file.mux(video.encode(av.VideoFrame.from_ndarray(frame.numpy(), format="rgb24")))
        file.mux(video.encode())
        samples = av.AudioFrame.from_ndarray(clip.waveform.numpy(), format="flt", layout="mono")
        samples.sample_rate, samples.pts = 16000, 0
        file.mux(audio.encode(samples))
    (tmp_path / "a.txt").write_text(CAPTION, encoding="utf-8")
    assert "not numbers" in check(tmp_path).reasons[0]


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("", "has no caption; write scene <S>what is said<E> sound into a.txt"),
        ("  \n", "has no caption"),
        ("a man <S>hello", "has <S> and wants one <S> and one <E>"),
        ("a man <E>hello<S>", "has <E> <S> and wants"),
        ("a <S>b<E> c <S>d<E>", "has <S> <E> and wants"),
        ("a <S>b<E> <AUDCAP>c<ENDAUDCAP>", "has <AUDCAP> <ENDAUDCAP> and wants"),
        ("a man <S>你好<E>", "its caption cannot be used: nothing in"),
        ("a man <S>" + "banana " * 40 + "<E>", "its caption cannot be used: the prompt makes"),
    ],
)
def test_a_bad_caption_is_refused(record, caption, said):
    reasons = check(record("a", caption)).reasons
    assert len(reasons) == 1 and said in reasons[0]


def test_a_missing_caption_is_refused(record):
    assert "has no caption" in check(record("a", None)).reasons[0]


def test_a_finished_caption_is_checked_too(record):
    assert "every <S> needs one <E>" in check(record("a"), captions={"short": "<S>hi"}).reasons[0]


def test_tokens_are_counted_where_the_text_encoder_is_known(record):
    class Counting:
        def tokenize(self, text: str) -> list[int]:
            return [1] * len(text)

    row = replace(read_rows(record("a", size=(704, 704)))[0], scene="x" * 600)
    found = check_rows([row], UNITALK, (704, 704), text_encoder=Counting())[0]
    assert "tokens and 512 fit; write less" in found.reasons[0]
    assert not check_rows([row], UNITALK, (704, 704))[0].reasons


def test_references_are_heard_before_they_are_used(record, tmp_path):
    folder = record("a")
    voice = Recording(frames=110).clip.waveform
    for name, waveform in {
        "short": voice[:, :4000],
        "silent": voice * 0,
        "long": voice,
        "good": voice[:, :48000],
    }.items():
        media.write_wav(tmp_path / f"{name}.wav", waveform, 16000)
    assert (
        "its reference cannot be used: there is no file"
        in check(folder, reference=tmp_path / "no.wav").reasons[0]
    )
    assert "lasts 0.25 s; give at least 0.5 s" in check(folder, reference=tmp_path / "short.wav").reasons[0]
    assert "its reference is silent" in check(folder, reference=tmp_path / "silent.wav").reasons[0]
    assert check(folder, reference=tmp_path / "long.wav").notes == (
        "the model hears the first 4.1 s of its reference",
    )
    good = check(folder, reference=tmp_path / "good.wav")
    assert (good.reasons, good.notes) == ((), ())


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ([(1, 1, 9, 9)] * 12, "12 mouth boxes for 13 frames"),
        ([(1, 1, 9, 9)] * 12 + [(1, 1, 65, 9)], "mouth box of frame 12 (1, 1, 65, 9) is outside the 64 x 64"),
        ([(9, 1, 1, 9)] * 13, "mouth box of frame 0"),
        ([(1, 1, 9, 9)] * 13, ""),
    ],
)
def test_mouth_boxes_lie_in_the_picture(record, boxes, said):
    reasons = check(record("a"), mouth=boxes).reasons
    assert said in reasons[0] if said else not reasons


def test_what_is_done_to_a_clip_is_noted(record):
    notes = check(record("a", frames=22, fps=30, rate=44100, channels=2)).notes
    assert notes == (
        "its 30 frames a second become 25",
        "its sound is resampled from 44100 to 16000 Hz",
        "its 2 channels of sound are mixed to one",
        "its last frame is left out, because the model sees 4n+1",
    )


def noted(tmp_path: Path, **changes: object) -> str:
    media.write_clip(tmp_path / "a.mp4", replace(Recording(frames=25).clip, **changes))
    (tmp_path / "a.txt").write_text(CAPTION, encoding="utf-8")
    found = check(tmp_path)
    assert not found.reasons
    return " ".join(found.notes)


def test_oddities_are_noted_and_do_not_refuse(tmp_path):
    clip = Recording(frames=25).clip
    assert "does not move" in noted(tmp_path, frames=clip.frames[:1].expand(25, -1, -1, -1))
    cut = torch.cat([clip.frames[:12], 1 - clip.frames[12:]])
    assert "changes at once at 0.48 s" in noted(tmp_path, frames=cut)
    assert "is clipped" in noted(tmp_path, waveform=(clip.waveform * 200).clamp(-1, 1))
    quiet = clip.waveform.clone()
    quiet[:, 4000:] *= 1e-3
    assert "of it is silence" in noted(tmp_path, waveform=quiet)


def test_captions_that_teach_no_speech_are_noted(record, caplog):
    notes = check(record("a", "a man with a parrot, a parrot")).notes
    assert any("nobody speaks" in note for note in notes)
    assert any("does not know some words of its caption: parrot" in note for note in notes)
    assert not caplog.records, "the notes say it; the log need not"


def test_the_same_file_twice_is_noted(record, tmp_path):
    folder = record("a")
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    (tmp_path / "b.txt").write_text(CAPTION, encoding="utf-8")
    first, second = check_rows(read_rows(folder), TINY, SIZE)
    assert not first.notes
    assert second.notes == ("it is the same file as a",)


def test_all_clips_are_looked_at_and_the_bad_ones_listed(record):
    seen = []
    for i in range(12):
        record(f"c{i:02d}", "" if i > 1 else CAPTION, frames=5)
    rows = read_rows(record("z", frames=5))
    findings = check_rows(rows, TINY, SIZE, on_clip=lambda *one: seen.append(one))
    assert seen[0] == (1, 13, "c00") and seen[-1] == (13, 13, "z")
    with pytest.raises(
        ValueError, match="10 of 13 clips cannot be used; mend or remove them: c02: it has no"
    ):
        refuse(findings)
    with pytest.raises(ValueError, match=r"and 2 more$"):
        refuse(findings)
    refuse(findings[:2])


def test_a_size_that_the_model_cannot_have_is_refused(record):
    with pytest.raises(ValueError, match="multiples of 32"):
        check_rows(read_rows(record("a")), TINY, (60, 64))
