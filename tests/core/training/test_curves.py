"""The picture of a run: its lines are the numbers, and it is written whole, small runs and large ones."""

from __future__ import annotations

import builtins
import logging

import pytest

from unitalk_core.media import read_image
from unitalk_core.training.curves import (
    draw_curves,
    score_lines,
    sigma_lines,
    smoothed,
    stream_lines,
    task_lines,
    thinned,
)
from unitalk_core.training.metrics import Record
from unitalk_core.training.validation import Sample


def record(step: int, task: str = "t2av", picture: bool = True) -> Record:
    losses = {"video": 1 / step, "audio": 2 / step} if picture else {"audio": 2 / step}
    return Record(
        step=step, of=100, task=task, loss=sum(losses.values()), losses=losses, rate=1e-4, gradient=1.0,
        seconds=1.0, memory=100,
        bins={"video": [[0.0, 0], [0.0, 0], [0.6, 2], [0.0, 0]] if picture else [[0.0, 0]] * 4,
              "audio": [[0.5, 1], [0.0, 0], [0.0, 0], [0.0, 0]]},
    )  # fmt: skip


def sample(step: int, **scores) -> Sample:
    return Sample(step, f"step-{step:06d}-0.mp4", "hello", scores)


RUNS = {
    "one step": [record(1)],
    "two tasks": [record(step, ("t2av", "tr2av")[step % 2]) for step in range(1, 30)],
    "sound alone": [record(step, "t2a", picture=False) for step in range(1, 30)],
    "long": [record(step) for step in range(1, 5000)],
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("samples", [[], [sample(10, sync_r=0.4, pitch=120.0), sample(20, sync_r=0.5)]])
def test_any_run_is_a_picture_of_its_size(tmp_path, name, samples):
    pytest.importorskip("matplotlib")
    draw_curves(RUNS[name], tmp_path / "curves.png", samples)
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    picture = read_image(tmp_path / "curves.png")
    assert picture.shape == (700, 1000, 3)
    assert (picture < 0.9).any(-1).float().mean() > 0.005  # something is drawn


def test_a_run_without_steps_has_no_picture(tmp_path):
    draw_curves([], tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_run_goes_on_and_says_so(tmp_path, monkeypatch, caplog):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with caplog.at_level(logging.WARNING, "unitalk"):
        draw_curves(RUNS["one step"], tmp_path / "curves.png")
    assert "pip install matplotlib" in caplog.text
    assert not list(tmp_path.iterdir())


def test_lines_hold_the_steps_that_have_such_a_loss():
    records = [record(1), record(2, "t2a", picture=False), record(3)]
    assert stream_lines(records) == {
        "video": [(1, 1.0), (3, 1 / 3)],
        "audio": [(1, 2.0), (2, 1.0), (3, 2 / 3)],
    }
    assert task_lines(records, ["t2a"]) == {"t2a": [(2, 1.0)]}
    assert sigma_lines(records, "video") == {".5-.75": [(1, 0.3), (3, 0.3)]}
    assert sigma_lines(records[1:2], "video") == {}


def test_scores_are_means_over_the_clips_of_a_step():
    samples = [sample(10, lag=1.0, sync_r=0.2), sample(10, lag=-3.0, sync_r=0.4), sample(20, sync_r=0.5)]
    found = score_lines(samples)
    assert found["sync_r"] == [(10, pytest.approx(0.3)), (20, 0.5)]
    assert found["lag"] == [(10, 2.0)]  # and not -1


def test_a_smoothed_line_starts_and_ends_where_the_line_does():
    line = [(step, 5.0) for step in range(1, 100)]
    assert smoothed(line) == [(step, pytest.approx(5.0)) for step in range(1, 100)]
    noisy = [(step, float(step % 2)) for step in range(1, 400)]
    assert all(0.4 < value < 0.6 for _, value in smoothed(noisy)[50:])


def test_a_thinned_line_keeps_its_ends():
    line = [(step, 0.0) for step in range(10_000)]
    kept = thinned(line)
    assert len(kept) < 2000
    assert (kept[0], kept[-1]) == (line[0], line[-1])
    assert thinned(line[:1]) == line[:1]
    assert thinned(line[:5]) == line[:5]
