"""The joint trainer: batches are what their task says, and a short run learns."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch

from unitalk_core.av import AV
from unitalk_core.config import TINY
from unitalk_core.models.attention import QKV, bands_within
from unitalk_core.models.coupling import Joint
from unitalk_core.models.mmdit import Hooks, JointDiT, initialise
from unitalk_core.models.text_encoder import PhonemeConfig, PhonemeEncoder
from unitalk_core.training.hooks import attend, compiled_hooks, plain_attention
from unitalk_core.training.joint import (
    Chances,
    Example,
    Examples,
    Prompt,
    Trainee,
    start_as_twin,
    train_joint,
)
from unitalk_core.training.loop import Budget

NEVER = Chances(no_text=0.0, no_reference=0.0, first_frame=0.0)
ALWAYS = Chances(no_text=1.0, no_reference=1.0, first_frame=1.0)


def example(frames: int = 2, seed: int = 0) -> Example:
    generator = torch.Generator().manual_seed(seed)
    video = torch.randn(48, frames, 4, 4, generator=generator)
    audio = torch.randn(20, 3 * frames, generator=generator)
    reference = torch.randn(20, 4, generator=generator)
    prompt = Prompt(torch.tensor([7, 12, 30, 8]), torch.tensor([-1, 1, 2] * frames))
    return Example(video, audio, reference, [prompt], torch.ones(4, 4))


def small() -> Trainee:
    size = {"width": 48, "heads": 2, "depth": 3, "ffn_width": 64, "text_dim": 32, "text_len": 16}
    config = replace(TINY, streams=TINY.streams.map(lambda stream: replace(stream, **size)))
    torch.manual_seed(0)
    model = JointDiT(config)
    initialise(model, 0)
    return Trainee(model, PhonemeEncoder(PhonemeConfig(dim=32, text_len=16, depth=1)))


def batch_for(task: str, chances: Chances = NEVER, picture: bool = True):
    examples = Examples([example(seed=i) for i in range(4)], 0, chances)
    return examples.batch(examples.draw(3), task, small().text_encoder, picture)[0]


def test_batches_hold_one_length():
    examples = Examples([example(frames=frames) for frames in (2, 3, 2, 5)], 0)
    for _ in range(10):
        assert len({one.audio.shape[1] for one in examples.draw(4)}) == 1


@pytest.mark.parametrize(
    ("task", "couple", "video", "audio"),
    [
        ("t2av", (True, True), 1, 1),
        ("uncoupled", (False, False), 1, 1),
        ("tv2a", (False, True), 0, 1),
        ("ta2v", (True, False), 1, 0),
    ],
)
def test_a_task_is_a_choice_of_masks_and_coupling(task, couple, video, audio):
    batch = batch_for(task)
    assert batch.couple == couple
    assert (batch.denoise_mask.video == video).all()
    assert (batch.denoise_mask.audio == audio).all()


def test_dropped_conditions_are_zeros_and_a_given_first_frame_is_kept():
    with_all, with_none = batch_for("t2av"), batch_for("t2av", ALWAYS)
    assert with_all.context.any() and with_all.reference.any()
    assert not with_none.context.any() and not with_none.reference.any()
    assert (with_none.denoise_mask.video[:, :, 0] == 0).all() and (
        with_none.denoise_mask.video[:, :, 1:] == 1
    ).all()


def test_sound_alone_has_no_picture():
    batch = batch_for("t2av", picture=False)
    assert batch.latent.video is None and batch.denoise_mask.video is None


def test_the_same_seed_draws_the_same_batches():
    drawn = [
        [one.audio.sum().item() for one in Examples([example(seed=i) for i in range(9)], 3).draw(5)]
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]


def test_a_short_run_learns_and_the_same_seed_learns_the_same():
    def run() -> tuple[list[float], Trainee]:
        losses: list[float] = []
        examples = Examples([example(seed=i) for i in range(2)], 0, NEVER)
        budget = Budget(steps=40, batch=4, learning_rate=3e-3, autocast=False)
        trainee = train_joint(
            small(), examples, budget, hooks=Hooks(), on_step=lambda _, parts: losses.append(parts["audio"])
        )
        return losses, trainee

    (losses, trainee), (again, _) = run(), run()
    assert losses == again
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert trainee.model.video_model.head.head.weight.any()


def test_stage_one_leaves_the_video_stream_as_it_was():
    trainee = small()
    before = {name: one.clone() for name, one in trainee.model.video_model.named_parameters()}
    examples = Examples([example()], 0)
    budget = Budget(steps=2, batch=2, autocast=False)
    after = train_joint(trainee, examples, budget, picture=False, hooks=Hooks())
    assert all(torch.equal(before[name], one) for name, one in after.model.video_model.named_parameters())
    assert after.model.audio_model.head.head.weight.any()


def test_a_twin_is_the_sound_stream_but_for_its_ends():
    model = small().model
    start_as_twin(model)
    audio = model.audio_model.state_dict()
    for name, one in model.video_model.state_dict().items():
        if not name.startswith(("patch_embedding", "head")):
            assert torch.equal(one, audio[name])
    assert not torch.equal(model.video_model.head.modulation, model.audio_model.head.modulation)


def test_attention_written_out_equals_sdpa():
    q, k, v = (torch.randn(2, 3, n, 8) for n in (5, 7, 7))
    mask = torch.rand(2, 1, 1, 7) > 0.3
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(plain_attention(q, k, v, mask), expected)
    assert compiled_hooks().attention is plain_attention


def test_nothing_to_train_on_gets_a_sentence():
    with pytest.raises(ValueError, match="the cache holds no examples"):
        Examples([], 0)


def test_an_absent_stream_stays_absent_in_the_loss():
    parts: list[dict[str, float]] = []
    budget = Budget(steps=1, batch=1, autocast=False)
    train_joint(
        small(),
        Examples([example()], 0),
        budget,
        picture=False,
        hooks=Hooks(),
        on_step=lambda _, p: parts.append(p),
    )
    assert parts[0].keys() == {"loss", "audio", "alignment"}
    assert AV(None, 1).present() == [1]


@pytest.mark.parametrize("couple", [*product([True, False], repeat=2)])
@pytest.mark.parametrize("window", [None, 0.2])
def test_one_masked_attention_is_what_the_model_computes(couple, window):
    generator = torch.Generator().manual_seed(0)
    qkv = AV(8, 9).map(lambda n: QKV(*(torch.randn(2, 2, n, 4, generator=generator) for _ in range(3))))
    bands = None if window is None else bands_within(torch.arange(2.0), torch.arange(9) * 0.2, 4, window)
    meeting = Joint(couple, bands, plain_attention)
    masked, own = attend(meeting, qkv), meeting.attend(qkv)
    torch.testing.assert_close(masked.video, own.video)
    torch.testing.assert_close(masked.audio, own.audio)
