"""Frozen configurations and their presets. A checkpoint carries its own as JSON metadata.

Full size is `UNITALK`; every other size is a `replace()` of it or of its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor

from .av import AV, ClipFormat


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """One tower of the Wan2.2 trunk. Key names and defaults: Wan2.2-TI2V-5B."""

    width: int
    heads: int
    depth: int
    ffn_width: int
    in_channels: int
    out_channels: int
    text_dim: int
    text_len: int
    freq_dim: int = 256
    patch: tuple[int, int, int] = (1, 2, 2)
    input: Literal["patch", "linear", "conv"] = "patch"  # "conv": Ovi's gated convolution (audio)
    reference: Literal["none", "linear", "mlp"] = "none"  # "mlp": Wan's image-embedding form
    reference_dim: int = 0
    reference_len: int = 257
    rope_scale: float = 1.0
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not split into {self.heads} heads")
        if (self.width // self.heads) % 2:
            raise ValueError(f"head width {self.width // self.heads} must be even for rotary positions")
        if self.reference != "none" and self.reference_dim < 1:
            raise ValueError(f"reference '{self.reference}' needs reference_dim, got {self.reference_dim}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A joint model: two streams, how they meet, and the clips they make."""

    streams: AV[StreamConfig | None]
    format: ClipFormat
    coupling: Literal["joint", "fusion"] = "joint"
    couple_window: float | None = None  # seconds; None = full attention (the paper)
    markup: Literal["unitalk", "ovi-720", "ovi-960", "phonemes"] = "unitalk"
    shift: float = 5.0

    def __post_init__(self) -> None:
        present = self.streams.present()
        if not present:
            raise ValueError("a model needs at least one stream, got none")
        if len(present) == 2 and len({(s.width, s.heads, s.depth) for s in present}) > 1:
            shapes = " and ".join(f"{s.width} x {s.heads} x {s.depth}" for s in present)
            raise ValueError(f"both streams must share width, heads and depth, got {shapes}")

    @property
    def reference_len(self) -> int:
        """How many audio latents of a reference voice the model hears; 0 if it hears none."""
        lengths = (one.reference_len for one in self.streams.present() if one.reference != "none")
        return max(lengths, default=0)

    def check_latents(self, latents: AV[Tensor | None]) -> None:
        """ValueError unless these are finite latents of this model; one of two streams may be absent."""
        channels = AV(self.format.video_channels, self.format.audio_channels)
        for name in ("video", "audio"):
            latent = getattr(latents, name)
            if latent is None:
                continue
            if getattr(self.streams, name) is None or latent.shape[1] != getattr(channels, name):
                raise ValueError(
                    f"the {name} latent {tuple(latent.shape)} is not of this model, which takes "
                    f"{self._takes()}; use UniTalk Empty Latent"
                )
            if not latent.numel():
                raise ValueError(
                    f"the {name} latent {tuple(latent.shape)} is empty; use UniTalk Empty Latent"
                )
            if not torch.isfinite(latent).all():
                raise ValueError(
                    f"the {name} latent holds NaN or infinity; begin again with UniTalk Empty Latent"
                )
        if latents.video is not None and any(side % self.format.patch for side in latents.video.shape[-2:]):
            rows, columns = (side * self.format.pixel_stride for side in latents.video.shape[-2:])
            raise ValueError(
                f"the video latent is {columns} x {rows} pixels, width and height must be multiples of "
                f"{self.format.pixel_stride * self.format.patch}; use UniTalk Empty Latent"
            )

    def _takes(self) -> str:
        shapes = AV(f"(b, {self.format.video_channels}, f, h, w)", f"(b, {self.format.audio_channels}, n)")
        return " and ".join(self.streams.map(lambda _, shape: shape, shapes).present())

    def check_text(self, text: Tensor | None) -> None:
        """ValueError unless encoded text (b, tokens, c) is as wide as this model reads it."""
        width = self.streams.present()[0].text_dim
        if text is not None and text.shape[-1] != width:
            clip = (
                "UniTalk Load Embedded" if self.markup == "phonemes" else "the stock CLIPLoader of type wan"
            )
            raise ValueError(
                f"the text was encoded with {text.shape[-1]} numbers a token, this model reads {width}; "
                f"take the clip of {clip}"
            )

    def check_voices(self, voices: Sequence[Tensor]) -> None:
        """ValueError unless each voice (b, n, c) is made of audio latents of this model."""
        for voice in voices:
            if voice.shape[-1] != self.format.audio_channels:
                raise ValueError(
                    f"the voice has {voice.shape[-1]} channels, this model hears "
                    f"{self.format.audio_channels}; give its audio VAE to UniTalk Reference Audio Encode"
                )

    def joined(self, other: ModelConfig) -> ModelConfig:
        """With the streams of another configuration where this one has none."""
        streams = AV(self.streams.video or other.streams.video, self.streams.audio or other.streams.audio)
        return replace(self, streams=streams)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"format": asdict(self.format) | {"fps": str(self.format.fps)}}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ModelConfig:
        """Read what `to_json` wrote; an unknown or a missing key is a ValueError."""
        _known(cls, data)
        streams = AV(**_known(AV, data["streams"])).map(
            lambda d: StreamConfig(**_known(StreamConfig, d) | {"patch": tuple(d["patch"])})
        )
        clip = ClipFormat(**_known(ClipFormat, data["format"]) | {"fps": Fraction(data["format"]["fps"])})
        return cls(**data | {"streams": streams, "format": clip})


def _known(cls: type, data: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(data.keys() - {f.name for f in fields(cls)})
    if unknown:
        raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)}")
    missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in data]
    if missing:
        raise ValueError(f"{cls.__name__} lacks {', '.join(missing)}")
    return data


WAN_FORMAT = ClipFormat(
    fps=Fraction(24), sample_rate=44100, audio_stride=1024, video_channels=48, audio_channels=40
)
OVI_FORMAT = replace(WAN_FORMAT, sample_rate=16000, audio_stride=512, audio_channels=20)

WAN_VIDEO = StreamConfig(
    width=3072,
    heads=24,
    depth=30,
    ffn_width=14336,
    in_channels=48,
    out_channels=48,
    text_dim=4096,
    text_len=512,
)
UNITALK_VIDEO = replace(WAN_VIDEO, reference="linear", reference_dim=40)
UNITALK_AUDIO = replace(
    UNITALK_VIDEO,
    in_channels=40,
    out_channels=40,
    patch=(1, 1, 1),
    input="linear",
    rope_scale=WAN_FORMAT.rope_scale,
)
UNITALK = ModelConfig(streams=AV(UNITALK_VIDEO, UNITALK_AUDIO), format=WAN_FORMAT)
WAN = ModelConfig(streams=AV(WAN_VIDEO, None), format=WAN_FORMAT)

OVI_AUDIO = replace(
    WAN_VIDEO, in_channels=20, out_channels=20, patch=(1, 1, 1), input="conv", rope_scale=0.19676
)
OVI_720 = ModelConfig(
    streams=AV(WAN_VIDEO, OVI_AUDIO), format=OVI_FORMAT, coupling="fusion", markup="ovi-720"
)
OVI_960 = replace(OVI_720, markup="ovi-960")

TINY_FORMAT = ClipFormat(
    fps=Fraction(25), sample_rate=16000, audio_stride=512, video_channels=48, audio_channels=20
)
TINY_VIDEO = replace(
    UNITALK_VIDEO, width=192, heads=6, depth=6, ffn_width=512, text_dim=192, text_len=112,
    reference="none", reference_dim=0,
)  # fmt: skip
TINY_AUDIO = replace(
    TINY_VIDEO,
    in_channels=20,
    out_channels=20,
    patch=(1, 1, 1),
    input="conv",
    rope_scale=TINY_FORMAT.rope_scale,
    reference="linear",
    reference_dim=20,
    reference_len=128,
)
TINY = ModelConfig(
    streams=AV(TINY_VIDEO, TINY_AUDIO),
    format=TINY_FORMAT,
    markup="phonemes",
    shift=3.0,
    couple_window=0.24,
)
