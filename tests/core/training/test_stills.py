"""The picture stream on single frames: it draws what words say, and the rest of the model stays as it was."""

from __future__ import annotations

import torch

from unitalk_core.av import AV
from unitalk_core.config import TINY
from unitalk_core.data.cache import Item, Text
from unitalk_core.models.mmdit import JointDiT, initialise
from unitalk_core.models.text_encoder import PhonemeEncoder
from unitalk_core.training.latents import NO_FEATURES, Shards
from unitalk_core.training.loop import Budget
from unitalk_core.training.stills import train_stills

PROMPTS = ("blue background <S>hello<E>", "green background <S>hello<E>")


def pictures() -> Shards:
    """The background's word decides the sign of the whole frame; later frames are noise."""
    chance = torch.Generator().manual_seed(0)
    return Shards(
        [still(prompt, sign, chance) for prompt, sign in zip(PROMPTS, (1.0, -1.0), strict=True)], ""
    )


def still(prompt: str, sign: float, chance: torch.Generator) -> Item:
    video = torch.randn(48, 3, 4, 4, generator=chance)
    video[:, :1] = sign
    texts = {"full": Text(prompt, NO_FEATURES)}
    return Item(name=prompt, video=video, audio=torch.zeros(20, 4), reference=None, texts=texts)


def test_words_are_drawn_and_sound_and_text_stay():
    model, encoder = JointDiT(TINY), PhonemeEncoder()
    initialise(model, 0)
    before = {name: one.clone() for name, one in (model.state_dict() | encoder.state_dict()).items()}
    budget = Budget(steps=60, batch=8, learning_rate=2e-3, muon=0.02, average=0.9)
    trained = train_stills(model, encoder, pictures(), {"full": 1.0}, budget).eval()
    after = trained.state_dict() | encoder.state_dict()
    changed = {name for name, one in after.items() if not torch.equal(one, before[name])}
    assert changed and all(name.startswith("video_model.") for name in changed)
    assert all(one.requires_grad for one in trained.parameters())
    noise = torch.randn(2, 48, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        context = encoder.encode(list(PROMPTS))
        velocity = trained(AV(noise, None), AV(torch.full((2,), 1000.0), None), AV(context, None)).video
    drawn = (noise - velocity).mean((1, 2, 3, 4))
    assert drawn[0] > 0.3 and drawn[1] < -0.3
