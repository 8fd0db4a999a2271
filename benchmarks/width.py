"""Does the size of the picture change what is said?

python -m benchmarks.width [--texts 12] [--out benchmarks/results/width.json]

Held-out texts of the miniature at equal seeds and several sizes: the share of words that is heard. With the
streams apart the sound must be the same to the last bit.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from unitalk_core.cli.sample import write_report
from unitalk_core.evaluation.held_out import Result, draw_held_out
from unitalk_core.evaluation.report import request
from unitalk_core.pipeline import Bundle, generate, load_bundle

from .measuring import machine

SIZES = ((64, 64), (96, 64), (96, 96))  # width, height in pixels; the miniature was trained at the first
SEED = 3


def main() -> None:
    parser = argparse.ArgumentParser(description="Does the size of the picture change what is said?")
    parser.add_argument("--texts", type=int, default=12)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    truths, bundle = draw_held_out(SEED, args.texts, 1), load_bundle()
    words = {f"{width} x {height}": words_at(bundle, truths, width, height) for width, height in SIZES}
    found = {
        "machine": machine(),
        "texts": args.texts,
        "words": words,
        "same_sound_apart": same_apart(bundle, truths[0]),
    }
    print(found)
    if args.out:
        write_report(args.out, found)


def words_at(bundle: Bundle, truths: list[Any], width: int, height: int) -> float:
    """Share of the words that is heard at this size."""
    made = [Result(generate(bundle, sized(one, seed, width, height)), one) for seed, one in enumerate(truths)]
    return round(mean(one.right_words for one in made), 3)


def same_apart(bundle: Bundle, truth: Any) -> bool:
    """Whether the sound is bit-equal at all sizes while neither stream sees the other."""
    apart = [replace(sized(truth, 0, *size), couple=(False, False)) for size in SIZES]
    first, *others = (generate(bundle, one).waveform for one in apart)
    return all(torch.equal(first, one) for one in others)


def sized(truth: Any, seed: int, width: int, height: int) -> Any:
    return replace(request("text", truth, seed, truth.seconds), width=width, height=height)


if __name__ == "__main__":
    main()
