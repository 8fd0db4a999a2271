"""The flow-matching objective for a clip whose parts may be kept (paper: equation 1, with Wan2.2's sign).

b batch · c channels · f latent frames · h, w latent rows, columns · n audio latents
Masks: 1 = generate, 0 = keep; video (b, 1, f, 1, 1), audio (b, 1, n). Kept parts are clean, at timestep 0,
without loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..av import AV
from ..models.layers import Timesteps
from ..models.mmdit import PLAIN, Hooks, JointDiT

UNWEIGHTED: AV[Tensor | None] = AV(None, None)


@dataclass(frozen=True)
class Batch:
    """Clips of one length. An absent stream is None in `latent`, `denoise_mask` and `weight`."""

    latent: AV[Tensor | None]
    denoise_mask: AV[Tensor | None]
    context: Tensor  # (b, text_len, text_dim), the same text for both streams
    reference: Tensor | None  # (b, reference_len, c), time first; zeros are the null voice
    couple: tuple[bool, bool] = (True, True)
    weight: AV[Tensor | None] = UNWEIGHTED  # of the loss, broadcasts over the latent


def flow_matching_loss(
    model: JointDiT, batch: Batch, sigma: Tensor, noise: AV[Tensor | None], hooks: Hooks = PLAIN
) -> AV[Tensor | None]:
    """Mean squared error of the velocity over what is generated, one scalar a stream. sigma: (b,)."""
    noisy = batch.latent.map(lambda x, eps, mask: _mixed(x, eps, sigma, mask), noise, batch.denoise_mask)
    timestep = AV(
        _steps(batch.denoise_mask.video, sigma, batch, model),
        _steps(batch.denoise_mask.audio, sigma, batch, model),
    )
    both = noisy.map(lambda _: batch.context), noisy.map(lambda _: batch.reference)
    velocity = model(noisy, timestep, *both, couple=batch.couple, hooks=hooks)
    return velocity.map(_error, batch.latent, noise, batch.denoise_mask, batch.weight)


def _mixed(latent: Tensor, noise: Tensor, sigma: Tensor, mask: Tensor) -> Tensor:
    """x_sigma = (1 - sigma) data + sigma noise, with sigma = 0 where the latent is kept."""
    level = sigma.reshape(-1, *[1] * (latent.ndim - 1)) * mask
    return latent + level * (noise - latent)


def _error(velocity: Tensor, latent: Tensor, noise: Tensor, mask: Tensor, weight: Tensor | None) -> Tensor:
    share = mask.expand_as(latent) if weight is None else mask * weight.expand_as(latent)
    wrong = (velocity.float() - (noise - latent)).square() * share
    return wrong.sum() / share.sum().clamp(min=1)


def timesteps(mask: Tensor, sigma: Tensor, tokens_per_step: int) -> Timesteps:
    """Two timesteps a sample: 1000 sigma where it generates, 0 where it keeps. mask: one value a step."""
    kept = mask.flatten(1) == 0
    own = torch.arange(len(sigma), device=sigma.device)[:, None].expand_as(kept)
    index = torch.where(kept, own + len(sigma), own).repeat_interleave(tokens_per_step, dim=1)
    return Timesteps(torch.cat([1000 * sigma, torch.zeros_like(sigma)]), index)


def _steps(mask: Tensor | None, sigma: Tensor, batch: Batch, model: JointDiT) -> Timesteps | None:
    if mask is None:
        return None
    if mask.ndim == 3:
        return timesteps(mask, sigma, 1)
    _, rows, columns = model.video_model.grid(batch.latent.video)
    return timesteps(mask, sigma, rows * columns)
