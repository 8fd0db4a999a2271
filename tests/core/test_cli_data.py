"""`check`, `prepare`, `synthesize` as a user meets them: lines that help, exit codes, nothing left half."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from unitalk_core import media
from unitalk_core.__main__ import main

pytest.importorskip("espeakng_loader", reason="clips need espeak-ng: pip install espeakng-loader")


@pytest.fixture(autouse=True)
def _miniature(embedded, monkeypatch):
    monkeypatch.setenv("UNITALK_EMBEDDED", str(embedded))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "person"
    assert main(["synthesize", str(folder), "--clips", "2", "--person", "3"]) == 0
    return folder


@pytest.fixture
def person(made, tmp_path) -> Path:
    """Two clips of one person, to be changed."""
    folder = tmp_path / "person"
    folder.mkdir()
    for row in map(json.loads, (made / "clips.jsonl").read_text().splitlines()):
        for key in ("video", "reference"):
            (folder / row[key]).parent.mkdir(exist_ok=True)
            (folder / row[key]).write_bytes((made / row[key]).read_bytes())
    (folder / "clips.jsonl").write_bytes((made / "clips.jsonl").read_bytes())
    return folder


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_check_says_which_clips_are_good(person, capsys, tmp_path):
    assert run("check", person, "--out", tmp_path / "report.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("00000: good, ") and lines[-1].startswith(
        f"{person}: 2 of 2 clips can be used, "
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["usable"] == 2 and report["size"] == [64, 64]
    assert report["clips"][0]["name"] == "00000" and report["clips"][0]["reasons"] == []


def test_check_refuses_with_reasons_and_exit_code_1(person, capsys):
    (person / "00001" / "clip.mp4").write_bytes(b"")
    assert run("check", person, "--size", "96x96") == 1
    out = capsys.readouterr().out
    assert "00000: refused\n    cannot be used: its picture is 64 x 64, smaller than the 96 x 96" in out
    assert "00001: refused\n    cannot be used: " in out and "cannot be read as a video" in out
    assert out.splitlines()[-1].endswith("0 of 2 clips can be used, 0.0 s")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check", "nowhere"], "there is no folder nowhere"),
        (["check", ".", "--size", "64"], "a size is WxH, such as 704x704, got 64"),
        (["check", "{person}", "--size", "60x64"], "multiples of 32"),
        (["check", "{person}", "--model", "nothing"], "there is no model nothing"),
        (["check", "{person}", "--out", "report.txt"], r"must end in \.json"),
        (["prepare", "nowhere", "--out", "x"], "there is no folder nowhere"),
        (["prepare", "{person}", "--out", "{person}"], "holds the clips; give another folder"),
        (["prepare", "{person}", "--show", "00000"], "--show and --clip belong together"),
        (["prepare", "{person}", "--show", "00000", "--clip", "no/a.mp4"], "there is no folder no"),
        (
            ["prepare", "{person}", "--show", "x", "--clip", "{person}/a.mp4"],
            "no clip x; it holds 00000, 00001",
        ),
        (["prepare", "{person}", "--model", "unitalk"], "name the video VAE"),
        (["prepare", "{person}", "--device", "toaster"], "there is no device toaster here .*; use cpu"),
        (["prepare", "{person}", "--size", "96x96"], "2 of 2 clips cannot be used"),
    ],
)
def test_a_mistake_is_one_sentence(person, capsys, words, said):
    assert run(*(word.replace("{person}", str(person)) for word in words)) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unitalk: ")]
    assert len(error) == 1 and re.search(said, error[0])
    assert not list(person.glob("*.mp4"))


def test_prepare_makes_a_cache_that_can_be_looked_at(person, tmp_path, capsys):
    cache, clip = tmp_path / "cache", tmp_path / "look.mp4"
    assert run("prepare", person, "--out", cache, "--show", "00001", "--clip", clip, "--verify") == 0
    out = capsys.readouterr().out
    assert f"{cache}: 2 clips, " in out and "64 x 64" in out and "every clip of it is whole" in out
    shown, source = media.read_video(clip), media.read_video(person / "00001" / "clip.mp4")
    assert shown.frames.shape == source.frames.shape
    (person / "00000" / "reference.wav").unlink()
    assert run("prepare", cache, "--verify") == 1
    assert "00000: its reference" in capsys.readouterr().out


def test_prepare_without_out_keeps_the_cache_with_the_clips(person, capsys):
    assert run("prepare", person) == 0
    hidden = next((person / ".unitalk").iterdir())
    assert str(hidden) in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in hidden.glob("*.safetensors")}
    assert run("prepare", person) == 0
    assert {path: path.stat().st_mtime_ns for path in hidden.glob("*.safetensors")} == before
    assert run("check", person) == 0, "the cache does not disturb the dataset"
