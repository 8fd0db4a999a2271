"""The picture stream alone learns to draw from words, on the first frames of clips.

UniTalking's picture stream comes trained, as Wan2.2's. The miniature's begins as the twin of a sound stream,
which has learned to look past every word that is not spoken.

b batch · c channels · h, w latent rows, columns
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..av import AV
from ..diffusion.schedules import shift_sigmas
from ..models.mmdit import JointDiT
from ..models.text_encoder import PhonemeEncoder
from .batches import weighted
from .latents import Shards
from .loop import Budget, OnStep, fit


def train_stills(
    model: JointDiT,
    text_encoder: PhonemeEncoder,
    clips: Shards,
    captions: Mapping[str, float],
    budget: Budget,
    on_step: OnStep | None = None,
) -> JointDiT:
    """The model with its picture stream trained on single frames; sound stream and text encoder stay.

    captions: weight of each form that the clips have. Losses: "loss", the flow-matching error.
    """
    model.requires_grad_(False).to(budget.device)
    model.video_model.requires_grad_(True)
    chance = torch.Generator().manual_seed(budget.seed)
    firsts = torch.stack([one.video[:, :1] for one in clips.items]).float()

    def losses() -> dict[str, Tensor]:
        chosen = torch.randint(len(clips), (budget.batch,), generator=chance)
        prompts = [clips[int(i)].texts[weighted(captions, chance)].prompt for i in chosen]
        with torch.no_grad():
            context = text_encoder.encode(prompts)
        noise = torch.randn(firsts[chosen].shape, generator=chance)
        sigma = shift_sigmas(torch.rand(budget.batch, generator=chance), model.config.shift)
        inputs = (one.to(budget.device) for one in (firsts[chosen], noise, sigma, context))
        with budget.precision():
            return {"loss": still_loss(model, *inputs)}

    return fit(model, budget, losses, on_step).requires_grad_(True)


def still_loss(model: JointDiT, latent: Tensor, noise: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
    """Mean squared error of the velocity. latent: (b, c, 1, h, w); sigma: (b,); context: (b, len, dim)."""
    noisy = latent + sigma.view(-1, 1, 1, 1, 1) * (noise - latent)
    velocity = model(AV(noisy, None), AV(1000 * sigma, None), AV(context, None)).video
    return (velocity.float() - (noise - latent)).square().mean()
