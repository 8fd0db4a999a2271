"""What learns: the joint model, maybe its text encoder, called with a pass and answering with its losses."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from ..models.mmdit import PLAIN, Hooks, JointDiT
from .alignment import Guide
from .batches import Drawn
from .objective import flow_matching_loss


class Trainee(nn.Module):
    """`text_encoder` is given where it learns along; then a batch carries token ids instead of features."""

    def __init__(
        self,
        model: JointDiT,
        text_encoder: nn.Module | None = None,
        hooks: Hooks = PLAIN,
        guide: Guide | None = None,
    ) -> None:
        super().__init__()
        self.model, self.text_encoder = model, text_encoder
        self.guide, self.hooks = guide, hooks if guide is None else guide.around(hooks)

    def forward(self, drawn: Drawn) -> dict[str, Tensor]:
        """Losses of each clip (b,), by name: "video", "audio", "mouth", "alignment"."""
        batch = drawn.batch
        if self.text_encoder is not None:
            batch = replace(batch, context=self.text_encoder(batch.context))
        made = flow_matching_loss(self.model, batch, drawn.sigma, drawn.noise, self.hooks)
        losses = {name: one for name, one in made.items() if name in drawn.learns}
        if self.guide is not None:
            losses["alignment"] = self.guide.loss(drawn.spoken)
        return losses
