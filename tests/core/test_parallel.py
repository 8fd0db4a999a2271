"""One clip by two processes: what they make together is what one makes, and one of them writes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unitalk_core import media
from unitalk_core.__main__ import main
from unitalk_core.parallel import bands_of, shares

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
CLIP = [
    "sample",
    "--say",
    "good morning",
    "--seconds",
    "0.2",
    "--steps",
    "2",
    "--seed",
    "3",
    "--cache",
    "0.1",
]


@pytest.fixture(scope="module")
def two(root, embedded, tmp_path_factory) -> tuple[Path, str]:
    """The folder of what two processes found, and what they said."""
    out = tmp_path_factory.mktemp("two")
    settings = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(root),
        "UNITALK_EMBEDDED": str(embedded),
    }
    command = [
        *LAUNCH,
        str(root / "tests/core/on_two_processes.py"),
        str(out),
        *CLIP,
        "--out",
        str(out / "a.mp4"),
    ]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done.stdout


def test_two_processes_compute_what_one_does(two):
    errors = json.loads((two[0] / "errors.json").read_text())
    assert len(errors) == 16
    assert errors.pop("decoded") < 1e-2  # untrained decoders make more of a rounding
    assert max(errors.values()) < 1e-5, errors


def test_two_processes_make_the_clip_of_one_and_write_it_once(two, embedded, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("UNITALK_EMBEDDED", str(embedded))
    assert main([*CLIP, "--out", str(tmp_path / "a.mp4")]) == 0
    one, both = (media.read_video(folder / "a.mp4") for folder in (tmp_path, two[0]))
    assert (both.frames - one.frames).abs().mean() < 1e-2  # h264 makes .003 of a rounding of 1e-6
    assert both.waveform.shape == one.waveform.shape
    assert two[1].count("one clip, its tokens shared by 2 processes") == 1
    assert two[1].count("a.mp4: 256 x 256") == 1


def test_only_the_process_that_writes_decodes_the_sound(two):
    first, second = (json.loads((two[0] / f"ran_{rank}.json").read_text()) for rank in (0, 1))
    assert first == ["JointDiT", "Vocos"] and second == ["JointDiT"]


def test_fewer_tokens_than_processes_are_refused(two):
    said = (two[0] / "refused.txt").read_text()
    assert said == "1 tokens cannot be shared by 2 processes; start fewer of them"


@pytest.mark.parametrize(("tokens", "size"), [(9, 2), (13, 4), (5, 5), (15004, 8)])
def test_shares_are_all_tokens_in_order_and_nearly_equal(tokens, size):
    runs = [range(tokens)[one] for one in shares(tokens, size)]
    assert [token for run in runs for token in run] == list(range(tokens))
    assert max(map(len, runs)) - min(map(len, runs)) <= 1
    assert max(map(len, runs)) == -(-tokens // size)


def test_bands_are_cut_to_the_queries_of_a_share_and_keep_their_keys():
    bands = [(slice(0, 4), slice(0, 2)), (slice(4, 6), slice(1, 3)), (slice(6, 9), slice(2, 5))]
    assert bands_of(bands, slice(3, 5)) == [(slice(0, 1), slice(0, 2)), (slice(1, 2), slice(1, 3))]
    assert bands_of(bands, slice(6, 9)) == [(slice(0, 3), slice(2, 5))]
