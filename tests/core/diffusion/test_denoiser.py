"""What the network is handed, and what comes back, for guidance, kept parts and absent streams."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from unitalk_core.av import AV
from unitalk_core.diffusion.denoiser import Conditioning, Denoiser, effective_coupling, token_timesteps
from unitalk_core.diffusion.guidance import Guidance, Term, Without, cfg
from unitalk_core.models.voices import Voices


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
    denoiser = Denoiser(model, words(2.0), words(1.0), cfg(AV(4.0, 1.0), blocks=(3,)))
    out = denoiser(x, SIGMA)
    torch.testing.assert_close(out.video, x.video - SIGMA * (1 + 4 * 1))
    torch.testing.assert_close(out.audio, x.audio - SIGMA * 2)
    assert [call["skip_blocks"] for call in model.calls] == [(), (3,)]


def test_scales_of_one_skip_the_second_pass() -> None:
    model = Recorder()
    Denoiser(model, words(2.0), words(1.0), cfg(AV(1.0, 1.0)))(latents(), SIGMA)
    Denoiser(model, words(2.0), guidance=cfg(AV(1.0, None)))(AV(latents().video, None), SIGMA)
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


def test_each_pass_leaves_out_what_its_name_says() -> None:
    model, x, clean = Recorder(), latents(), latents()
    mask = AV(torch.ones(1, 1, 3, 1, 1), None)
    mask.video[:, :, 0] = 0
    voice = AV(torch.ones(2, 4, 20), torch.ones(2, 4, 20))
    things = [{"voice": True}, {"image": True}, {"coupling": True}, {"blocks": (1, 2)}]
    guidance = Guidance(tuple(Term(Without(**one), AV(2.0, 2.0)) for one in things))
    cond = Conditioning(words(1.0).context, voice)
    Denoiser(model, cond, guidance=guidance, clean=clean, denoise_mask=mask)(x, SIGMA)
    full, unvoiced, unseen, apart, skipped = model.calls
    assert full["reference"] is not None and unvoiced["reference"] is None
    assert (full["couple"], apart["couple"]) == ((True, True), (False, False))
    assert (full["skip_blocks"], skipped["skip_blocks"]) == ((), (1, 2))
    first, given = unseen["latent"].video[:, :, 0], clean.video[:, :, 0]
    torch.testing.assert_close(
        (first - (1 - SIGMA) * given).std() / SIGMA, torch.tensor(1.0), atol=0.2, rtol=0
    )
    assert torch.equal(unseen["latent"].video[:, :, 1:], x.video[:, :, 1:])
    assert unseen["timestep"].video.shape == (2,) and full["timestep"].video.shape == (2, 18)


def test_a_pass_sees_what_the_kept_picture_lets_it_and_no_voice_is_left_in_turns() -> None:
    model, kept = Recorder(), AV(torch.zeros(1, 1, 3, 1, 1), None)
    turns = Voices((torch.ones(2, 4, 20), torch.ones(2, 4, 20)), ((0.0, 1.0), (1.0, 9.0)))
    things = [{"voice": True}, {"image": True}, {"coupling": True}]
    guidance = Guidance(tuple(Term(Without(**one), AV(2.0, 2.0)) for one in things))
    cond = Conditioning(words(1.0).context, AV(turns, turns))
    Denoiser(model, cond, guidance=guidance, clean=latents(), denoise_mask=kept)(latents(), SIGMA)
    full, unvoiced, unseen, apart = model.calls
    assert full["reference"].audio.spans == turns.spans and unvoiced["reference"] is None
    found = [one["couple"] for one in (full, unvoiced, unseen, apart)]
    assert found == [(False, True), (False, True), (False, True), (False, False)]


@pytest.mark.parametrize(
    ("thing", "says"),
    [("voice", "needs a voice"), ("image", "needs a picture that is kept"), ("coupling", "couple is off")],
)
def test_guidance_by_what_is_not_there_is_refused(thing: str, says: str) -> None:
    guidance = Guidance((Term(Without(**{thing: True}), AV(2.0, 1.0)),))
    with pytest.raises(ValueError, match=says):
        Denoiser(Recorder(), words(1.0), guidance=guidance, couple=(False, False))
    unused = Guidance((Term(Without(**{thing: True}), AV(1.0, 1.0)),))
    Denoiser(Recorder(), words(1.0), guidance=unused, couple=(False, False))


def test_a_term_outside_its_range_is_not_run() -> None:
    model, early = Recorder(), Guidance((Term(Without(coupling=True), AV(2.0, 2.0), 0.0, 0.25),))
    denoiser = Denoiser(model, words(1.0), guidance=early, shift=3.0)
    denoiser(latents(), torch.tensor(0.95))
    denoiser(latents(), torch.tensor(0.85))  # the quarter of shift 3 is at sigma 0.9
    assert [call["couple"] for call in model.calls] == [(True, True), (False, False), (True, True)]


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
        Denoiser(Recorder(), words(1.0), guidance=cfg(AV(4.0, 3.0)))
    with pytest.raises(ValueError, match="clean is None"):
        Denoiser(Recorder(), words(1.0), denoise_mask=AV(torch.ones(1, 1, 1, 1, 1), None))
