"""Does it pay on this machine to run the two passes of a guided step as one batch?

python -m benchmarks.passes --out benchmarks/results/passes.json

One call of the denoiser with the passes in one batch beside one by one, in turn, for clips of several sizes;
medians of the ratios of seconds of the processor, on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import torch

from benchmarks.measuring import machine
from unitalk_core.av import draw_noise
from unitalk_core.cli.sample import write_report
from unitalk_core.diffusion.denoiser import Denoiser
from unitalk_core.media import check_target
from unitalk_core.pipeline import Bundle, clip_shape, encode_conditions, load_bundle
from unitalk_core.request import Request, check_request

SIZES = ((0.36, 64), (1.0, 64), (2.4, 64), (4.8, 64), (2.4, 128), (2.4, 256))  # seconds, pixels of a side


def main() -> None:
    parser = argparse.ArgumentParser(description="Two passes in one batch, or one by one.")
    parser.add_argument("--repeats", type=int, default=15, help="turns of each size (15)")
    parser.add_argument("--out", metavar="FILE.json")
    args = parser.parse_args()
    out = None if args.out is None else check_target(args.out, ".json")
    torch.set_num_threads(1)
    bundle = load_bundle()
    rows = [compared(bundle, *size, args.repeats) for size in SIZES]
    found = {"machine": machine(), "turns": args.repeats, "rows": rows}
    print("| seconds | pixels | tokens | batched, as a share of one by one |")
    print("|---|---|---|---|")
    for row in rows:
        print(f"| {row['seconds']:g} | {row['side']} | {row['tokens']} | {row['batched']:.2f} |")
    if out is not None:
        write_report(out, found)


@torch.no_grad()
def compared(bundle: Bundle, seconds: float, side: int, repeats: int) -> dict[str, float]:
    request = Request(scene="a man", seconds=seconds, width=side, height=side)
    frames = check_request(bundle.config, request)
    noise = draw_noise(clip_shape(bundle.config, frames, request), request.seeds)
    one_by_one = Denoiser(bundle.model, *encode_conditions(bundle, request), request.guidance)
    batched = replace(one_by_one, together=2)
    turns = [(seconds_of(batched, noise), seconds_of(one_by_one, noise)) for _ in range(repeats + 1)][1:]
    tokens = noise.video.shape[2] * (side // 32) ** 2 + noise.audio.shape[2]
    ratio = statistics.median(one / other for one, other in turns)
    return {"seconds": seconds, "side": side, "tokens": tokens, "batched": round(ratio, 3)}


def seconds_of(denoiser: Denoiser, noise: object) -> float:
    start = time.process_time()
    denoiser(noise, torch.tensor(0.6))
    return time.process_time() - start


if __name__ == "__main__":
    main()
