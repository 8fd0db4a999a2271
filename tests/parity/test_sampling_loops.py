"""Whole sampling loops of Wan2.2 and Ovi through the real denoiser, guidance and samplers, step by step."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from unitalk_core.av import AV
from unitalk_core.diffusion.denoiser import Conditioning, Denoiser
from unitalk_core.diffusion.guidance import cfg
from unitalk_core.diffusion.samplers import SAMPLERS
from unitalk_core.diffusion.schedules import SCHEDULES

from .goldens import Case, cases, check
from .test_samplers import OURS, WHOLE_TIMESTEPS
from .towers import audio_latent, batched, build


def solver(case: Case) -> str:
    """The reference's name of the solver, the first word of what the case says about it."""
    return case.call["solver"].split(",")[0].strip()


def states_of(denoiser: Denoiser, case: Case, noise: AV) -> list[AV]:
    """The sampler's state before the first step and after each one, as the solver leaves it."""
    name, states = OURS[solver(case)], []

    def denoise(x: AV, sigma: Tensor) -> AV:
        states.append(x)
        return denoiser(x, sigma)

    sigmas = SCHEDULES[name](case.call["steps"], case.call["shift"])
    states.append(SAMPLERS[name](denoise, denoiser.keep(noise), sigmas))
    if name == "unipc":  # it goes on from its own last state
        return states
    return [
        states[0],
        *map(partial(from_kept, denoiser), states, states[1:], (sigmas[1:] / sigmas[:-1]).tolist()),
    ]


def from_kept(denoiser: Denoiser, before: AV, after: AV, ratio: float) -> AV:
    """One step as if taken from the state with the kept parts in place, as the reference's loop has it.

    A step's only other use of the state is the estimate, which our denoiser makes with them in place.
    """
    return after.map(lambda x, kept, own: x + ratio * (kept - own), denoiser.keep(before), before)


def first_frame_kept(first: Tensor, noise: Tensor) -> dict[str, Any]:
    """Options of a Denoiser that keeps latent frame 0. first: (c, 1, h, w), noise: (1, c, f, h, w)"""
    clean, mask = torch.zeros_like(noise), torch.ones(1, 1, noise.shape[2], 1, 1)
    clean[:, :, :1], mask[:, :, :1] = batched(first), 0
    return {"clean": AV(clean, None), "denoise_mask": AV(mask, None)}


@cases("wan_sampling_loop")
def test_wan_loop(case: Case) -> None:
    model, noise = build(case), batched(case.io["in.noise"])
    cond, uncond = (
        Conditioning(AV(batched(case.io[f"in.{name}"]), None)) for name in ("context", "context_null")
    )
    tasks = {"t2v": {}, "i2v": first_frame_kept(case.io["in.first_frame_latent"], noise)}
    got = {}
    for tag, kept in tasks.items():
        guidance = cfg(AV(case.call["guidance"], None))
        whole = solver(case) in WHOLE_TIMESTEPS
        denoiser = Denoiser(model, cond, uncond, guidance, integer_timesteps=whole, **kept)
        states = states_of(denoiser, case, AV(noise, None))
        got[f"out.{tag}"] = torch.cat([denoiser.keep(state).video for state in states])
    check(case, got)


@cases("ovi_sampling_loop")
def test_ovi_loop(case: Case) -> None:
    model = build(case)
    noise = AV(batched(case.io["in.video_noise"]), audio_latent(case.io["in.audio_noise"]))
    positive, video, audio = (
        batched(case.io[f"in.context_{name}"]) for name in ("pos", "video_neg", "audio_neg")
    )
    tasks = {"t2v": {}, "i2v": first_frame_kept(case.io["in.first_frame_latent"], noise.video)}
    skipped = case.call["slg_layer"]
    got = {}
    for tag, kept in tasks.items():
        denoiser = Denoiser(
            model,
            Conditioning(AV(positive, positive)),
            Conditioning(AV(video, audio)),
            cfg(
                AV(case.call["video_guidance"], case.call["audio_guidance"]),
                blocks=(skipped,) if skipped > 0 else (),
            ),
            integer_timesteps=solver(case) in WHOLE_TIMESTEPS,
            **kept,
        )
        steps = states_of(denoiser, case, noise)[1:]
        got[f"out.{tag}.video_steps"] = torch.cat([state.video for state in steps])
        got[f"out.{tag}.audio_steps"] = torch.cat([state.audio.transpose(1, 2) for state in steps])
        final = denoiser.keep(steps[-1])
        got[f"out.{tag}.video_final"] = final.video[0]
        got[f"out.{tag}.audio_final"] = final.audio[0].T
    check(case, {name: one for name, one in got.items() if name in case.io})
