"""Rows: a folder is read as it was meant, and whatever cannot be meant is one sentence with its place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unitalk_core import media
from unitalk_core.config import TINY, TINY_FORMAT, WAN, WAN_FORMAT
from unitalk_core.data.clips import (
    FORMS,
    Row,
    mouth_mask,
    probe,
    prompts_of,
    read_clip,
    read_rows,
)

from .conftest import Recording


def listed(folder: Path, *rows: object) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "clips.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


# ---- folders -----------------------------------------------------------------------------------------------


def test_a_folder_of_clips_and_captions(tmp_path):
    for name in ("b.mp4", "a.MOV", "c.webm", "._b.mp4", "notes.txt", "b.wav", "b.ref.wav"):
        (tmp_path / name).touch()
    (tmp_path / "a.txt").write_text("\ufeffA man, smiling.\n<S>Hello\nyou!<E> birds\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("only a scene", encoding="utf-8")
    a, b, c = read_rows(tmp_path)
    assert (a.name, a.scene, a.speech, a.sound) == ("a", "A man, smiling.", "Hello\nyou!", "birds")
    assert (b.scene, b.speech, b.reference) == ("only a scene", "", tmp_path / "b.ref.wav")
    assert (c.name, c.scene, c.reference) == ("c", "", None)


def test_a_list_gives_everything(tmp_path):
    row = {
        "video": "x/one.mp4",
        "scene": "a man\u2028here",
        "speech": "hi",
        "captions": {"short": "a man <S>hi<E>"},
        "reference": "x/voice.wav",
        "speaker": "ann",
        "mouth": [[1, 2, 3.5, 4]],
        "words": [["hi", 0.1, 0.4]],
    }
    first, second = read_rows(listed(tmp_path, row, "", {"name": "two", "video": str(tmp_path / "z.mp4")}))
    assert first.video == tmp_path / "x" / "one.mp4" and first.reference == tmp_path / "x" / "voice.wav"
    assert (first.name, first.scene, first.speaker) == ("one", "a man\u2028here", "ann")
    assert first.mouth == [(1, 2, 3.5, 4)] and first.words == [("hi", 0.1, 0.4)]
    assert second == Row(name="two", video=tmp_path / "z.mp4")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "clips.jsonl:2: this is no JSON"),
        ("[1]", "clips.jsonl:2: a line is an object"),
        ({"scene": "x"}, "clips.jsonl:2: video is missing|clips.jsonl:2: name is missing"),
        ({"video": "a.mp4", "scent": "x"}, "there is no key scent; known are name, video, scene"),
        ({"video": "a.mp4", "scene": 3}, "clips.jsonl:2: scene: .*string, got 3"),
        ({"video": "a.mp4", "mouth": [[1, 2, 3]]}, r"clips.jsonl:2: mouth\.0"),
        ({"video": "a.mp4", "words": [["hi", 0.1, float("nan")]]}, r"clips.jsonl:2: words\.0\.2"),
        ({"video": "a.mp4", "name": "b/a"}, "'/', which no file's can"),
        ({"video": "a.mp4", "name": "a:b"}, "':', which no file's can"),
        ({"video": "a.mp4", "name": ".a"}, "no dot in front"),
        ({"video": "a.mp4", "name": "a" * 101}, "1 to 100 characters"),
        ({"video": "a.mp4", "captions": {"full": "x"}}, "captions.full is made from"),
        ({"video": "b/OK.mp4"}, "clips.jsonl:2: the clip at .*clips.jsonl:1 is called OK too"),
    ],
)
def test_a_bad_line_is_one_sentence_with_its_place(tmp_path, row, said):
    with pytest.raises(ValueError, match=said) as caught:
        read_rows(listed(tmp_path, {"video": "ok.mp4"}, row))
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_dataset_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        read_rows(tmp_path / "no")
    with pytest.raises(ValueError, match=r"holds no clips; give a folder of \.mp4"):
        read_rows(tmp_path)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(NotADirectoryError, match="is a file; give the folder"):
        read_rows(tmp_path / "a.mp4")
    (tmp_path / "a.mkv").touch()
    with pytest.raises(ValueError, match="is called a too"):
        read_rows(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"gr\xfc\xdfe")
    with pytest.raises(ValueError, match=r"a\.txt is no UTF-8 text"):
        read_rows(tmp_path)
    for name in ("one.jsonl", "two.jsonl"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="2 lists of clips"):
        read_rows(tmp_path)
    (tmp_path / "two.jsonl").unlink()
    with pytest.raises(ValueError, match=r"one\.jsonl has no lines"):
        read_rows(tmp_path)


def test_prompts_have_every_form_and_none_is_empty():
    row = Row(
        name="a",
        video=Path("a.mp4"),
        scene="a man",
        speech="hi",
        sound="birds",
        captions={"short": "<S>hi<E>"},
    )
    assert prompts_of(row, "unitalk") == {
        "full": "a man <S>hi<E> <AUDCAP>birds<ENDAUDCAP>",
        "no_scene": "<S>hi<E> <AUDCAP>birds<ENDAUDCAP>",
        "no_sound": "a man <S>hi<E>",
        "speech": "<S>hi<E>",
        "short": "<S>hi<E>",
    }
    silent = prompts_of(replace(row, speech="", sound=""), "unitalk")
    assert {silent[form] for form in FORMS} == {"a man"}


def test_how_much_of_a_voice_is_heard():
    assert (TINY.reference_len, WAN.reference_len) == (128, 0)


# ---- files -------------------------------------------------------------------------------------------------


def test_a_probe_tells_what_decoding_would(record):
    path = record("a", frames=21, size=(96, 64), fps=30, rate=48000, channels=2) / "a.mp4"
    found, whole = probe(path), media.read_video(path)
    assert (found.width, found.height) == whole.frames.shape[2:0:-1]
    assert len(found.times) == len(whole.frames)
    assert (found.fps, found.sample_rate, found.channels) == (30, 48000, 2)
    assert found.seconds == pytest.approx(whole.seconds)
    assert found.frames(TINY_FORMAT) == len(media.read_video(path, fps=25).frames)
    assert abs(found.delay) < 0.001


def test_a_probe_refuses_what_is_no_video(tmp_path, record):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        probe(tmp_path / "a.mp4")
    (tmp_path / "a.mp4").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="cannot be read as a video"):
        probe(tmp_path / "a.mp4")
    media.write_wav(tmp_path / "a.wav", torch.zeros(1, 100), 16000)
    with pytest.raises(ValueError, match="has no picture"):
        probe(tmp_path / "a.wav")


@pytest.mark.parametrize("clock", [TINY_FORMAT, WAN_FORMAT])
def test_a_clip_is_brought_to_the_grid_in_step(tmp_path, clock):
    """A flash and a click at 0.4 s of 30 fps, 44.1 kHz stereo and wide pictures stay at 0.4 s."""
    clip = Recording(frames=28, size=(160, 96), fps=30, rate=44100, channels=2).clip
    clip.frames[:] = 0.1
    clip.frames[12], clip.waveform[:] = 1.0, 0.0
    clip.waveform[1, round(0.4 * 44100) : round(0.43 * 44100)] = 0.8
    media.write_clip(tmp_path / "a.mp4", clip)
    read = read_clip(Row(name="a", video=tmp_path / "a.mp4"), clock, (64, 64))
    frames = len(read.frames)
    assert read.frames.shape[1:] == (64, 64, 3) and frames % 4 == 1
    assert 0 <= probe(tmp_path / "a.mp4").frames(clock) - frames < 4
    assert read.waveform.shape == (1, clock.samples(frames))
    assert int(read.frames.mean((1, 2, 3)).argmax()) / float(clock.fps) == pytest.approx(0.4, abs=0.03)
    assert int((read.waveform[0].abs() > 0.1).float().argmax()) / clock.sample_rate == pytest.approx(
        0.4, abs=0.004
    )


def test_the_mouth_marks_every_latent_it_touches(record):
    """Floor and ceil by 16 pixels; a latent frame sees the union of its four frames, the first sees one."""
    boxes = [(17, 33, 30, 47)] * 5 + [(17, 33, 30, 47), (17, 33, 33, 47), (17, 33, 30, 47), (15, 33, 30, 47)]
    row = Row(name="a", video=record("a", frames=9) / "a.mp4", mouth=boxes)
    mask = mouth_mask(row, TINY_FORMAT, (64, 64), 9)
    assert mask.shape == (3, 4, 4) and mask.dtype == torch.bool
    alone = torch.zeros(4, 4, dtype=torch.bool)
    alone[2, 1] = True
    assert torch.equal(mask[0], alone) and torch.equal(mask[1], alone)
    alone[2, 0:3] = True
    assert torch.equal(mask[2], alone)


def test_the_mouth_follows_scale_crop_and_frame_rate(tmp_path):
    """What `fill` does to the picture happens to the boxes: a white mouth lies in the marked latents."""
    clip = Recording(frames=16, size=(256, 128), fps=50).clip
    clip.frames[:] = 0.0
    boxes = []
    for i, frame in enumerate(clip.frames):
        left, top = 100 + 3 * i, 60 + i
        frame[top : top + 16, left : left + 24] = 1.0
        boxes.append((left, top, left + 24, top + 16))
    media.write_clip(tmp_path / "a.mp4", clip)
    row = Row(name="a", video=tmp_path / "a.mp4", mouth=boxes)
    frames = read_clip(row, TINY_FORMAT, (64, 64)).frames
    assert len(frames) == 5
    mask = mouth_mask(row, TINY_FORMAT, (64, 64), 5)
    seen = frames.mean(-1).unflatten(1, (4, 16)).unflatten(3, (4, 16)).amax((2, 4)) > 0.5  # (frames, h, w)
    touched = torch.stack([seen[0], seen[1:].any(0)])
    assert touched.any((1, 2)).all()
    assert (mask | ~touched).all(), "a latent with a mouth in it is not marked"
    assert mask.sum() <= touched.sum() + 2, "more is marked than the boxes' hull"
