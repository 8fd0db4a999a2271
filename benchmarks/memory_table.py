"""How much device memory does each setting take? Counted at full size on the meta device.

python -m benchmarks.memory_table --out benchmarks/results/memory_table.json > table.md
python -m benchmarks.memory_table --check          what is counted against what a CPU really takes, small

Weights: exactly, of the model on the meta device. What a step makes: `footprint.step_bytes`, the forward pass
run there with its tensors counted as they come and go. Nothing is measured on a GPU: kernels' own buffers,
the context (some 0.5 GB) and gaps between blocks of memory come on top.
"""

from __future__ import annotations

import argparse
import gc
import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from unitalk_core.cli.sample import write_report
from unitalk_core.config import OVI_720, UNITALK, ModelConfig
from unitalk_core.footprint import decode_bytes, step_bytes, transformer_bytes, weight_bytes
from unitalk_core.media import check_target
from unitalk_core.models.mmdit import JointDiT
from unitalk_core.models.video_vae import TINY_VAE, WAN_VAE, VideoVAE

from .measuring import in_child, machine

MODULE = "benchmarks.memory_table"
MODELS = {"UniTalking": UNITALK, "Ovi": OVI_720}
SIZES, FRAMES, TILE = ((512, 512), (704, 704), (704, 1280)), (49, 121, 241), 256
HALF = torch.bfloat16
CHECKS = {
    "step 256 x 256": (256, 256),
    "step 384 x 384": (384, 384),
    "decode 192 x 192": (192, 192),
    "decode 320 x 320": (320, 320),
}
CHECK_FRAMES, WARM = 49, (64, 64)
HALF_WIDTH = {"width": 1536, "heads": 12, "ffn_width": 7168, "depth": 2}
STEP = replace(UNITALK, streams=UNITALK.streams.map(lambda one: replace(one, **HALF_WIDTH)))
VAE = replace(TINY_VAE, decoder_width=48)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="write all numbers, as JSON")
    parser.add_argument("--check", action="store_true", help="compare with what a CPU takes")
    parser.add_argument("--only", choices=CHECKS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(checked(args.only)))
        return
    out = check_target(args.out, ".json") if args.out else None
    report = {"machine": machine()} | (check() if args.check else table())
    if out:
        write_report(out, report)


def table() -> dict[str, object]:
    """Printed as it comes: one row a model, size and length."""
    print(
        "| model | size | frames | a step | picture kept | CFG at once "
        "| bf16 | fp8 | blocks | decode | in tiles |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    rows = []
    for (name, config), size, frames in product(MODELS.items(), SIZES, FRAMES):
        row = {"model": name, "size": list(size), "frames": frames} | bytes_of(config, size, frames)
        rows.append(row)
        cells = (name, f"{size[0]} x {size[1]}", frames, *(f"{row[key] / 1e9:.1f}" for key in list(row)[3:]))
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    return {"rows": rows, "weights": {name: weights(config) for name, config in MODELS.items()}}


def bytes_of(config: ModelConfig, size: tuple[int, int], frames: int) -> dict[str, int]:
    """A step of one clip and of two, the whole by how its weights are held, and decoding."""
    form, held = replace(config.format, max_frames=max(FRAMES)), weights(config)
    step, both = (step_bytes(config, form.latent_shape(frames, *size, batch), HALF) for batch in (1, 2))
    kept = step_bytes(config, form.latent_shape(frames, *size), HALF, kept=True)
    with torch.device("meta"):
        vae = weight_bytes(VideoVAE(WAN_VAE).to(HALF))
    return {
        "step": step,
        "step_with_a_picture_kept": kept,
        "step_of_both_passes": both,
        "bf16": held["bf16"] + step,
        "fp8": held["fp8"] + step,
        "blocks": held["blocks"] + step,
        "decode": vae + decode_bytes(WAN_VAE, size, HALF),
        "tiles": vae + decode_bytes(WAN_VAE, (TILE, TILE), HALF),
    }


def weights(config: ModelConfig) -> dict[str, int]:
    """Of a transformer in bfloat16, with the matrices of its blocks in fp8, and with two blocks at a time."""
    with torch.device("meta"):
        model = JointDiT(config).to(HALF)
    named = dict(model.named_parameters())
    inside = {name: one for name, one in named.items() if ".blocks." in name}
    whole, blocks = weight_bytes(model), sum(2 * one.numel() for one in inside.values())
    depth = config.streams.present()[0].depth
    fp8 = transformer_bytes(config, HALF, "held")
    return {"bf16": whole, "fp8": fp8, "blocks": whole - blocks + 2 * blocks // depth}


def check() -> dict[str, object]:
    """What is counted beside what the process of a CPU took, float32."""
    print("| what | counted, MB | taken, MB | taken / counted |")
    print("|---|---|---|---|")
    rows = {what: in_child(MODULE, "--only", what) for what in CHECKS}
    for what, one in rows.items():
        print(f"| {what} | {one['counted']} | {one['taken']} | {one['taken'] / one['counted']:.2f} |")
    return {"checks": rows}


def checked(what: str) -> dict[str, int]:
    """MB of one step, or of decoding, after a smaller one has loaded all that is loaded once."""
    run, held = (small_step, STEP) if what.startswith("step") else (small_decode, VAE)
    run(WARM, "cpu")
    gc.collect()
    before = forget_peak()
    run(CHECKS[what], "cpu")
    taken = told("VmHWM") - before
    with torch.device("meta"):
        taken -= weight_bytes(JointDiT(STEP) if held is STEP else VideoVAE(VAE))
    return {"counted": run(CHECKS[what], "meta") // 10**6, "taken": taken // 10**6}


def small_step(size: tuple[int, int], device: str) -> int:
    shape = STEP.format.latent_shape(CHECK_FRAMES, *size)
    return step_bytes(STEP, shape, torch.float32, device=device)


def small_decode(size: tuple[int, int], device: str) -> int:
    return decode_bytes(VAE, size, torch.float32, device=device)


def forget_peak() -> int:
    """Bytes that this process holds; its peak begins here."""
    Path("/proc/self/clear_refs").write_text("5")
    return told("VmRSS")


def told(name: str) -> int:
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(name))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
