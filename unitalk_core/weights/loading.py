"""Models from files, and files from models. A file carries its own configuration, or its shapes tell it.

Our files hold JSON under the metadata key `unitalk`: {"model": ..., "text_encoder": ...} and so on, by part.
What ComfyUI saves of our models holds it as a tensor of bytes, since its metadata has no place for it.
Modules are built on the meta device and take over the tensors of the file: nothing is initialised in vain.
With device="meta" the loaders take names, shapes and types alone, and say what they say of a whole file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..av import AV
from ..config import ModelConfig
from ..models.audio_codec import AudioCodec
from ..models.audio_vae import AudioVAE, AudioVAEConfig, fold, is_folded
from ..models.float8 import Float8, expect_float8
from ..models.griffin_lim import GriffinLim
from ..models.mel import MEL_16K, MEL_44K, Mel, MelConfig
from ..models.mmdit import JointDiT
from ..models.text_encoder import (
    PhonemeConfig,
    PhonemeEncoder,
    Tokenize,
    UMT5Config,
    UMT5Encoder,
    folder_tokenizer,
    sentencepiece_tokenizer,
)
from ..models.video_vae import VideoVAE, VideoVAEConfig
from ..models.vocoder import BigVGAN, BigVGANConfig, fold_weight_norm
from ..models.vocos import Vocos, VocosConfig
from . import shapes
from .files import (
    load_weights,
    open_weights,
    read_bytes,
    read_metadata,
    read_shapes,
    read_tensors,
    save_tensors,
)
from .formats import AUDIO
from .keymaps import find_part, recognise
from .lora import is_lora_file
from .quantised import dequantise, dequantised, for_float8, quantise_int8

Source = str | Path
Unpack = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
EMBEDDED = Path(__file__).parent / "embedded"
EMBEDDED_FILES = (
    "model.safetensors",
    "video_vae.safetensors",
    "audio_vae.safetensors",
    "vocoder.safetensors",
)
CONFIG = "unitalk"  # of the metadata, or of the tensor
TEXT_ENCODER = "text_encoder."  # prefix of the phoneme encoder in the miniature's model file
PIECES = "spiece_model"  # name of the tensor of bytes in ComfyUI's files of UMT5
SPIECES = ("spiece.model", "google/umt5-xxl/spiece.model", "../tokenizer/spiece.model")
"""Where a tokenizer lies, seen from its text encoder: alone, as Wan has it, as diffusers has it."""
UNUSED_TOKENS = 512  # at most: an embedding is a little larger than its tokenizer
MELS = {config.mels: config for config in (MEL_16K, MEL_44K)}


class Parts(NamedTuple):
    """Everything that makes clips."""

    model: JointDiT
    config: ModelConfig
    video_vae: VideoVAE
    audio_codec: AudioCodec
    text_encoder: PhonemeEncoder


def stored_config(path: Source) -> dict[str, Any]:
    """The configurations that a file carries, by part; empty for a file that is not ours."""
    text = read_metadata(path).get(CONFIG) or read_bytes(path, CONFIG)
    if text is None:
        return {}
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ValueError(f"the configuration in {path} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(
            f"the configuration in {path} is a {type(config).__name__} instead of a table by part"
        )
    return config


def as_tensor(**configs: Any) -> Tensor:
    """Configurations by part as a tensor of bytes, which `stored_config` reads."""
    text = json.dumps({part: config.to_json() for part, config in configs.items()})
    return torch.frombuffer(bytearray(text, "utf8"), dtype=torch.uint8)


def read_model(
    paths: Source | Sequence[Source],
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    unpack: Unpack = dequantise,
    but: tuple[str, ...] = (),
) -> tuple[dict[str, Tensor], ModelConfig]:
    """Weights in our names and the configuration of a transformer, from one file or one for each stream.

    dtype: of all floating point weights; None keeps the file's (fp8 becomes float16). but: endings of names
    that keep it too.
    unpack: what becomes of quantised weights, such as `quantised.in_fp8`.
    """
    sources = [paths] if isinstance(paths, (str, Path)) else list(paths)
    weights: dict[str, Tensor] = {}
    config: ModelConfig | None = None
    for path in sources:
        part = _part(path, "model", dtype, device, unpack, but)
        if twice := weights.keys() & part.keys():
            raise ValueError(
                f"{path} holds {min(twice)} and {len(twice)} more that another file holds already"
            )
        weights |= part
        if stored := stored_config(path).get("model"):
            own = ModelConfig.from_json(stored)
            config = own if config is None else config.joined(own)
    if config is not None:
        return _without_text(weights), config
    source = " + ".join(str(path) for path in sources)
    with shapes.reading_sizes(source):
        return weights, shapes.model_config(_shapes(weights), source)


def read_sound(
    path: Source, dtype: torch.dtype | None = None, device: str = "cpu"
) -> tuple[dict[str, Tensor], ModelConfig]:
    """The sound stream of a model's file alone, without the layers in which Ovi's reads its picture."""
    weights = _part(path, "model", dtype, device)
    own = {name: one for name, one in weights.items() if name.startswith(AUDIO) and "_fusion." not in name}
    if not own:
        raise ValueError(f"{path} has no sound stream; name a model that has one, such as Ovi's")
    if stored := stored_config(path).get("model"):
        config = ModelConfig.from_json(stored)
        return own, replace(config, streams=AV(None, config.streams.audio), coupling="joint")
    with shapes.reading_sizes(path):
        return own, shapes.model_config(_shapes(own), path)


def load_model(
    paths: Source | Sequence[Source],
    ops: Any = nn,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    float8: Float8 | None = None,
) -> tuple[JointDiT, ModelConfig]:
    """A transformer and its configuration from one file, or from one for each stream (Ovi's split files).

    float8: the matrices of its blocks in a byte each; those that are fp8 in the file stay as they are.
    """
    if float8 is None:
        weights, config = read_model(paths, dtype, device)
        return built(lambda: JointDiT(config, ops=ops), weights, paths), config
    weights, config = read_model(paths, None, device, partial(for_float8, dtype=dtype))
    return built(lambda: expect_float8(JointDiT(config), float8), weights, paths), config


def load_video_vae(
    path: Source, ops: Any = nn, dtype: torch.dtype | None = None, device: str = "cpu"
) -> VideoVAE:
    """A Wan2.2 video VAE: Wan's file, ComfyUI's, diffusers' or ours."""
    weights = _part(path, "video vae", dtype, device)
    stored = stored_config(path).get("video_vae")
    with shapes.reading_sizes(path):
        config = (
            VideoVAEConfig.from_json(stored) if stored else shapes.video_vae_config(_shapes(weights), path)
        )
    return built(lambda: VideoVAE(config, ops=ops), weights, path)


def load_audio_vae(path: Source, ops: Any = nn, device: str = "cpu") -> AudioVAE:
    """An MMAudio VAE in float32: its raw weights (folded here), folded ones as in ComfyUI's file, or ours."""
    weights = _part(path, "audio vae", torch.float32, device)
    stored = stored_config(path).get("audio_vae")
    with shapes.reading_sizes(path):
        config = AudioVAEConfig.from_json(stored) if stored else AudioVAEConfig.from_tensors(weights)
    if not stored and device != "meta" and not is_folded(weights):
        weights = fold(weights)
    return built(lambda: AudioVAE(config, ops=ops), weights, path)


def load_vocoder(path: Source, ops: Any = nn, device: str = "cpu") -> BigVGAN | Vocos:
    """A vocoder in float32: BigVGAN v1 or v2 in any spelling of its weight norm, or our Vocos."""
    weights = _part(path, "vocoder", torch.float32, device)
    stored = stored_config(path).get("vocoder")
    if stored and "hidden" in stored:
        return built(lambda: Vocos(VocosConfig.from_json(stored), ops=ops), weights, path)
    with shapes.reading_sizes(path):
        weights = fold_weight_norm(weights)
        config = BigVGANConfig.from_json(stored) if stored else BigVGANConfig.from_tensors(weights)
    return built(lambda: BigVGAN(config, ops=ops), weights, path)


def load_audio_codec(vae: Source, vocoder: Source | None = None) -> AudioCodec:
    """Waveform <-> audio latent from the files of a VAE and a vocoder, maybe one; None is Griffin-Lim."""
    audio_vae = load_audio_vae(vae)
    stored = stored_config(vae).get("mel")
    mel = MelConfig.from_json(stored) if stored else MELS.get(audio_vae.config.mels)
    if mel is None:
        raise ValueError(f"{vae} has {audio_vae.config.mels} mels; known are {' and '.join(map(str, MELS))}")
    voice = GriffinLim(mel) if vocoder is None else load_vocoder(vocoder)
    try:
        return AudioCodec(Mel(mel), audio_vae, voice)
    except ValueError as error:
        raise ValueError(f"{vae} and {vocoder} do not belong together: {error}") from error


def load_text_encoder(
    path: Source, tokenizer: Source | None = None, dtype: torch.dtype | None = None, device: str = "cpu"
) -> UMT5Encoder:
    """UMT5 from Wan's file, transformers' or ComfyUI's (fp8).

    tokenizer: its folder; not needed where the file holds `spiece_model`, or where `SPIECES` lie beside it.
    """
    weights = _part(path, "text encoder", dtype, device)
    weights.pop("encoder.embed_tokens.weight", None)
    pieces = weights.pop(PIECES, None)
    with shapes.reading_sizes(path):
        config = UMT5Config.from_tensors(weights)
    shapes.check_depth(path, config.dim, config.depth)
    tokenize = None if device == "meta" else _tokenize(path, pieces, tokenizer, config.vocabulary)
    return built(lambda: UMT5Encoder(config, tokenize), weights, path)


def read_text_encoder(path: Source, unpack: Unpack = dequantise) -> tuple[dict[str, Tensor], UMT5Config]:
    """UMT5's weights in transformers' names, with its SentencePiece model as `spiece_model`, and its sizes.

    Names and shapes are checked before a weight is read. FileNotFoundError if there is no tokenizer.
    """
    config = load_text_encoder(path, device="meta").config
    weights = _part(path, "text encoder", None, unpack=unpack)
    weights.pop("encoder.embed_tokens.weight", None)
    pieces = weights.get(PIECES)
    if pieces is None:
        pieces = pieces_beside(path, config.vocabulary)
    if pieces is None:
        raise FileNotFoundError(
            f"{path} has no tokenizer inside and none beside it; put Wan's google/umt5-xxl/spiece.model there"
        )
    return weights | {PIECES: pieces}, config


def pieces_beside(path: Source, vocabulary: int) -> Tensor | None:
    """The bytes of a SentencePiece model that lies where `SPIECES` says; ValueError if it is another one's.

    vocabulary: how many tokens the text encoder knows; the last few stand for no piece.
    """
    found = next((one for one in (Path(path).parent / place for place in SPIECES) if one.is_file()), None)
    if found is None:
        return None
    pieces = torch.frombuffer(bytearray(found.read_bytes()), dtype=torch.uint8)
    count = piece_count(pieces, found)
    if not vocabulary - UNUSED_TOKENS <= count <= vocabulary:
        raise ValueError(f"{found} has {count} pieces, and {path} knows {vocabulary}; take that of umT5")
    return pieces


def piece_count(pieces: Tensor, source: Source) -> int:
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_proto=pieces.numpy().tobytes()).get_piece_size()
    except RuntimeError as error:
        raise ValueError(f"{source} is no SentencePiece model; fetch it again") from error


def _tokenize(path: Source, pieces: Tensor | None, folder: Source | None, vocabulary: int) -> Tokenize | None:
    """What makes ids of text: of a folder that is named, the file's own, or what lies beside it."""
    beside = Path(path).parent / "google" / "umt5-xxl"
    if folder is not None or (pieces is None and beside.is_dir()):
        return folder_tokenizer(folder or beside)
    if pieces is None:
        pieces = pieces_beside(path, vocabulary)
    return None if pieces is None else sentencepiece_tokenizer(pieces)


def load_embedded(folder: Source = EMBEDDED) -> Parts:
    """The miniature that is shipped with the pack. FileNotFoundError if one of its files is missing."""
    folder = Path(folder)
    if missing := [name for name in EMBEDDED_FILES if not (folder / name).is_file()]:
        raise FileNotFoundError(f"the miniature is incomplete: {folder} lacks {', '.join(missing)}")
    model, video_vae, audio_vae, vocoder = (folder / name for name in EMBEDDED_FILES)
    weights = dequantise(read_tensors(model))
    text = {
        name.removeprefix(TEXT_ENCODER): one for name, one in weights.items() if name.startswith(TEXT_ENCODER)
    }
    stored = stored_config(model)
    config, words = ModelConfig.from_json(stored["model"]), PhonemeConfig.from_json(stored["text_encoder"])
    return Parts(
        built(lambda: JointDiT(config), _without_text(weights), model),
        config,
        load_video_vae(video_vae),
        load_audio_codec(audio_vae, vocoder),
        built(lambda: PhonemeEncoder(words), text, model),
    )


def save_embedded(folder: Source, parts: Parts, int8: bool = True) -> None:
    """Write the miniature's four files, each whole or not at all. int8: in a quarter of the size."""
    model, video_vae, audio_vae, vocoder = (Path(folder) / name for name in EMBEDDED_FILES)
    codec = parts.audio_codec
    text = {TEXT_ENCODER + name: one for name, one in parts.text_encoder.state_dict().items()}
    configs = {"model": parts.config, "text_encoder": parts.text_encoder.config}
    save_part(model, parts.model.state_dict() | text, configs, int8)
    save_part(video_vae, parts.video_vae.state_dict(), {"video_vae": parts.video_vae.config}, int8)
    configs = {"audio_vae": codec.vae.config, "mel": codec.mel.config}
    save_part(audio_vae, codec.vae.state_dict(), configs, int8)
    save_part(vocoder, codec.vocoder.state_dict(), {"vocoder": codec.vocoder.config}, int8)


def save_part(
    path: Source, tensors: Mapping[str, Tensor], configs: Mapping[str, Any], int8: bool = True
) -> None:
    """Write weights with the configurations of what they belong to, by part; as int8, or as they are."""
    table = {part: config.to_json() for part, config in configs.items()}
    packed = quantise_int8(tensors) if int8 else tensors
    save_tensors(path, packed, {"unitalk": table, "format": "pt"})


def describe(path: Source) -> dict[str, Any]:
    """What a file holds, without reading its weights where that is possible: parts, sizes, configuration."""
    sizes = read_shapes(path)
    return {
        "file": str(path),
        "holds": ["LoRA"] if is_lora_file(sizes) else [found.kind.name for found in recognise(sizes)],
        "tensors": len(sizes),
        "parameters": sum(torch.Size(shape).numel() for shape in sizes.values()),
        "bytes": Path(path).stat().st_size,
        "config": stored_config(path),
    }


def _part(
    path: Source,
    part: str,
    dtype: torch.dtype | None,
    device: str = "cpu",
    unpack: Unpack = dequantise,
    but: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """One part of a file in our names and as plain tensors, floating point ones in `dtype` if given.

    What keeps its type stays mapped. The rest is read and changed one by one, the largest first, so that
    there is never more than the result and a small tensor beside it.
    """
    file = open_weights(path)
    if is_lora_file(file.entries):
        raise ValueError(f"{path} is a LoRA and holds no {part}; load it beside the model that it belongs to")
    found = find_part(file.entries, part, path)
    held = file.empty() if device == "meta" else file.mapped()

    def read(name: str) -> Tensor:
        stays = tensors[name].is_meta or tensors[name].dtype == dtype
        return tensors[name] if stays else file.read(names[name])

    try:
        names = found.take({name: name for name in file.entries})
        tensors = {ours: held[theirs] for ours, theirs in names.items()}
        if dtype is None:
            return unpack(tensors)
        stay = [name for name in tensors if name.removesuffix("_scale").endswith(but)]
        as_stored = {name: tensors.pop(name) for name in stay}
        largest_first = dict(sorted(tensors.items(), key=lambda item: -item[1].nbytes))
        return unpack(as_stored) | dict(dequantised(largest_first, read, dtype))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _without_text(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model file of the miniature's kind carries its text encoder too."""
    return {name: one for name, one in weights.items() if not name.startswith(TEXT_ENCODER)}


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(one.shape) for name, one in weights.items()}


def built(make: Callable[[], nn.Module], weights: Mapping[str, Tensor], source: object) -> Any:
    """The module that `make` gives, holding `weights`; ValueError if they do not fit it."""
    with torch.device("meta"):
        module = make()
    load_weights(module, weights, str(source))
    return module.eval()
