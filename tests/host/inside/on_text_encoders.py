"""UMT5 in every form that is published, narrow but of its real depth and FFN, by which the host knows it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import comfy.sd
import folder_paths
import torch
from full_size import Weights, scaled, write
from reduced import piece_model
from rig import NODES, core, error_of, measure, run, worst

FOLDER = Path(tempfile.mkdtemp())
folder_paths.add_model_folder_path("text_encoders", str(FOLDER))
NARROW = {"vocabulary": 128, "dim": 16, "attention_dim": 16, "heads": 2}
PROMPT = "hello melody"


def pieces() -> bytes:
    return piece_model(["hello melody", "a woman at a table"] * 50)


def encoder(**changes: Any) -> Any:
    """In float32, of numbers that bfloat16 and float16 both hold."""
    text_encoder = core("unitalk_core.models.text_encoder")
    torch.manual_seed(0)
    made = text_encoder.UMT5Encoder(
        text_encoder.UMT5Config(**NARROW | changes), text_encoder.sentencepiece_tokenizer(pieces())
    )
    for one in made.parameters():
        one.data = one.data.half().bfloat16().half().float()
    return made.eval()


def forms(weights: Weights) -> dict[str, Weights]:
    keymaps, inside = core("unitalk_core.weights.keymaps"), {"spiece_model": as_bytes(pieces())}
    half = {name: one.half() for name, one in weights.items()}
    authors = keymaps.rename(weights, keymaps.reversed_table(keymaps.UMT5_IN_WAN))
    return {
        "umt5_xxl_fp16.safetensors": half | inside,
        "umt5_xxl_fp8_e4m3fn_scaled.safetensors": scaled(half) | inside,
        "Wan2.2/models_t5_umt5-xxl-enc-bf16.pth": {name: one.bfloat16() for name, one in authors.items()},
        "diffusers/text_encoder/model.safetensors.index.json": weights,
    }


def as_bytes(content: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def put_pieces(place: str, content: bytes) -> Path:
    path = FOLDER / place / "spiece.model"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def encoded(clip: Any) -> torch.Tensor:
    return NODES["CLIPTextEncode"]().encode(clip, PROMPT)[0][0][0]


def by_the_host(name: str) -> torch.Tensor:
    """What the stock CLIPLoader does, told of the narrow sizes."""
    sizes = {"vocab_size": 128, "d_model": 16, "d_kv": 8, "num_heads": 2}
    options = {"umt5xxl_model_config": sizes}
    kind = comfy.sd.CLIPType.WAN
    return encoded(comfy.sd.load_clip([str(FOLDER / name)], clip_type=kind, model_options=options))


def load(name: str, *device: str) -> Any:
    return run("UniTalkLoadTextEncoder", name, *device)


@measure
def text_encoders() -> dict[str, Any]:
    """Each form through the node and the stock text node, beside the core and the stock loader."""
    ours, made = encoder(), {}
    put_pieces("Wan2.2/google/umt5-xxl", pieces())
    put_pieces("diffusers/tokenizer", pieces())
    for name, tensors in forms(ours.state_dict()).items():
        write(FOLDER, name, tensors)
        clip = load(name)
        made[name] = encoded(clip)
    make, args = clip.patcher.cached_patcher_init
    first, again = clip.cond_stage_model.state_dict(), make(*args, disable_dynamic=True).model.state_dict()
    told, prompt = run("UniTalkTextEncode", clip, "a woman", "hello", "rain", "auto")
    options = {one.id: one.options for one in NODES["UniTalkLoadTextEncoder"].define_schema().inputs}
    plain, fp8, authors, shards = made.values()
    return {
        "plain": [torch.equal(plain, one) for one in (authors, shards)],
        "stock": [torch.equal(made[name], by_the_host(name)) for name in list(made)[:2]],
        "core": [worst(plain, ours.encode([PROMPT])), worst(told[0][0], ours.encode([prompt]))],
        "fp8": worst(fp8, plain),
        "again": all(torch.equal(first[key], again[key]) for key in first),
        "on the cpu": str(load(name, "cpu").patcher.load_device),
        "listed": name in options["text_encoder_name"],
    }


@measure
def wrong_text_encoders() -> dict[str, str]:
    """What cannot be read, by what is wrong with it."""
    whole = forms(encoder().state_dict())
    authors = whole["Wan2.2/models_t5_umt5-xxl-enc-bf16.pth"]
    write(FOLDER, "alone/t5.pth", authors)
    write(FOLDER, "other/t5.pth", authors)
    put_pieces("other", b"no tokenizer")
    write(FOLDER, "small.safetensors", encoder(depth=2).state_dict() | {"spiece_model": as_bytes(pieces())})
    lacking = {key: one for key, one in authors.items() if key != "blocks.7.ffn.fc2.weight"}
    write(FOLDER, "lacking.pth", lacking)
    write(FOLDER, "vae.safetensors", {"decoder.conv1.weight": torch.zeros(2)})
    names = ("alone/t5.pth", "other/t5.pth", "small.safetensors", "lacking.pth", "vae.safetensors")
    errors = {name: error_of(lambda name=name: load(name)) for name in names}
    write(FOLDER, "larger/t5.pth", encoder(vocabulary=1000).state_dict())
    put_pieces("larger", pieces())
    return errors | {"larger/t5.pth": error_of(lambda: load("larger/t5.pth"))}
