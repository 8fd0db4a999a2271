"""Say which clips of a folder can be trained on, and why the others cannot.

python -m unitalk_core check DATA
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..data.checks import Finding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    parser.add_argument("--out", metavar="FILE.json", help="write what was found")


def add_data(parser: argparse.ArgumentParser) -> None:
    """What is trained on, and for which model."""
    parser.add_argument(
        "data",
        metavar="DATA",
        help="a folder of name.mp4 with name.txt (scene <S>what is said<E> sound) and maybe name.ref.wav, "
        "or with one .jsonl list of them",
    )
    parser.add_argument(
        "--model",
        default="tiny",
        help="that is to be trained: tiny, a folder like it, unitalk, ovi-720, ovi-960, or a file (tiny)",
    )
    parser.add_argument(
        "--size",
        metavar="WxH",
        type=width_and_height,
        help="pixels of the picture that is trained on (64x64 for tiny, else 704x704)",
    )


def width_and_height(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"a size is WxH, such as 704x704, got {text}")
    return int(width), int(height)


def run(args: argparse.Namespace) -> int:
    """Print a line for each clip. Exit code 1 if one of them cannot be used."""
    from tqdm import tqdm

    from ..data.checks import check_rows
    from ..data.clips import read_rows
    from ..data.encoders import load_config, usual_size
    from ..media import check_target
    from .sample import write_report

    out = None if args.out is None else check_target(args.out, ".json")
    rows, config = read_rows(Path(args.data)), load_config(args.model)
    size = args.size or usual_size(config)
    with tqdm(total=len(rows), unit="clip", delay=0.2) as bar:
        findings = check_rows(rows, config, size, lambda *_: bar.update())
    for one in findings:
        print("\n".join(lines(one)))
    good = [one for one in findings if not one.reasons]
    print(summary(args.data, findings))
    if out is not None:
        about = {"data": str(args.data), "model": args.model, "size": size, "usable": len(good)}
        write_report(out, about | {"clips": [asdict(one) for one in findings]})
    return 0 if len(good) == len(findings) else 1


def lines(finding: Finding) -> list[str]:
    """What is printed of a clip."""
    head = "refused" if finding.reasons else f"good, {finding.seconds:.2f} s"
    told = [f"    cannot be used: {one}" for one in finding.reasons]
    return [f"{finding.name}: {head}", *told, *(f"    note: {one}" for one in finding.notes)]


def summary(data: str, findings: list[Finding]) -> str:
    good = [one for one in findings if not one.reasons]
    seconds = sum(one.seconds for one in good)
    return f"{data}: {len(good)} of {len(findings)} clips can be used, {seconds:.1f} s"
