"""Train the small video VAE from clips of frames. A plain loop, with the loss raised where the mouth is.

b batch · f frames · h, w pixels
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from einops import rearrange
from torch import Tensor, nn

from ..models.video_vae import TINY_VAE, VideoVAE, VideoVAEConfig
from .loop import Budget, OnStep, fit


@dataclass
class Windows:
    """Random windows of clips: frames uint8 (f, h, w, 3) each, and a mouth box (x0, y0, x1, y1) each.

    shapes: (frames, windows) of a batch, one drawn each time. Short ones show many faces; without long ones
    the causal network drifts, because it never learns what a long memory holds.
    """

    frames: Sequence[Tensor]
    boxes: Sequence[tuple[int, int, int, int]]
    seed: int
    shapes: Sequence[tuple[int, int]] = ((9, 8), (17, 4), (33, 2))
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        longest = max(length for length, _ in self.shapes)
        keep = [i for i, one in enumerate(self.frames) if len(one) >= longest]
        if not keep:
            raise ValueError(f"no clip has the {longest} frames of the longest window")
        self.frames, self.boxes = [self.frames[i] for i in keep], [self.boxes[i] for i in keep]
        self.generator = torch.Generator("cpu").manual_seed(self.seed)

    def draw(self, mouth: float) -> tuple[Tensor, Tensor]:
        """Pixels (b, 3, f, h, w) in -1..1; weights (b, 1, 1, h, w): `mouth` inside the box, 1 outside."""
        length, count = self.shapes[int(torch.randint(len(self.shapes), (), generator=self.generator))]
        clips = torch.randint(len(self.frames), (count,), generator=self.generator).tolist()
        windows, weights = [], []
        for clip in clips:
            frames, (x0, y0, x1, y1) = self.frames[clip], self.boxes[clip]
            start = int(torch.randint(len(frames) - length + 1, (), generator=self.generator))
            windows.append(frames[start : start + length])
            weight = torch.ones(frames.shape[1:3])
            weight[y0:y1, x0:x1] = mouth
            weights.append(weight)
        pixels = rearrange(torch.stack(windows), "b f h w c -> b c f h w").float() / 127.5 - 1
        return pixels, rearrange(torch.stack(weights), "b h w -> b 1 1 h w")


def train_video_vae(
    windows: Windows,
    config: VideoVAEConfig = TINY_VAE,
    budget: Budget | None = None,
    *,
    start: VideoVAE | None = None,
    kl: float = 1e-4,
    mouth: float = 3.0,
    on_step: OnStep | None = None,
) -> VideoVAE:
    """Fit pixels -> latent -> pixels; the config returned carries the latents' statistics.

    Loss: weighted L1 plus squared error plus `kl` times the divergence from a unit normal, per element.
    start: train on from these weights, whose own configuration then counts. Without, it begins as a network
    of single pictures, so that windows of one frame may come first: they show many more faces a second.
    """
    budget = budget or Budget(minutes=20, learning_rate=1.5e-3)
    torch.manual_seed(budget.seed)
    vae = still(VideoVAE(config)) if start is None else copy.deepcopy(start).train()
    vae.to(budget.device)
    encode = torch.compile(vae.posterior, disable=not budget.compile)
    decode = torch.compile(vae.decode_raw, disable=not budget.compile)

    def losses() -> dict[str, Tensor]:
        pixels, weight = (one.to(budget.device) for one in windows.draw(mouth))
        with budget.precision():
            mean, logvar = encode(pixels, chunk=pixels.shape[2])
            logvar = logvar.float().clamp(-20, 10)
            noise = torch.randn(mean.shape, generator=windows.generator).to(mean.device)
            decoded = decode(mean + noise * (0.5 * logvar).exp(), chunk=pixels.shape[2])
        divergence = 0.5 * (mean.float().square() + logvar.exp() - 1 - logvar).mean()
        parts = _reconstruction(decoded.float(), pixels, weight)
        return parts | {"loss": parts["loss"] + kl * divergence, "kl": divergence}

    trained = fit(vae, budget, losses, on_step)
    return with_statistics(trained, windows)


@torch.no_grad()
def still(vae: VideoVAE) -> VideoVAE:
    """Let each layer see the present frame alone: a group is encoded as its last frame, which is repeated."""
    for layer in vae.modules():
        if isinstance(layer, nn.Conv3d) and layer.kernel_size == (3, 3, 3):
            layer.weight[:, :, :2] = 0
            layer.weight[:, :, 2] *= math.sqrt(3)  # as drawn for a third of the inputs
        elif isinstance(layer, nn.Conv3d) and layer.kernel_size == (3, 1, 1):
            layer.weight.zero_()
            copies = layer.out_channels // layer.in_channels
            layer.weight[:, :, 2, 0, 0] = torch.eye(layer.in_channels).repeat(copies, 1)
            layer.bias.zero_()
    return vae


def refine_decoder(
    vae: VideoVAE,
    windows: Windows,
    budget: Budget,
    *,
    mouth: float = 3.0,
    noise: float = 0.05,
    on_step: OnStep | None = None,
) -> VideoVAE:
    """Train on with the encoder fixed: latents keep their meaning. noise: added to them, in deviations."""
    vae = copy.deepcopy(vae).train().to(budget.device)
    for one in (*vae.encoder.parameters(), *vae.conv1.parameters()):
        one.requires_grad_(False)

    def losses() -> dict[str, Tensor]:
        pixels, weight = (one.to(budget.device) for one in windows.draw(mouth))
        with budget.precision():
            with torch.no_grad():
                latent = vae.normalise(vae.encode_raw(pixels, chunk=pixels.shape[2]).float())
            latent = latent + noise * torch.randn(latent.shape, generator=windows.generator).to(latent.device)
            decoded = vae.decode_raw(vae.denormalise(latent), chunk=pixels.shape[2])
        return _reconstruction(decoded.float(), pixels, weight)

    return fit(vae, budget, losses, on_step)


def _reconstruction(decoded: Tensor, pixels: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Weighted L1 and squared error, and their sum as "loss"."""
    error, share = decoded - pixels, weight / weight.mean((3, 4), keepdim=True)
    parts = {"l1": (error.abs() * share).mean(), "mse": (error.square() * share).mean()}
    return {"loss": parts["l1"] + 2 * parts["mse"]} | parts


@torch.no_grad()
def with_statistics(vae: VideoVAE, windows: Windows, batches: int = 16) -> VideoVAE:
    """Measure mean and deviation of each latent channel and write them into the config."""
    raw = [vae.encode_raw(windows.draw(1.0)[0], chunk=max(windows.shapes)[0]) for _ in range(batches)]
    raw = torch.cat([rearrange(one, "b c f h w -> c (b f h w)") for one in raw], dim=1)
    vae.config = replace(vae.config, mean=tuple(raw.mean(1).tolist()), std=tuple(raw.std(1).tolist()))
    return vae


@torch.no_grad()
def psnr(vae: VideoVAE, clips: Sequence[Tensor]) -> float:
    """Signal-to-noise ratio of the reconstruction in dB, mean over clips of uint8 (f, h, w, 3)."""
    values = []
    for frames in clips:
        pixels = rearrange(frames[None], "b f h w c -> b c f h w").float() / 127.5 - 1
        wrong = (vae.decode(vae.encode(pixels), chunk=len(frames)) - pixels).square().mean() / 4
        values.append(-10 * wrong.log10())
    return torch.stack(values).mean().item()
