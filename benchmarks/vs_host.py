"""How fast are our networks beside ComfyUI's own, at the same weights, inputs and precision, in one process?

python -m benchmarks.vs_host [--only NAME] [--device cuda] [--host FOLDER] [--python ITS_PYTHON]

Real widths: the transformer of Wan2.2 (3072 wide, fewer blocks), its VAE, the BigVGAN of MMAudio. Weights are
random and the same tensors for all. Ways of one case are timed in turn, and their outputs are compared. What
is measured replaces the case of the same name in benchmarks/results/vs_host.json; docs/write_performance.py
makes the table of it.

b batch · c channels · f latent frames · h, w latent rows, columns
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import machine, seconds  # noqa: E402
from unitalk_core.av import AV  # noqa: E402
from unitalk_core.cli.sample import write_report  # noqa: E402
from unitalk_core.config import WAN, ModelConfig  # noqa: E402
from unitalk_core.models.mmdit import JointDiT  # noqa: E402
from unitalk_core.models.text import ReadingOnce  # noqa: E402
from unitalk_core.models.video_vae import WAN_VAE, VideoVAE  # noqa: E402
from unitalk_core.models.vocoder import BIGVGAN_16K, BigVGAN  # noqa: E402

OUT = ROOT / "benchmarks" / "results" / "vs_host.json"
BLOCKS = 2  # of the transformer, whose real number is 30
TEXT = 512  # tokens

Ways = dict[str, Callable[[], Tensor]]
"""What is timed, by name; the first two are the host's and ours, whose ratio has a target."""


@dataclass(frozen=True)
class Case:
    """size: latent (frames, rows, columns), or frames of a mel. target: host's seconds over ours."""

    make: Callable[..., Ways]
    size: tuple[int, ...]
    dtype: str
    target: float | None


def transformer(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Ways:
    """One step of the picture stream."""
    from comfy import ops
    from comfy.ldm.modules.attention import attention_pytorch
    from comfy.ldm.wan import model as wan

    video = replace(WAN.streams.video, depth=BLOCKS)
    config = replace(WAN, streams=AV(video, None))
    sizes = {
        "in_dim": 48, "out_dim": 48, "dim": video.width, "ffn_dim": video.ffn_width, "num_heads": video.heads,
        "text_dim": video.text_dim, "num_layers": video.depth, "operations": ops.disable_weight_init,
    }  # fmt: skip
    with torch.device("meta"):
        ours, hosts = JointDiT(config), wan.WanModel(model_type="t2v", dtype=dtype, **sizes)
    weights = random_weights(ours, dtype, device)
    in_nodes, texts = network_of_nodes(config, dtype, ops.disable_weight_init)
    for one in (ours, in_nodes):
        one.load_state_dict(weights, assign=True)
    own = {name.removeprefix("video_model."): one for name, one in weights.items()}
    patch = {name: one.float() for name, one in own.items() if name.startswith("patch_embedding")}
    hosts.load_state_dict(own | patch, assign=True)
    x = torch.randn(1, 48, *size, device=device).to(dtype)
    timestep = torch.tensor([500.0], device=device)
    text = torch.randn(1, TEXT, video.text_dim, device=device).to(dtype)
    chosen = wan.optimized_attention

    def host_with(attention: Callable) -> Tensor:
        wan.optimized_attention = attention
        return hosts(x, timestep, text)

    def of(model: Callable) -> Tensor:
        return model(AV(x, None), AV(timestep, None), AV(text, None)).video

    return {
        "host": partial(host_with, chosen),
        "ours": partial(of, ReadingOnce(ours)),
        "ours, text read anew": partial(of, ours),
        "ours in the nodes": partial(in_nodes, [x], timestep, text, {"unitalk_texts": texts()}),
        "host with PyTorch's attention": partial(host_with, attention_pytorch),
    }


def network_of_nodes(config: ModelConfig, dtype: torch.dtype, operations: Any) -> tuple[nn.Module, type]:
    """The network as the nodes build it, of the host's layers, and what keeps texts for it in a run."""
    spec = importlib.util.spec_from_file_location(
        "unitalk_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    module = importlib.import_module("unitalk_pack.nodes.model")
    same = importlib.import_module("unitalk_pack.unitalk_core.config").ModelConfig.from_json(config.to_json())
    return module.Network(same, dtype, "meta", operations), module.Texts


def vae(size: tuple[int, ...], dtype: torch.dtype, device: torch.device, encoding: bool = False) -> Ways:
    """Latents to pixels, or the other way."""
    from comfy.ldm.wan.vae2_2 import WanVAE

    with torch.device("meta"):
        ours = VideoVAE(WAN_VAE)
        hosts = WanVAE(160, 256, 48, temperal_downsample=[False, True, True])
    weights = random_weights(ours, dtype, device)
    for one in (ours, hosts):
        one.load_state_dict(weights, assign=True)
    if encoding:
        frames, *sides = size
        pixels = torch.rand(1, 3, 4 * frames - 3, *(16 * side for side in sides), device=device).to(dtype)
        return {"host": lambda: hosts.encode(pixels), "ours": lambda: ours.encode_raw(pixels)}
    latent = torch.randn(1, 48, *size, device=device).to(dtype)
    return {"host": lambda: hosts.decode(latent), "ours": lambda: ours.decode_raw(latent)}


def vocoder(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Ways:
    """Mel to waveform, at 16 kHz."""
    from comfy.ldm.mmaudio.vae.bigvgan import BigVGANVocoder

    config = BIGVGAN_16K
    settings = {
        "resblock": "1", "num_mels": config.mels, "upsample_rates": config.rates,
        "upsample_kernel_sizes": config.kernels, "upsample_initial_channel": config.width,
        "resblock_kernel_sizes": config.block_kernels, "resblock_dilation_sizes": config.block_dilations,
        "activation": "snakebeta", "snake_logscale": True,
    }  # fmt: skip
    hosts, ours = BigVGANVocoder(settings), BigVGAN(config)
    filters = {name: one for name, one in ours.state_dict().items() if name.endswith("filter")}
    weights = random_weights(ours, dtype, device) | {k: one.to(device, dtype) for k, one in filters.items()}
    for one in (ours, hosts):
        one.load_state_dict(weights, assign=True)
    mel = torch.randn(1, config.mels, *size, device=device).to(dtype)
    return {"host": lambda: hosts(mel)[:, 0], "ours": lambda: ours(mel)}


CASES = {
    "transformer step, 720 tokens, fp32": Case(transformer, (5, 24, 24), "float32", 1.2),
    "transformer step, 2,880 tokens, fp32": Case(transformer, (5, 48, 48), "float32", 1.2),
    "transformer step, 720 tokens, bf16": Case(transformer, (5, 24, 24), "bfloat16", 1.2),
    "transformer step, 2,880 tokens, bf16": Case(transformer, (5, 48, 48), "bfloat16", 1.2),
    "VAE decode, 128 x 128, 9 frames, fp32": Case(vae, (3, 8, 8), "float32", 1.2),
    "VAE encode, 128 x 128, 9 frames, fp32": Case(partial(vae, encoding=True), (3, 8, 8), "float32", None),
    "BigVGAN, 16 kHz, 3 s, fp32": Case(vocoder, (188,), "float32", 1.3),
}


def random_weights(model: nn.Module, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Of such a size that numbers neither grow nor vanish: gains are 1, biases and tables small."""

    def draw(name: str, shape: torch.Size) -> Tensor:
        if ("norm" in name and name.endswith("weight")) or name.endswith("gamma"):
            return torch.ones(shape)
        scale = shape[1:].numel() ** -0.5 if len(shape) > 1 and "modulation" not in name else 0.1
        return scale * torch.randn(shape)

    return {name: draw(name, one.shape).to(device, dtype) for name, one in model.state_dict().items()}


def measure(case: Case, repeats: int, device: torch.device) -> dict[str, Any]:
    torch.manual_seed(0)
    ways = case.make(case.size, getattr(torch, case.dtype), device)
    with torch.inference_mode():
        made = {name: way().float() for name, way in ways.items()}
        turns = [{name: seconds(way, device) for name, way in ways.items()} for _ in range(repeats)]
    middle = {name: statistics.median(turn[name] for turn in turns) for name in ways}
    ratios = [turn["host"] / turn["ours"] for turn in turns]
    ratio = statistics.median(ratios)
    return {
        "size": case.size,
        "dtype": case.dtype,
        "seconds": {name: round(one, 4) for name, one in middle.items()},
        "relative_error": {
            name: float((one - made["host"]).norm() / made["host"].norm()) for name, one in made.items()
        },
        "ratio": round(ratio, 3),
        "ratio_between": [round(min(ratios), 3), round(max(ratios), 3)],
        "target": case.target,
        "met": None if case.target is None else ratio >= case.target,
        "turns": repeats,
    }


def inside(args: argparse.Namespace) -> None:
    """In the host's Python: measure one case, and write it down."""
    sys.path.insert(0, str(args.host))
    sys.argv = ["vs_host", *(["--cpu"] if args.device == "cpu" else [])]
    import comfy.options

    comfy.options.enable_args_parsing()
    from comfyui_version import __version__ as version

    torch.set_num_threads(args.threads)
    name = args.only
    found = measure(CASES[name], args.repeats, torch.device(args.device))
    found |= {"machine": machine(), "host": f"ComfyUI {version}", "blocks": BLOCKS}
    print(json.dumps({name: found}, indent=2), flush=True)
    before = json.loads(args.out.read_text("utf8")) if args.out.is_file() else {}
    key = name if args.device == "cpu" else f"{name}, {args.device}"
    write_report(args.out, before | {key: found})


def main() -> None:
    home = Path.home() / "ComfyUI"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help=f"cases with this in their name: {'; '.join(CASES)}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--host", type=Path, default=home, help="the folder of a ComfyUI")
    parser.add_argument("--python", type=Path, default=home / "venv/bin/python", help="its Python")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        inside(args)
        return
    for name in (name for name in CASES if args.only in name):  # what one leaves in memory slows the next
        subprocess.run([args.python, __file__, "--inside", *sys.argv[1:], "--only", name], check=True)


if __name__ == "__main__":
    main()
