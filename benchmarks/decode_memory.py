"""How much memory does a clip take while it is decoded and written, when it gets ten times as long?

python -m benchmarks.decode_memory --out benchmarks/results/decode_memory.json

Each length is decoded in a process of its own, as `sample` does it (`streamed`: every part goes to the file
when it is there) and as a program does that wants the whole clip (`held`). The network has random weights:
what is seen does not change the memory. `output` is what the frames of a clip take, float32; `live` what all
tensors take that are there at once, weights too; `peak` what the process holds: its allocator keeps some of
what is freed, and more of it for a while.

f frames
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import product
from pathlib import Path

import torch
from torch import nn

from unitalk_core.av import AV
from unitalk_core.cli.sample import write_report
from unitalk_core.config import TINY
from unitalk_core.footprint import LiveBytes, decode_bytes, weight_bytes
from unitalk_core.media import check_target, write_clip, write_stream
from unitalk_core.models.video_vae import TINY_VAE, WAN_VAE, VideoVAE
from unitalk_core.peak import peak_memory
from unitalk_core.pipeline import Bundle, decode_stream

from .measuring import in_child, machine

MODULE = "benchmarks.decode_memory"
HOW = ("streamed", "held")
TARGET = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128, help="pixels, each side (128)")
    parser.add_argument("--frames", type=int, default=61, help="of the shorter clip (61)")
    parser.add_argument("--times", type=int, default=10, help="how much longer the longer one is (10)")
    parser.add_argument("--out", help="write all that was measured, as JSON")
    parser.add_argument("--only", choices=HOW, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(peaks_of(args.only, args.frames, args.size)))
        return
    out = check_target(args.out, ".json") if args.out else None
    report = measured(args)
    print_table(report)
    if out:
        write_report(out, report)


def measured(args: argparse.Namespace) -> dict[str, object]:
    short = args.frames
    long = 1 + (args.frames - 1) * args.times
    found = {
        how: [in_child(MODULE, "--only", how, "--frames", f, "--size", args.size) for f in (short, long)]
        for how in HOW
    }
    output = [round(12 * args.size**2 * f / 10**6, 1) for f in (short, long)]
    return {
        "machine": machine(),
        "size": args.size,
        "frames": [short, long],
        "output_mb": output,
        "measured": found,
        "growth_of_live": {
            how: round(two["live_mb"] / one["live_mb"] - 1, 4) for how, (one, two) in found.items()
        },
        "full_size": full_size(args.times),
        "target": TARGET,
    }


def full_size(times: int) -> dict[str, object]:
    """The same of the Wan2.2 VAE at 704 x 704 in bfloat16, counted on the meta device."""
    frames = [121, 1 + 120 * times]
    with torch.device("meta"):
        weights = weight_bytes(VideoVAE(WAN_VAE).bfloat16())
    one, two = (weights + decode_bytes(WAN_VAE, (704, 704), torch.bfloat16, count) for count in frames)
    return {"frames": frames, "live_mb": [one // 10**6, two // 10**6], "growth": round(two / one - 1, 4)}


def print_table(report: dict[str, object]) -> None:
    print("| how | frames | output, MB | live, MB | growth of live | peak of the process, MB |")
    print("|---|---|---|---|---|---|")
    for how, i in product(HOW, (0, 1)):
        growth = f"{report['growth_of_live'][how]:+.1%}" if i else ""
        one = report["measured"][how][i]
        cells = (how, report["frames"][i], report["output_mb"][i], one["live_mb"], growth, one["peak_mb"])
        print("| " + " | ".join(map(str, cells)) + " |")


def peaks_of(how: str, frames: int, size: int) -> dict[str, float]:
    """MB that tensors took at most, and that this process held."""
    torch.manual_seed(0)
    bundle = Bundle(nn.Identity(), TINY, VideoVAE(TINY_VAE).eval(), None, None)
    latent = torch.randn(1, 48, 1 + (frames - 1) // 4, size // 16, size // 16)
    with tempfile.TemporaryDirectory() as folder, LiveBytes("cpu") as live:
        clip = decode_stream(bundle, AV(latent, None), frames)
        path = Path(folder) / "clip.mp4"
        write_stream(path, clip) if how == "streamed" else write_clip(path, clip.whole())
    held = live.peak + weight_bytes(bundle.video_vae)
    return {"live_mb": round(held / 10**6, 1), "peak_mb": peak_memory(torch.device("cpu"))}


if __name__ == "__main__":
    main()
