"""Children are real commands of the core, or a few lines that misbehave as no command of it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from unitalk_core import child as children
from unitalk_core.child import ROOT, Child

DEAF = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('deaf', flush=True); time.sleep(99)"
)


class ScreenClosed(BaseException):
    """What a host raises to stop a node; no Exception, as the host's own is none."""


def endless(folder: Path) -> list[str]:
    return ["synthesize", str(folder / "clips"), "--clips", "100000"]


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def started(tmp_path):
    """Starts children in `tmp_path`, and leaves none behind."""
    made = []

    def start(*arguments: str) -> Child:
        made.append(Child.start(arguments, tmp_path / "log.txt"))
        return made[-1]

    yield start
    for one in made:
        if not one.ended():
            one.kill()


def test_a_command_runs_to_its_end_and_its_output_is_kept(started, tmp_path):
    child = started("synthesize", str(tmp_path / "clips"), "--clips", "1")
    seen = []
    child.follow(lambda: seen.append(child.ended()), insists=lambda: False)
    assert child.code == 0
    assert "1 clips" in child.said()
    assert seen[-1]


def test_the_reason_is_the_sentence_of_this_child_and_not_of_an_earlier_one(started, tmp_path):
    for name in ("first", "second"):
        child = started("info", str(tmp_path / name))
        child.follow(lambda: None, insists=lambda: False)
        assert child.code == 2
        assert child.reason() == f"there is no file {tmp_path / name}"


def test_what_the_watcher_raises_ends_the_child_gently_and_is_raised_again(started, tmp_path):
    child = started(*endless(tmp_path))

    def watch() -> None:
        if (tmp_path / "clips" / "00001").exists():
            raise ScreenClosed

    with pytest.raises(ScreenClosed):
        child.follow(watch, insists=lambda: False)
    assert child.code == 130
    assert "nothing is left half-written" in child.said()


def test_a_child_that_does_not_listen_is_killed_once_somebody_insists(started, monkeypatch):
    monkeypatch.setattr(children, "BOOT", DEAF)
    child, asked = started(), []
    wait_until(lambda: "deaf" in child.said())
    child.stop(lambda: bool(asked.append(None) or len(asked) > 2))
    assert child.code == -signal.SIGKILL
    assert len(asked) >= 3
    assert "killed, most likely for want of memory" in child.reason()


def test_a_crash_without_a_sentence_names_the_last_line_and_the_log(started, monkeypatch, tmp_path):
    monkeypatch.setattr(children, "BOOT", "raise RuntimeError('the roof is open')")
    child = started()
    child.follow(lambda: None, insists=lambda: False)
    assert child.reason().startswith(
        "the process ended with code 1 and said last: RuntimeError: the roof is open"
    )
    assert str(tmp_path / "log.txt") in child.reason()


def test_a_child_is_found_by_its_number_while_it_lives_and_a_younger_process_is_not_it(started, tmp_path):
    child = started(*endless(tmp_path))
    pid = child.process.pid
    assert Child.find(pid, time.time() + 1, child.log) is not None
    assert Child.find(pid, child.process.create_time() - 1, child.log) is None
    child.kill()
    wait_until(child.ended)
    assert Child.find(pid, time.time() + 1, child.log) is None


@pytest.mark.skipif(sys.platform == "win32", reason="process groups of POSIX")
def test_a_child_outlives_the_program_that_started_it(tmp_path):
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\nfrom unitalk_core.child import Child\n"
        f"child = Child.start({endless(tmp_path)!r}, Path({str(tmp_path / 'log.txt')!r}))\n"
        "print(child.process.pid, flush=True)\nimport time; time.sleep(99)"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    pid = int(starter.stdout.readline())
    wait_until((tmp_path / "clips").exists)
    os.killpg(starter.pid, signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    found = Child.find(pid, time.time(), tmp_path / "log.txt")
    assert found is not None
    found.stop(lambda: False)
    assert "nothing is left half-written" in found.said()


def test_the_boot_does_not_need_the_folder_or_the_path_of_its_caller(started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    child = started("info", "nothing")
    child.follow(lambda: None, insists=lambda: False)
    assert child.reason() == "there is no file nothing"
