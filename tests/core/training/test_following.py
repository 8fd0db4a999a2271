"""Real runs of the miniature in real child processes, followed from here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from unitalk_core.child import ROOT
from unitalk_core.data.cache import prepare
from unitalk_core.data.clips import read_rows
from unitalk_core.data.encoders import Encoders, load_encoders
from unitalk_core.data.synthetic_folder import write_clips
from unitalk_core.training.checkpoints import checkpoints
from unitalk_core.training.following import Look, Order, look, train
from unitalk_core.training.metrics import read_metrics, read_state

pytestmark = pytest.mark.slow


class ScreenClosed(BaseException):
    """What a host raises to stop a node."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, 2, 0)
    return folder


@pytest.fixture(scope="module")
def encoders(embedded) -> Encoders:
    return load_encoders(str(embedded))


@pytest.fixture(scope="module")
def cache(clips, encoders, tmp_path_factory) -> Path:
    return prepare(read_rows(clips), encoders, tmp_path_factory.mktemp("cache")).folder


@pytest.fixture
def order(cache, embedded, tmp_path) -> Order:
    return order_in(tmp_path / "run", cache, embedded)


@pytest.fixture(scope="module")
def done(cache, embedded, tmp_path_factory) -> Order:
    """The order of a run that is done."""
    finished = order_in(tmp_path_factory.mktemp("done") / "run", cache, embedded)
    follow(finished)
    return finished


def order_in(out: Path, cache: Path, embedded: Path) -> Order:
    changes = ("steps=3", "batch=2", "memory.precision=fp32")
    env = {"UNITALK_EMBEDDED": str(embedded), "OMP_NUM_THREADS": "1"}
    return Order(preset="tiny-lora", data=cache, out=out, changes=changes, env=env)


def follow(order: Order, watch: Callable[[Look], None] | None = None) -> list[str]:
    """Train; what happened, in order: "before" where a process was started, and the state of each look."""
    seen: list[str] = []

    def look_on(now: Look) -> None:
        seen.append("nothing" if now.state is None else now.state.state)
        if watch is not None:
            watch(now)

    train(order, lambda: seen.append("before"), look_on, lambda: False)
    return seen


def longer(order: Order) -> Order:
    return replace(order, changes=(*order.changes, "steps=12"))


def stop_after(steps: int):
    def watch(now: Look) -> None:
        if now.record is not None and now.record.step >= steps:
            raise ScreenClosed

    return watch


def test_a_run_is_trained_once_and_then_only_looked_at(order):
    seen = follow(order)
    assert (seen[0], seen[-1]) == ("before", "done")
    assert [record.step for record in read_metrics(order.out)] == [1, 2, 3]
    now = look(order.out)
    assert (now.state.step, now.record.step) == (3, 3)
    assert now.curves == order.out / "curves.png"
    assert follow(order) == ["done"]


def test_an_interrupted_run_leaves_a_checkpoint_and_goes_on_there(order):
    order = longer(order)
    with pytest.raises(ScreenClosed):
        follow(order, stop_after(1))
    stopped = read_state(order.out)
    assert stopped.state == "stopped"
    assert 1 <= stopped.step < 12
    assert checkpoints(order.out)[-1].name == f"step-{stopped.step:06d}"
    assert follow(order)[0] == "before"
    assert [record.step for record in read_metrics(order.out)] == list(range(1, 13))


def test_other_settings_in_the_same_folder_are_named(done):
    other = replace(done, changes=(*done.changes, "optimizer.learning_rate=2e-3", "lora.rank=4"))
    with pytest.raises(ValueError, match=r"lora.rank 16 and not 4, .*another name") as error:
        follow(other)
    assert "optimizer.learning_rate 0.001 and not 0.002" in str(error.value)


def test_settings_that_only_watch_may_differ(done):
    assert follow(replace(done, changes=(*done.changes, "checkpoints.every=50"))) == ["done"]


def test_other_clips_are_noticed_though_the_run_is_done(done, clips, encoders, tmp_path):
    prepare(read_rows(clips)[:1], encoders, tmp_path / "fewer")
    with pytest.raises(ValueError, match="the dataset has changed"):
        follow(replace(done, data=tmp_path / "fewer"))


def test_a_wrong_setting_is_refused_before_a_process_is_started(order):
    with pytest.raises(ValueError, match=r"did you mean loss\.mouth"):
        follow(replace(order, changes=("loss.mouht=1",)))
    assert not order.out.exists()


def test_a_run_that_fails_says_why_in_its_own_words(order):
    with pytest.raises(ValueError, match=r"^lora.targets names audio.nose, which this model lacks"):
        follow(replace(order, changes=(*order.changes, "lora.targets=[audio.nose]")))


def test_a_run_is_found_again_after_the_program_that_began_it_was_killed(order):
    order = longer(order)
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pathlib import Path, PosixPath\n"
        f"from unitalk_core.training.following import Order, train\n"
        f"train({order!r}, lambda: None, lambda now: None, lambda: False)"
    )
    starter = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    while not read_metrics(order.out):
        assert starter.poll() is None
        time.sleep(0.05)
    os.killpg(starter.pid, signal.SIGKILL)
    starter.wait()
    pid = read_state(order.out).pid
    seen = follow(order)
    assert "before" not in seen
    assert (seen[0], seen[-1]) == ("running", "done")
    assert read_state(order.out).pid == pid


def test_a_killed_run_says_so_and_goes_on_when_it_is_wanted_again(order):
    order = longer(replace(order, changes=(*order.changes, "checkpoints.every=1")))
    killed: list[None] = []

    def kill(now: Look) -> None:
        if checkpoints(order.out) and not killed:
            killed.append(os.kill(now.state.pid, signal.SIGKILL))

    with pytest.raises(ValueError, match="was killed, most likely for want of memory"):
        follow(order, kill)
    assert read_state(order.out).state == "running"
    assert follow(order)[0] == "before"
    assert [record.step for record in read_metrics(order.out)] == list(range(1, 13))
