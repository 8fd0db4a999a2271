"""The files of a full-size model in a folder, as they are published: found by what they hold, not by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .config import ModelConfig
from .weights.files import PICKLES, SHARD, open_weights, read_shapes
from .weights.keymaps import find_part, recognise
from .weights.loading import load_audio_vae, load_model, load_vocoder

INDEX = ".safetensors.index.json"
TOKENIZERS = ("spiece.model", "tokenizer.json")
TRANSFORMER = "a transformer (Wan2.2-TI2V-5B, Ovi or UniTalk, one file or an index of shards)"
TEXT_ENCODER = "UMT5-XXL (models_t5_umt5-xxl-enc-bf16.pth or umt5_xxl_fp16.safetensors)"
TOKENIZER = "the tokenizer of UMT5 (the folder google/umt5-xxl)"
VIDEO_VAE = "the Wan2.2 video VAE (Wan2.2_VAE.pth or wan2.2_vae.safetensors)"
SOUND = {
    20: ("MMAudio's VAE of 16 kHz (v1-16.pth)", "BigVGAN of 16 kHz (best_netG.pt)"),
    40: ("MMAudio's VAE of 44.1 kHz (v1-44.pth)", "BigVGAN v2 of 44.1 kHz (bigvgan_generator.pt)"),
}  # by the channels of its latents


@dataclass(frozen=True)
class ModelFiles:
    """The files that make clips together. model: one, or one for each stream; None: not needed."""

    config: ModelConfig
    model: tuple[Path, ...]
    text_encoder: Path
    tokenizer: Path | None = None
    video_vae: Path | None = None
    audio_vae: Path | None = None
    vocoder: Path | None = None


def find_files(folder: Path) -> ModelFiles:
    """What a folder and those inside it hold. Nothing but names, shapes and types is read.

    Raises FileNotFoundError that names all that is missing, ValueError for a part that is there twice, or
    for a damaged file. Sound parts of another rate than the transformer's are passed over.
    """
    held = parts_in(folder)
    if not held["model"]:
        raise FileNotFoundError(f"{folder} lacks {TRANSFORMER}; put it there")
    model = whole_model(folder, held["model"])
    config = load_model(model, device="meta")[1]
    wanted = {TEXT_ENCODER: held["text encoder"]}
    if config.streams.video is not None:
        wanted[VIDEO_VAE] = held["video vae"]
    if config.streams.audio is not None:
        names = SOUND[config.format.audio_channels]
        wanted |= dict(zip(names, sound_files(config, held), strict=True))
    for path in wanted[TEXT_ENCODER] if needs_tokenizer(wanted[TEXT_ENCODER]) else ():
        wanted[TOKENIZER] = tokenizers(folder, path)
    chosen = {name: only(folder, name, paths) for name, paths in wanted.items() if paths}
    if missing := [name for name in wanted if name not in chosen]:
        raise FileNotFoundError(f"{folder} lacks {' and '.join(missing)}; put what is missing there")
    sound = SOUND[config.format.audio_channels]
    parts = (chosen.get(name) for name in (TEXT_ENCODER, TOKENIZER, VIDEO_VAE, *sound))
    return ModelFiles(config, model, *parts)


def parts_in(folder: Path) -> dict[str, list[Path]]:
    """The files that hold each kind of part."""
    held: dict[str, list[Path]] = {
        part: [] for part in ("model", "text encoder", "video vae", "audio vae", "vocoder")
    }
    for path in weight_files(folder):
        for found in recognise(read_shapes(path)):
            held[found.kind.part].append(path)
    return held


def weight_files(folder: Path) -> Iterator[Path]:
    """Every file of weights, and of those in shards the index."""
    for path in sorted(folder.rglob("*")):
        weights = path.suffix in (".safetensors", *PICKLES) and not SHARD.search(path.name)
        if path.is_file() and (weights or path.name.endswith(INDEX)):
            yield path


def whole_model(folder: Path, paths: Sequence[Path]) -> tuple[Path, ...]:
    """The file of a transformer, or those of its two streams; ValueError if a stream is there twice."""
    streams: dict[str, Path] = {}
    for path in paths:
        entries = open_weights(path).entries
        for stream in {name.split(".")[0] for name in find_part(entries, "model", path).take(entries)}:
            if stream in streams:
                raise doubled(folder, TRANSFORMER, [streams[stream], path])
            streams[stream] = path
    return tuple(dict.fromkeys(streams.values()))


def sound_files(config: ModelConfig, held: dict[str, list[Path]]) -> tuple[list[Path], list[Path]]:
    """Those audio VAEs and vocoders that fit the transformer's sound."""
    form, vaes = config.format, {}
    for path in held["audio vae"]:
        vae = load_audio_vae(path, device="meta").config
        if vae.latent_channels == form.audio_channels:
            vaes[path] = vae
    fitting = {(vae.mels, form.audio_stride // vae.stride) for vae in vaes.values()}
    vocoders = [
        path
        for path in held["vocoder"]
        if (one := load_vocoder(path, device="meta").config) and (one.mels, one.hop) in fitting
    ]
    return list(vaes), vocoders


def needs_tokenizer(text_encoders: Sequence[Path]) -> bool:
    """Whether the text encoder, if it is one alone, has no tokenizer inside."""
    return len(text_encoders) == 1 and "spiece_model" not in read_shapes(text_encoders[0])


def tokenizers(folder: Path, text_encoder: Path) -> list[Path]:
    """Folders that hold a tokenizer; the one that Wan has beside its text encoder goes before others."""
    beside = text_encoder.parent / "google" / "umt5-xxl"
    found = sorted({path.parent for name in TOKENIZERS for path in folder.rglob(name)})
    return [beside] if beside in found else found


def only(folder: Path, name: str, paths: Sequence[Path]) -> Path:
    if len(paths) > 1:
        raise doubled(folder, name, paths)
    return paths[0]


def doubled(folder: Path, name: str, paths: Sequence[Path]) -> ValueError:
    held = " and ".join(str(path.relative_to(folder)) for path in paths)
    return ValueError(f"{folder} holds {name} {len(paths)} times, {held}; keep one of them there")
