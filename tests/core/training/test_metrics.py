"""What a run says of itself: lines that survive a kill, a state, a console line, TensorBoard."""

from __future__ import annotations

import builtins
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from unitalk_core.training.metrics import (
    FILE,
    STATE_FILE,
    Average,
    Metrics,
    Record,
    read_metrics,
    read_state,
    scalars,
    write_state,
)


def record(step: int = 1, **changes) -> Record:
    values = {
        "step": step, "of": 8, "task": "t2av", "loss": 1.5, "losses": {"video": 0.5, "audio": 1.0},
        "rate": 1e-4, "gradient": 0.9, "seconds": 2.0, "memory": 300,
        "bins": {"video": [[0.5, 1], [0.0, 0], [2.0, 4], [0.0, 0]]},
    }  # fmt: skip
    return Record(**values | changes)


def write(out: Path, steps: range, **options) -> None:
    with Metrics(out, 8, **options) as metrics:
        for step in steps:
            metrics.write(record(step))


def test_records_come_back_as_they_were_written(tmp_path):
    write(tmp_path, range(1, 4))
    found = read_metrics(tmp_path)
    assert [replace(one, eta=0.0) for one in found] == [record(step) for step in (1, 2, 3)]
    assert read_metrics(tmp_path / FILE) == found


def test_the_time_that_is_left_follows_from_the_steps_so_far(tmp_path):
    write(tmp_path, range(1, 4))
    assert [one.eta for one in read_metrics(tmp_path)] == [14.0, 12.0, 10.0]


def test_a_resumed_run_writes_what_an_uninterrupted_one_does(tmp_path):
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    write(tmp_path / "whole", range(1, 8))
    write(tmp_path / "broken", range(1, 6))
    with (tmp_path / "broken" / FILE).open("a") as file:
        file.write('{"step": 6, "of"')  # killed while it wrote
    with Metrics(tmp_path / "broken", 8) as metrics:
        metrics.truncate(4)
        for step in range(5, 8):
            metrics.write(record(step))
    assert (tmp_path / "whole" / FILE).read_text() == (tmp_path / "broken" / FILE).read_text()
    assert [path.name for path in (tmp_path / "broken").iterdir()] == [FILE]


def test_a_half_written_last_line_is_left_out_and_a_foreign_one_is_named(tmp_path):
    write(tmp_path, range(1, 3))
    path = tmp_path / FILE
    path.write_text(path.read_text() + '{"step": 3')
    assert [one.step for one in read_metrics(tmp_path)] == [1, 2]
    path.write_text('{"loss": 1}\n' + path.read_text())
    with pytest.raises(ValueError, match=r"metrics\.jsonl:1 is no line of a run's metrics"):
        read_metrics(tmp_path)


def test_no_file_is_no_records(tmp_path):
    assert read_metrics(tmp_path) == []


def test_the_console_shows_smoothed_losses_and_not_every_step(tmp_path, capsys):
    write(tmp_path, range(1, 9))
    shown = capsys.readouterr().err
    assert "video 0.500 audio 1.000" in shown
    assert "8/8" in shown
    assert shown.count("300 MB") <= 2


def test_the_other_processes_write_nothing(tmp_path, capsys):
    write(tmp_path, range(1, 3), main=False)
    with Metrics(tmp_path, 8, main=False) as metrics:
        metrics.truncate(1)
    assert not list(tmp_path.iterdir())
    assert not capsys.readouterr().err


def test_an_average_begins_with_its_first_value_and_forgets():
    average = Average(keep=0.5)
    assert average.add(4.0) == 4.0
    for _ in range(20):
        last = average.add(1.0)
    assert last == pytest.approx(1.0, abs=1e-4)


def test_scalars_hold_each_stream_task_and_filled_quarter_of_sigma():
    found = scalars(record())
    assert found["loss/audio"] == 1.0
    assert found["task/t2av"] == 1.5
    assert found["sigma/video 0-.25"] == 0.5
    assert found["sigma/video .5-.75"] == 0.5
    assert "sigma/video .25-.5" not in found
    assert found["run/rate"] == 1e-4


def test_tensorboard_gets_the_scalars_once_also_after_a_resume(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write(tmp_path, range(1, 5), tensorboard=True)
    with Metrics(tmp_path, 8, tensorboard=True) as metrics:
        metrics.truncate(2)
        for step in (3, 4, 5):
            metrics.write(record(step))
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [one.step for one in events.Scalars("loss/video")] == [1, 2, 3, 4, 5]


def test_tensorboard_that_is_not_installed_is_one_sentence(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match="pip install tensorboard"):
        Metrics(tmp_path, 8, tensorboard=True)


def test_the_state_of_a_run_comes_back(tmp_path):
    assert read_state(tmp_path) is None
    write_state(tmp_path, "running", 3, 8, "all is well", "abc")
    state = read_state(tmp_path)
    assert (state.pid, state.state, state.step, state.of) == (os.getpid(), "running", 3, 8)
    assert (state.message, state.fingerprint) == ("all is well", "abc")
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]


def test_a_foreign_or_unknown_state_is_one_sentence(tmp_path):
    (tmp_path / STATE_FILE).write_text(json.dumps({"step": 3}))
    with pytest.raises(ValueError, match=r"run\.json does not say how a run stands"):
        read_state(tmp_path)
    with pytest.raises(ValueError, match="preparing, running, done, stopped, failed, got sleeping"):
        write_state(tmp_path, "sleeping", 0, 8, "", "")
