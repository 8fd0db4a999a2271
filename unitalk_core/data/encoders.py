"""What turns a clip into what a model is trained on: two VAEs and a text encoder, and how they are used.

b batch · c channels · f latent frames · h, w rows, columns · n audio latents · len tokens · dim width
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..config import OVI_720, OVI_960, UNITALK, ModelConfig
from ..media import read_audio
from ..models.audio_codec import AudioCodec
from ..models.phonemes import prompt_ids
from ..pipeline import TINY, load_bundle
from ..weights.files import read_shapes
from ..weights.keymaps import find_part
from ..weights.loading import load_audio_codec, load_text_encoder, load_video_vae, stored_config
from ..weights.shapes import model_config, reading_sizes
from .checks import hushed
from .clips import Row, mouth_mask, prompts_of, read_clip

FULL_SIZE = {"unitalk": UNITALK, "ovi-720": OVI_720, "ovi-960": OVI_960}
PIXELS_AT_ONCE = (
    2**19
)  # that the video VAE encodes in one step: small pictures need not go four frames a time


@dataclass(frozen=True)
class Encoders:
    """Of one model. hashes: sha256 of the weights of each."""

    config: ModelConfig
    video_vae: Any
    audio_codec: AudioCodec
    text_encoder: Any
    hashes: Mapping[str, str]

    def settings(self, size: tuple[int, int]) -> dict[str, Any]:
        """All that the latents of a clip depend on besides the clip."""
        plain = self.config.to_json()
        return {
            "size": list(size),
            "format": plain["format"],
            "markup": plain["markup"],
            "reference_len": self.config.reference_len,
            "picture": self.config.streams.video is not None,
            "encoders": dict(self.hashes),
        }


def load_encoders(
    model: str = TINY,
    *,
    video_vae: Path | None = None,
    audio_vae: Path | None = None,
    vocoder: Path | None = None,
    text_encoder: Path | None = None,
    tokenizer: Path | None = None,
    device: torch.device | str = "cpu",
) -> Encoders:
    """The encoders of "tiny" or a folder like it; or of a full-size model, by its name or file, from files.

    vocoder: only to listen to latents again; None is Griffin-Lim. tokenizer: as for `load_text_encoder`.
    Raises FileNotFoundError for missing files, ValueError for damaged or foreign ones, or no such device.
    """
    _check_device(device)
    if model not in FULL_SIZE and not Path(model).is_file():
        bundle = load_bundle(model)
        config, parts = bundle.config, (bundle.video_vae, bundle.audio_codec, bundle.text_encoder)
    else:
        config = load_config(model)
        files = {"video VAE": video_vae, "audio VAE": audio_vae, "text encoder": text_encoder}
        if missing := [name for name, path in files.items() if path is None]:
            raise ValueError(
                f"{model} has its encoders in files of their own; name the {', the '.join(missing)}"
            )
        parts = (
            load_video_vae(video_vae),
            load_audio_codec(audio_vae, vocoder),
            load_text_encoder(text_encoder, tokenizer),
        )
    return encoders_of(config, *(part.to(device) for part in parts))


def _check_device(device: torch.device | str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # what torch says where it was built without a device
        raise ValueError(
            f"there is no device {device} here ({str(error).splitlines()[0]}); use cpu"
        ) from error


def load_config(model: str = TINY) -> ModelConfig:
    """The configuration of what `load_encoders` takes; of a file without reading its weights."""
    if model in FULL_SIZE:
        return FULL_SIZE[model]
    if not Path(model).is_file():
        return load_bundle(model).config
    if stored := stored_config(model).get("model"):
        return ModelConfig.from_json(stored)
    shapes = read_shapes(model)
    with reading_sizes(model):
        return model_config(find_part(shapes, "model", model).take(shapes), model)


def usual_size(config: ModelConfig) -> tuple[int, int]:
    """(width, height) that a model is trained on if nobody says otherwise."""
    return (64, 64) if config.markup == "phonemes" else (704, 704)


def encoders_of(config: ModelConfig, video_vae: Any, audio_codec: AudioCodec, text_encoder: Any) -> Encoders:
    """From parts that are loaded. ValueError if they do not make what this model takes."""
    clip, width = config.format, config.streams.present()[0].text_dim
    facts = {
        "audio VAE makes (Hz, samples, channels)": (
            (audio_codec.sample_rate, audio_codec.stride, audio_codec.channels),
            (clip.sample_rate, clip.audio_stride, clip.audio_channels),
        ),
        "video VAE makes (channels)": (video_vae.config.latent_channels, clip.video_channels),
        "text encoder makes (width)": (text_encoder.dim, width),
    }
    for what, (made, wanted) in facts.items():
        if made != wanted:
            raise ValueError(f"the {what} {made}, the model takes {wanted}; give the one it was trained with")
    hashes = {
        "video_vae": weights_hash(video_vae),
        "audio_vae": weights_hash(audio_codec.vae, str(audio_codec.mel.config)),
        "text_encoder": weights_hash(text_encoder),
    }
    return Encoders(config, video_vae, audio_codec, text_encoder, hashes)


def weights_hash(module: nn.Module, more: str = "") -> str:
    """sha256 of all weights with their names and types."""
    found = hashlib.sha256(more.encode())
    for name, one in sorted(module.state_dict().items()):
        found.update(f"{name} {one.dtype} {tuple(one.shape)}".encode())
        found.update(one.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


@torch.inference_mode()
def encode_row(
    row: Row, encoders: Encoders, size: tuple[int, int]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(latents and features in fp16, what else is known of the clip). ValueError if they are not finite."""
    config = encoders.config
    clip = read_clip(row, config.format, size)
    frames, prompts = len(clip.frames), prompts_of(row, config.markup)
    tensors = {"audio": encode_sound(clip.waveform, encoders)}
    if config.streams.video is not None:
        tensors["video"] = encode_picture(clip.frames, encoders)
    if row.reference is not None and (heard := config.reference_len):
        voice, _ = read_audio(row.reference, config.format.sample_rate, mono=True)
        tensors["reference"] = encode_sound(voice[:, : heard * config.format.audio_stride], encoders)
    for i, prompt in enumerate(dict.fromkeys(prompts.values())):
        tensors[f"text.{i}"] = encode_text(prompt, encoders)
    for name, one in tensors.items():
        tensors[name] = one.half()
        if not torch.isfinite(tensors[name]).all():
            raise ValueError(f"{row.name}: its {name} becomes values that are not numbers; take the clip out")
    if row.mouth is not None:
        tensors["mouth"] = mouth_mask(row, config.format, size, frames)
    known = {
        "name": row.name,
        "frames": frames,
        "seconds": frames / float(config.format.fps),
        "prompts": prompts,
        "speaker": row.speaker,
        "words": [list(one) for one in row.words],
        "phones": [list(one) for one in row.phones],
    }
    return tensors, known


def encode_picture(frames: Tensor, encoders: Encoders) -> Tensor:
    """(frames, rows, columns, 3) in 0..1 -> (c, f, h, w)"""
    vae = encoders.video_vae
    pixels = rearrange(frames, "f h w c -> 1 c f h w") * 2 - 1
    at_once = max(1, PIXELS_AT_ONCE // (vae.config.frame_stride * frames[0, :, :, 0].numel()))
    return vae.encode(pixels.to(next(vae.parameters())), chunk=at_once)[0]


def encode_sound(waveform: Tensor, encoders: Encoders) -> Tensor:
    """(1, samples) -> (c, n), silence added up to a whole latent"""
    codec = encoders.audio_codec
    return codec.encode(codec.pad(waveform).to(next(codec.vae.parameters()).device))[0]


def encode_text(prompt: str, encoders: Encoders) -> Tensor:
    """(len, dim): the rows that carry text."""
    with hushed():
        context = encoders.text_encoder.encode([prompt])[0]
        if encoders.config.markup == "phonemes":
            return context[: len(prompt_ids(prompt, len(context)))]
    return context[: int(context.any(dim=1).sum())]
