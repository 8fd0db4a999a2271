"""The nodes that judge, on clips made up so that it is known which take is right."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from comfy_execution.graph_utils import ExecutionBlocker
from rig import error_of, measure, run

FPS, RATE, FRAMES = 25, 16000, 40


def take(seed: int, late: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture (f, h, w, 3) that opens as far as its sound (1, n) is loud, some frames after it."""
    draw = torch.Generator().manual_seed(seed)
    level = torch.rand(FRAMES, generator=draw).square()
    picture = level.roll(late)[:, None, None, None].expand(FRAMES, 16, 16, 3)
    sound = torch.randn(FRAMES * RATE // FPS, generator=draw) * level.repeat_interleave(RATE // FPS) / 4
    return picture, sound[None].clamp(-1, 1)


def batch(*lates: int) -> tuple[torch.Tensor, dict[str, Any]]:
    """IMAGE and AUDIO of takes one behind the other."""
    pictures, sounds = zip(*(take(i, late) for i, late in enumerate(lates)), strict=True)
    return torch.cat(pictures), {"waveform": torch.stack(sounds), "sample_rate": RATE}


@measure
def judged() -> dict[str, Any]:
    """A clip four frames late, its score with words, a sound that is too long; what cannot be judged."""
    images, audio = batch(4)
    longer = audio | {"waveform": torch.cat([audio["waveform"]] * 2, dim=2)}
    sync, lag, loudness, words, report = run("UniTalkScore", images, audio, 25.0, "motion")
    spoken = run("UniTalkScore", images, audio, 25.0, "mouth", "wonderful morning")
    return {
        "numbers": [sync, lag, loudness],
        "nobody listened": isinstance(words, ExecutionBlocker),
        "report": report,
        "installed": importlib.util.find_spec("pocketsphinx") is not None,
        "words": spoken[4],
        "longer": run("UniTalkScore", images, longer, 25.0, "motion")[4],
        "no audio": error_of(lambda: run("UniTalkScore", images, None, 25.0, "motion")),
        "two clips": error_of(lambda: run("UniTalkScore", *batch(0, 0), 25.0, "motion")),
        "short": error_of(lambda: run("UniTalkScore", images[:5], audio, 25.0, "motion")),
    }


@measure
def best_take() -> dict[str, Any]:
    """Three takes of which the second is in time; one alone; numbers of frames that do not divide."""
    images, audio = batch(5, 0, -7)
    seen, heard, index, sync, report = run("UniTalkPickBest", images, audio, 25.0, "motion")
    alone = run("UniTalkPickBest", *batch(3), 25.0, "mouth")
    return {
        "index": index,
        "sync": sync,
        "same": [
            torch.equal(seen, images[FRAMES : 2 * FRAMES]),
            torch.equal(heard["waveform"], audio["waveform"][1:2]),
        ],
        "report": report.splitlines(),
        "alone": alone[2],
        "no audio": error_of(lambda: run("UniTalkPickBest", images, None, 25.0, "motion")),
        "frames": error_of(lambda: run("UniTalkPickBest", images[1:], audio, 25.0, "motion")),
    }
