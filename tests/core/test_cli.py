"""The command line as a user meets it: clips appear, mistakes are one sentence, nothing is left half."""

from __future__ import annotations

import json
import pickle
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import pytest
import torch

from unitalk_core import media
from unitalk_core.__main__ import main
from unitalk_core.av import Clip
from unitalk_core.models.captions import CAPTION_WORDS

SHORT = ["--seconds", "0.36", "--steps", "2"]


@pytest.fixture(autouse=True)
def _miniature(embedded, monkeypatch):
    monkeypatch.setenv("UNITALK_EMBEDDED", str(embedded))


def say(*options: object) -> int:
    return main(["sample", "--model", "tiny", "--say", "good morning", *SHORT, *map(str, options)])


def draw(path: str | Path) -> None:
    picture = av.VideoFrame.from_ndarray((torch.rand(80, 120, 3) * 255).byte().numpy(), format="rgb24")
    picture.save(str(path))


def test_a_sentence_becomes_a_clip_and_a_report(tmp_path, capsys):
    out, report = tmp_path / "clip.mp4", tmp_path / "report.json"
    assert say("--seed", 3, "--audio-seed", 4, "--out", out, "--report", report) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert str(out) in last and "256 x 256" in last and "sample" in last
    clip = media.read_video(out)
    assert clip.frames.shape == (9, 256, 256, 3)
    assert abs(clip.waveform.shape[1] / 16000 - 9 / 25) <= 1 / 25
    made = json.loads(report.read_text())
    assert made["request"]["seed"] == 3 and made["request"]["audio_seed"] == 4
    assert made["stage_seconds"].keys() == {"load", "text", "sample", "video", "audio", "write"}
    assert made["bytes"] == out.stat().st_size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4", "report.json"]
    with av.open(str(out)) as file:
        assert json.loads(file.metadata["unitalk"])["say"] == "good morning"


def test_who_is_not_described_is_drawn_by_chance_and_told(tmp_path, capsys):
    scenes = []
    for seed in (1, 1, 2):
        assert say("--seed", seed, "--out", tmp_path / "clip.mp4", "--report", tmp_path / "r.json") == 0
        scenes.append(json.loads((tmp_path / "r.json").read_text())["request"]["scene"])
        assert f"somebody by chance: {scenes[-1]}\n" in capsys.readouterr().out
    assert scenes[0] == scenes[1] != scenes[2]
    assert set(re.findall(r"\w+", scenes[2])) <= set(CAPTION_WORDS)


@pytest.mark.parametrize("given", [["--scene", ""], ["--no-video"], ["--image", "face.png"]])
def test_nobody_is_drawn_where_something_else_says_who(tmp_path, capsys, given, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw("face.png")
    out = tmp_path / ("clip.wav" if "--no-video" in given else "clip.mp4")
    assert say(*given, "--out", out) == 0
    assert "by chance" not in capsys.readouterr().out


def test_the_words_are_inside_the_clip_or_beside_it(tmp_path, capsys):
    out = tmp_path / "a.mp4"
    assert say("--out", out, "--subtitles", "track") == 0
    with av.open(str(out)) as file:
        assert [one.type for one in file.streams] == ["video", "audio", "subtitle"]
        assert json.loads(file.metadata["unitalk"])["say"] == "good morning"
    assert say("--out", tmp_path / "b.wav", "--no-video", "--subtitles", "srt") == 0
    assert "\ngood morning\n" in (tmp_path / "b.srt").read_text()
    more = ["--continue", out, "--overlap", 0.2, "--subtitles", "srt"]
    assert say("--out", tmp_path / "c.mp4", *more) == 0
    assert float((tmp_path / "c.srt").read_text().splitlines()[1][6:12].replace(",", ".")) >= 9 / 25
    capsys.readouterr()
    assert say("--out", tmp_path / "d.mp4", "--say", " ", "--scene", "a man", "--subtitles", "srt") == 2
    assert "no words for subtitles" in capsys.readouterr().err
    assert say("--out", tmp_path / "d.wav", "--no-video", "--subtitles", "track") == 2
    assert "use --subtitles srt" in capsys.readouterr().err
    assert not list(tmp_path.glob("d*"))


def test_a_voice_and_an_image_are_used(tmp_path, capsys):
    media.write_wav(tmp_path / "voice.wav", torch.rand(2, 44100) - 0.5, 44100)
    draw(tmp_path / "face.png")
    given = ["--voice", tmp_path / "voice.wav", "--image", tmp_path / "face.png"]
    assert say(*given, "--out", tmp_path / "a.mp4", "--report", tmp_path / "a.json") == 0
    asked = json.loads((tmp_path / "a.json").read_text())["request"]
    assert asked["voice"] and asked["image"]


def test_voices_take_turns_when_they_are_given_seconds(tmp_path, capsys):
    for name in ("a", "b@1-2"):  # the second is a file of that name
        media.write_wav(tmp_path / f"{name}.wav", torch.rand(1, 16000) - 0.5, 16000)
    voices = [f"{tmp_path}/a.wav@0.2-", f"{tmp_path}/b@1-2.wav"]
    report = tmp_path / "made.json"
    given = [part for one in voices for part in ("--voice", one)]
    assert say(*given, "--out", tmp_path / "made.mp4", "--report", report) == 0
    asked = json.loads(report.read_text())["request"]
    assert asked["voices"] == [[0.2, None]] and asked["voice"] is True
    line = {"say": "good morning", "voice": [f"{tmp_path}/a.wav@0-0.2", f"{tmp_path}/a.wav@0.2-9"]}
    (tmp_path / "lines.jsonl").write_text(json.dumps(line))
    many = [
        "--prompts",
        tmp_path / "lines.jsonl",
        "--voice",
        voices[0],
        "--out",
        tmp_path,
        "--report",
        report,
    ]
    assert say(*many) == 0
    asked = json.loads(report.read_text())["clips"][0]["request"]
    assert asked["voices"] == [[0.0, 0.2], [0.2, 9.0]] and asked["voice"] is False
    assert say("--voice", voices[1], "--voice", voices[1], "--out", tmp_path / "c.mp4") == 2
    assert "2 voices would speak at once; say when, such as --voice FILE@0-1.5" in capsys.readouterr().err


def test_each_of_two_voices_is_taken_from_the_seconds_of_its_own_recording(tmp_path, capsys):
    times = torch.arange(9 * 16000) / 16000
    tone = torch.stack([torch.sin(2 * torch.pi * 130 * k * times) / (10 * k) for k in range(1, 12)]).sum(0)
    for name, begin in (("a", 1), ("b", 5)):
        quiet = ((times < begin) | (times > begin + 3.5)) * (torch.rand(len(times)) - 0.5) * 0.01
        spoken = ((times >= begin) & (times <= begin + 3.5)) * tone
        media.write_wav(tmp_path / f"{name}.wav", (quiet + spoken)[None], 16000)
    voices = ["--voice", f"{tmp_path}/a.wav@0-0.2", "--voice", f"{tmp_path}/b.wav@0.2-"]
    assert say(*voices, "--out", tmp_path / "made.mp4") == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "the voice is" in line]
    begins = [float(line.split("the voice is ")[1].split("-")[0]) for line in said]
    assert [round(one) for one in begins] == [1, 5]


def test_a_kept_picture_has_its_own_size_and_says_what_is_left_out(tmp_path, capsys):
    frames = torch.rand(11, 48, 80, 3)
    media.write_clip(tmp_path / "given.mp4", Clip(frames, None, Fraction(25), 16000))
    asked = {"keep-video": "given.mp4", "out": "a.mp4", "report": "a.json"}
    files = [part for option, name in asked.items() for part in (f"--{option}", str(tmp_path / name))]
    assert main(["sample", "--say", "good morning", "--steps", "2", *files]) == 0
    assert "its last 2 frames are left out" in capsys.readouterr().out
    report = json.loads((tmp_path / "a.json").read_text())
    assert (report["width"], report["height"], report["frames"]) == (80, 48, 9)
    assert report["request"]["keep_video"] is True
    kept, given = (media.read_video(tmp_path / name).frames for name in ("a.mp4", "given.mp4"))
    assert (kept - given[:9]).abs().mean() < 0.05  # h264 twice


def test_sound_alone_is_a_wav_file(tmp_path, capsys):
    assert say("--no-video", "--out", tmp_path / "a.wav") == 0
    waveform, rate = media.read_audio(tmp_path / "a.wav")
    assert rate == 16000 and waveform.shape[1] > 1000
    assert "sound alone" in capsys.readouterr().out
    assert say("--no-video", "--out", tmp_path / "a.mp4") == 2
    assert "must end in .wav" in capsys.readouterr().err


def test_a_clip_of_sample_goes_on_as_the_same_person_in_the_same_size(tmp_path, capsys):
    first, longer = tmp_path / "a.mp4", tmp_path / "b.mp4"
    assert say("--scene", "a man with glasses", "--width", 96, "--out", first) == 0
    capsys.readouterr()
    line = {"say": "good evening", "continue": str(first), "overlap": 0.2, "out": str(longer)}
    (tmp_path / "lines.jsonl").write_text(json.dumps(line))
    options = ["--prompts", tmp_path / "lines.jsonl", "--report", tmp_path / "b.json", *SHORT]
    assert main(["sample", *map(str, options)]) == 0
    assert "a.mp4: as before, scene 'a man with glasses', width 96, height 64" in capsys.readouterr().out
    old, new = media.read_video(first), media.read_video(longer)
    assert new.frames.shape == (9 + 8, 256, 384, 3)
    assert (new.frames[:9] - old.frames).abs().mean() < 0.02  # h264 once more
    made = json.loads((tmp_path / "b.json").read_text())["clips"][0]
    assert (made["width"], made["height"], made["frames"]) == (384, 256, 17)
    assert made["request"]["continued"] is True and made["request"]["scene"] == "a man with glasses"
    assert say("--continue", longer, "--scene", "a woman", "--out", longer) == 0  # over itself
    assert "scene" not in capsys.readouterr().out
    assert len(media.read_video(longer).frames) == 17 + 8


@pytest.mark.parametrize("tag", ["[1]", "no json", '{"scene": 5, "width": "wide"}'])
def test_a_clip_from_elsewhere_goes_on_at_the_rates_of_the_model(tmp_path, capsys, tag):
    sound = torch.rand(2, 24 * 1470) - 0.5
    elsewhere = Clip(torch.rand(24, 48, 80, 3), sound, Fraction(30), 44100)  # 0.8 s
    media.write_clip(tmp_path / "given.mp4", elsewhere, {"unitalk": tag})
    media.write_wav(tmp_path / "voice.wav", torch.rand(1, 16000) - 0.5, 16000)
    given = ["--continue", tmp_path / "given.mp4", "--voice", tmp_path / "voice.wav"]
    assert say(*given, "--scene", "a man", "--out", tmp_path / "a.mp4") == 0
    told = capsys.readouterr().out
    assert "80 x 48 is cut evenly to the shape of 64 x 64" in told and "as before" not in told
    clip = media.read_video(tmp_path / "a.mp4")
    assert clip.frames.shape == (20 + 8, 64, 64, 3)
    assert clip.waveform.shape[0] == 2 and clip.sample_rate == 16000


def test_a_clip_that_cannot_go_on_is_one_sentence_and_no_file(tmp_path, capsys):
    form = (Fraction(25), 16000)
    media.write_clip(tmp_path / "silent.mp4", Clip(torch.rand(9, 64, 64, 3), None, *form))
    media.write_wav(tmp_path / "sound.wav", torch.rand(1, 16000) - 0.5, 16000)
    short = Clip(torch.rand(3, 64, 64, 3), torch.rand(1, 1920) - 0.5, *form)
    media.write_clip(tmp_path / "short.mp4", short)
    picture = av.VideoFrame.from_ndarray((torch.rand(64, 64, 3) * 255).byte().numpy(), format="rgb24")
    picture.save(str(tmp_path / "face.png"))
    files = sorted(tmp_path.iterdir())
    for name, options, words in [
        ("silent.mp4", [], "the clip to continue has no sound"),
        ("sound.wav", [], "sound.wav has no picture"),
        ("short.mp4", [], "at least 0.2 s, got 0.12 s"),
        ("none.mp4", [], "there is no file"),
        ("short.mp4", ["--image", tmp_path / "face.png"], "own picture and sound; leave out image"),
        ("short.mp4", ["--no-video", "--out", tmp_path / "a.wav"], "continued needs a model and a clip with"),
    ]:
        assert say("--continue", tmp_path / name, "--out", tmp_path / "a.mp4", *options) == 2
        errors = capsys.readouterr().err
        assert words in errors and errors.count("\n") == 1, name
    assert sorted(tmp_path.iterdir()) == files


@pytest.mark.parametrize(
    ("text", "dropped"),
    [
        ("zyxgrf blorp qwrtplk", ""),
        ("go 你 home 😀", "你 😀"),
        ("call 0049 123 at 12:30, pay $3.50 or 99%", ""),
        ("12345678901234567890", ""),
        ("x hhh", ""),
    ],
)
def test_a_strange_text_is_spoken_as_far_as_possible_and_the_rest_named(tmp_path, caplog, text, dropped):
    assert say("--say", text, "--no-video", "--out", tmp_path / "a.wav") == 0
    waveform, _ = media.read_audio(tmp_path / "a.wav")
    assert waveform.abs().max() > 0
    named = [record.getMessage() for record in caplog.records if "not spoken" in record.getMessage()]
    assert named == ([f"not spoken, because it is no English: {dropped}"] * bool(dropped))


@pytest.mark.parametrize("text", ["你好，世界", "😀🎉", "?!", "potato " * 300])
@pytest.mark.parametrize("seconds", [[], ["--seconds", "2"]])
def test_a_text_that_cannot_be_spoken_is_one_sentence_and_no_file(tmp_path, capsys, text, seconds):
    command = ["sample", "--say", text, "--steps", "2", *seconds, "--no-video"]
    assert main([*command, "--out", str(tmp_path / "a.wav")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("unitalk: ") and said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_many_lines_make_many_clips_and_one_bad_line_stops_none(tmp_path, capsys):
    lines = [
        json.dumps({"say": "one", "seed": 1, "out": str(tmp_path / "one.mp4")}),
        json.dumps({"say": "two", "seconds": 1000}),
        "",
        "{not json",
        json.dumps({"say": "four", "colour": "red"}),
        json.dumps({"say": "five", "steps": "many"}),
        json.dumps(["say", "six"]),
        json.dumps({"say": "seven", "audio_seed": 9}),
        json.dumps({"say": "eight", "out": str(tmp_path / "one.mp4")}),
    ]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    folder = tmp_path / "clips"
    folder.mkdir()
    report = tmp_path / "report.json"
    options = ["--prompts", tmp_path / "lines.jsonl", "--out", folder, "--report", report, *SHORT]
    assert main(["sample", *map(str, options)]) == 1
    errors = capsys.readouterr().err
    for number, words in [
        (2, "at most"),
        (4, "not JSON"),
        (5, "colour"),
        (6, "steps"),
        (7, "object"),
        (9, "earlier"),
    ]:
        assert any(f"line {number}:" in line and words in line for line in errors.splitlines()), (
            number,
            errors,
        )
    assert (tmp_path / "one.mp4").exists()
    assert sorted(p.name for p in folder.iterdir()) == [".made", "0008.mp4"]
    made = json.loads(report.read_text())
    assert [clip["line"] for clip in made["clips"]] == [1, 8]
    assert [line["line"] for line in made["failed"]] == [2, 4, 5, 6, 7, 9]


MISTAKES = {
    "no prompt": (["--say", ""], "no prompt"),
    "no time": (["--seconds", "0"], "seconds must be above 0"),
    "too long": (["--seconds", "1000"], "at most 4.84"),
    "size": (["--width", "65"], "multiples of 32"),
    "no number": (["--steps", "many"], "invalid int value"),
    "unknown option": (["--colour", "red"], "--colour"),
    "no folder": (["--out", "none/a.mp4"], "there is no folder none"),
    "not mp4": (["--out", "a.gif"], r"must end in .mp4"),
    "no voice": (["--voice", "none.wav"], "there is no file none.wav"),
    "no model": (["--model", "huge"], "there is no model huge"),
    "no report": (["--report", "none/r.json"], "there is no folder none"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_no_file(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    options, words = MISTAKES[name]
    assert say("--out", "clip.mp4", *options) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("unitalk: ") and words in said.err and said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_no_output_no_command_no_lines_are_sentences(tmp_path, capsys):
    assert say() == 2
    assert main([]) == 2
    (tmp_path / "empty.jsonl").write_text("\n")
    assert main(["sample", "--prompts", str(tmp_path / "empty.jsonl")]) == 2
    assert main(["sample", "--prompts", str(tmp_path / "none.jsonl")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4
    for line, words in zip(errors, ["no --out", "command", "no lines", "no file"], strict=True):
        assert words in line


def test_damaged_weights_are_one_sentence(tmp_path, embedded, monkeypatch, capsys):
    for file in embedded.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    model = tmp_path / "model.safetensors"
    model.write_bytes(model.read_bytes()[:5000])
    monkeypatch.setenv("UNITALK_EMBEDDED", str(tmp_path))
    assert say("--out", tmp_path / "a.mp4") == 2
    assert "cut off" in capsys.readouterr().err
    (tmp_path / "vocoder.safetensors").unlink()
    assert say("--out", tmp_path / "a.mp4") == 2
    assert "vocoder.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "a.mp4").exists()


def test_not_a_number_in_the_weights_is_one_sentence(tmp_path, tiny_bundle, capsys, monkeypatch):
    import unitalk_core.pipeline

    class Broken(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, latent, *_, **__):
            return latent.map(lambda one: one * torch.nan)

    broken = replace(tiny_bundle, model=Broken())
    monkeypatch.setattr(unitalk_core.pipeline, "load_bundle", lambda _: broken)
    assert say("--out", tmp_path / "a.mp4") == 2
    assert "the video latent holds values that are not numbers in step 1 of 2" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


class Code:
    def __reduce__(self):
        return (print, ("this must never be printed",))


def test_info_says_what_a_file_is(tmp_path, embedded, capsys):
    assert main(["info", str(embedded / "vocoder.safetensors")]) == 0
    said = capsys.readouterr().out
    assert "Vocos" in said and "I8" in said and "parameters" in said and '"mels":80' in said
    sound = media.write_wav(tmp_path / "a.wav", torch.rand(2, 4410) - 0.5, 44100)
    assert main(["info", str(sound)]) == 0
    assert "44100 Hz, 2 channels, 0.100 s" in capsys.readouterr().out
    assert say("--out", tmp_path / "a.mp4") == 0
    assert main(["info", str(tmp_path / "a.mp4")]) == 0
    said = capsys.readouterr().out
    assert "h264 yuv420p, 256 x 256, 25 fps, 0.360 s" in said and "good morning" in said


def test_info_refuses_foreign_files_in_one_sentence(tmp_path, capsys):
    foreign = {
        "a.safetensors": b"\x10\x00\x00\x00\x00\x00\x00\x00{oh no",
        "a.mp4": b"no film" * 50,
        "a.pt": pickle.dumps({"weights": Code()}),
    }
    for name, data in foreign.items():
        (tmp_path / name).write_bytes(data)
        assert main(["info", str(tmp_path / name)]) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1 and name in said.err
    assert main(["info", str(tmp_path / "none")]) == 2


def test_clips_are_synthesized_into_a_folder(tmp_path, capsys):
    pytest.importorskip("espeakng_loader", reason="speech for training data needs the extra [data]")
    out = tmp_path / "clips"
    assert main(["synthesize", str(out), "--clips", "2", "--seed", "5"]) == 0
    truth = json.loads((out / "00001" / "clip.json").read_text())
    clip = media.read_video(out / "00001" / "clip.mp4")
    assert len(clip.frames) == truth["frames"]
    assert clip.waveform.shape[1] / 16000 == pytest.approx(truth["frames"] / 25, abs=1 / 25)
    assert main(["synthesize", str(out), "--clips", "0"]) == 2
    assert main(["synthesize", str(out / "00001" / "clip.mp4")]) == 2
    assert [line.count("unitalk: ") for line in capsys.readouterr().err.splitlines()[-2:]] == [1, 1]


def test_measures_are_printed_and_written(tmp_path, monkeypatch, capsys):
    from unitalk_core.evaluation import report

    one = {
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "baseline": 0.1,
        "ceiling": None,
        "threshold": 0.6,
        "passed": False,
    }
    monkeypatch.setattr(report, "evaluate", lambda *_, **__: {"sync.r": one})
    assert main(["evaluate", "--clips", "8", "--out", str(tmp_path / "r.json")]) == 0
    assert "MISSED" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text()) == {"sync.r": one}


def test_too_few_clips_to_measure_is_one_sentence(capsys):
    assert main(["evaluate", "--clips", "3"]) == 2
    assert "at least 8 clips, got 3" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopping_leaves_nothing_behind(root, tmp_path, stop):
    long = ["--say", "hello", "--seconds", "1", "--steps", "1000", "--out", str(tmp_path / "a.mp4")]
    command = [sys.executable, "-m", "unitalk_core", "sample", *long]
    options = {"cwd": root, "stderr": subprocess.PIPE, "text": True}
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore SIGINT
    running = subprocess.Popen(command, **options, preexec_fn=heed)  # noqa: PLW1509 - there are no threads
    for _ in range(1200):  # until the progress bar is there
        if running.stderr.read(1) == "%":
            break
        time.sleep(0.001)
    running.send_signal(stop)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert errors.splitlines()[-1] == "stopped; nothing is left half-written"
    assert not list(tmp_path.iterdir())
