"""How long does a step of the full-size transformer take, at what share of the matmul peak, in what memory?

python -m benchmarks.step [--pixels 704x704] [--frames 121] [--depth 30] [--width 3072] [--device cuda]

Random weights in bfloat16. UniTalking's joint model, also with compiled blocks (on a GPU short clips run as
CUDA graphs), with products in fp8, and with each of PyTorch's attention kernels that the device has; Ovi's
model with our code; that model again written plainly from its formulas, with a modulation for each token and
rotations in pieces. The floating point operations are counted on the meta device. Found rows go into
benchmarks/results/step.json under their sizes; docs/write_performance.py makes the table of them.

b batch · n tokens · d width
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import machine, seconds
from unitalk_core.av import AV
from unitalk_core.cli.sample import write_report
from unitalk_core.compiled import check_compiler, compile_blocks
from unitalk_core.config import OVI_720, UNITALK, ModelConfig
from unitalk_core.models.attention import (
    BACKENDS,
    attention_by,
    check_backend,
    merge_heads,
    split_heads,
)
from unitalk_core.models.float8 import check_fast, hold_in_float8
from unitalk_core.models.mmdit import Hooks, JointDiT, always
from unitalk_core.models.rope import sinusoid
from unitalk_core.models.stream import Block, Stream

OUT = Path(__file__).with_name("results") / "step.json"
HEAD_WIDTH = 128
Step = Callable[[], AV[Tensor]]


def sized(config: ModelConfig, depth: int, width: int) -> ModelConfig:
    """The same model with fewer blocks, or narrower ones of the same proportions."""
    sizes = {"depth": depth, "width": width, "heads": width // HEAD_WIDTH, "ffn_width": width * 14 // 3}
    return replace(config, streams=config.streams.map(lambda one: replace(one, **sizes)))


def random_model(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> JointDiT:
    with torch.device("meta"):
        model = JointDiT(config).to(dtype)
    model.to_empty(device=device)
    for name, one in model.named_parameters():
        gain = name.endswith("weight") and one.ndim == 1
        one.data.fill_(1) if gain else one.data.normal_(0, one.shape[-1] ** -0.5)
    return model.eval().requires_grad_(False)


def inputs(config: ModelConfig, pixels: tuple[int, int], frames: int, like: Tensor) -> tuple[AV, AV, AV]:
    """Latents, timesteps and texts of one clip."""
    height, width = pixels
    made = config.format.latent_shape(frames, width, height)
    text = config.streams.video
    latent = made.map(lambda shape: torch.randn(shape, device=like.device).to(like.dtype))
    context = torch.randn(1, text.text_len, text.text_dim, device=like.device).to(like.dtype)
    timestep = torch.tensor([500.0], device=like.device)
    return latent, AV(timestep, timestep), AV(context, context)


# --- Ovi's forward, from its formulas ----------------------------------------------------------------------


def plain_ovi(model: JointDiT, latent: AV[Tensor], timestep: AV[Tensor], context: AV[Tensor]) -> AV[Tensor]:
    """Each stream attends to itself, then to its text and the other one; a modulation for each token."""
    streams = model.streams
    states = streams.map(Stream.embed, latent, timestep, context)
    x, turn, text = states.map(lambda s: s.tokens), states.map(lambda s: s.turn), states.map(lambda s: s.text)
    times = streams.map(time_of_each_token, timestep, x)
    tables = streams.map(
        lambda stream, time: stream.time_projection(time).float().unflatten(2, (6, -1)), times
    )
    for i in range(streams.video.config.depth):
        blocks = streams.map(lambda stream, i=i: stream.blocks[i])
        parts = blocks.map(lambda block, table: (block.modulation.float() + table).unbind(2), tables)
        x = blocks.map(plain_self_attention, x, parts, turn)
        other = AV((x.audio, turn.audio), (x.video, turn.video))
        x = blocks.map(plain_cross_attention, x, text, turn, other)
        x = blocks.map(plain_feed_forward, x, parts)
    return streams.map(plain_head, x, times, latent)


def time_of_each_token(stream: Stream, timestep: Tensor, x: Tensor) -> Tensor:
    """(b, n, d)"""
    every = timestep[:, None].expand(x.shape[:2])
    time = sinusoid(every.flatten(), stream.config.freq_dim).to(x.dtype)
    return stream.time_embedding(time).unflatten(0, x.shape[:2])


def plain_self_attention(block: Block, x: Tensor, parts: tuple[Tensor, ...], turn: Tensor) -> Tensor:
    layer, dtype = block.self_attn, block.self_attn.q.weight.dtype
    y = (normed(x, block) * (1 + parts[1]) + parts[0]).to(dtype)
    q, k = (
        turned(split_heads(norm(one(y)), layer.heads), turn)
        for norm, one in ((layer.norm_q, layer.q), (layer.norm_k, layer.k))
    )
    y = functional.scaled_dot_product_attention(q, k, split_heads(layer.v(y), layer.heads))
    return x + parts[2] * layer.o(merge_heads(y))


def plain_cross_attention(
    block: Block, x: Tensor, text: Tensor, turn: Tensor, other: tuple[Tensor, Tensor]
) -> Tensor:
    layer, dtype = block.cross_attn, block.self_attn.q.weight.dtype
    q = split_heads(layer.norm_q(layer.q(block.norm3(x.to(dtype)))), layer.heads)
    k, v = layer.norm_k(layer.k(text)), layer.v(text)
    read = functional.scaled_dot_product_attention(
        q, split_heads(k, layer.heads), split_heads(v, layer.heads)
    )
    seen = layer.pre_attn_norm_fusion(other[0].to(dtype))
    k = turned(split_heads(layer.norm_k_fusion(layer.k_fusion(seen)), layer.heads), other[1])
    v = split_heads(layer.v_fusion(seen), layer.heads)
    met = functional.scaled_dot_product_attention(turned(q, turn), k, v)
    return x + layer.o(merge_heads(read + met))


def plain_feed_forward(block: Block, x: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
    y = (normed(x, block) * (1 + parts[4]) + parts[3]).to(block.self_attn.q.weight.dtype)
    return x + parts[5] * block.ffn(y)


def plain_head(stream: Stream, x: Tensor, time: Tensor, like: Tensor) -> Tensor:
    shift, scale = (stream.head.modulation.float() + time.float()[:, :, None]).unbind(2)
    patches = stream.head.head((normed(x, stream.head) * (1 + scale) + shift).to(time.dtype))
    if like.ndim == 3:
        return patches.transpose(1, 2)
    frames, rows, columns = stream.grid(like)
    grid = patches.unflatten(1, (frames, rows, columns)).unflatten(4, (2, 2, -1))  # b f h w p q c
    return grid.permute(0, 6, 1, 2, 4, 3, 5).reshape(like.shape)


def normed(x: Tensor, layer: nn.Module) -> Tensor:
    return functional.layer_norm(x.float(), x.shape[-1:], eps=layer.eps)


def turned(x: Tensor, turn: Tensor) -> Tensor:
    (even, odd), (cos, sin) = x.float().unflatten(-1, (-1, 2)).unbind(-1), turn
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x)


# --- measuring ---------------------------------------------------------------------------------------------


def steps_of(
    depth: int, width: int, pixels: tuple[int, int], frames: int, device: torch.device, dtype: torch.dtype
) -> dict[str, tuple[Callable[[], Step], int]]:
    """What makes each way's step, and the operations of one."""

    def joint(change: Callable[[JointDiT], Any] = lambda model: model) -> Step:
        model = random_model(sized(UNITALK, depth, width), device, dtype)
        change(model)
        given = inputs(model.config, pixels, frames, torch.empty(0, device=device, dtype=dtype))
        return partial(model, *given)

    def ovi(plain: bool) -> Step:
        model = random_model(sized(OVI_720, depth, width), device, dtype)
        given = inputs(model.config, pixels, frames, torch.empty(0, device=device, dtype=dtype))
        return partial(plain_ovi, model, *given) if plain else partial(model, *given)

    counts = {one: operations(sized(one, depth, width), pixels, frames) for one in (UNITALK, OVI_720)}
    changed = {f"UniTalking, {name}": partial(joint, one) for name, one in changes(device, dtype).items()}
    return {
        "UniTalking": (joint, counts[UNITALK]),
        **{name: (one, counts[UNITALK]) for name, one in changed.items()},
        "Ovi": (partial(ovi, False), counts[OVI_720]),
        "Ovi, plain": (partial(ovi, True), counts[OVI_720]),
    }


def changes(device: torch.device, dtype: torch.dtype) -> dict[str, Callable[[JointDiT], Any]]:
    """What else can be done with a model on this device."""
    ways: dict[str, tuple[Callable[[], None], Callable[[JointDiT], Any]]] = {
        "compiled": (partial(check_compiler, device), compile_blocks),
        "fp8": (partial(check_fast, device), partial(hold_in_float8, how="fast")),
    }
    for one in BACKENDS:
        check = partial(check_backend, one, HEAD_WIDTH, device, dtype)
        ways[f"{one} attention"] = check, partial(always, attention=attention_by(one))
    return {name: change for name, (check, change) in ways.items() if passes(check)}


def passes(check: Callable[[], None]) -> bool:
    try:
        check()
    except ValueError as error:
        print(f"left out: {error}")
        return False
    return True


def operations(config: ModelConfig, pixels: tuple[int, int], frames: int) -> int:
    """Floating point operations of one step in matrix products, convolutions and attention."""

    def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG001
        return q @ k.transpose(2, 3) @ v

    with torch.device("meta"):
        model = JointDiT(config)
        given = inputs(config, pixels, frames, torch.empty(0))
    with FlopCounterMode(display=False) as counter:
        model(*given, hooks=Hooks(attention=attention))
    return counter.get_total_flops()


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large square product, the best of ten."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / min(seconds(lambda: a @ b, device) for _ in range(10))


@torch.inference_mode()
def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Each way alone, so that its memory is its own. share: of the measured matmul peak."""
    device, dtype = torch.device(args.device), torch.bfloat16
    pixels = tuple(int(side) for side in args.pixels.split("x"))
    peak = matmul_peak(device, dtype)
    found: dict[str, Any] = {"machine": machine(), "device": device.type, "depth": args.depth,
                             "width": args.width, "pixels": args.pixels, "frames": args.frames,
                             "matmul_peak_tflops": round(peak / 1e12, 3), "ways": {}}  # fmt: skip
    for name, (make, count) in steps_of(args.depth, args.width, pixels, args.frames, device, dtype).items():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        step = make()
        step()
        middle = statistics.median(seconds(step, device) for _ in range(args.repeats))
        found["ways"][name] = {
            "seconds": round(middle, 4),
            "tflop": round(count / 1e12, 3),
            "share": round(count / middle / peak, 3),
            "memory_mib": torch.cuda.max_memory_allocated() >> 20 if device.type == "cuda" else None,
        }
        del step
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pixels", default="704x704", help="height x width")
    parser.add_argument("--frames", type=int, default=121)
    parser.add_argument("--depth", type=int, default=30)
    parser.add_argument("--width", type=int, default=3072, help=f"a multiple of {3 * HEAD_WIDTH}")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = measure(args)
    print(json.dumps(found, indent=2))
    before = json.loads(args.out.read_text("utf8")) if args.out.is_file() else {}
    key = f"{args.device}, {args.pixels}, {args.frames} frames, {args.depth} x {args.width}"
    write_report(args.out, before | {key: found})


if __name__ == "__main__":
    main()
