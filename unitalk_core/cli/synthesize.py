"""Write synthetic clips with exact timing, the data that the miniature learns from.

python -m unitalk_core synthesize OUT --clips 100 --seed 7
python -m unitalk_core synthesize OUT --clips 12 --person 0

OUT/clips.jsonl lists them with caption, voice, mouth and timing, so that OUT is a dataset to train on.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", help="a folder, made if it is not there")
    parser.add_argument("--clips", type=int, default=10, help="how many (10)")
    parser.add_argument("--seed", type=int, default=0, help="chance; the same seed makes the same clips (0)")
    parser.add_argument(
        "--person", metavar="N", type=int, help="all clips show one face and voice that the model never saw"
    )


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..data.synthetic_folder import write_clips

    if Path(args.out).is_file():
        raise NotADirectoryError(f"{args.out} is a file; give a folder")
    with tqdm(total=args.clips, unit="clip", delay=0.2) as bar:
        folders = write_clips(
            Path(args.out), args.clips, args.seed, on_clip=lambda *_: bar.update(), person=args.person
        )
    print(f"{args.out}: {len(folders)} clips")
    return 0
