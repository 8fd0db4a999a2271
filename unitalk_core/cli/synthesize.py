"""Write synthetic clips with exact timing, the data that the miniature learns from.

python -m unitalk_core synthesize OUT --clips 100 --seed 7
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", help="a folder, made if it is not there")
    parser.add_argument("--clips", type=int, default=10, help="how many (10)")
    parser.add_argument("--seed", type=int, default=0, help="chance; the same seed makes the same clips (0)")


def run(args: argparse.Namespace) -> int:
    from ..data.synthetic import write_clips

    if args.clips < 1:
        raise ValueError(f"clips must be at least 1, got {args.clips}")
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file; give a folder")
    write_clips(out, args.clips, args.seed)
    print(f"{out}: {args.clips} clips")
    return 0
