"""The flow-matching objective for a clip whose parts may be kept (paper: equation 1, with Wan2.2's sign).

b batch · c channels · f latent frames · h, w latent rows, columns · n audio latents
Masks: 1 = generate, 0 = keep; video (b, 1, f, 1, 1), audio (b, 1, n). Kept parts are clean, at timestep 0,
without loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..av import AV
from ..models.layers import Timesteps
from ..models.mmdit import PLAIN, Hooks


@dataclass(frozen=True)
class Batch:
    """Clips of one length. An absent stream is None in `latent` and in `denoise_mask`."""

    latent: AV[Tensor | None]
    denoise_mask: AV[Tensor | None]
    context: Tensor  # (b, text_len, text_dim), the same text for both streams
    reference: Tensor | None  # (b, reference_len, c), time first; zeros are the null voice
    couple: tuple[bool, bool] = (True, True)
    mouth: Tensor | None = None  # (b, 1, f, h, w), 1 where the mouth is (JoVA, equation 5)


def flow_matching_loss(
    model: nn.Module, batch: Batch, sigma: AV[Tensor], noise: AV[Tensor | None], hooks: Hooks = PLAIN
) -> dict[str, Tensor]:
    """(b,) mean squared errors of the velocity over what is generated: "video", "audio", "mouth".

    "mouth" is the picture's error inside the mouth's area alone (JoVA, equation 7), where `batch` knows it.
    sigma: (b,) a stream. Losses are a clip's own: a batch may be cut in any way without changing their sum.
    """
    noisy = batch.latent.map(_mixed, noise, sigma, batch.denoise_mask)
    timestep = AV(
        _steps(batch.denoise_mask.video, sigma.video, batch, model),
        _steps(batch.denoise_mask.audio, sigma.audio, batch, model),
    )
    both = noisy.map(lambda _: batch.context), noisy.map(lambda _: batch.reference)
    velocity = model(noisy, timestep, *both, couple=batch.couple, hooks=hooks)
    wrong = velocity.map(lambda v, x, eps: (v.float() - (eps - x)).square(), batch.latent, noise)
    losses = wrong.map(_mean, batch.denoise_mask)
    named = {"video": losses.video, "audio": losses.audio}
    if batch.mouth is not None and wrong.video is not None:
        named["mouth"] = _mean(wrong.video, batch.denoise_mask.video * batch.mouth)
    return {name: one for name, one in named.items() if one is not None}


def _mixed(latent: Tensor, noise: Tensor, sigma: Tensor, mask: Tensor) -> Tensor:
    """x_sigma = (1 - sigma) data + sigma noise, with sigma = 0 where the latent is kept."""
    level = sigma.reshape(-1, *[1] * (latent.ndim - 1)) * mask
    return latent + level * (noise - latent)


def _mean(wrong: Tensor, share: Tensor) -> Tensor:
    """(b, c, ...) -> (b,), over where `share` is 1; 0 where it nowhere is."""
    share = share.expand_as(wrong).flatten(1)
    return (wrong.flatten(1) * share).sum(1) / share.sum(1).clamp(min=1)


def timesteps(mask: Tensor, sigma: Tensor, tokens_per_step: int) -> Timesteps:
    """Two timesteps a sample: 1000 sigma where it generates, 0 where it keeps. mask: one value a step."""
    kept = mask.flatten(1) == 0
    own = torch.arange(len(sigma), device=sigma.device)[:, None].expand_as(kept)
    index = torch.where(kept, own + len(sigma), own).repeat_interleave(tokens_per_step, dim=1)
    return Timesteps(torch.cat([1000 * sigma, torch.zeros_like(sigma)]), index)


def _steps(mask: Tensor | None, sigma: Tensor, batch: Batch, model: nn.Module) -> Timesteps | None:
    if mask is None:
        return None
    if mask.ndim == 3:
        return timesteps(mask, sigma, 1)
    _, rows, columns = model.video_model.grid(batch.latent.video)
    return timesteps(mask, sigma, rows * columns)
