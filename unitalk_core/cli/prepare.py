"""Encode a folder of clips once, so that training only reads latents.

python -m unitalk_core prepare DATA --out CACHE
python -m unitalk_core prepare DATA --out CACHE --show NAME --clip look.mp4
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .check import add_data

if TYPE_CHECKING:
    from ..data.cache import Cache
    from ..data.encoders import Encoders

FILES = {
    "video-vae": "Wan2.2's video VAE",
    "audio-vae": "MMAudio's VAE",
    "vocoder": "BigVGAN, to hear a clip of the cache again (default: Griffin-Lim)",
    "text-encoder": "UMT5",
    "tokenizer": "its folder, where the file of UMT5 holds none",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    parser.add_argument("--out", metavar="CACHE", help="a folder for the cache (default: inside DATA)")
    parser.add_argument("--verify", action="store_true", help="read all of the cache and its sources again")
    parser.add_argument("--show", metavar="NAME", help="decode a clip of the cache, to look at")
    parser.add_argument("--clip", metavar="FILE.mp4", help="where --show writes it")
    files = parser.add_argument_group("encoders of a full-size model")
    for name, what in FILES.items():
        files.add_argument(f"--{name}", metavar="FILE", type=Path, help=what)
    files.add_argument("--device", default="cpu", help="where they work: cpu, cuda, cuda:1, mps (cpu)")


def run(args: argparse.Namespace) -> int:
    """Exit code 1 if --verify found something wrong."""
    from tqdm import tqdm

    from ..data.cache import cache_for, prepare
    from ..data.clips import read_rows
    from ..data.encoders import load_encoders
    from ..media import check_target

    if (args.show is None) != (args.clip is None):
        raise ValueError("--show and --clip belong together: the name of a clip, and the file to write it to")
    if args.clip is not None:
        check_target(args.clip, ".mp4")
    data = Path(args.data)
    if args.out is not None and Path(args.out).resolve() == data.resolve():
        raise ValueError(f"{args.out} holds the clips; give another folder for the cache, or leave out --out")
    rows = None if args.out is None else read_rows(data)
    files = {name.replace("-", "_"): getattr(args, name.replace("-", "_")) for name in FILES}
    encoders = load_encoders(args.model, **files, device=args.device)
    with tqdm(unit="clip", delay=0.2) as bar:

        def watch(i: int, of: int, name: str) -> None:
            bar.total = of
            bar.set_postfix_str(name, refresh=False)
            bar.update(i - bar.n)

        if rows is None:
            cache = cache_for(data, encoders, args.size, watch)
        else:
            cache = prepare(rows, encoders, Path(args.out), args.size, watch)
    print(summary(cache, encoders))
    if args.show is not None:
        show(cache, encoders, args.show, args.clip)
    return report(cache) if args.verify else 0


def summary(cache: Cache, encoders: Encoders) -> str:
    seconds = sum(shape[-1] for shape in cache.shapes) / encoders.config.format.audio_rate
    width, height = cache.size
    return f"{cache.folder}: {len(cache)} clips, {seconds:.1f} s, {width} x {height}"


def show(cache: Cache, encoders: Encoders, name: str, path: str) -> None:
    """Write a clip of the cache as mp4."""
    from ..data.cache import decode_item
    from ..media import write_clip

    if name not in cache.names:
        known = ", ".join(cache.names[:5]) + (", …" if len(cache) > 5 else "")
        raise ValueError(f"the cache holds no clip {name}; it holds {known}")
    write_clip(path, decode_item(cache[cache.names.index(name)], encoders))
    print(f"{path}: {name} as it is in the cache")


def report(cache: Cache) -> int:
    """Print what is wrong with a cache, and return the exit code."""
    wrong = cache.verify(deep=True)
    print("\n".join(wrong) if wrong else "every clip of it is whole and its source unchanged")
    return 1 if wrong else 0
