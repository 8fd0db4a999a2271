"""A harmonic source: what a voice's pitch sounds like before a mouth shapes it.

The idea of neural source-filter vocoders (Wang and others, arXiv 1810.11946): phases that turn with the pitch
are given, so that a network has to learn only how they are moved.

b batch · t frames · n samples
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST, OCTAVES = 60.0, 3.0  # Hz, and how far a pitch may lie above
BREATH = 0.05  # noise beside a voiced sound


def hertz_from(value: Tensor) -> Tensor:
    """Any real number -> 60..480 Hz."""
    return LOWEST * 2 ** (OCTAVES * value.float().sigmoid())


@torch.no_grad()
def harmonic_source(hertz: Tensor, voiced: Tensor, hop: int, sample_rate: int) -> Tensor:
    """Pitch (b, t) in Hz and voicing (b, t) in 0..1 -> (b, t * hop) of about unit power.

    All harmonics below half the sample rate, equally loud, and noise where nothing is voiced; the noise is
    the same for every item and call.
    """
    both = torch.stack((hertz, voiced), dim=1).double()
    hertz, voiced = F.interpolate(both, scale_factor=hop, mode="linear").unbind(1)
    angle = math.pi * ((hertz / sample_rate).cumsum(1) % 1)
    count = (sample_rate / 2 / hertz).floor()
    pulse = (((2 * count + 1) * angle).sin() / angle.sin() - 1) / 2  # sum of cos(2 k angle) for k up to count
    pulse = torch.where(angle.sin() < 1e-6, count, pulse) * (2 / count).sqrt()
    noise = torch.randn(hertz.shape[1], generator=torch.Generator("cpu").manual_seed(0)).to(hertz)
    return (voiced * pulse + (1 - voiced + BREATH) * noise).float()
