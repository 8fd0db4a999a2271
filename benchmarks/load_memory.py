"""How much host memory does a model of 1.5 GB take while it is loaded, and while its blocks come one by one?

python -m benchmarks.load_memory --out benchmarks/results/load_memory.json

Each row is a process of its own, which touches every weight, or makes one pass of a short clip. The files: a
UniTalking of a third of the width in bfloat16, half of one in float32, a UMT5 of half the width and depth.
peak: of the resident size, pages of the mapped file included. own: of what the system cannot take back by
reading the file again, looked at every two milliseconds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unitalk_core.av import AV
from unitalk_core.cli.sample import write_report
from unitalk_core.config import UNITALK, ModelConfig
from unitalk_core.media import check_target
from unitalk_core.models.mmdit import Hooks, JointDiT
from unitalk_core.models.text_encoder import UMT5Config, UMT5Encoder
from unitalk_core.offload import FileBlocks, load_around_blocks
from unitalk_core.weights.files import save_tensors
from unitalk_core.weights.loading import load_model, load_text_encoder

from .measuring import in_child, machine
from .memory_table import forget_peak, told


def third(depth: int) -> ModelConfig:
    size = {"width": 1024, "heads": 8, "ffn_width": 4096, "depth": depth}
    return replace(UNITALK, streams=UNITALK.streams.map(lambda one: replace(one, **size)))


CONFIG = third(20)
UMT5 = UMT5Config(vocabulary=65536, dim=2048, attention_dim=2048, ffn_width=5120, depth=12)
LOAD = ("load", "load in bf16")
FILES: dict[str, tuple[Callable[[], nn.Module], torch.dtype, tuple[str, ...]]] = {
    "bf16": (
        lambda: JointDiT(CONFIG),
        torch.bfloat16,
        ("load", "load in fp16", "step", "step by blocks"),
    ),
    "fp32": (lambda: JointDiT(third(10)), torch.float32, LOAD),
    "umt5": (lambda: UMT5Encoder(UMT5), torch.float16, LOAD),
}
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="write all numbers, as JSON")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measured(args.only, args.file)))
        return
    out = check_target(args.out, ".json") if args.out else None
    rows = list(table())
    if out:
        write_report(out, {"machine": machine(), "rows": rows})


def table() -> Iterator[dict[str, Any]]:
    """One file after the other on the disk; printed as it comes."""
    print("| file | MiB | what | peak, MiB | own, MiB |")
    print("|---|---|---|---|---|")
    for (name, (make, dtype, rows)), suffix in product(FILES.items(), (".safetensors", ".pth")):
        with tempfile.TemporaryDirectory() as folder:
            path = written(Path(folder, name + suffix), make, dtype)
            for row in rows:
                found = in_child("benchmarks.load_memory", "--only", row, "--file", path)
                found = {"file": path.name, "mib": path.stat().st_size >> 20, "what": row} | found
                print("| " + " | ".join(str(one) for one in list(found.values())[:5]) + " |", flush=True)
                yield found


def written(path: Path, make: Callable[[], nn.Module], dtype: torch.dtype) -> Path:
    with torch.device("meta"):
        shapes = {name: one.shape for name, one in make().state_dict().items()}
    chance = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.empty(shape, dtype=dtype).uniform_(-0.02, 0.02, generator=chance)
        for name, shape in shapes.items()
    }
    torch.save(tensors, path) if path.suffix == ".pth" else save_tensors(path, tensors)
    return path


@torch.no_grad()
def measured(row: str, path: Path) -> dict[str, Any]:
    with torch.device("meta"):
        FILES[path.stem][0]()  # what is imported on the way
    before = forget_peak()
    with watched() as seen:
        made = run(row, path)
    return {"peak_mib": (told("VmHWM") - before) >> 20, "own_mib": (max(seen) - seen[0]) >> 20, "made": made}


def run(row: str, path: Path) -> str:
    if row == "step by blocks":
        blocks = FileBlocks([path], torch.bfloat16, torch.device("cpu"))
        return step(partial(load_around_blocks(CONFIG, blocks), hooks=Hooks(run_block=blocks.run)))
    dtype = DTYPES.get(row.rpartition(" ")[2])
    model = load_text_encoder(path, dtype=dtype) if "umt5" in path.name else load_model(path, dtype=dtype)[0]
    touched = sum(one.sum() for one in model.parameters())
    return step(model) if row == "step" else str(touched.dtype)


@contextmanager
def watched() -> Iterator[list[int]]:
    """Bytes that this process holds and no file has, every two milliseconds."""
    seen, done = [own()], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(own())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def own() -> int:
    return told("RssAnon") + told("RssShmem")


def step(model: Any) -> str:
    """Of the velocity of a short clip, the first digits of a hash."""
    latent = AV(torch.zeros(1, 48, 2, 4, 4), torch.zeros(1, 40, 8)).map(torch.Tensor.bfloat16)
    text, time = torch.zeros(1, 4, 4096, dtype=torch.bfloat16), torch.tensor([500.0])
    made = model(latent, AV(time, time), AV(text, text))
    return sha256(made.video.float().numpy().tobytes()).hexdigest()[:8]


if __name__ == "__main__":
    main()
