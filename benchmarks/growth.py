"""How does the cost of a clip grow with steps, seconds, pixels and batch?

python -m benchmarks.growth --out benchmarks/results/growth.json

Each point differs from the base in one thing. Times are of the processor, on one thread, and ratios to the
base, which runs before each point: medians over all turns, so a busy machine slows both. Peak memory is that
of a process of its own on Linux, without what it holds before it begins.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from benchmarks.measuring import in_child, machine
from unitalk_core.av import draw_noise
from unitalk_core.cli.sample import write_report
from unitalk_core.diffusion.denoiser import Conditioning, Denoiser
from unitalk_core.diffusion.samplers import SAMPLERS, WHOLE_TIMESTEPS
from unitalk_core.diffusion.schedules import SCHEDULES
from unitalk_core.media import check_target
from unitalk_core.peak import peak_memory
from unitalk_core.pipeline import Bundle, clip_shape, decode, encode_conditions, load_bundle
from unitalk_core.request import Request, check_request

STAGES = ("sample", "decode")
COUNT_ANEW = Path("/proc/self/clear_refs")
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0"}  # what is freed, so it counts


@dataclass(frozen=True)
class Point:
    """A clip: steps of UniPC with text strength 2, seconds, pixels of a side, clips at once."""

    steps: int = 8
    seconds: float = 1.0
    side: int = 64
    batch: int = 1


BASE = Point()
GROWN = {"steps": (16,), "seconds": (2.0, 4.0), "side": (96, 128), "batch": (2, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description="How cost grows.")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each point (5)")
    parser.add_argument("--out", metavar="FILE.json")
    parser.add_argument("--point", help=argparse.SUPPRESS)  # in a child: peak memory of one
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.point:
        print(json.dumps(peak_of(Point(**json.loads(args.point)))))
        return
    out = None if args.out is None else check_target(args.out, ".json")
    bundle = load_bundle()
    make(bundle, replace(BASE, steps=1))  # what only the first one does
    rows = [
        measured(bundle, name, replace(BASE, **{name: value}), args.repeats)
        for name, values in GROWN.items()
        for value in values
    ]
    found = {"machine": machine(), "turns": args.repeats, "base": asdict(BASE)}
    found |= {"base_memory_mb": peak_in_child(BASE), "rows": rows}
    print_table(found)
    if out is not None:
        write_report(out, found)


def measured(bundle: Bundle, name: str, point: Point, repeats: int) -> dict[str, object]:
    """Of one point beside the base: how much more there is of `name`, and what that costs."""
    turns = [(make(bundle, BASE), make(bundle, point)) for _ in range(repeats)]
    factor = getattr(point, name) / getattr(BASE, name)
    row = {"what": name, "value": getattr(point, name), "factor": factor**2 if name == "side" else factor}
    for stage in STAGES:
        ratio = statistics.median(other[stage] / base[stage] for base, other in turns)
        row[stage] = round(ratio, 3)
        row[f"{stage}_power"] = round(math.log(ratio) / math.log(row["factor"]), 2)
    return row | {"memory_mb": peak_in_child(point)}


@torch.no_grad()
def make(bundle: Bundle, point: Point) -> dict[str, float]:
    """Seconds of the processor by stage."""
    request = Request(
        scene="a man", seconds=point.seconds, width=point.side, height=point.side, steps=point.steps
    )
    frames = check_request(bundle.config, request)
    cond, uncond = (repeated(one, point.batch) for one in encode_conditions(bundle, request))
    shape = clip_shape(bundle.config, frames, request).map(lambda size: (point.batch, *size[1:]))
    noise, shift = draw_noise(shape, request.seeds), bundle.config.shift
    denoiser = Denoiser(
        bundle.model,
        cond,
        uncond,
        request.guidance,
        integer_timesteps=request.sampler in WHOLE_TIMESTEPS,
        shift=shift,
    )
    start = time.process_time()
    latents = SAMPLERS[request.sampler](denoiser, noise, SCHEDULES[request.sampler](request.steps, shift))
    sampled = time.process_time()
    decode(bundle, latents, frames)
    return {"sample": sampled - start, "decode": time.process_time() - sampled}


def repeated(given: Conditioning, batch: int) -> Conditioning:
    return Conditioning(given.context.map(lambda one: one.expand(batch, -1, -1)))


def peak_in_child(point: Point) -> int:
    os.environ.update(GIVE_BACK)
    return in_child("benchmarks.growth", "--point", json.dumps(asdict(point)))["memory_mb"]


def peak_of(point: Point) -> dict[str, int]:
    """Beyond what is held when it begins, of the whole process; Linux counts anew from there."""
    bundle = load_bundle()
    make(bundle, replace(BASE, steps=1, seconds=0.2))  # what only the first one does
    COUNT_ANEW.write_text("5")
    before = peak_memory(bundle.device)
    make(bundle, point)
    return {"memory_mb": peak_memory(bundle.device) - before}


def print_table(found: dict[str, object]) -> None:
    print("| what grows | to | times as much | sampling | decoding | peak memory |")
    print("|---|---|---|---|---|---|")
    print(f"| base: {found['base']} | | 1 | 1 | 1 | {found['base_memory_mb']} MB |")
    for row in found["rows"]:
        cells = [f"{row[stage]:.2f} (power {row[f'{stage}_power']:.2f})" for stage in STAGES]
        print(
            f"| {row['what']} | {row['value']:g} | {row['factor']:g} | {' | '.join(cells)} | "
            f"{row['memory_mb']} MB |"
        )


if __name__ == "__main__":
    main()
