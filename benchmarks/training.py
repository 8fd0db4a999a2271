"""What does the trainer cost beside a plain PyTorch loop on the same model, clips, optimiser and precision?

python benchmarks/training.py --out benchmarks/results/training.json

Both loops run in turn, a few steps at a time, so that a busy machine slows both; on a CPU the time that the
process really computed is counted too, which other processes disturb less. The plain loop is what anyone
would write: all clips in memory, no checks, no counting, nothing written. Peak memory is that of a process of
its own for each. The clips are noise: what is seen and heard does not change the time.

b batch
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from unitalk_core.av import AV, Clip
from unitalk_core.cli.sample import write_report
from unitalk_core.diffusion.schedules import shift_sigmas
from unitalk_core.media import check_target, write_clip, write_wav
from unitalk_core.peak import peak_memory
from unitalk_core.training.batches import stacked
from unitalk_core.training.config import TrainConfig, read_config
from unitalk_core.training.metrics import Metrics
from unitalk_core.training.objective import Batch, flow_matching_loss
from unitalk_core.training.setup import Setup, make_accelerator, set_up
from unitalk_core.training.trainer import Trainer

CLIPS, FRAMES, SIZE, RATE = 16, 61, 64, 16000
FIXED = (
    'tasks={"tr2av": 1}', 'captions={"full": 1}', "drop={text: 0, reference: 0, couple: 0}",
    "optimizer.schedule=constant", "optimizer.warmup=0", "loss.alignment=0", "steps=1000000",
)  # fmt: skip  # what a plain loop does not do
TARGET = 0.05

Step = Callable[[], object]


class Seconds(NamedTuple):
    """By the clock on the wall, and by that of the processor for this process alone."""

    wall: float
    processor: float


def main() -> None:
    parser = argparse.ArgumentParser(description="The trainer beside a plain loop.")
    parser.add_argument("--preset", default="tiny-lora")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--repeats", type=int, default=30, help="turns of each loop (30)")
    parser.add_argument("--steps", type=int, default=2, help="steps of a turn (2)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", metavar="FILE.json")
    parser.add_argument(
        "--only", choices=LOOPS, help=argparse.SUPPRESS
    )  # in a child: peak memory of one loop
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = read_config(args.preset, [*args.changes, *FIXED])
    if args.only:
        print(json.dumps(peak_of(args.only, config, args.data, args.steps)))
        return
    out = None if args.out is None else check_target(args.out, ".json")
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or write_noise(Path(folder) / "clips")
        found = compare(config, data, Path(folder), args)
        found["peak_memory_mb"] = {name: in_child(name, data, args) for name in LOOPS}
    print(json.dumps(found, indent=2))
    if out is not None:
        write_report(out, found)


def compare(config: TrainConfig, data: Path, folder: Path, args: argparse.Namespace) -> dict[str, object]:
    """Seconds a step of both loops, turn by turn."""
    steps = {name: make(set_up_for(config, data), folder) for name, make in LOOPS.items()}
    for step in steps.values():
        seconds_of(step, 3)  # compilation, and the optimiser's first state
    turns: dict[str, list[Seconds]] = {name: [] for name in LOOPS}
    for turn in range(args.repeats):
        for name in list(LOOPS)[:: 1 if turn % 2 else -1]:
            turns[name].append(seconds_of(steps[name], args.steps))
    found: dict[str, object] = {
        "preset": args.preset,
        "changes": list(args.changes),
        "batch": config.batch,
        "machine": machine(args.threads),
        "turns": args.repeats,
        "steps_of_a_turn": args.steps,
        "target": TARGET,
    }
    for clock in Seconds._fields:
        found[clock] = on_clock(clock, turns, config.batch)
    return found


def on_clock(clock: str, turns: dict[str, list[Seconds]], batch: int) -> dict[str, object]:
    """Medians over turns. overhead: of the ratio of two turns that follow each other."""
    seconds = {name: [getattr(one, clock) for one in all_] for name, all_ in turns.items()}
    middle = {name: statistics.median(all_) for name, all_ in seconds.items()}
    ratios = [one / other for one, other in zip(seconds["trainer"], seconds["plain"], strict=True)]
    low, overhead, high = statistics.quantiles(ratios, n=4)
    return {
        "seconds_per_step": {name: round(one, 4) for name, one in middle.items()},
        "samples_per_second": {name: round(batch / one, 3) for name, one in middle.items()},
        "overhead": round(overhead - 1, 4),
        "overhead_quartiles": [round(low - 1, 4), round(high - 1, 4)],
    }


# --- the two loops ---------------------------------------------------------------------------------------


def with_trainer(setup: Setup, folder: Path) -> Step:
    """A step as `train` makes it, with its line in metrics.jsonl."""
    trainer = Trainer(setup.trainee, setup.names, setup.batches, make_accelerator(setup.config))
    metrics = Metrics(folder, setup.config.steps)
    return lambda: metrics.write(trainer.take_step())


def with_plain_loop(setup: Setup, folder: Path) -> Step:  # noqa: ARG001 - writes nothing
    """The same from nothing but torch and the network's own loss."""
    config, model, device = setup.config, setup.trainee.model, setup.base.bundle.device
    video, audio, context, reference = (one.to(device) for one in in_memory(setup))
    learning = [one for one in setup.trainee.parameters() if one.requires_grad]
    chosen = config.optimizer
    optimizer = torch.optim.AdamW(
        learning, chosen.learning_rate, chosen.betas, chosen.eps, weight_decay=chosen.weight_decay
    )
    half = torch.autocast(device.type, torch.bfloat16, enabled=config.memory.precision == "bf16")
    model.train()

    def step() -> float:
        picks = torch.randint(len(audio), (config.batch,), device=device)
        latent = AV(video[picks], audio[picks])
        masks = AV(torch.ones_like(latent.video[:, :1, :, :1, :1]), torch.ones_like(latent.audio[:, :1]))
        batch = Batch(latent, masks, context[picks], reference[picks])
        sigma = shift_sigmas(torch.rand(config.batch, device=device), setup.base.config.shift)
        with half:
            losses = flow_matching_loss(
                model, batch, AV(sigma, sigma), latent.map(torch.randn_like), setup.trainee.hooks
            )
        loss = sum(one.mean() for one in losses.values())
        loss.backward()
        nn.utils.clip_grad_norm_(learning, chosen.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


LOOPS = {"trainer": with_trainer, "plain": with_plain_loop}


def in_memory(setup: Setup) -> tuple[torch.Tensor, ...]:
    """Latents of picture and sound, text features and voices of all clips, (clips, ...) each."""
    items = [setup.cache[i] for i in range(len(setup.cache))]
    stream = setup.base.config.streams.audio
    texts = [one.texts["full"].features.float() for one in items]
    voices = [one.reference.T.float() for one in items]
    return (
        torch.stack([one.video for one in items]).float(),
        torch.stack([one.audio for one in items]).float(),
        stacked(texts, (stream.text_len, stream.text_dim)),
        stacked(voices, (stream.reference_len, stream.reference_dim)),
    )


# --- measuring -------------------------------------------------------------------------------------------


def set_up_for(config: TrainConfig, data: Path) -> Setup:
    return set_up(config, data, make_accelerator(config))


def seconds_of(step: Step, count: int) -> Seconds:
    """Of one step, mean of `count`."""
    start = Seconds(time.perf_counter(), time.process_time())
    for _ in range(count):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Seconds(
        (time.perf_counter() - start.wall) / count, (time.process_time() - start.processor) / count
    )


def peak_of(name: str, config: TrainConfig, data: Path, steps: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        setup = set_up_for(config, data)
        seconds_of(LOOPS[name](setup, Path(folder)), steps)
        return peak_memory(setup.base.bundle.device)


def in_child(name: str, data: Path, args: argparse.Namespace) -> int:
    """MB, from a process that runs this loop alone."""
    changes = [part for change in args.changes for part in ("--set", change)]
    given = ["--only", name, "--data", data, "--preset", args.preset, "--threads", args.threads, *changes]
    done = subprocess.run(
        [sys.executable, __file__, *map(str, given)], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def write_noise(folder: Path) -> Path:
    """A dataset of clips of one length, with captions and voices."""
    folder.mkdir()
    chance = torch.Generator().manual_seed(0)
    for i in range(CLIPS):
        frames = torch.rand(FRAMES, SIZE, SIZE, 3, generator=chance)
        sound = 0.1 * torch.randn(1, round(FRAMES / 25 * RATE), generator=chance)
        write_clip(folder / f"{i:02d}.mp4", Clip(frames, sound, Fraction(25), RATE))
        (folder / f"{i:02d}.txt").write_text("a woman <S>a wonderful potato<E> a deep slow male voice")
        write_wav(folder / f"{i:02d}.ref.wav", 0.1 * torch.randn(1, 3 * RATE, generator=chance), RATE)
    return folder


def machine(threads: int) -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{threads} thread(s)"
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    return f"{system}, {device}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
