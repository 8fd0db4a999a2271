"""One thing per modality, and the arithmetic of a clip on one clock (seconds).

Every count of frames, latents and samples in the project comes from `ClipFormat`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
SEEDS = 2**64  # a seed above them begins at 0 again


@dataclass(frozen=True)
class AV(Generic[T]):
    """One thing per modality. An absent stream is None."""

    video: T
    audio: T

    def map(self, fn: Callable[..., Any], *others: AV) -> AV:
        """Apply `fn` to each stream that is present; an absent stream stays None."""
        video = None if self.video is None else fn(self.video, *(o.video for o in others))
        audio = None if self.audio is None else fn(self.audio, *(o.audio for o in others))
        return AV(video, audio)

    def present(self) -> list[T]:
        """The streams that are not None, picture first."""
        return [one for one in (self.video, self.audio) if one is not None]


@dataclass(frozen=True, kw_only=True)
class ClipFormat:
    """What a clip of one model looks like, in pixels, samples and latents.

    Wan2.2 VAE: 4 x 16 x 16 pixels per latent. MMAudio VAE: 512 samples per latent at 16 kHz, 1024 at
    44.1 kHz.
    """

    fps: Fraction
    sample_rate: int
    audio_stride: int  # samples per audio latent
    video_channels: int
    audio_channels: int
    frame_stride: int = 4  # frames per video latent
    pixel_stride: int = 16  # pixels per video latent, each side
    patch: int = 2  # latents per token, each side
    max_frames: int = 121

    def check_frames(self, frames: int) -> int:
        """`frames`, if the VAE can encode that many; ValueError with the nearest legal lengths otherwise."""
        if frames > self.max_frames:
            longest = float(self.max_frames / self.fps)
            raise ValueError(f"frames must be at most {self.max_frames} ({longest:.2f} s), got {frames}")
        if frames < 1 or (frames - 1) % self.frame_stride:
            below = max(1, frames - (frames - 1) % self.frame_stride)
            legal = f"use {below} or {below + self.frame_stride}"
            raise ValueError(f"frames must be {self.frame_stride}n+1, got {frames}; {legal}")
        return frames

    def check_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height), if both are legal; ValueError with the nearest legal size otherwise."""
        step = self.pixel_stride * self.patch
        if width < step or height < step or width % step or height % step:
            near = " x ".join(str(max(step, round(side / step) * step)) for side in (width, height))
            raise ValueError(
                f"width and height must be multiples of {step}, got {width} x {height}; use {near}"
            )
        return width, height

    def frames_for(self, seconds: float) -> int:
        """The legal number of frames nearest to `seconds`; ValueError if there is none that short or long."""
        longest = float(self.max_frames / self.fps)
        if not 0 < seconds <= longest + 0.5 * float(self.frame_stride / self.fps):
            raise ValueError(f"seconds must be above 0 and at most {longest:.2f}, got {seconds:g}")
        steps = max(0, round((seconds * float(self.fps) - 1) / self.frame_stride))
        return min(steps * self.frame_stride + 1, self.max_frames)

    def latent_frames(self, frames: int) -> int:
        return (self.check_frames(frames) - 1) // self.frame_stride + 1

    def audio_latents(self, frames: int) -> int:
        """Audio latents that fit whole into `frames` of picture: 217 for 121 at 24 fps and 44.1 kHz."""
        return int(frames * self.sample_rate / (self.fps * self.audio_stride))

    def samples(self, frames: int) -> int:
        """Waveform samples of a clip, a whole number of audio latents: 222,208 for 121 frames at 44.1 kHz."""
        return self.audio_latents(frames) * self.audio_stride

    def latent_shape(self, frames: int, width: int, height: int, batch: int = 1) -> AV[tuple[int, ...]]:
        """(b, c, f, h, w) and (b, c, n): the AV pair of latents for a clip of this size."""
        self.check_size(width, height)
        rows, columns = height // self.pixel_stride, width // self.pixel_stride
        return AV(
            (batch, self.video_channels, self.latent_frames(frames), rows, columns),
            (batch, self.audio_channels, self.audio_latents(frames)),
        )

    @property
    def audio_rate(self) -> float:
        """Audio latents per second."""
        return self.sample_rate / self.audio_stride

    @property
    def video_rate(self) -> float:
        """Latent frames per second of the longest clip (Ovi's rule): 31 / (121 / 24) = 6.148760 for Wan."""
        return float(self.latent_frames(self.max_frames) / (self.max_frames / self.fps))

    @property
    def rope_scale(self) -> float:
        """Video positions per audio position, so that both streams share one clock (Ovi: 0.19676)."""
        return self.video_rate / self.audio_rate


@dataclass(frozen=True)
class Clip:
    """A finished clip, one part of which may be None.

    frames: (f, h, w, 3) float in 0..1; waveform: (channels, samples) in -1..1.
    """

    frames: Tensor | None
    waveform: Tensor | None
    fps: Fraction
    sample_rate: int

    @property
    def seconds(self) -> float:
        if self.frames is not None:
            return float(len(self.frames) / self.fps)
        return 0.0 if self.waveform is None else self.waveform.shape[-1] / self.sample_rate


@dataclass(frozen=True)
class ClipStream:
    """A clip whose picture comes in parts, and once: what is as long as a clip need not be held.

    outline: the clip with its frames on the meta device; parts: (some f, h, w, 3), one behind the other.
    """

    outline: Clip
    parts: Iterable[Tensor] = ()

    @classmethod
    def of(cls, clip: Clip) -> ClipStream:
        """A clip that is there already, in one part."""
        if clip.frames is None:
            return cls(clip)
        return cls(replace(clip, frames=clip.frames.to("meta")), (clip.frames,))

    def whole(self) -> Clip:
        """The clip, all of it held."""
        if self.outline.frames is None:
            return self.outline
        return replace(self.outline, frames=torch.cat(tuple(self.parts)))


def draw_noise(shape: AV[tuple[int, ...]], seed: AV[int]) -> AV[Tensor]:
    """Unit normal noise, each stream from its own seed; drawn on the CPU: a seed means the same anywhere."""

    def draw(size: tuple[int, ...], one: int) -> Tensor:
        return torch.randn(size, generator=torch.Generator("cpu").manual_seed(one))

    return shape.map(draw, seed)


def draw_takes(shape: AV[tuple[int, ...]], seed: AV[int], takes: Sequence[int]) -> AV[Tensor]:
    """Noise of a batch: take i of it is `draw_noise` of one clip, with both seeds raised by takes[i]."""
    one = shape.map(lambda size: (1, *size[1:]))
    drawn = [draw_noise(one, seed.map(lambda first: (first + take) % SEEDS)) for take in takes]  # noqa: B023
    return drawn[0].map(lambda *streams: torch.cat(streams), *drawn[1:])


def same_seconds(frames: Sequence[int], video_length: int, audio_length: int) -> list[int]:
    """Audio latents in the seconds of these latent frames, of two streams that are equally long in time."""
    ends = [round(i * audio_length / video_length) for i in range(video_length + 1)]
    return [latent for frame in frames for latent in range(ends[frame], ends[frame + 1])]
