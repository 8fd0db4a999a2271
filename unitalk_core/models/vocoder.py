"""BigVGAN (arXiv 2206.04658), v1 at 16 kHz and v2 at 44.1 kHz, as MMAudio uses it. Key names are BigVGAN's.

The module holds plain convolutions; `fold_weight_norm` makes their weights from a checkpoint.

b batch · mels · c channels · t mel frames · n samples
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count, takewhile
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .stored import StoredConfig
from .winograd import convolved

TAPS = 12  # of the anti-aliasing filter
BLOCK = 16  # samples that it filters in one product
IN_CACHE = 2**17  # numbers of a signal that a CPU keeps at hand with all that is made of them


@dataclass(frozen=True, kw_only=True)
class BigVGANConfig(StoredConfig):
    """Sizes of the vocoder. `rates` multiply to the mel's hop; `kernels` belong to the same stages."""

    mels: int
    width: int = 1536
    rates: tuple[int, ...]
    kernels: tuple[int, ...]
    block_kernels: tuple[int, ...] = (3, 7, 11)
    block_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    final_bias: bool = True
    final: str = "tanh"  # or "clamp"

    def __post_init__(self) -> None:
        stages = len(self.rates)
        if len(self.kernels) != stages:
            raise ValueError(f"{stages} rates need as many kernels, got {len(self.kernels)}")
        if len(self.block_kernels) != len(self.block_dilations):
            raise ValueError(
                f"{len(self.block_kernels)} block kernels, {len(self.block_dilations)} dilations"
            )
        if self.width % 2**stages:
            raise ValueError(f"width {self.width} cannot be halved {stages} times")
        pairs = zip(self.rates, self.kernels, strict=True)
        if any(kernel < rate or (kernel - rate) % 2 for rate, kernel in pairs):
            raise ValueError(f"kernels {self.kernels} must exceed rates {self.rates} by even numbers")
        if self.final not in ("tanh", "clamp"):
            raise ValueError(f"final must be 'tanh' or 'clamp', got '{self.final}'")

    @property
    def hop(self) -> int:
        """Samples per mel frame."""
        return math.prod(self.rates)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> BigVGANConfig:
        """Read the sizes off folded weights; KeyError if they are not a BigVGAN's.

        What weights do not tell is as in the two releases: rates are half the kernels, dilations are 1, 3, 5,
        and the one without a final bias (v2) clamps.
        """
        width, mels, _ = tensors["conv_pre.weight"].shape
        kernels = _kernels(tensors, "ups.{}.0.weight")
        block_kernels = _kernels(tensors, "resblocks.{}.convs1.0.weight")
        return cls(
            mels=mels,
            width=width,
            rates=tuple(kernel // 2 for kernel in kernels),
            kernels=kernels,
            block_kernels=block_kernels[: len(block_kernels) // len(kernels)],
            final_bias="conv_post.bias" in tensors,
            final="tanh" if "conv_post.bias" in tensors else "clamp",
        )


def _kernels(tensors: Mapping[str, Tensor], pattern: str) -> tuple[int, ...]:
    """Kernel sizes of the layers that `pattern` numbers from 0."""
    names = map(pattern.format, count())
    return tuple(tensors[name].shape[2] for name in takewhile(tensors.__contains__, names))


BIGVGAN_16K = BigVGANConfig(mels=80, rates=(4, 4, 2, 2, 2, 2), kernels=(8, 8, 4, 4, 4, 4))
BIGVGAN_44K = replace(
    BIGVGAN_16K,
    mels=128,
    rates=(8, 4, 2, 2, 2, 2),
    kernels=(16, 8, 4, 4, 4, 4),
    final_bias=False,
    final="clamp",
)


class BigVGAN(nn.Module):
    """Log-mel (b, mels, t) -> waveform (b, t * hop) in -1..1."""

    def __init__(self, config: BigVGANConfig, ops: Any = nn) -> None:
        super().__init__()
        self.config = config
        widths = [config.width // 2**i for i in range(len(config.rates) + 1)]
        stages = zip(widths[:-1], widths[1:], config.rates, config.kernels, strict=True)
        blocks = list(zip(config.block_kernels, config.block_dilations, strict=True))
        self.conv_pre = ops.Conv1d(config.mels, widths[0], 7, padding=3)
        self.ups = nn.ModuleList(
            nn.ModuleList([ops.ConvTranspose1d(a, b, kernel, rate, padding=(kernel - rate) // 2)])
            for a, b, rate, kernel in stages
        )
        self.resblocks = nn.ModuleList(
            AMPBlock(width, kernel, dilations, ops) for width in widths[1:] for kernel, dilations in blocks
        )
        self.activation_post = Activation(widths[-1])
        self.conv_post = ops.Conv1d(widths[-1], 1, 7, padding=3, bias=config.final_bias)

    def forward(self, mel: Tensor) -> Tensor:
        """(b, mels, t) -> (b, t * hop); ValueError for another number of mels."""
        if mel.dim() != 3 or mel.shape[1] != self.config.mels:
            raise ValueError(f"a mel must be (batch, {self.config.mels}, frames), got {tuple(mel.shape)}")
        x = self.conv_pre(mel)
        parallel = len(self.config.block_kernels)
        for i, (up,) in enumerate(self.ups):
            x = up(x)
            blocks = self.resblocks[i * parallel : (i + 1) * parallel]
            x = sum(block(x) for block in blocks) / parallel
        waveform = self.conv_post(self.activation_post(x))[:, 0]
        return waveform.tanh() if self.config.final == "tanh" else waveform.clamp(-1, 1)


class AMPBlock(nn.Module):
    """Dilated convolutions with anti-aliased periodic activations, one residual step per dilation."""

    def __init__(self, width: int, kernel: int, dilations: tuple[int, ...], ops: Any) -> None:
        super().__init__()

        def conv(dilation: int) -> nn.Module:
            return ops.Conv1d(width, width, kernel, dilation=dilation, padding=dilation * (kernel - 1) // 2)

        self.convs1 = nn.ModuleList(conv(dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(conv(1) for _ in dilations)
        self.activations = nn.ModuleList(Activation(width) for _ in range(2 * len(dilations)))

    def forward(self, x: Tensor) -> Tensor:
        firsts, seconds = self.activations[::2], self.activations[1::2]
        for act1, conv1, act2, conv2 in zip(firsts, self.convs1, seconds, self.convs2, strict=True):
            x = x + convolved(conv2, act2(convolved(conv1, act1(x))))
        return x


class Activation(nn.Module):
    """SnakeBeta at twice the sample rate, so that the harmonics it makes do not fold back.

    Both filters are products with a matrix, `BLOCK` samples at a time, which is faster than convolutions of
    one channel each. On a CPU a few channels are taken through all three steps while they are in its cache.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.act = SnakeBeta(width)
        self.upsample = Filter()
        self.downsample = nn.ModuleDict({"lowpass": Filter()})

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, n) -> same"""
        up, down = self._matrices(x)
        channels = max(1, IN_CACHE // x.shape[2]) if x.device.type == "cpu" else x.shape[1]
        parts = zip(*(one.split(channels, dim=-2) for one in (x, *self.act.rates(x))), strict=True)
        return torch.cat([_shaped(part, rates, up, down) for part, *rates in parts], dim=1)

    def _matrices(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """What the filters make of a block and its neighbours: (L + 6, 2L) and (2L + 10, L)."""
        up, down = self.upsample.filter.to(like), self.downsample["lowpass"].filter.to(like)
        samples, doubled = (torch.eye(size).to(like)[:, None] for size in (BLOCK + 6, 2 * BLOCK + 10))
        rising = 2 * F.conv_transpose1d(samples, up, stride=2)[..., 11:-11]
        return rising[:, 0], F.conv1d(doubled, down, stride=2)[:, 0]


def _shaped(x: Tensor, rates: list[Tensor], up: Tensor, down: Tensor) -> Tensor:
    """Up, SnakeBeta, down. sin^2 is (1 - cos) / 2 of twice the angle; its constant passes the filter."""
    length, (frequency, height) = x.shape[2], rates
    doubled = _filtered(x, up, 3, BLOCK)[..., : 2 * length]
    waves = (doubled * (2 * frequency)).cos_()
    doubled.addcmul_(waves, -height / 2)
    return _filtered(doubled, down, 5, 2 * BLOCK)[..., :length] + height / 2


def _filtered(x: Tensor, matrix: Tensor, beside: int, step: int) -> Tensor:
    """Block by block, each with the neighbours that the filter sees; the ends go on as they end."""
    blocks = -(-x.shape[2] // step)
    first, last = x[..., :1], x[..., -1:]
    after = beside + blocks * step - x.shape[2]  # up to a whole block
    seen = torch.cat([first.expand(-1, -1, beside), x, last.expand(-1, -1, after)], dim=2)  # sooner than pad
    return (seen.unfold(2, len(matrix), step) @ matrix).flatten(2)


class SnakeBeta(nn.Module):
    """x + sin^2(x e^alpha) / e^beta, per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(width))
        self.beta = nn.Parameter(torch.zeros(width))

    def rates(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(e^alpha, e^-beta), (c, 1) each."""
        alpha, beta = self.alpha.to(like).exp(), self.beta.to(like).exp()
        return alpha[:, None], (beta + 1e-9).reciprocal()[:, None]

    def forward(self, x: Tensor) -> Tensor:
        frequency, height = self.rates(x)
        return torch.addcmul(x, torch.sin(x * frequency).square(), height)


class Filter(nn.Module):
    """Holder of the low-pass taps, which checkpoints store although they are constant."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", lowpass_taps())


def lowpass_taps() -> Tensor:
    """(1, 1, 12) Kaiser-windowed sinc of unit sum: cutoff 0.25, half transition 0.3 cycles per sample."""
    cutoff, half_width = 0.25, 0.3
    attenuation = 2.285 * (TAPS // 2 - 1) * math.pi * 4 * half_width + 7.95  # dB, by Kaiser's formula
    window = torch.kaiser_window(
        TAPS, periodic=False, beta=0.1102 * (attenuation - 8.7), dtype=torch.float64, device="cpu"
    )
    time = torch.arange(TAPS, dtype=torch.float64, device="cpu") - (TAPS - 1) / 2
    taps = window * torch.sinc(2 * cutoff * time)
    return (taps / taps.sum()).float().view(1, 1, TAPS)


# Gain and direction of a weight-normalised layer: torch's old spelling and its new one.
PAIRS = (
    (".weight_g", ".weight_v"),
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
)


def fold_weight_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors with each weight-norm pair, in either spelling, made one `.weight` in float32.

    weight = gain * v / |v|, the norm over all dims but the first. What is folded already passes unchanged.
    ValueError for half a pair and for a low-pass filter other than this network's.
    """
    folded = dict(tensors)
    for pair in PAIRS:
        stems = {name.removesuffix(end) for end in pair for name in tensors if name.endswith(end)}
        for stem in sorted(stems):
            if missing := [stem + end for end in pair if stem + end not in tensors]:
                raise ValueError(f"weight norm of {stem} is incomplete: {missing[0]} is missing")
            gain, direction = (folded.pop(stem + end).float() for end in pair)
            norm = torch.linalg.vector_norm(direction, dim=(1, 2), keepdim=True)
            folded[f"{stem}.weight"] = gain * direction / norm
    _check_filters(folded)
    return folded


def _check_filters(tensors: Mapping[str, Tensor]) -> None:
    expected = lowpass_taps()
    for name, one in tensors.items():
        if name.endswith(".filter") and not _same_filter(one, expected):
            raise ValueError(f"{name} is not the 12-tap low-pass that this BigVGAN applies")


def _same_filter(one: Tensor, expected: Tensor) -> bool:
    """Equal to half precision; a tensor on the meta device has no values to compare."""
    if one.shape != expected.shape or one.is_meta:
        return one.shape == expected.shape
    return torch.allclose(one.float().cpu(), expected, atol=2e-3)
