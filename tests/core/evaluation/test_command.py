"""`evaluate` on the command line: a flat file of measures, a page beside it, nothing where it was stopped."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from unitalk_core.__main__ import main
from unitalk_core.data.synthetic import SyntheticClip
from unitalk_core.evaluation import report

pytest.importorskip("pocketsphinx", reason="the word judge: pip install pocketsphinx")
pytest.importorskip("espeakng_loader", reason="clips need espeak-ng: pip install espeakng-loader")
pytest.importorskip("matplotlib")

COLUMNS = ("value", "low", "high", "baseline", "ceiling", "threshold", "passed")


@pytest.fixture
def command(embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, truths: list[SyntheticClip]):
    """Runs the command on eight clips of one task, which are the true ones; `stop` at the last."""
    monkeypatch.setattr(report, "draw_held_out", lambda _, texts, takes: truths[: texts * takes])
    out = ["--out", str(tmp_path / "report.json")]

    def run(stop: bool = False) -> int:
        def make(_, asked):
            if stop and asked.seed == 7:
                raise KeyboardInterrupt
            return truths[asked.seed].clip

        monkeypatch.setattr(report, "evaluate", partial(report.evaluate, tasks=("given",), make=make))
        return main(["evaluate", "--model", str(embedded), "--suite", "heldout", "--clips", "8", *out])

    return run


def test_the_file_holds_measures_and_nothing_else(command, tmp_path: Path, capsys) -> None:
    assert command() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.png"]
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["face.identity"]["value"] == 1.0
    assert all(tuple(one) == COLUMNS for one in stored.values())
    told = capsys.readouterr().out
    assert "face.identity" in told and "8 clips · seed 0" in told


def test_a_stop_leaves_no_file(command, tmp_path: Path) -> None:
    assert command(stop=True) == 130
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_measured_or_written_is_said_at_once(tmp_path: Path, capsys) -> None:
    assert main(["evaluate", "--suite", "songs"]) == 2
    assert main(["evaluate", "--out", str(tmp_path / "report.txt")]) == 2
    assert main(["evaluate", "--out", str(tmp_path / "none" / "report.json")]) == 2
    (tmp_path / "report.png").mkdir()
    assert main(["evaluate", "--out", str(tmp_path / "report.json")]) == 2
    assert [line.startswith("unitalk: ") for line in capsys.readouterr().err.splitlines()] == [True] * 4
