"""Convolutions along time with about half the products: Winograd's F(4, 4).

S. Winograd, Arithmetic Complexity of Computations, 1980. Taps and samples are taken in fours; what four taps
make of seven samples is evaluated at seven points, where one product a point is enough, in place of sixteen.

b batch · c channels · n samples · t groups of taps · m points · i blocks · d dilation
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FOUR = 4
POINTS = (0, 1, -1, 2, -2, 0.5)  # and infinity
ONE = POINTS.index(1)
TOGETHER = 192  # output channels, whose kernels are made when they are needed and stay in the cache


def convolved(conv: nn.Module, x: Tensor) -> Tensor:
    """conv(x), in fours where that pays; conv keeps the length. (b, c, n) -> (b, c', n)"""
    return in_fours(conv, x) if pays(conv, x) else conv(x)


def pays(conv: nn.Module, x: Tensor) -> bool:
    """Whether the products are most of the work: wide layers, long kernels and sounds, in float32 on a CPU.

    A host's own layers have their weights elsewhere, and training learns the kernels themselves.
    """
    exact = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()
    plain = type(conv) is nn.Conv1d and conv.bias is not None and conv.kernel_size[0] >= 7
    return exact and plain and x.shape[1] >= 192 and x.shape[2] >= 512


def in_fours(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution of stride 1 with its padding, of any dilation. (b, c, n) -> (b, c', n)"""
    outputs, taps, samples = transforms()
    (length, pad, step), points = (x.shape[2], conv.padding[0], conv.dilation[0]), len(samples)
    groups, blocks = -(-conv.kernel_size[0] // FOUR), -(-length // (FOUR * step))
    seen = F.pad(x, (pad, (blocks + groups) * FOUR * step - length - pad)).unflatten(2, (-1, FOUR, step))
    count = blocks + groups - 1
    parts = [seen[:, :, k // FOUR :][:, :, :count, k % FOUR] for k in range(points)]
    values = (samples @ torch.stack(parts, dim=1).flatten(2)).view(len(x), -1, count * step)

    def made(weight: Tensor, bias: Tensor) -> Tensor:
        kernels, biases = _at_points(weight, taps), bias.new_zeros(points, len(bias))
        biases[ONE] = bias  # the point that all outputs take as it is
        products = F.conv1d(values, kernels, biases.flatten(), dilation=step, groups=points)
        four = (outputs @ products.view(len(x), points, -1)).view(len(x), FOUR, -1, blocks, step)
        return four.permute(0, 2, 3, 1, 4).flatten(2)[..., :length]

    rows = zip(conv.weight.split(TOGETHER), conv.bias.split(TOGETHER), strict=True)
    return torch.cat([made(*some) for some in rows], dim=1)


def _at_points(weight: Tensor, taps: Tensor) -> Tensor:
    """(c', c, taps) -> (m * c', c, t), the kernel of each point."""
    fours = F.pad(weight, (0, -weight.shape[2] % FOUR)).unflatten(2, (-1, FOUR))
    return (taps @ fours.permute(3, 0, 1, 2).flatten(1)).view(-1, *fours.shape[1:3])


@cache
def transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Points -> outputs (4, m), taps -> points (m, 4), samples -> points (m, m)."""
    outputs, taps, samples = powers(FOUR).T, powers(FOUR), torch.linalg.inv(powers(2 * FOUR - 1)).T
    return outputs.float(), taps.float(), samples.float()


def powers(count: int) -> Tensor:
    """(m, count): each point to the power of 0, 1, ..., and for infinity the highest alone; float64."""
    finite = torch.tensor(POINTS, dtype=torch.float64)[:, None] ** torch.arange(count)
    highest = F.one_hot(torch.tensor([count - 1]), count)
    return torch.cat([finite, highest])
