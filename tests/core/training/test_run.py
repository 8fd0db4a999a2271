"""Whole runs as a user starts them: in processes of their own, killed, stopped, resumed, refused."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from unitalk_core.__main__ import main
from unitalk_core.training.metrics import read_metrics, read_state
from unitalk_core.weights.files import read_tensors

ROOT = Path(__file__).resolve().parents[3]
STEPS = 6
ALWAYS = {"memory.precision": "fp32", "steps": STEPS, "checkpoints.every": 1, "optimizer.warmup": 0}
TASKS = {"tasks": '{"t2av": 1, "tv2a": 1, "tir2av": 1}', "drop.couple": 0.3, "ema": 0.9}


def command(clips: Path, out: Path, *more: str, preset: str = "tiny-lora", **changes) -> list[str]:
    settings = ALWAYS | {name.replace("__", "."): value for name, value in changes.items()}
    changed = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    return ["train", preset, "--data", str(clips), "--out", str(out), *changed, *more]


def start(arguments: list[str], *before: str, **options) -> subprocess.Popen:
    given = [sys.executable, *before, "-m", "unitalk_core", *arguments]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(given, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True, **options)


def finish(process: subprocess.Popen) -> tuple[int, str]:
    _, told = process.communicate(timeout=240)
    return process.returncode, told


def run(clips: Path, out: Path, *more: str, **changes) -> tuple[int, str]:
    return finish(start(command(clips, out, *more, **changes)))


def last_line(told: str) -> str:
    return told.strip().splitlines()[-1]


def losses(out: Path) -> list[dict[str, float]]:
    return [record.losses for record in read_metrics(out)]


@pytest.fixture(scope="module")
def whole(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    code, told = run(clips, out, **TASKS)
    assert code == 0, told
    return out


def test_a_run_leaves_all_it_promises(whole):
    state = read_state(whole)
    assert (state.state, state.step) == ("done", STEPS)
    assert [record.step for record in read_metrics(whole)] == list(range(1, STEPS + 1))
    assert sorted(path.name for path in (whole / "checkpoints").iterdir()) == ["step-000005", "step-000006"]
    assert len(list(whole.glob("lora-*.safetensors"))) == STEPS
    names = read_tensors(whole / "lora.safetensors")
    assert all(name.startswith("diffusion_model.") for name in names)
    assert (whole / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((whole / "config.json").read_text())["ema"] == 0.9


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_like_one_that_was_not(clips, whole, tmp_path):
    """Three kills -9: each somewhere between the process's start and its end, maybe inside a checkpoint."""
    out, chance = tmp_path / "run", random.Random(time.time_ns())
    moments = [chance.uniform(0.0, 1.5) for _ in range(3)]
    for moment in moments:
        again = ["--resume"] if (out / "config.json").is_file() else []
        process = start(command(clips, out, *again, **TASKS))
        until_step(process, out, moved(out))
        time.sleep(moment)
        process.kill()
        finish(process)
    code, told = run(clips, out, "--resume", **TASKS)
    assert code == 0, f"{moments}: {told}"
    assert losses(out) == losses(whole), moments
    ours, theirs = read_tensors(out / "lora.safetensors"), read_tensors(whole / "lora.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours), moments
    assert not list(out.rglob("*.part"))


def moved(out: Path) -> int:
    return len(read_metrics(out)) + 1 if out.is_dir() else 1


def until_step(process: subprocess.Popen, out: Path, step: int) -> None:
    """Wait until a step is done that was not before, or the process has ended."""
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        if out.is_dir() and len(read_metrics(out)) >= min(step, STEPS):
            return
        time.sleep(0.02)


@pytest.mark.slow
def test_told_to_stop_it_leaves_a_checkpoint_and_goes_on_from_there(clips, tmp_path):
    out = tmp_path / "run"
    process = start(command(clips, out, checkpoints__every=1000))
    until_step(process, out, 1)
    process.send_signal(signal.SIGTERM)
    code, _ = finish(process)
    state = read_state(out)
    assert (code, state.state) == (130, "stopped")
    assert [path.name for path in (out / "checkpoints").iterdir()] == [f"step-{state.step:06d}"]
    code, told = run(clips, out, "--resume", checkpoints__every=1000)
    assert code == 0, told
    assert [record.step for record in read_metrics(out)] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_two_processes_are_one(clips, whole, tmp_path):
    out = tmp_path / "run"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    code, told = finish(start(command(clips, out, **TASKS), *launcher))
    assert code == 0, told
    for ours, theirs in zip(losses(out), losses(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    assert losses(out)[0] == pytest.approx(losses(whole)[0], rel=1e-6)


def test_what_is_wrong_is_refused_before_the_first_step(clips, tmp_path, capsys):
    out = tmp_path / "run"
    cases = {
        "there is no key lora.rnak; did you mean lora.rank?": {"lora.rnak": 8},
        "lora.targets names audio.slef, which this model lacks": {"lora.targets": '["audio.slef"]'},
        "there is no model nowhere; use tiny": {"model": "nowhere"},
        "captions names long, which no clip has": {"captions": '{"full": 1, "long": 1}'},
        "train names the text encoder, which no LoRA file can hold": {"train": '["text_encoder"]'},
        "validation.prompts.0.sya": {"validation": '{"prompts": [{"sya": "hello"}]}'},
        "needs about": {"batch": 200000},
    }
    for sentence, changes in cases.items():
        assert main(command(clips, out, **changes)) == 2
        assert sentence in last_line(capsys.readouterr().err)
        assert not read_metrics(out) if out.exists() else True


def test_a_folder_that_holds_a_run_is_not_overwritten(clips, whole):
    before = (whole / "lora.safetensors").read_bytes()
    code, told = run(clips, whole, **TASKS)
    assert code == 2 and last_line(told).endswith("go on with --resume, or give another folder")
    code, told = run(clips, whole, "--resume", **TASKS, **{"seed": 1})
    assert code == 2 and "the configuration of the run in" in last_line(told)
    assert (whole / "lora.safetensors").read_bytes() == before


def test_clips_that_changed_or_are_gone_are_noticed(clips, tmp_path):
    import shutil

    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(clips, data, ignore=shutil.ignore_patterns(".unitalk"))
    code, told = run(data, out, steps=1)
    assert code == 0, told
    lines = (data / "clips.jsonl").read_text().splitlines(keepends=True)
    (data / "clips.jsonl").write_text("".join(lines[:3]))
    (out / "lora.safetensors").unlink()
    code, told = run(data, out, "--resume", steps=1)
    assert code == 2 and "the dataset has changed since" in last_line(told), told
    (data / "clips.jsonl").write_text("".join(lines))
    (data / json.loads(lines[1])["video"]).unlink()
    code, told = run(data, tmp_path / "other", steps=1)
    assert code == 2 and "there is no file" in last_line(told), told


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(clips, tmp_path):
    out = tmp_path / "run"
    full = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))  # noqa: E731 - runs in the child
    assert run(clips, tmp_path / "first", steps=1)[0] == 0  # the latents are made
    code, told = finish(start(command(clips, out), preexec_fn=full))
    assert code == 2, told
    assert "the checkpoint of step 1 cannot be written to" in last_line(told)
    assert read_state(out).state == "failed"
    assert not list((out / "checkpoints").iterdir())


def test_a_plan_lists_what_will_change_and_starts_nothing(clips, whole, tmp_path):
    given = [sys.executable, "-m", "unitalk_core", *command(clips, tmp_path / "run", "--plan")]
    told = subprocess.run(given, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "audio.reference   LoRA" in told
    assert not (tmp_path / "run").exists()
