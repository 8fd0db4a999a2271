"""Measure a model on held-out clips: words, sync, voice and face, each beside chance and the truth.

python -m unitalk_core evaluate --model tiny --clips 40 --out report.json
python -m unitalk_core evaluate --lora anna/lora.safetensors --like anna/clips --clips 20
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path

from .sample import add_lora, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="tiny", help="tiny, which comes with the pack, or a folder like it"
    )
    add_lora(parser)
    parser.add_argument(
        "--like", metavar="FOLDER", help="instead: how much clips look and sound like the person of these"
    )
    parser.add_argument("--clips", type=int, default=40, help="how many held-out clips, 8 or more (40)")
    parser.add_argument("--seed", type=int, default=0, help="chance (0)")
    parser.add_argument("--out", metavar="FILE.json", help="write the measures, and what they were made on")


def run(args: argparse.Namespace) -> int:
    """Print a table of the measures; a missed threshold is marked in it and is no error."""
    from tqdm import tqdm

    from ..evaluation.likeness import likeness
    from ..evaluation.measures import table
    from ..evaluation.report import evaluate
    from ..media import check_target
    from .sample import write_report

    out = None if args.out is None else check_target(args.out, ".json")
    bundle = load(args)
    start = time.perf_counter()
    with tqdm(total=args.clips, unit="clip", delay=0.2) as bar:
        given = (bundle, args.clips, args.seed, lambda *_: bar.update())
        measures = evaluate(*given) if args.like is None else likeness(Path(args.like), *given)
    print(table(measures))
    if out is not None:
        write_report(out, about(args, time.perf_counter() - start) | {"measures": measures})
    return 0


def about(args: argparse.Namespace, seconds: float) -> dict[str, object]:
    """What was measured, and where."""
    import torch

    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    return {
        "model": args.model,
        "loras": args.lora,
        "like": args.like,
        "clips": args.clips,
        "seed": args.seed,
        "seconds": round(seconds, 1),
        "machine": f"{system}, torch {torch.__version__}",
    }
