"""What the host's previews show while a clip is made: frames in a row and, below them in time, the sound.

b batch · c channels · f latent frames · h, w rows, columns · n audio latents · m mels
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate

FRAMES = 4
WIDTH = 256  # pixels of the row at least


@dataclass(frozen=True)
class SoundMap:
    """Audio latents to log-mels, as a linear map: weights (c, times m), offset (times m)."""

    weights: Tensor
    offset: Tensor
    mels: int

    @classmethod
    def fitted(cls, latent: Tensor, mel: Tensor) -> SoundMap:
        """By least squares. latent: (b, c, n); mel: (b, m, times n)."""
        times = mel.shape[-1] // latent.shape[-1]
        known = rearrange(latent, "b c n -> (b n) c")
        known = torch.cat([known, torch.ones(len(known), 1)], dim=1)
        wanted = rearrange(mel, "b m (n t) -> (b n) (t m)", t=times)
        fit = torch.linalg.solve(known.T @ known + torch.eye(known.shape[1]), known.T @ wanted)
        return cls(fit[:-1], fit[-1], mel.shape[1])

    def __call__(self, latent: Tensor) -> Tensor:
        """(c, n) -> (m, times n), deep sounds first."""
        mel = latent.T.cpu().float() @ self.weights + self.offset
        return rearrange(mel, "n (t m) -> m (n t)", m=self.mels)


def sound_picture(latent: Tensor, sound_map: SoundMap | None) -> Tensor:
    """(c, n) -> (rows, columns) in 0..1: the mel, deep sounds below, or the latent itself without a map."""
    rows = latent.cpu().float() if sound_map is None else sound_map(latent).flip(0)
    low, high = rows.aminmax()
    return (rows - low) / (high - low).clamp_min(1e-6)


def film_strip(video: Tensor, sound: Tensor, factors: Tensor, bias: Tensor) -> Tensor:
    """(b, c, f, h, w) and a picture of the sound -> (1, c, rows, columns) of latents for the host to colour.

    factors (c, 3), bias (3): how it turns latents into colours in -1..1.
    """
    shown = torch.linspace(0, video.shape[2] - 1, min(FRAMES, video.shape[2])).round().long()
    frames = rearrange(video[0][:, shown], "c f h w -> f c h w").float()
    scale = max(1, -(-WIDTH // (len(frames) * frames.shape[-1])))
    frames = interpolate(frames, scale_factor=scale, mode="bilinear")
    row = rearrange(frames, "f c h w -> 1 c h (f w)")
    size = row.shape[2] // 2, row.shape[3]
    strip = interpolate(sound[None, None], size=size, mode="bilinear", antialias=True)
    return torch.cat([row, grey_latent(strip[0, 0], factors, bias).to(row)], dim=2)


def grey_latent(brightness: Tensor, factors: Tensor, bias: Tensor) -> Tensor:
    """(h, w) in 0..1 -> (1, c, h, w): latents that the factors turn into these greys."""
    colours = (brightness * 2 - 1)[..., None] - bias
    return rearrange(colours @ torch.linalg.pinv(factors), "h w c -> 1 c h w")
