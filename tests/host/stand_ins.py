"""Stand-ins for the published files that some workflows name, which a CPU runs in minutes.

Names, layers, forms and types are those of the published files, numbers are drawn by chance. The host builds
its Wan2.2 VAE and its UMT5 in one size alone: so that VAE is as large as it is, and of UMT5 the embedding
and the last block, by which the host knows it; its other blocks are narrow. The authors' UMT5, which our own
loader hands to the host, is narrow throughout, and so is what reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.host.inside.reduced import drawn, piece_model, reduced
from tests.parity import published
from tests.parity.published import BF16, FP8, Entries
from unitalk_core.config import UNITALK
from unitalk_core.models.mmdit import JointDiT
from unitalk_core.models.text_encoder import UMT5Config
from unitalk_core.models.vocoder import lowpass_taps
from unitalk_core.weights.files import Entry, write_tensors

BLOCKS = 2
TRUNK = {3072: 256, 18432: 6 * 256, 14336: 512, 8192: 768}  # width, modulation, FFN, input of Ovi's sound
VAE_44K = {512: 64, 1024: 128, 2048: 256, 6144: 3 * 256}
VAE_16K = {384: 48, 768: 96, 1536: 192, 4608: 3 * 192}
VOCODER = {1536 >> halved: 128 >> halved for halved in range(7)}
HEADS = 64  # of UMT5, each with one number in a narrow block
NARROW_TEXT = {4096: HEADS, 256384: 512}  # width, vocabulary
SENTENCES = ["A woman at a table looks into the camera and speaks: good morning, shall we begin?"] * 20


class StandIn(NamedTuple):
    """What a file holds, and what is written beside it."""

    entries: Entries
    metadata: Mapping[str, Any] = {}


def smaller(published_file: Callable[[], Entries], sizes: Mapping[int, int], blocks: int = BLOCKS) -> StandIn:
    found = published_file()
    shapes = reduced({name: one.shape for name, one in found.items()}, sizes, blocks)
    return StandIn({name: found[name]._replace(shape=shape) for name, shape in shapes.items()})


def unitalk() -> StandIn:
    """Nobody has published one: as the trainers here write it."""
    small = {"width": 256, "heads": 2, "depth": BLOCKS, "ffn_width": 512}
    config = replace(UNITALK, streams=UNITALK.streams.map(lambda stream: replace(stream, **small)))
    with torch.device("meta"):
        state = JointDiT(config).state_dict()
    entries = {name: Entry(BF16, tuple(one.shape)) for name, one in state.items()}
    return StandIn(entries, {"unitalk": {"model": config.to_json()}})


def umt5(name: str) -> StandIn:
    found = published.TEXT_ENCODERS[name]()
    last = max(map(umt5_block, found))
    narrow = {
        key: one._replace(shape=(one.shape[0], HEADS) if is_output(key) else (HEADS, one.shape[1]))
        for key, one in found.items()
        if one.dtype == FP8 and 0 <= umt5_block(key) < last
    }
    return StandIn(found | narrow | {"spiece_model": Entry(torch.uint8, (len(pieces()),))})


def umt5_block(name: str) -> int:
    block = re.match(r"encoder\.block\.(\d+)\.", name)
    return int(block[1]) if block else -1


def is_output(name: str) -> bool:
    return name.endswith((".o.weight", ".wo.weight"))


def pieces() -> bytes:
    return piece_model(SENTENCES)


WAN, OVI, UMT5 = (
    "wan2.2_ti2v_5B_fp16.safetensors",
    "Ovi/model_960x960.safetensors",
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
)
PICTURE_VAE = "wan2.2_vae.safetensors"
AUTHORS_OVI, AUTHORS_UMT5, AUTHORS_VAE = (
    "Ovi/model.safetensors",
    "models_t5_umt5-xxl-enc-bf16.pth",
    "Wan2.2_VAE.pth",
)
TOKENIZER = "text_encoders/google/umt5-xxl/spiece.model"
STAND_INS: dict[str, Callable[[], StandIn | bytes]] = {  # by path below the models folder
    f"diffusion_models/{WAN}": partial(smaller, published.MODELS[WAN], TRUNK),
    f"diffusion_models/{OVI}": partial(smaller, published.MODELS[OVI], TRUNK),
    "diffusion_models/unitalk.safetensors": unitalk,
    f"text_encoders/{UMT5}": partial(umt5, UMT5),
    f"vae/{PICTURE_VAE}": partial(smaller, published.VIDEO_VAES[PICTURE_VAE], {}),
    f"diffusion_models/{AUTHORS_OVI}": partial(smaller, published.MODELS[AUTHORS_OVI], TRUNK | NARROW_TEXT),
    f"text_encoders/{AUTHORS_UMT5}": partial(
        smaller, published.TEXT_ENCODERS[AUTHORS_UMT5], NARROW_TEXT, UMT5Config().depth
    ),
    TOKENIZER: pieces,
    f"vae/{AUTHORS_VAE}": partial(smaller, published.VIDEO_VAES[AUTHORS_VAE], {}),
    "vae/v1-44.pth": partial(smaller, published.AUDIO_VAES["v1-44.pth"], VAE_44K),
    "vae/v1-16.pth": partial(smaller, published.AUDIO_VAES["v1-16.pth"], VAE_16K),
    "vae/best_netG.pt": partial(smaller, published.VOCODERS["best_netG.pt"], VOCODER),
}


def write(path: Path, made: StandIn | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(made, bytes):
        path.write_bytes(made)
    elif path.suffix == ".safetensors":
        write_tensors(path, made.entries, tensors(made.entries), made.metadata)
    else:
        held = dict(tensors(made.entries))
        torch.save({"generator": held} if path.suffix == ".pt" else held, path)
    return path


def tensors(entries: Entries) -> Iterator[tuple[str, Tensor]]:
    """Drawn by chance, but for what no training changes."""
    generator = torch.Generator().manual_seed(0)
    for name, one in entries.items():
        if name == "spiece_model":
            yield name, torch.frombuffer(bytearray(pieces()), dtype=torch.uint8)
        elif name.endswith(".filter"):
            yield name, lowpass_taps()
        elif name.endswith("scale_weight"):
            weight = entries[name.replace("scale_weight", "weight")]
            yield name, torch.full((), weight.shape[1] ** -0.5, dtype=one.dtype)
        elif one.dtype == FP8:  # as large as they can be told apart; the scale makes them what they are
            yield name, torch.randn(one.shape, generator=generator).to(FP8)
        else:
            yield name, drawn(name, one.shape, generator, one.dtype)


def lay_out(folder: Path, models: Path) -> None:
    """All of them in `folder`, unless they are there, and links to them in a server's models folder."""
    for place, make in STAND_INS.items():
        path, link = folder / place, models / place
        if not path.exists():
            write(path, make())
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(path)
