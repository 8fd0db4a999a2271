"""The MMAudio VAE: log-mel <-> latent, 1-D convolutions that keep the magnitude of their input (EDM2).

Key names are MMAudio's. The module holds *folded* weights, each output row of a convolution at norm 1, and
runs plain convolutions; `fold` makes them from the raw weights of a checkpoint. Training keeps them so by
`project_weights` after each step.

b batch · c channels · t mel frames · n latents (t / stride) · mels
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .stored import StoredConfig

EPS = 1e-4  # of every norm in this network
BALANCE = 0.3  # share of the residual branch in a sum


@dataclass(frozen=True, kw_only=True)
class AudioVAEConfig(StoredConfig):
    """Sizes of the VAE. `latent_mean`, `latent_std`: a value per channel to standardise by, or nothing."""

    mels: int
    latent_channels: int
    width: int
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 2  # residual blocks of an encoder level; the decoder has one more
    down: tuple[int, ...] = (0,)  # encoder levels that end by halving the time
    kernel: int = 3
    clip: float = 256.0  # activations are held within +-clip
    latent_mean: tuple[float, ...] = ()
    latent_std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("latent_mean", "latent_std"):
            values = getattr(self, name)
            if values and len(values) != self.latent_channels:
                raise ValueError(f"{name} needs {self.latent_channels} values, got {len(values)}")
        if any(not 0 <= level < len(self.multipliers) - 1 for level in self.down):
            raise ValueError(f"down {self.down} must name levels of 0..{len(self.multipliers) - 2}")

    @property
    def stride(self) -> int:
        """Mel frames per latent."""
        return 2 ** len(self.down)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> AudioVAEConfig:
        """Read the sizes off a checkpoint in MMAudio's names; KeyError if it is not one."""
        width, mels, kernel = tensors["encoder.conv_in.weight"].shape
        levels = _indices(tensors, r"encoder\.down\.(\d+)\.block\.")
        outputs = [tensors[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in levels]
        return cls(
            mels=mels,
            latent_channels=tensors["decoder.conv_in.weight"].shape[1],
            width=width,
            multipliers=tuple(one // width for one in outputs),
            blocks=len(_indices(tensors, r"encoder\.down\.0\.block\.(\d+)\.")),
            down=tuple(_indices(tensors, r"encoder\.down\.(\d+)\.downsample\.")),
            kernel=kernel,
        )


AUDIO_VAE_16K = AudioVAEConfig(mels=80, latent_channels=20, width=384)
AUDIO_VAE_44K = AudioVAEConfig(mels=128, latent_channels=40, width=512)
AUDIO_VAE_TINY = replace(AUDIO_VAE_16K, width=44)


class AudioVAE(nn.Module):
    """Log-mel (b, mels, t) <-> latent (b, c, t // stride). An odd last frame is dropped by the encoder."""

    def __init__(self, config: AudioVAEConfig, ops: Any = nn) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("data_mean", torch.zeros(1, config.mels, 1))
        self.register_buffer("data_std", torch.ones(1, config.mels, 1))
        self.encoder = Encoder(config, ops)
        self.decoder = Decoder(config, ops)

    def posterior(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, log-variance), each (b, c, n), of raw latents."""
        if mel.dim() != 3 or mel.shape[1] != self.config.mels or mel.shape[2] < self.config.stride:
            want = f"(batch, {self.config.mels}, {self.config.stride} or more)"
            raise ValueError(f"a mel must be {want}, got {tuple(mel.shape)}")
        mean, log_variance = self.encoder((mel - self.data_mean) / self.data_std).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def decode_raw(self, latent: Tensor) -> Tensor:
        """Raw latents (b, c, n) -> log-mel (b, mels, n * stride)."""
        return self.decoder(self._checked(latent)) * self.data_std + self.data_mean

    def encode(self, mel: Tensor) -> Tensor:
        """The mean latent, standardised by the configuration's statistics."""
        mean, std = self._statistics(mel)
        return (self.posterior(mel)[0] - mean) / std

    def decode(self, latent: Tensor) -> Tensor:
        """The inverse of `encode`."""
        mean, std = self._statistics(latent)
        return self.decode_raw(self._checked(latent) * std + mean)

    def _checked(self, latent: Tensor) -> Tensor:
        channels = self.config.latent_channels
        if latent.dim() != 3 or latent.shape[1] != channels:
            raise ValueError(f"an audio latent must be (batch, {channels}, n), got {tuple(latent.shape)}")
        return latent

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        channels = self.config.latent_channels
        mean = like.new_tensor(self.config.latent_mean or [0.0] * channels)
        std = like.new_tensor(self.config.latent_std or [1.0] * channels)
        return mean[:, None], std[:, None]


class Encoder(nn.Module):
    """Normalised mel (b, mels, t) -> (b, 2c, n): means, then log-variances."""

    def __init__(self, config: AudioVAEConfig, ops: Any) -> None:
        super().__init__()
        self.clip = config.clip
        widths = [config.width * m for m in (1, *config.multipliers)]
        self.learnable_gain = nn.Parameter(torch.zeros(()))
        self.conv_in = conv(config.mels, widths[0], config.kernel, ops)
        self.down = nn.ModuleList(
            Level(widths[i : i + 2], config.blocks, config.kernel, ops)
            for i in range(len(config.multipliers))
        )
        for i in config.down:
            self.down[i].downsample = Downsample(widths[i + 1], ops)
        self.mid = Middle(widths[-1], config.kernel, ops)
        self.conv_out = conv(widths[-1], 2 * config.latent_channels, config.kernel, ops)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x, self.clip)
        x = self.mid(x).clamp(-self.clip, self.clip)
        return self.conv_out(mp_silu(x)) * (1 + self.learnable_gain)


class Decoder(nn.Module):
    """Raw latent (b, c, n) -> normalised mel (b, mels, t). Levels are numbered like the encoder's."""

    def __init__(self, config: AudioVAEConfig, ops: Any) -> None:
        super().__init__()
        self.clip = config.clip
        widths = [config.width * m for m in config.multipliers]
        inputs = [*widths[1:], widths[-1]]
        self.learnable_gain = nn.Parameter(torch.zeros(()))
        self.conv_in = conv(config.latent_channels, widths[-1], config.kernel, ops)
        self.mid = Middle(widths[-1], config.kernel, ops)
        self.up = nn.ModuleList(
            Level(pair, config.blocks + 1, config.kernel, ops) for pair in zip(inputs, widths, strict=True)
        )
        for i in config.down:
            self.up[i + 1].upsample = Upsample(widths[i + 1], config.kernel, ops)
        self.conv_out = conv(widths[0], config.mels, config.kernel, ops)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x)).clamp(-self.clip, self.clip)
        for level in reversed(self.up):
            x = level(x, self.clip)
        return self.conv_out(mp_silu(x)) * (1 + self.learnable_gain)


class Level(nn.Module):
    """Residual blocks at one width, then a change of the frame rate where there is one."""

    def __init__(self, widths: tuple[int, int] | list[int], blocks: int, kernel: int, ops: Any) -> None:
        super().__init__()
        inputs = [widths[0]] + [widths[1]] * (blocks - 1)
        self.block = nn.ModuleList(ResBlock(width, widths[1], kernel, ops) for width in inputs)
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None

    def forward(self, x: Tensor, clip: float) -> Tensor:
        for block in self.block:
            x = block(x)
        x = x.clamp(-clip, clip)
        if self.downsample is not None:
            x = self.downsample(x)
        return x if self.upsample is None else self.upsample(x)


class Middle(nn.Module):
    def __init__(self, width: int, kernel: int, ops: Any) -> None:
        super().__init__()
        self.block_1 = ResBlock(width, width, kernel, ops)
        self.attn_1 = Attention(width, ops)
        self.block_2 = ResBlock(width, width, kernel, ops)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class ResBlock(nn.Module):
    def __init__(self, inputs: int, width: int, kernel: int, ops: Any) -> None:
        super().__init__()
        self.conv1 = conv(inputs, width, kernel, ops)
        self.conv2 = conv(width, width, kernel, ops)
        self.nin_shortcut = conv(inputs, width, 1, ops) if inputs != width else None

    def forward(self, x: Tensor) -> Tensor:
        x = pixel_norm(x)
        h = self.conv2(mp_silu(self.conv1(mp_silu(x))))
        return mp_sum(x if self.nin_shortcut is None else self.nin_shortcut(x), h)


class Attention(nn.Module):
    """One head over time. Rows of `qkv` interleave: query, key and value of channel c are 3c, 3c+1, 3c+2."""

    def __init__(self, width: int, ops: Any) -> None:
        super().__init__()
        self.qkv = conv(width, 3 * width, 1, ops)
        self.proj_out = conv(width, width, 1, ops)

    def forward(self, x: Tensor) -> Tensor:
        qkv = pixel_norm(rearrange(self.qkv(x), "b (c three) t -> three b c t", three=3), dim=2)
        q, k, v = rearrange(qkv, "three b c t -> three b 1 t c")
        mixed = F.scaled_dot_product_attention(q, k, v)
        return mp_sum(x, self.proj_out(rearrange(mixed, "b 1 t c -> b c t")))


class Downsample(nn.Module):
    def __init__(self, width: int, ops: Any) -> None:
        super().__init__()
        self.conv1 = conv(width, width, 1, ops)
        self.conv2 = conv(width, width, 1, ops)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.avg_pool1d(self.conv1(x), 2))


class Upsample(nn.Module):
    def __init__(self, width: int, kernel: int, ops: Any) -> None:
        super().__init__()
        self.conv = conv(width, width, kernel, ops)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.repeat_interleave(2, dim=-1))


def conv(inputs: int, outputs: int, kernel: int, ops: Any) -> nn.Module:
    """A convolution without bias that keeps the length."""
    return ops.Conv1d(inputs, outputs, kernel, padding=kernel // 2, bias=False)


def pixel_norm(x: Tensor, dim: int = 1) -> Tensor:
    """Scale every frame to a root mean square of 1 over its channels."""
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.float32)
    return x / (EPS + norm / math.sqrt(x.shape[dim])).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU with the magnitude of a unit normal input kept."""
    return F.silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor) -> Tensor:
    """Weighted sum that keeps the magnitude of independent inputs."""
    return torch.lerp(a, b, BALANCE) / math.hypot(1 - BALANCE, BALANCE)


def fold(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's raw weights -> the weights that this module holds, under the same names, in float32.

    Each output row w of n numbers becomes w / (1e-4 + |w| / sqrt(n)) / sqrt(n) (EDM2). Weights that
    are folded already are a ValueError, since folding them again would silently shrink them.
    """
    if is_folded(tensors):
        raise ValueError("the audio VAE's weights are folded already; use them as they are")
    return {name: _fold_row(one.float()) if one.dim() == 3 and name.endswith(".weight") else one.float()
            for name, one in tensors.items()}  # fmt: skip


def is_folded(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the rows of the residual blocks' weights have norm 1, as `fold` leaves them."""
    blocks = [one.float() for name, one in tensors.items() if re.search(r"block.*\.conv[12]\.weight$", name)]
    return bool(blocks) and all((_row_norm(one) - 1).abs().max() < 0.05 for one in blocks)


@torch.no_grad()
def project_weights(vae: AudioVAE) -> None:
    """Bring each row of every convolution but the two `conv_out` back to norm 1: after each training step."""
    for name, one in vae.named_parameters():
        if one.dim() == 3 and "conv_out" not in name:
            one.div_(_row_norm(one).clamp(min=EPS))


def _fold_row(weight: Tensor) -> Tensor:
    root = math.sqrt(weight[0].numel())
    return weight / (EPS + _row_norm(weight) / root) / root


def _row_norm(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)


def _indices(names: Mapping[str, Tensor], pattern: str) -> list[int]:
    """The distinct numbers that `pattern` finds at the start of the names, ascending."""
    return sorted({int(found[1]) for name in names if (found := re.match(pattern, name))})
