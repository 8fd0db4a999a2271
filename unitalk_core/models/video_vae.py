"""The Wan2.2 video VAE: 4 x 16 x 16 pixels per latent, causal in time, evaluated in chunks.

Every temporal layer is a stream: it sees the frames it was shown before (zeros at the start) and nothing
later. What it must remember lives in a `Memory`, one per clip, so chunks of any size give the same numbers
and a long clip needs no more memory than a short one. The first frame is neither halved nor doubled in time,
hence chunks of 1, 4, 4, ... frames and 1, 1, 1, ... latent frames.

Structure, numbers and key names (`Wan2.2_VAE.pth`, 196 tensors): Wan-Video/Wan2.2, wan/modules/vae2_2.py.
"""

# b batch · c channels · f frames · h, w rows, columns · t, p, q factors in time, height, width · g group

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from .stored import StoredConfig

PIXEL_PATCH = 2  # pixels folded into channels before the first convolution, each side

Memory = dict[nn.Module, Tensor]  # the last frames each temporal layer has seen


@dataclass(frozen=True, kw_only=True)
class VideoVAEConfig(StoredConfig):
    """Widths and latent statistics. A latent is (raw - mean) / std per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    latent_channels: int = 48
    encoder_width: int = 160
    decoder_width: int = 256
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2  # residual blocks per encoder level; the decoder has one more
    temporal_down: tuple[bool, ...] = (False, True, True)

    def __post_init__(self) -> None:
        if len(self.temporal_down) != len(self.multipliers) - 1:
            raise ValueError(
                f"temporal_down needs one flag per level but the last, {len(self.multipliers) - 1}, "
                f"got {len(self.temporal_down)}"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.latent_channels:
                raise ValueError(
                    f"{name} needs one value per latent channel, {self.latent_channels}, got {len(values)}"
                )
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std must be positive in every channel, got {min(self.std)}")

    @property
    def frame_stride(self) -> int:
        """Frames per latent frame."""
        return 2 ** sum(self.temporal_down)

    @property
    def pixel_stride(self) -> int:
        """Pixels per latent, each side."""
        return PIXEL_PATCH * 2 ** len(self.temporal_down)


# Per-channel statistics of the latents: Wan2.2-TI2V-5B.
WAN_VAE = VideoVAEConfig(
    mean=(
        -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
        0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
        -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723,
        -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
    ),
    std=(
        0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
        0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
        0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
        0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
    ),
)  # fmt: skip

# The miniature: same layout, narrow. Its statistics are measured after training and travel with its file.
TINY_VAE = replace(WAN_VAE, encoder_width=16, decoder_width=18, mean=(0.0,) * 48, std=(1.0,) * 48)


def causal(conv: nn.Module, x: Tensor, memory: Memory) -> Tensor:
    """Convolve (b, c, f, h, w) as what follows the frames `conv` saw before; first come two of zeros."""
    past = memory.get(conv)
    if past is None and x.shape[2] == 1 and type(conv) is nn.Conv3d:  # zeros add nothing: a third of the work
        memory[conv] = F.pad(x, (0, 0, 0, 0, 1, 0))
        return F.conv2d(x[:, :, 0], conv.weight[:, :, -1], conv.bias, padding=conv.padding[1:])[:, :, None]
    x = F.pad(x, (0, 0, 0, 0, 2, 0)) if past is None else torch.cat([past, x], dim=2)
    memory[conv] = x[:, :, -2:].clone()  # a view would keep the whole chunk alive
    if x.shape[2] % 2 == 0 and conv.kernel_size == (3, 3, 3) and pays(conv, x):
        return two_frames_at_once(conv, x)
    return conv(x)


def pays(conv: nn.Module, x: Tensor) -> bool:
    """Whether fewer products with kernels made for it pay: for wide layers and large pictures, on a CPU.

    In half precision such kernels would be rounded once more, and training learns the kernels themselves.
    """
    exact = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()
    plain = type(conv) in (nn.Conv2d, nn.Conv3d)  # a host's own layers have their weights elsewhere
    return exact and plain and x.shape[1] >= 128 and x.numel() // x.shape[1] >= 2048


def two_frames_at_once(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """A 3 x 3 x 3 convolution of an even number of frames, (b, c, f + 2, h, w) -> (b, c', f, h, w).

    Winograd's F(2, 3) along time: four products in place of six for each two frames.
    """
    frames = rearrange(x, "b c f h w -> f b c h w")
    d0, d1, d2, d3 = (frames[i : len(frames) - 2 + i : 2] for i in range(4))
    before, now, after = conv.weight.unbind(2)
    even, odd = (before + after) / 2, now / 2

    def product(rows: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(rows.flatten(0, 1), kernel, bias, padding=conv.padding[1:])

    first, last = product(d0 - d2, before), product(d1 - d3, after)
    total, difference = product(d1 + d2, even + odd, conv.bias), product(d2 - d1, even - odd)
    pairs = torch.stack([first + total + difference, total - difference - last])
    return rearrange(pairs, "two (f b) c h w -> b c (f two) h w", b=x.shape[0])


def doubled(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 3 x 3 convolution of each value repeated 2 x 2, as a transposed one: 4 / 9 of the work."""
    kernel = F.avg_pool2d(conv.weight.flip(2, 3), 2, stride=1, padding=1, divisor_override=1)
    return F.conv_transpose2d(x, kernel.transpose(0, 1), conv.bias, stride=2, padding=1)


def space_to_channels(x: Tensor, t: int, s: int) -> Tensor:
    """(b, c, f*t, h*s, w*s) -> (b, c*t*s*s, f, h, w); time is filled up with zero frames in front."""
    x = F.pad(x, (0, 0, 0, 0, -x.shape[2] % t, 0)) if x.shape[2] % t else x
    return rearrange(x, "b c (f t) (h p) (w q) -> b (c t p q) f h w", t=t, p=s, q=s)


def channels_to_space(x: Tensor, t: int, s: int) -> Tensor:
    """(b, c*t*s*s, f, h, w) -> (b, c, f*t, h*s, w*s)"""
    return rearrange(x, "b (c t p q) f h w -> b c (f t) (h p) (w q)", t=t, p=s, q=s)


def patchify(pixels: Tensor) -> Tensor:
    """(b, 3, f, h*2, w*2) -> (b, 12, f, h, w); the column offset q is the slower one."""
    return rearrange(pixels, "b c f (h p) (w q) -> b (c q p) f h w", p=PIXEL_PATCH, q=PIXEL_PATCH)


def unpatchify(x: Tensor) -> Tensor:
    """(b, 12, f, h, w) -> (b, 3, f, h*2, w*2)"""
    return rearrange(x, "b (c q p) f h w -> b c f (h p) (w q)", p=PIXEL_PATCH, q=PIXEL_PATCH)


class ChannelNorm(nn.Module):
    """Unit length over the channels (axis 1), times sqrt(channels), times a learned gain."""

    def __init__(self, channels: int, axes: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * axes))
        self.scale = math.sqrt(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * inverse_length(x).to(x.dtype) * (self.gamma * self.scale).to(x.dtype)


def inverse_length(x: Tensor) -> Tensor:
    """(b, c, ...) -> (b, 1, ...): 1 / max(length over the channels, 1e-12), in single precision at least."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if x.device.type == "cpu":  # six times faster there; elsewhere its copies would set the peak of memory
        return x.to(dtype).square().sum(dim=1, keepdim=True).clamp_min(1e-24).rsqrt()
    return torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=dtype).clamp_min(1e-12).reciprocal()


def conv3(ops: Any, channels: int, out_channels: int) -> nn.Module:
    """A 3 x 3 x 3 convolution for `causal`: padded in space, not in time."""
    return ops.Conv3d(channels, out_channels, 3, padding=(0, 1, 1))


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), where a 1 x 1 x 1 convolution adapts x to another width."""

    def __init__(self, channels: int, out_channels: int, ops: Any = nn) -> None:
        super().__init__()
        layers = {
            "0": ChannelNorm(channels),
            "2": conv3(ops, channels, out_channels),
            "3": ChannelNorm(out_channels),
            "6": conv3(ops, out_channels, out_channels),
        }
        self.residual = nn.ModuleDict(layers)  # numbered as in Wan's Sequential
        self.shortcut = nn.Identity() if channels == out_channels else ops.Conv3d(channels, out_channels, 1)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        h = causal(self.residual["2"], F.silu(self.residual["0"](x)), memory)
        h = causal(self.residual["6"], F.silu(self.residual["3"](h)), memory)
        return self.shortcut(x) + h


class FrameAttention(nn.Module):
    """Single-head self-attention among the positions of each frame."""

    def __init__(self, channels: int, ops: Any = nn) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, axes=2)
        self.to_qkv = ops.Conv2d(channels, 3 * channels, 1)
        self.proj = ops.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, f, h, w) -> the same shape"""
        frames, height = x.shape[2:4]
        h = self.to_qkv(self.norm(rearrange(x, "b c f h w -> (b f) c h w")))
        q, k, v = rearrange(h, "n (three c) h w -> three n 1 (h w) c", three=3)
        h = F.scaled_dot_product_attention(q, k, v)
        h = self.proj(rearrange(h, "n 1 (h w) c -> n c h w", h=height))
        return x + rearrange(h, "(b f) c h w -> b c f h w", f=frames)


class Downsample(nn.Module):
    """Half the height and width, then, if `temporal`, half the frames; the very first frame passes alone."""

    def __init__(self, channels: int, temporal: bool, ops: Any = nn) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), ops.Conv2d(channels, channels, 3, stride=2))
        self.time_conv = ops.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if temporal else None

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        frames = x.shape[2]
        x = self.resample(rearrange(x, "b c f h w -> (b f) c h w"))
        x = rearrange(x, "(b f) c h w -> b c f h w", f=frames)
        if self.time_conv is None:
            return x
        past = memory.get(self.time_conv)
        memory[self.time_conv] = x[:, :, -1:].clone()
        return x if past is None else self.time_conv(torch.cat([past, x], dim=2))


class Upsample(nn.Module):
    """If `temporal`, twice the frames (all but the very first), then twice the height and width."""

    def __init__(self, channels: int, temporal: bool, ops: Any = nn) -> None:
        super().__init__()
        double = nn.Upsample(scale_factor=2, mode="nearest-exact")
        self.resample = nn.Sequential(double, ops.Conv2d(channels, channels, 3, padding=1))
        self.time_conv = ops.Conv3d(channels, 2 * channels, (3, 1, 1)) if temporal else None

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        if self.time_conv is not None:
            x = self.double_frames(x, memory)
        frames = x.shape[2]
        x = rearrange(x, "b c f h w -> (b f) c h w")
        conv = self.resample[1]
        x = doubled(conv, x) if pays(conv, x) else self.resample(x)
        return rearrange(x, "(b f) c h w -> b c f h w", f=frames)

    def double_frames(self, x: Tensor, memory: Memory) -> Tensor:
        """(b, c, f, h, w) -> (b, c, 2f, h, w), even frames from the first half of 2c channels.

        The very first frame passes as it is, and the next ones see zeros in its place.
        """
        if self.time_conv not in memory:
            memory[self.time_conv] = torch.zeros_like(x[:, :, :1]).repeat(1, 1, 2, 1, 1)
            return x
        return rearrange(causal(self.time_conv, x, memory), "b (t c) f h w -> b c (f t) h w", t=2)


class DownLevel(nn.Module):
    """Residual blocks and a downsampling, around which the input is averaged into the output's shape."""

    def __init__(self, widths: tuple[int, int], blocks: int, factors: tuple[int, int], ops: Any = nn) -> None:
        super().__init__()
        channels, out_channels = widths
        self.factors = factors  # in time, in space
        gathered = channels * factors[0] * factors[1] ** 2
        if gathered % out_channels:
            raise ValueError(f"an encoder level cannot average {gathered} channels into {out_channels}")
        self.groups = gathered // out_channels
        layers: list[nn.Module] = [
            ResidualBlock(out_channels if i else channels, out_channels, ops) for i in range(blocks)
        ]
        if factors[1] > 1:
            layers.append(Downsample(out_channels, factors[0] > 1, ops))
        self.downsamples = nn.ModuleList(layers)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        h = x
        for layer in self.downsamples:
            h = layer(h, memory)
        return h + self.average(x)

    def average(self, x: Tensor) -> Tensor:
        """(b, c, f*t, h*s, w*s) -> (b, c', f, h, w); the very first frame is averaged with zeros."""
        x = space_to_channels(x, *self.factors)
        return x if self.groups == 1 else reduce(x, "b (c g) f h w -> b c f h w", "mean", g=self.groups)


class UpLevel(nn.Module):
    """Residual blocks and an upsampling, around which the input is repeated into the output's shape."""

    def __init__(self, widths: tuple[int, int], blocks: int, factors: tuple[int, int], ops: Any = nn) -> None:
        super().__init__()
        channels, out_channels = widths
        self.factors = factors  # in time, in space
        spread = out_channels * factors[0] * factors[1] ** 2
        if spread % channels and factors[1] > 1:
            raise ValueError(f"a decoder level cannot repeat {channels} channels into {spread}")
        self.repeats = spread // channels
        layers: list[nn.Module] = [
            ResidualBlock(out_channels if i else channels, out_channels, ops) for i in range(blocks)
        ]
        if factors[1] > 1:
            layers.append(Upsample(out_channels, factors[0] > 1, ops))
        self.upsamples = nn.ModuleList(layers)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        h = x
        for layer in self.upsamples:
            h = layer(h, memory)
        if self.factors[1] == 1:  # the last level has no shortcut
            return h
        copies = channels_to_space(x.repeat_interleave(self.repeats, dim=1), *self.factors)
        return h + copies[:, :, -h.shape[2] :]  # the very first frame is not doubled


class Encoder(nn.Module):
    """Patchified pixels (b, 12, f, h*8, w*8) -> (b, 2*c, f', h, w)"""

    def __init__(self, config: VideoVAEConfig, ops: Any = nn) -> None:
        super().__init__()
        widths = [config.encoder_width * m for m in (1, *config.multipliers)]
        factors = [*((1 + down, 2) for down in config.temporal_down), (1, 1)]
        self.conv1 = conv3(ops, 3 * PIXEL_PATCH**2, widths[0])
        levels = zip(pairwise(widths), factors, strict=True)
        self.downsamples = nn.ModuleList(DownLevel(pair, config.blocks, by, ops) for pair, by in levels)
        self.middle = middle(widths[-1], ops)
        self.head = nn.ModuleDict(
            {"0": ChannelNorm(widths[-1]), "2": conv3(ops, widths[-1], 2 * config.latent_channels)}
        )

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        x = causal(self.conv1, x, memory)
        for level in self.downsamples:
            x = level(x, memory)
        x = through_middle(self.middle, x, memory)
        return causal(self.head["2"], F.silu(self.head["0"](x)), memory)


class Decoder(nn.Module):
    """(b, c, f, h, w) -> patchified pixels (b, 12, f', h*8, w*8)"""

    def __init__(self, config: VideoVAEConfig, ops: Any = nn) -> None:
        super().__init__()
        widths = [config.decoder_width * m for m in (config.multipliers[-1], *reversed(config.multipliers))]
        factors = [*((1 + up, 2) for up in reversed(config.temporal_down)), (1, 1)]
        self.conv1 = conv3(ops, config.latent_channels, widths[0])
        self.middle = middle(widths[0], ops)
        levels = zip(pairwise(widths), factors, strict=True)
        self.upsamples = nn.ModuleList(UpLevel(pair, config.blocks + 1, by, ops) for pair, by in levels)
        self.head = nn.ModuleDict(
            {"0": ChannelNorm(widths[-1]), "2": conv3(ops, widths[-1], 3 * PIXEL_PATCH**2)}
        )

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        x = through_middle(self.middle, causal(self.conv1, x, memory), memory)
        for level in self.upsamples:
            x = level(x, memory)
        return causal(self.head["2"], F.silu(self.head["0"](x)), memory)


def check_chunk(chunk: int) -> None:
    if chunk < 1:
        raise ValueError(f"chunk is a number of latent frames, at least 1, got {chunk}")


def middle(channels: int, ops: Any) -> nn.ModuleList:
    """Block, attention, block: the lowest resolution."""
    blocks = (ResidualBlock(channels, channels, ops) for _ in range(2))
    return nn.ModuleList([next(blocks), FrameAttention(channels, ops), next(blocks)])


def through_middle(layers: nn.ModuleList, x: Tensor, memory: Memory) -> Tensor:
    before, attention, after = layers
    return after(attention(before(x, memory)), memory)


class VideoVAE(nn.Module):
    """Pixels (b, 3, f, h, w) in -1..1 <-> latents (b, c, 1 + (f-1)/4, h/16, w/16), deterministic.

    `encode` and `decode` speak normalised latents. `posterior`, `encode_raw` and `decode_raw` do not check,
    normalise or clamp: they are what training differentiates. `ops` supplies Conv2d and Conv3d.

    `chunk` is how many latent frames are computed at once. Time and memory depend on it, the numbers do not.
    A small model is fastest with all at once; the full size is meant for 1.
    """

    def __init__(self, config: VideoVAEConfig, ops: Any = nn) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, ops)
        self.conv1 = ops.Conv3d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.conv2 = ops.Conv3d(config.latent_channels, config.latent_channels, 1)
        self.decoder = Decoder(config, ops)

    def encode(self, pixels: Tensor, chunk: int = 1) -> Tensor:
        """Normalised latents. ValueError unless there are 4n+1 frames and both sides are multiples of 16."""
        self.check_pixels(pixels)
        self.check_frames(pixels.shape[2])
        return self.normalise(self.encode_raw(pixels, chunk))

    def decode(self, latent: Tensor, chunk: int = 1) -> Tensor:
        """Pixels in -1..1. ValueError if the latent has another number of channels or is not finite."""
        return torch.cat(list(self.decode_chunks(latent, chunk)), dim=2)

    def encode_chunks(self, pixels: Iterable[Tensor], chunk: int = 1) -> Iterator[Tensor]:
        """Normalised latents, `chunk` frames at a time, of a clip that arrives in pieces of any length.

        ValueError as in `encode`, but for the number of frames only when the last piece has come.
        """
        memory: Memory = {}
        for piece in self.regroup(pixels, chunk):
            yield self.normalise(self.encode_piece(piece, memory)[0])

    def decode_chunks(self, latent: Tensor, chunk: int = 1) -> Iterator[Tensor]:
        """Pixels in -1..1 of 1, 4, 4, ... frames at a time (`chunk` times 4 after the first)."""
        self.check_latent(latent)
        pieces = self.decode_pieces(self.denormalise(latent), chunk)
        return (piece.clamp(-1, 1) for piece in pieces)

    def posterior(self, pixels: Tensor, chunk: int = 1) -> tuple[Tensor, Tensor]:
        """(mean, log-variance) of the raw latents; Wan uses the mean alone."""
        check_chunk(chunk)
        memory: Memory = {}
        pieces = [pixels[:, :, :1], *pixels[:, :, 1:].split(chunk * self.config.frame_stride, dim=2)]
        moments = [self.encode_piece(piece, memory) for piece in pieces if piece.shape[2]]
        mean, logvar = zip(*moments, strict=True)
        return torch.cat(mean, dim=2), torch.cat(logvar, dim=2)

    def encode_raw(self, pixels: Tensor, chunk: int = 1) -> Tensor:
        return self.posterior(pixels, chunk)[0]

    def decode_raw(self, raw: Tensor, chunk: int = 1) -> Tensor:
        return torch.cat(list(self.decode_pieces(raw, chunk)), dim=2)

    def encode_piece(self, pixels: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """(mean, log-variance) of the next frames: the first alone, then multiples of 4."""
        mean, logvar = self.conv1(self.encoder(patchify(pixels), memory)).chunk(2, dim=1)
        return mean, logvar

    def decode_pieces(self, raw: Tensor, chunk: int) -> Iterator[Tensor]:
        check_chunk(chunk)
        memory: Memory = {}
        raw = self.conv2(raw)
        for piece in (raw[:, :, :1], *raw[:, :, 1:].split(chunk, dim=2)):
            if piece.shape[2]:
                yield unpatchify(self.decoder(piece, memory))

    def regroup(self, pixels: Iterable[Tensor], chunk: int) -> Iterator[Tensor]:
        """Pieces of any length -> pieces of 1, 4*chunk, 4*chunk, ... frames, the last one shorter."""
        check_chunk(chunk)
        stride = self.config.frame_stride
        held, wanted, seen = None, 1, 0
        for piece in pixels:
            self.check_pixels(piece)
            seen += piece.shape[2]
            held = piece if held is None else torch.cat([held, piece], dim=2)
            while held.shape[2] >= wanted:
                yield held[:, :, :wanted]
                held, wanted = held[:, :, wanted:], stride * chunk
        self.check_frames(seen)
        if held.shape[2]:
            yield held

    def normalise(self, raw: Tensor) -> Tensor:
        """Raw latents -> the latents a model is trained on, (raw - mean) / std."""
        mean, std = self.statistics(raw)
        return ((raw - mean) / std).to(raw.dtype)

    def denormalise(self, latent: Tensor) -> Tensor:
        mean, std = self.statistics(latent)
        return (latent * std + mean).to(latent.dtype)

    def statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std as (c, 1, 1, 1), in single precision at least."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        pair = torch.tensor([self.config.mean, self.config.std], dtype=dtype, device=like.device)
        mean, std = rearrange(pair, "two c -> two c 1 1 1")
        return mean, std

    def check_frames(self, frames: int) -> None:
        stride = self.config.frame_stride
        if frames < 1 or (frames - 1) % stride:
            below = max(1, frames - (frames - 1) % stride)
            raise ValueError(
                f"the video VAE encodes {stride}n+1 frames, got {frames}; use {below} or {below + stride}"
            )

    def check_pixels(self, pixels: Tensor) -> None:
        if pixels.ndim != 5 or pixels.shape[1] != 3:
            raise ValueError(f"the video VAE encodes pixels (b, 3, f, h, w), got {tuple(pixels.shape)}")
        step, (height, width) = self.config.pixel_stride, pixels.shape[3:]
        if not height or not width or height % step or width % step:
            near = " x ".join(str(max(step, round(side / step) * step)) for side in (width, height))
            raise ValueError(
                f"the video VAE encodes widths and heights that are multiples of {step}, "
                f"got {width} x {height}; use {near}"
            )

    def check_latent(self, latent: Tensor) -> None:
        channels = self.config.latent_channels
        if latent.ndim != 5 or latent.shape[1] != channels or not latent.numel():
            raise ValueError(
                f"the video VAE decodes latents (b, {channels}, f, h, w), got {tuple(latent.shape)}"
            )
        if not latent.is_meta and not latent.isfinite().all():
            raise ValueError(
                "the video latent holds NaN or infinite values, so there is no picture to decode"
            )
