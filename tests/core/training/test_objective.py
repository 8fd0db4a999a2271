"""The flow-matching loss: its target, and what it leaves out."""

from __future__ import annotations

import pytest
import torch

from unitalk_core.av import AV
from unitalk_core.training.objective import Batch, flow_matching_loss, timesteps


class Oracle(torch.nn.Module):
    """Answers with a fixed velocity and keeps what it was asked."""

    def __init__(self, answer: AV) -> None:
        super().__init__()
        self.answer, self.asked = answer, None

    @property
    def video_model(self):
        return self

    def grid(self, latent):
        return latent.shape[2], latent.shape[3] // 2, latent.shape[4] // 2

    def forward(self, latent, timestep, *_conditions, **_options):
        self.asked = latent, timestep
        return self.answer


def example(batch: int = 2) -> tuple[AV, AV, AV, AV]:
    generator = torch.Generator().manual_seed(0)
    latent = AV(
        torch.randn(batch, 4, 3, 4, 4, generator=generator), torch.randn(batch, 5, 7, generator=generator)
    )
    noise = latent.map(lambda x: torch.randn(x.shape, generator=generator))
    mask = AV(torch.ones(batch, 1, 3, 1, 1), torch.ones(batch, 1, 7))
    sigma = torch.tensor([0.25, 0.75])
    return latent, noise, mask, AV(sigma, sigma)


def batch_of(latent: AV, mask: AV, **more) -> Batch:
    return Batch(latent, mask, torch.zeros(2, 3, 8), None, **more)


def test_the_exact_velocity_costs_nothing_and_any_other_does():
    latent, noise, mask, sigma = example()
    exact = noise.map(torch.sub, latent)
    loss = flow_matching_loss(Oracle(exact), batch_of(latent, mask), sigma, noise)
    assert not loss["video"].any() and not loss["audio"].any()
    off = flow_matching_loss(Oracle(exact.map(lambda v: v + 2)), batch_of(latent, mask), sigma, noise)
    torch.testing.assert_close(off["video"], torch.tensor([4.0, 4.0]))


def test_each_clip_has_a_loss_of_its_own():
    latent, noise, mask, sigma = example()
    wrong = noise.map(torch.sub, latent)
    wrong.audio[1] += 3
    loss = flow_matching_loss(Oracle(wrong), batch_of(latent, mask), sigma, noise)
    torch.testing.assert_close(loss["audio"], torch.tensor([0.0, 9.0]))


def test_the_model_sees_the_straight_path_and_its_timestep():
    latent, noise, mask, sigma = example()
    oracle = Oracle(latent)
    flow_matching_loss(oracle, batch_of(latent, mask), sigma, noise)
    seen, timestep = oracle.asked
    torch.testing.assert_close(seen.audio[1], 0.25 * latent.audio[1] + 0.75 * noise.audio[1])
    assert timestep.audio.values[timestep.audio.index].tolist() == [[250.0] * 7, [750.0] * 7]


def test_streams_may_have_noise_of_their_own():
    latent, noise, mask, sigma = example()
    oracle = Oracle(latent)
    flow_matching_loss(oracle, batch_of(latent, mask), AV(sigma.video, torch.tensor([0.5, 0.0])), noise)
    seen, timestep = oracle.asked
    torch.testing.assert_close(seen.audio[1], latent.audio[1])
    torch.testing.assert_close(seen.video[1], 0.25 * latent.video[1] + 0.75 * noise.video[1])
    assert timestep.audio.values[timestep.audio.index][:, 0].tolist() == [500.0, 0.0]


def test_kept_parts_are_clean_at_timestep_zero_and_cost_nothing():
    latent, noise, mask, sigma = example()
    mask.video[:, :, 0] = 0
    mask.audio[1] = 0
    wrong = noise.map(torch.sub, latent)
    wrong.video[:, :, 0] += 100
    wrong.audio[1] += 100
    oracle = Oracle(wrong)
    loss = flow_matching_loss(oracle, batch_of(latent, mask), sigma, noise)
    seen, timestep = oracle.asked
    assert not loss["video"].any() and not loss["audio"].any()
    assert torch.equal(seen.video[:, :, 0], latent.video[:, :, 0])
    assert torch.equal(seen.audio[1], latent.audio[1])
    assert timestep.video.values[timestep.video.index][0].tolist() == [0.0] * 4 + [250.0] * 8


def test_a_stream_that_is_kept_whole_gives_a_loss_of_zero_not_nan():
    latent, noise, mask, sigma = example()
    loss = flow_matching_loss(Oracle(latent), batch_of(latent, AV(mask.video * 0, mask.audio)), sigma, noise)
    assert not loss["video"].any()
    assert loss["audio"].all()


def test_the_mouth_loss_is_the_mean_over_the_mouth_alone():
    """JoVA, equation 7: a term of its own beside the whole picture's."""
    latent, noise, mask, sigma = example()
    wrong = noise.map(torch.sub, latent)
    wrong.video[..., 2, 2] += 1
    mouth = torch.zeros(2, 1, 3, 4, 4)
    mouth[0, ..., 2, 2:] = 1
    mask.video[:, :, 0] = 0
    wrong.video[:, :, 0] += 100  # kept: not in the mouth's loss either
    loss = flow_matching_loss(Oracle(wrong), batch_of(latent, mask, mouth=mouth), sigma, noise)
    assert loss["video"].tolist() == pytest.approx([1 / 16, 1 / 16])
    assert loss["mouth"].tolist() == pytest.approx([1 / 2, 0])


def test_timesteps_are_two_a_sample():
    mask = torch.tensor([[[0.0, 1.0]], [[1.0, 1.0]]])
    steps = timesteps(mask, torch.tensor([0.5, 0.25]), 2)
    assert steps.values.tolist() == [500.0, 250.0, 0.0, 0.0]
    assert steps.index.tolist() == [[2, 2, 0, 0], [1, 1, 1, 1]]
