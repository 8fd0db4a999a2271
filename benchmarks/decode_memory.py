"""How much memory does a clip take while it is decoded and written, when it gets ten times as long?

python -m benchmarks.decode_memory --out benchmarks/results/decode_memory.json

Each length is decoded in a process of its own, as `sample` does it (`streamed`: every part goes to the file
when it is there) and as a program does that wants the whole clip (`held`). The network has random weights:
what is seen does not change the memory. `output` is what the frames of a clip take, float32; `live` what all
tensors take that are there at once, weights too; `peak` what the process holds at most. glibc keeps what is
freed in pieces that later blocks may or may not fit, so its peak differs by a quarter between runs of one
length, and a longer run only draws more often. `peak_given_back` is that of a process in which each block of
64 KB and more goes back when it is freed: what the program itself needs.

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
GIVING_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_TRIM_THRESHOLD_": str(2**17)}  # of glibc, bytes
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
    found = {how: [peaks_in_children(how, f, args.size) for f in (short, long)] for how in HOW}
    output = [round(12 * args.size**2 * f / 10**6, 1) for f in (short, long)]
    return {
        "machine": machine(),
        "size": args.size,
        "frames": [short, long],
        "output_mb": output,
        "measured": found,
        "growth_of_live": growth(found, "live_mb"),
        "growth_of_peak_given_back": growth(found, "peak_given_back_mb"),
        "full_size": full_size(args.times),
        "target": TARGET,
    }


def peaks_in_children(how: str, frames: int, size: int) -> dict[str, float]:
    """As the system gives memory, and the peak where all that is freed goes back at once."""
    asked = (MODULE, "--only", how, "--frames", frames, "--size", size)
    return in_child(*asked) | {"peak_given_back_mb": in_child(*asked, env=GIVING_BACK)["peak_mb"]}


def growth(found: dict[str, list[dict[str, float]]], what: str) -> dict[str, float]:
    return {how: round(two[what] / one[what] - 1, 4) for how, (one, two) in found.items()}


def full_size(times: int) -> dict[str, object]:
    """The same of the Wan2.2 VAE at 704 x 704 in bfloat16, counted on the meta device."""
    frames = [121, 1 + 120 * times]
    with torch.device("meta"):
        weights = weight_bytes(VideoVAE(WAN_VAE).bfloat16())
    one, two = (weights + decode_bytes(WAN_VAE, (704, 704), torch.bfloat16, count) for count in frames)
    return {"frames": frames, "live_mb": [one // 10**6, two // 10**6], "growth": round(two / one - 1, 4)}


def print_table(report: dict[str, object]) -> None:
    print("| how | frames | output, MB | live, MB | growth | peak, given back, MB | growth | peak, MB |")
    print("|---|---|---|---|---|---|---|---|")
    for how, i in product(HOW, (0, 1)):
        one, (live, back) = report["measured"][how][i], ("", "")
        if i:
            live, back = (
                f"{report[name][how]:+.1%}" for name in ("growth_of_live", "growth_of_peak_given_back")
            )
        clip = (how, report["frames"][i], report["output_mb"][i])
        cells = (*clip, one["live_mb"], live, one["peak_given_back_mb"], back, one["peak_mb"])
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
