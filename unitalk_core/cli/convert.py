"""Write weights in another spelling or precision, in one file or one for each stream, with LoRAs added.

python -m unitalk_core convert wan2.2_ti2v_5B_fp16.safetensors small.safetensors --dtype fp8_scaled
python -m unitalk_core convert video.safetensors audio.safetensors joint.safetensors --merge
python -m unitalk_core convert wan2.2_ti2v_5B_fp16.safetensors new.safetensors --sound twin
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..weights.lora import Lora


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", nargs="+", metavar="SOURCE", help="weights: .safetensors, .safetensors.index.json, .pth …"
    )
    parser.add_argument("out", metavar="OUT.safetensors", help="what is written")
    parser.add_argument(
        "--format",
        choices=("comfy", "original", "diffusers"),
        help="whose names the weights get (those of the source)",
    )
    parser.add_argument(
        "--dtype",
        choices=("fp32", "bf16", "fp16", "fp8_scaled"),
        help="precision (that of each tensor). fp8_scaled: matrices of the blocks in fp8 with a scale each, "
        "the rest in bf16 where it was fp32",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--split", action="store_true", help="a file for each stream: OUT_video, OUT_audio")
    how.add_argument("--merge", action="store_true", help="one file from one for each stream")
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[=STRENGTHS]",
        help="add a LoRA for good, as sample takes it; may be repeated",
    )
    parser.add_argument(
        "--sound",
        metavar="twin|random|FILE",
        help="a new model to be trained, around the picture stream of the source: the sound stream is a copy "
        "of its blocks, drawn at random, or that of a file (Ovi's)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what --sound draws (0)")


def run(args: argparse.Namespace) -> int:
    from ..media import check_target
    from ..weights.convert import convert

    out = check_target(args.out, ".safetensors")
    if (len(args.source) > 1) != args.merge:
        raise ValueError("--merge makes one file of several sources; name several, or leave it out for one")
    if out.resolve() in {Path(one).resolve() for one in args.source}:
        raise ValueError(f"{out} is a source; choose another name")
    if args.sound:
        assembled(args, out)
        return 0
    options: dict[str, Any] = {"form": args.format, "dtype": args.dtype, "split": args.split}
    loras = [lora_from(one) for one in args.lora]
    with progress(out.name) as tell:
        written = convert(args.source, out, loras=loras, on_tensor=tell, **options)
    for path in written:
        print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


def assembled(args: argparse.Namespace, out: Path) -> None:
    from ..weights.assemble import assemble, save_assembled
    from ..weights.convert import DTYPES

    if args.format or args.split or args.merge or args.lora or args.dtype not in (None, *DTYPES):
        raise ValueError(
            f"--sound makes a new model of one source, in {', '.join(DTYPES)}; convert it further afterwards"
        )
    model, said = assemble(args.source[0], args.sound, args.seed, DTYPES.get(args.dtype))
    with progress(out.name) as tell:
        save_assembled(out, model, tell)
    print(f"{out}: {out.stat().st_size:,} bytes; {said}")


@contextmanager
def progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes, and what moves it."""
    from tqdm import tqdm

    with tqdm(desc=name, unit="B", unit_scale=True, delay=0.2) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield tell


def lora_from(text: str) -> Lora:
    from ..weights.lora import Lora, read_lora, read_strengths

    path, _, strengths = text.partition("=")
    try:
        return Lora(read_lora(path), read_strengths(strengths), path)
    except ValueError as error:
        raise ValueError(f"--lora {text}: {error}") from error
