"""What the network is handed, and what comes back, for guidance, kept parts and absent streams."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from unitalk_core.av import AV
from unitalk_core.diffusion.denoiser import Conditioning, Denoiser, effective_coupling, token_timesteps
from unitalk_core.diffusion.guidance import CFG


@dataclass
class Recorder:
    """A model whose velocity is the mean of its context; it keeps what it was called with."""

    calls: list[dict] = field(default_factory=list)

    def __call__(self, latent: AV, timestep: AV, context: AV, reference: AV | None, **options) -> AV:
        self.calls.append({"latent": latent, "timestep": timestep, "reference": reference, **options})
        return latent.map(lambda x, rows: torch.full_like(x, rows.float().mean().item()), context)


def latents(batch: int = 2) -> AV:
    return AV(torch.randn(batch, 3, 3, 4, 6), torch.randn(batch, 5, 7))


def words(value: float, batch: int = 2) -> Conditioning:
    return Conditioning(AV(torch.full((batch, 2, 8), value), torch.full((batch, 2, 8), value)))


SIGMA = torch.tensor(0.6377)


def test_without_guidance_the_model_runs_once() -> None:
    model, x = Recorder(), latents()
    out = Denoiser(model, words(2.0))(x, SIGMA)
    torch.testing.assert_close(out.video, x.video - SIGMA * 2)
    torch.testing.assert_close(out.audio, x.audio - SIGMA * 2)
    [call] = model.calls
    assert call["couple"] == (True, True) and call["skip_blocks"] == ()
    torch.testing.assert_close(call["timestep"].video, torch.full((2,), 637.7))


def test_each_stream_has_its_own_scale() -> None:
    model, x = Recorder(), latents()
    denoiser = Denoiser(model, words(2.0), words(1.0), CFG(AV(4.0, 1.0)), skip_blocks_uncond=(3,))
    out = denoiser(x, SIGMA)
    torch.testing.assert_close(out.video, x.video - SIGMA * (1 + 4 * 1))
    torch.testing.assert_close(out.audio, x.audio - SIGMA * 2)
    assert [call["skip_blocks"] for call in model.calls] == [(), (3,)]


def test_scales_of_one_skip_the_second_pass() -> None:
    model = Recorder()
    Denoiser(model, words(2.0), words(1.0), CFG(AV(1.0, 1.0)))(latents(), SIGMA)
    Denoiser(model, words(2.0), guidance=CFG(AV(1.0, None)))(AV(latents().video, None), SIGMA)
    assert len(model.calls) == 2


def test_whole_timesteps_are_cut_off() -> None:
    model = Recorder()
    Denoiser(model, words(0.0), integer_timesteps=True)(latents(), SIGMA)
    assert model.calls[0]["timestep"].audio.tolist() == [637.0, 637.0]


def test_kept_parts_enter_clean_at_timestep_zero_and_leave_unmasked() -> None:
    model, x, clean = Recorder(), latents(), latents()
    mask = AV(torch.ones(1, 1, 3, 1, 1), torch.ones(1, 1, 7))
    mask.video[:, :, 0], mask.audio[..., :2] = 0, 0
    denoiser = Denoiser(model, words(1.0), clean=clean, denoise_mask=mask)
    out = denoiser(x, SIGMA)
    seen, told = model.calls[0]["latent"], model.calls[0]["timestep"]
    assert torch.equal(seen.video[:, :, 0], clean.video[:, :, 0])
    assert torch.equal(seen.video[:, :, 1:], x.video[:, :, 1:])
    assert torch.equal(seen.audio[..., :2], clean.audio[..., :2])
    assert torch.equal(seen.audio[..., 2:], x.audio[..., 2:])
    assert told.video.shape == (2, 18) and told.audio.shape == (2, 7)
    torch.testing.assert_close(told.video[0], 637.7 * torch.tensor([0.0] * 6 + [1.0] * 12))
    torch.testing.assert_close(told.audio[1], 637.7 * torch.tensor([0.0] * 2 + [1.0] * 5))
    torch.testing.assert_close(out.video, seen.video - SIGMA)
    assert torch.equal(denoiser.keep(out).video[:, :, 0], clean.video[:, :, 0])


def test_a_whole_stream_may_be_kept_and_the_other_free() -> None:
    model, x, clean = Recorder(), latents(), latents()
    mask = AV(torch.zeros(1, 1, 1, 1, 1), None)
    Denoiser(model, words(1.0), clean=clean, denoise_mask=mask, couple=(False, True))(x, SIGMA)
    call = model.calls[0]
    assert torch.equal(call["latent"].video, clean.video) and torch.equal(call["latent"].audio, x.audio)
    assert not call["timestep"].video.any() and call["timestep"].audio.shape == (2,)
    assert call["couple"] == (False, True)


def test_a_stream_that_is_kept_whole_does_not_see_the_other() -> None:
    kept, free, part = torch.zeros(1, 1, 1), torch.ones(1, 1, 1), torch.tensor([[[0.0, 1.0]]])
    found = {
        (False, True): AV(kept, free),
        (True, False): AV(None, kept),
        (False, False): AV(kept, kept),
        (True, True): AV(part, part),
    }
    assert all(effective_coupling((True, True), mask) == couple for couple, mask in found.items())
    assert effective_coupling((False, False), AV(free, free)) == (False, False)
    assert effective_coupling((True, True), None) == (True, True)


def test_a_token_is_as_noisy_as_its_noisiest_latent() -> None:
    mask = torch.zeros(1, 1, 1, 4, 4)
    mask[..., 1, 3] = 1
    told = token_timesteps(mask, torch.tensor([500.0]), torch.Size([1, 8, 2, 4, 4]))
    assert told.tolist() == [[0.0, 500.0, 0.0, 0.0] * 2]


def test_an_absent_stream_stays_absent() -> None:
    model = Recorder()
    context = Conditioning(AV(None, torch.ones(1, 2, 8)), AV(None, torch.ones(1, 4, 20)))
    out = Denoiser(model, context)(AV(None, torch.randn(1, 5, 7)), SIGMA)
    assert out.video is None and model.calls[0]["timestep"].video is None
    assert model.calls[0]["reference"].video is None


def test_the_network_may_compute_in_another_precision() -> None:
    seen: list[torch.dtype] = []

    def model(latent: AV, _timestep: AV, context: AV, reference: AV | None, **_: object) -> AV:
        assert reference is None

        def velocity(x: Tensor, rows: Tensor) -> Tensor:
            seen.extend([x.dtype, rows.dtype])
            return x

        return latent.map(velocity, context)

    out = Denoiser(model, words(1.0), dtype=torch.bfloat16)(latents(), SIGMA)
    assert set(seen) == {torch.bfloat16} and out.video.dtype == out.audio.dtype == torch.float32


def test_settings_that_lack_their_other_half_are_refused() -> None:
    with pytest.raises(ValueError, match="needs uncond"):
        Denoiser(Recorder(), words(1.0), guidance=CFG(AV(4.0, 3.0)))
    with pytest.raises(ValueError, match="clean is None"):
        Denoiser(Recorder(), words(1.0), denoise_mask=AV(torch.ones(1, 1, 1, 1, 1), None))
