"""The core's codecs and text encoder, shaped for the host's VAE and CLIP sockets: stock nodes take them too.

b batch · c channels · f frames · h, w rows, columns · n audio latents
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn.functional import pad

from ..unitalk_core.av import AV, Clip, ClipFormat
from ..unitalk_core.config import ModelConfig
from ..unitalk_core.excerpt import take_voice
from ..unitalk_core.media import fill_frames, resample
from ..unitalk_core.models.audio_codec import AudioCodec
from ..unitalk_core.models.markup import check_untagged, weighted_parts, without_weights
from ..unitalk_core.models.phonemes import left_out
from ..unitalk_core.models.text_encoder import UMT5Config, clean_text
from ..unitalk_core.models.video_vae import VideoVAE
from ..unitalk_core.weights.loading import read_text_encoder
from ..unitalk_core.weights.quantised import in_fp8
from . import host, sockets
from .preview import SoundMap

# bytes of working memory per byte of precision: the host's figures for the Wan2.2 VAE, per pixel of one frame
DECODE_MEMORY, ENCODE_MEMORY = 8000, 3300
UMT5, XXL = "umt5xxl", UMT5Config()  # what the host calls it, and its sizes
AUDIO_MEMORY = 4000  # per sample of waveform, the widest layer of BigVGAN


class PictureStage(nn.Module):
    """The core's video VAE in the host's latent space: latents scaled as the Wan2.2 VAE writes them.

    Decoding fills the host's buffer chunk by chunk: memory does not grow with the length of the clip.
    """

    comfy_has_chunked_io = True

    def __init__(self, vae: VideoVAE) -> None:
        super().__init__()
        self.vae = vae
        self.scaling = host.picture_scaling()

    def encode(self, pixels: Tensor, device: torch.device | None = None) -> Tensor:
        """(b, 3, f, h, w) in -1..1 -> (b, c, latent f, h / 16, w / 16)"""
        pieces = (piece.to(device or pixels.device) for piece in pixels.split(4, dim=2))
        return self.scaling.process_out(torch.cat(list(self.vae.encode_chunks(pieces)), dim=2))

    def decode(self, latent: Tensor, output_buffer: Tensor | None = None) -> Tensor:
        """(b, c, latent f, h, w) -> (b, 3, f, 16 h, 16 w) in -1..1, into `output_buffer` if there is one."""
        shape = self.decode_output_shape(latent.shape)
        pixels = latent.new_empty(shape) if output_buffer is None else output_buffer
        report, done = host.progress(shape[2]), 0
        for chunk in self.vae.decode_chunks(self.scaling.process_in(latent)):
            pixels[:, :, done : done + chunk.shape[2]].copy_(chunk)
            done += chunk.shape[2]
            report(done)
        return pixels

    def check_latent(self, latent: Tensor) -> None:
        """ValueError unless it is (b, c, f, h, w) of this VAE."""
        if latent.ndim != 5 or latent.shape[1] != self.vae.config.latent_channels:
            raise ValueError(
                f"this VAE decodes pictures (b, {self.vae.config.latent_channels}, f, h, w), got "
                f"{tuple(latent.shape)}; begin with UniTalk Empty Latent, and take the audio VAE for sound"
            )

    def check_given(self, pixels: Tensor) -> None:
        """ValueError unless it is (f, h, w, 3), or one clip or more of that."""
        if pixels.ndim not in (4, 5) or not pixels.numel() or pixels.shape[-1] < 3:
            raise ValueError(
                f"this VAE encodes pictures (f, h, w, 3), got {tuple(pixels.shape)}; for sound take that of "
                "UniTalk Load Audio VAE, or the audio_vae of UniTalk Load Embedded"
            )

    def decode_output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        batch, _, frames, rows, columns = shape
        side, step = self.vae.config.pixel_stride, self.vae.config.frame_stride
        return (batch, 3, (frames - 1) * step + 1, rows * side, columns * side)


class SoundStage(nn.Module):
    """The core's audio codec as the host calls an audio VAE: (b, channels, samples) <-> latent (b, c, n)."""

    def __init__(self, codec: AudioCodec) -> None:
        super().__init__()
        self.codec = codec
        self.output_sample_rate = codec.sample_rate

    def check_latent(self, latent: Tensor) -> None:
        """ValueError unless it is (b, c, n) of this VAE."""
        if latent.ndim != 3 or latent.shape[1] != self.codec.channels:
            raise ValueError(
                f"this audio VAE decodes sound (b, {self.codec.channels}, n), got {tuple(latent.shape)}; "
                "connect the one that the model was trained with, from UniTalk Load Audio VAE, and for the "
                "picture the Wan2.2 VAE"
            )

    def check_given(self, waveform: Tensor) -> None:
        """ValueError unless it is (b, samples, channels)."""
        if waveform.ndim != 3 or not waveform.numel():
            raise ValueError(
                f"this audio VAE encodes sound (b, samples, channels), got {tuple(waveform.shape)}; for "
                "pictures take the Wan2.2 VAE of the stock VAELoader, or the vae of UniTalk Load Embedded"
            )

    def encode(self, waveform: Tensor) -> Tensor:
        return self.codec.encode(self.codec.pad(waveform.mean(dim=1)))

    def decode(self, latent: Tensor) -> Tensor:
        return self.codec.decode(latent)[:, None]


class TextStage(nn.Module):
    """The miniature's text encoder as the host calls a CLIP model. `markup`: how its prompts are written."""

    def __init__(self, encoder: nn.Module, markup: str) -> None:
        super().__init__()
        self.encoder, self.markup = encoder, markup

    def encode_token_weights(self, tokens: dict[str, list[str]]) -> tuple[Tensor, None]:
        return self.encoder.encode(tokens["unitalk"]), None

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """Nothing to set: this encoder has one layer to read and runs where it was loaded."""

    def reset_clip_options(self) -> None:
        """Nothing was set."""


class TextTokens:
    """The host's tokenizer interface. The encoder itself makes phonemes of words: the tokens are the text."""

    def tokenize_with_weights(self, text: str, *_: Any, **__: Any) -> dict[str, list[str]]:
        return {"unitalk": [text]}


def picture_vae(vae: VideoVAE) -> sockets.CoreVAE:
    """The core's video VAE as VAE, for our nodes and for the stock VAEDecode and VAEEncode."""
    step, side = vae.config.frame_stride, vae.config.pixel_stride
    facts = {
        "latent_dim": 3,
        "latent_channels": vae.config.latent_channels,
        "upscale_ratio": (lambda frames: max(0, frames * step - step + 1), side, side),
        "downscale_ratio": (lambda frames: max(0, (frames + step - 1) // step), side, side),
        "upscale_index_formula": (step, side, side),
        "downscale_index_formula": (step, side, side),
        "memory_used_decode": lambda shape, dtype: (
            DECODE_MEMORY * shape[3] * shape[4] * side**2 * dtype.itemsize
        ),
        "memory_used_encode": lambda shape, dtype: ENCODE_MEMORY * shape[3] * shape[4] * dtype.itemsize,
    }
    return sockets.CoreVAE(PictureStage(vae), facts)


def preview_factors(vae: VideoVAE) -> tuple[list[list[float]], list[float]]:
    """(c, 3) factors and 3 offsets: a normalised latent -> a colour in -1..1, for the host's previews.

    The least-squares fit to a dozen pictures of soft colours, as this VAE encodes them.
    """
    spots = torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pixels = torch.nn.functional.interpolate(spots, size=4 * vae.config.pixel_stride, mode="bilinear")
    latent = rearrange(vae.encode(pixels[:, :, None]), "b c 1 h w -> (b h w) c")
    colours = reduce(
        pixels, "b c (h p) (w q) -> (b h w) c", "mean", p=vae.config.pixel_stride, q=vae.config.pixel_stride
    )
    known = torch.cat([latent, torch.ones(len(latent), 1)], dim=1)
    fit = torch.linalg.solve(known.T @ known + torch.eye(known.shape[1]), known.T @ colours)
    return fit[:-1].tolist(), fit[-1].tolist()


def preview_sound(codec: AudioCodec) -> SoundMap:
    """Audio latents -> log-mels for previews, fitted to what the VAE decodes from latents drawn by chance."""
    latent = torch.randn(1, codec.channels, 512, generator=torch.Generator().manual_seed(0))
    return SoundMap.fitted(latent, codec.vae.decode(latent).float())


def sound_vae(codec: AudioCodec) -> sockets.CoreVAE:
    """The core's audio codec as VAE, for our nodes and for the stock VAEDecodeAudio and VAEEncodeAudio."""
    facts = {
        "latent_dim": 1,
        "latent_channels": codec.channels,
        "output_channels": 1,
        "audio_sample_rate": codec.sample_rate,
        "upscale_ratio": codec.stride,
        "downscale_ratio": codec.stride,
        "process_input": lambda waveform: waveform,
        "process_output": lambda waveform: waveform,
        "crop_input": False,
        "memory_used_decode": partial(sound_memory, codec),
        "memory_used_encode": lambda shape, dtype: AUDIO_MEMORY * shape[-1] * dtype.itemsize,
    }
    return sockets.CoreVAE(SoundStage(codec), facts)


def sound_memory(codec: AudioCodec, shape: Sequence[int], dtype: torch.dtype) -> int:
    """Bytes that decoding a latent (b, c, n) takes."""
    return AUDIO_MEMORY * shape[-1] * codec.stride * dtype.itemsize


def sound_stage_of(vae: Any) -> SoundStage:
    """What is behind an audio VAE of the core; ValueError for any other VAE."""
    stage = getattr(vae, "first_stage_model", None)
    if not isinstance(stage, SoundStage):
        kind = type(stage).__name__
        raise ValueError(f"this node takes an audio VAE of UniTalk, got {kind}; use UniTalk Load Audio VAE")
    return stage


def audio_codec_of(vae: Any) -> AudioCodec:
    """The core's audio codec behind a VAE; ValueError for any other VAE."""
    return sound_stage_of(vae).codec


def encode_voice(vae: Any, audio: Any, longest: float, start: float | None) -> tuple[Tensor, str]:
    """AUDIO of any rate and channels -> (1, n, c), latents of this VAE, time first, and what was taken."""
    sample_rate = audio_codec_of(vae).sample_rate
    taken = take_voice(*host.waveform_of(audio, "take the voice from", None), sample_rate, longest, start)
    return vae.encode(taken.waveform[None, :, None]).transpose(1, 2), taken.text


def decode_picture(vae: Any, latent: Tensor, tile: int = 0, overlap: int = 0) -> Tensor:
    """(b, c, f, h, w) -> (b * frames, height, width, 3) in 0..1, with any VAE of Wan2.2's latents.

    tile, overlap: pixels of the sides of tiles, and of what neighbours share and fade over; 0 = all at once.
    """
    check_picture_vae(vae, latent)
    if not tile:
        return vae.decode(latent).flatten(0, 1)
    side = vae.spacial_compression_decode()
    if tile % side or overlap % side or not 0 <= overlap < tile:
        raise ValueError(
            f"tile and overlap must be multiples of {side} pixels, and the overlap smaller than the tile; "
            f"got {tile} and {overlap}"
        )
    return sockets.decode_in_tiles(vae, latent, tile // side, overlap // side).flatten(0, 1)


def check_picture_vae(vae: Any, latent: Tensor) -> None:
    """ValueError if this VAE does not make latents like `latent`."""
    if getattr(vae, "latent_channels", None) != latent.shape[1]:
        have = getattr(vae, "latent_channels", "no")
        raise ValueError(
            f"this VAE has {have} latent channels, the picture {latent.shape[1]}; connect the Wan2.2 VAE of "
            "the stock VAELoader, or the vae of UniTalk Load Embedded"
        )


def encode_picture(vae: Any, frames: Tensor, like: Tensor) -> Tensor:
    """(f, h, w, 3) in 0..1 -> (1, c, f', h', w') in the size of `like`, each frame cut to fill it."""
    check_picture_vae(vae, like)
    side = vae.spacial_compression_encode()
    height, width = (side * length for length in like.shape[-2:])
    rows, columns = frames.shape[1:3]
    if rows * width != columns * height:
        host.say(f"{columns} x {rows} is cut evenly to the shape of {width} x {height}")
    return vae.encode(fill_frames(frames, width, height))


def frames_in(vae: Any, latent: Tensor) -> int:
    """How many frames a picture latent (b, c, f, h, w) holds."""
    check_picture_vae(vae, latent)
    return vae.upscale_ratio[0](latent.shape[2])


def audio_codec_for(vae: Any, sound: Tensor) -> AudioCodec:
    """The core's audio codec behind a VAE; ValueError if it does not make latents like `sound`."""
    stage = sound_stage_of(vae)
    stage.check_latent(sound)
    return stage.codec


def audio_codec_for_model(vae: Any, config: ModelConfig) -> AudioCodec:
    """The core's audio codec behind a VAE; ValueError if its latents are not those of this model."""
    codec, form = audio_codec_of(vae), config.format
    if config.streams.audio is None:
        raise ValueError("this model makes no sound; load one with a sound stream, or leave out this node")
    if (codec.channels, codec.sample_rate) != (form.audio_channels, form.sample_rate):
        raise ValueError(
            f"this audio VAE makes latents of {codec.channels} channels at {codec.sample_rate} Hz, the model "
            f"of {form.audio_channels} at {form.sample_rate} Hz; connect the one that the model was trained "
            "with, from UniTalk Load Audio VAE"
        )
    return codec


def encode_sound(vae: Any, waveform: Tensor, latents: int) -> Tensor:
    """(samples,) at the VAE's rate -> (1, c, latents), cut, or with silence behind it."""
    samples = latents * audio_codec_of(vae).stride
    return vae.encode(pad(waveform, (0, samples - len(waveform)))[None, :, None])


def sound_at_rate(vae: Any, audio: Any, purpose: str) -> Tensor:
    """AUDIO of any rate, one or two channels -> (channels, samples) at the rate of this VAE."""
    waveform, sample_rate = host.waveform_of(audio, purpose)
    return resample(waveform, sample_rate, audio_codec_of(vae).sample_rate)


def sound_form(audio_vae: Any, fps: float) -> ClipFormat:
    """The clip format of sound that this VAE makes beside a picture of that rate."""
    codec = audio_codec_of(audio_vae)
    return ClipFormat(
        fps=host.frame_rate(fps),
        sample_rate=codec.sample_rate,
        audio_stride=codec.stride,
        video_channels=0,
        audio_channels=codec.channels,
    )


def form_of(vae: Any, audio_vae: Any, streams: AV[Tensor], fps: float) -> ClipFormat:
    """The clip format of latents that these VAEs make; ValueError if the streams are of other lengths."""
    frames = frames_in(vae, streams.video)
    audio_codec_for(audio_vae, streams.audio)
    form = replace(
        sound_form(audio_vae, fps),
        video_channels=streams.video.shape[1],
        frame_stride=vae.upscale_ratio[0](2) - vae.upscale_ratio[0](1),
        pixel_stride=vae.spacial_compression_encode(),
        max_frames=frames,
    )
    if form.audio_latents(frames) != streams.audio.shape[2]:
        raise ValueError(
            f"{frames} frames at {fps:g} fps have {form.audio_latents(frames)} latents of sound, the latent "
            f"has {streams.audio.shape[2]}; connect the fps of UniTalk Empty Latent"
        )
    return form


def clip_of(vae: Any, images: Any, audio: Any, fps: float, purpose: str) -> Clip:
    """IMAGE and AUDIO as one clip at the rate of an audio VAE."""
    waveform = sound_at_rate(vae, audio, purpose)
    return Clip(host.pictures_of(images), waveform, host.frame_rate(fps), audio_codec_of(vae).sample_rate)


def decode_clip(vae: Any, audio_vae: Any, latent: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """LATENT of one clip -> IMAGE and AUDIO; ValueError for more than one."""
    video, audio = host.stream_of(latent, "video"), host.stream_of(latent, "audio")
    if len(video) > 1:
        raise ValueError(f"the latent holds {len(video)} clips; take one with UniTalk Latent From Batch")
    waveform = audio_vae.decode(audio).movedim(-1, 1)
    return decode_picture(vae, video), host.audio_of(waveform, audio_codec_of(audio_vae).sample_rate)


def text_clip(encoder: nn.Module, markup: str) -> Any:
    """The miniature's text encoder as CLIP, for UniTalkTextEncode and for the stock CLIPTextEncode."""
    return sockets.text_clip(TextStage(encoder, markup), TextTokens())


def umt5_clip(path: Path, device: str, disable_dynamic: bool = False) -> Any:
    """UMT5-XXL of any published form as the host's CLIP of type wan. The host calls this again for another.

    device: "default" or "cpu". ValueError for a smaller UMT5, FileNotFoundError if there is no tokenizer.
    """
    tensors, sizes = read_text_encoder(path, in_fp8)
    if (sizes.depth, sizes.ffn_width) != (XXL.depth, XXL.ffn_width):
        raise ValueError(
            f"{path} is a UMT5 of {sizes.depth} blocks with an FFN of {sizes.ffn_width}; talking clips are "
            f"read by UMT5-XXL, which has {XXL.depth} with {XXL.ffn_width}"
        )
    named = {
        "vocab_size": sizes.vocabulary,
        "d_model": sizes.dim,
        "d_kv": sizes.attention_dim // sizes.heads,
        "num_heads": sizes.heads,
    }
    clip = sockets.umt5_clip(tensors, named, device == "cpu", disable_dynamic)
    clip.patcher.cached_patcher_init = (umt5_patcher, (path, device))
    return clip


def umt5_patcher(path: Path, device: str, disable_dynamic: bool = False) -> Any:
    return umt5_clip(path, device, disable_dynamic).patcher


def encode_text(clip: Any, prompt: str) -> Any:
    """A finished prompt -> CONDITIONING. Text for umT5 is cleaned as Wan does; `(word:1.2)` is a weight."""
    stage = getattr(clip, "cond_stage_model", None)
    if isinstance(stage, TextStage):
        return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    if getattr(stage, "clip_name", None) != UMT5:
        raise ValueError(
            f"this CLIP is {type(stage).__name__}, the text of talking clips is read by umT5; use the stock "
            "CLIPLoader of type wan, UniTalk Load Text Encoder, or the clip of UniTalk Load Embedded"
        )
    parts = weighted_parts(clean_text(prompt))
    if len(parts) == 1:
        return clip.encode_from_tokens_scheduled(clip.tokenize(parts[0][0], disable_weights=True))
    return clip.encode_from_tokens_scheduled(clip.tokenize("".join(in_host_syntax(*one) for one in parts)))


def show_left_out(clip: Any, *prompts: str) -> None:
    """Name on the node what the miniature lacks of these texts."""
    if not isinstance(getattr(clip, "cond_stage_model", None), TextStage):
        return
    lost = dict.fromkeys(piece for prompt in prompts for piece in left_out(without_weights(prompt)))
    if lost:
        host.say(f"left out, because this model does not know it: {', '.join(lost)}")


def in_host_syntax(text: str, weight: float) -> str:
    """A stretch as the host's tokenizers read it: brackets that are text are escaped."""
    text = text.replace("(", r"\(").replace(")", r"\)")
    return text if weight == 1 else f"({text}:{weight:g})"


def encode_negative(clip: Any, picture: str, sound: str) -> Any:
    """CONDITIONING of what each stream is led away from; ValueError for text with tags."""
    check_untagged("picture", picture)
    check_untagged("sound", sound)
    heard = encode_text(clip, sound)[0][0]
    return host.with_values(encode_text(clip, picture), {"sound_context": heard})


def markup_of(clip: Any) -> str:
    """How prompts for this CLIP are written; UniTalking's markup for text encoders that do not say."""
    return getattr(getattr(clip, "cond_stage_model", None), "markup", "unitalk")
