"""Many clips from a file of lines: none is made twice or lost, whoever makes them and is killed meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from filelock import FileLock
from torch.distributed import HashStore

from unitalk_core import media
from unitalk_core.__main__ import main
from unitalk_core.processes import Processes

SHORT = ["--seconds", "0.2", "--steps", "1", "--no-video"]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.fixture(autouse=True)
def _miniature(embedded, monkeypatch):
    monkeypatch.setenv("UNITALK_EMBEDDED", str(embedded))


@pytest.fixture
def make(tmp_path, capsys):
    """Make lines in tmp_path; gives the exit code, the report, and the numbers of what was made."""

    def run(*lines: dict, options: tuple[str, ...] = ()) -> tuple[int, dict, list[int]]:
        before = stamps(tmp_path)
        command = [*command_for(tmp_path, lines), *options]
        code = main(command)
        report = json.loads((tmp_path / "report.json").read_text())
        now = stamps(tmp_path)
        return code, report, [int(name[:4]) for name in now if now[name] != before.get(name)]

    return run


def command_for(folder: Path, lines: tuple[dict, ...]) -> list[str]:
    (folder / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    files = ["--prompts", "lines.jsonl", "--report", "report.json"]
    files = [part if part.startswith("--") else str(folder / part) for part in files]
    return ["sample", *files, "--out", str(folder), *SHORT]


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.glob("0*"))}


def test_what_is_there_is_not_made_again(make, tmp_path, capsys):
    lines = [{"say": "one"}, {"say": "two"}]
    assert make(*lines)[2] == [1, 2]
    assert "2 clips made, 0 were there, 0 lines failed" in capsys.readouterr().out
    code, report, made = make(
        *lines, options=("--model", "tiny", "--attention", "math", "--passes", "batched")
    )
    assert (code, made, report["kept"]) == (0, [], 2)
    assert [one["request"]["say"] for one in report["clips"]] == ["one", "two"]
    assert "0 clips made, 2 were there" in capsys.readouterr().out
    assert make(lines[0], {"say": "two", "seed": 1})[2] == [2]
    (tmp_path / "0001.wav").unlink()
    assert make(lines[0], {"say": "two", "seed": 1})[2] == [1]
    (tmp_path / "0001.wav").write_bytes(b"half")
    (tmp_path / ".0001.wav.abcd.part").write_bytes(b"of a process that was killed")
    assert make(lines[0], {"say": "two", "seed": 1})[2] == [1]
    assert make(*lines, options=("--steps", "2"))[2] == [1, 2]
    assert make(*lines, options=("--steps", "2", "--dtype", "fp8_e4m3fn"))[2] == [1, 2]
    assert not list(tmp_path.glob(".*.part"))


def test_a_line_is_another_one_when_its_files_or_the_weights_change(make, tmp_path, embedded, monkeypatch):
    media.write_wav(tmp_path / "voice.wav", torch.rand(1, 32000) - 0.5, 16000)
    line = {"say": "one", "voice": f"{tmp_path}/voice.wav@0-0.1"}
    assert make(line)[2] == [1] and make(line)[2] == []
    media.write_wav(tmp_path / "voice.wav", torch.rand(1, 32000) - 0.5, 16000)
    assert make(line)[2] == [1] and make(line)[2] == []
    other = tmp_path / "model"
    other.mkdir()
    for file in embedded.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    monkeypatch.setenv("UNITALK_EMBEDDED", str(other))  # the same weights elsewhere
    assert make(line)[2] == []
    os.truncate(other / "vocoder.safetensors", 1000)
    assert main(command_for(tmp_path, (line,))) == 2  # it would be made again, and cannot be


def test_a_line_that_begins_from_the_clip_of_another_is_made_after_it(make, tmp_path, capsys):
    media.write_wav(tmp_path / "long.wav", torch.rand(1, 32000) - 0.5, 16000)
    spoken = {"say": "one", "seconds": 2.2}
    heard = {"say": "two", "voice": str(tmp_path / "0001.wav")}
    assert make(spoken, {"say": "three"}, heard)[2] == [1, 2, 3]
    assert make(spoken, {"say": "three"}, heard)[2] == []
    assert make({**spoken, "seed": 1}, {"say": "three"}, heard)[2] == [1, 3]
    code, report, made = make({**spoken, "seconds": 99}, {"say": "three"}, heard)
    assert (code, made) == (1, [])
    assert [one["line"] for one in report["failed"]] == [1, 3]
    assert "line 3: line 1, whose clip it begins from, failed" in capsys.readouterr().err


def test_a_folder_in_which_another_run_makes_clips_is_refused(make, tmp_path, capsys):
    assert make({"say": "one"})[0] == 0
    with FileLock(tmp_path / ".made" / "lock"):
        assert main(command_for(tmp_path, ({"say": "one"},))) == 2
    assert "another run makes clips in" in capsys.readouterr().err


def test_each_number_is_for_one_process_alone():
    store, taken = HashStore(), [[], [], []]

    def take(rank: int) -> None:
        taken[rank].extend(Processes(rank, 3, store).share(50))

    threads = [threading.Thread(target=take, args=(rank,)) for rank in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(number for some in taken for number in some) == list(range(50))
    assert list(Processes().share(3)) == [0, 1, 2]


def launch(root: Path, *command: str) -> subprocess.Popen:
    settings = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*LAUNCH, "-m", "unitalk_core", *command], env=settings, cwd=root, **streams)


def test_two_processes_share_the_lines_and_go_on_after_one_is_killed(root, tmp_path):
    lines = [{"say": f"number {i}", "seed": i} for i in range(24)]
    lines[20] = {"say": "too long", "seconds": 99}
    command = command_for(tmp_path, tuple(lines))
    run = launch(root, *command)
    while not list(tmp_path.glob("*.wav")) and run.poll() is None:
        time.sleep(0.01)
    psutil.Process(run.pid).children()[-1].kill()
    assert run.wait(timeout=100) == 1
    before = {path.stem: stamps(tmp_path)[path.stem] for path in tmp_path.glob(".made/*.json")}
    assert 0 < len(before) < 23
    run = launch(root, *command)
    out, errors = run.communicate(timeout=100)
    assert run.returncode == 1, errors[-3000:]
    assert errors.count("unitalk: line 21: ") == 1
    assert out.count(".wav: sound alone") == 23 - len(before)
    assert f"{23 - len(before)} clips made, {len(before)} were there, 1 lines failed" in out
    after = stamps(tmp_path)
    assert len(after) == 23 and before.items() <= after.items()
    report = json.loads((tmp_path / "report.json").read_text())
    assert [one["line"] for one in report["clips"]] == [i for i in range(1, 25) if i != 21]
    assert report["processes"] == 2 and [one["line"] for one in report["failed"]] == [21]
    assert not list(tmp_path.glob(".*.part"))
