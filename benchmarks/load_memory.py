"""How much host memory does a model of 1.5 GB take while it is loaded, and while its blocks come one by one?

python -m benchmarks.load_memory

Each row is a process of its own, which touches every weight, or makes one pass of a short clip; the file
holds a UniTalking of a third of the width in bfloat16. Peaks are of the resident size, mapped pages included.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from unitalk_core.av import AV
from unitalk_core.config import UNITALK
from unitalk_core.models.mmdit import Hooks, JointDiT
from unitalk_core.offload import FileBlocks, load_around_blocks
from unitalk_core.weights.files import save_tensors
from unitalk_core.weights.loading import load_model

from .measuring import in_child
from .memory_table import forget_peak, told

THIRD = {"width": 1024, "heads": 8, "ffn_width": 4096, "depth": 20}
CONFIG = replace(UNITALK, streams=UNITALK.streams.map(lambda one: replace(one, **THIRD)))
ROWS = ("load", "load in fp16", "step", "step by blocks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measured(args.only, args.file)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for path in written(Path(folder)):
            for row in ROWS:
                found = in_child("benchmarks.load_memory", "--only", row, "--file", path)
                print(path.suffix, row, found, f"file {path.stat().st_size >> 20} MiB", flush=True)


def written(folder: Path) -> list[Path]:
    with torch.device("meta"):
        shapes = {name: one.shape for name, one in JointDiT(CONFIG).state_dict().items()}
    chance = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.empty(shape, dtype=torch.bfloat16).uniform_(-0.02, 0.02, generator=chance)
        for name, shape in shapes.items()
    }
    save_tensors(folder / "m.safetensors", tensors)
    torch.save(tensors, folder / "m.pth")
    return [folder / "m.safetensors", folder / "m.pth"]


@torch.no_grad()
def measured(row: str, path: Path) -> dict[str, Any]:
    before = forget_peak()
    if row == "step by blocks":
        blocks = FileBlocks([path], torch.bfloat16, torch.device("cpu"))
        model = partial(load_around_blocks(CONFIG, blocks), hooks=Hooks(run_block=blocks.run))
    else:
        model = load_model(path, dtype=torch.float16 if "fp16" in row else None)[0]
    made = step(model) if "step" in row else str(sum(one.float().sum() for one in model.parameters()).dtype)
    return {"peak_mib": (told("VmHWM") - before) >> 20, "made": made}


def step(model: Any) -> str:
    """Of the velocity of a short clip, the first digits of a hash."""
    latent = AV(torch.zeros(1, 48, 2, 4, 4), torch.zeros(1, 40, 8)).map(torch.Tensor.bfloat16)
    text, time = torch.zeros(1, 4, 4096, dtype=torch.bfloat16), torch.tensor([500.0])
    made = model(latent, AV(time, time), AV(text, text))
    return sha256(made.video.float().numpy().tobytes()).hexdigest()[:8]


if __name__ == "__main__":
    main()
