"""The parts of the sampler box for SamplerCustomAdvanced: noise, solvers, schedules."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import comfy.nested_tensor
import torch
from rig import (
    HERE,
    core,
    core_denoiser,
    core_noise,
    difference,
    empty,
    error_of,
    joint,
    measure,
    pair,
    run,
    worst,
)

SOLVERS = ("unipc", "dpmpp_2m", "euler", "heun", "dpmpp_3m")


def custom(
    guider: Any, sampler: str = "euler", steps: int = 3, latent: Any = None, denoise: float = 1.0
) -> dict[str, Any]:
    """SamplerCustomAdvanced with our noise, solver and schedule."""
    noise, solver = run("UniTalkNoise", 1, 2), run("UniTalkFlowSampler", sampler)
    sigmas = run("UniTalkSchedule", HERE.model, sampler, steps, denoise, 0.0)
    return run("SamplerCustomAdvanced", noise, guider, solver, sigmas, latent or empty())[0]


@measure
def solvers_against_core() -> dict[str, list[float]]:
    schedules, samplers = core("unitalk_core.diffusion.schedules"), core("unitalk_core.diffusion.samplers")
    guider = run("CFGGuider", HERE.model, HERE.positive, HERE.negative, 2.0)
    found = {}
    for name in SOLVERS:
        denoise = core_denoiser(2.0, 2.0, integer_timesteps=name in samplers.WHOLE_TIMESTEPS)
        ours = samplers.SAMPLERS[name](denoise, core_noise(), schedules.SCHEDULES[name](4, 3.0))
        found[name] = difference(custom(guider, name, 4), ours)
    return found


@measure
def timesteps_are_exact_again() -> bool:
    """What a solver tells the model while it runs is forgotten afterwards."""
    custom(run("CFGGuider", HERE.model, HERE.positive, HERE.negative, 1.0), "unipc", 2)
    return float(HERE.model.get_model_object("model_sampling").timestep(torch.tensor(0.6377))) != 637.0


@measure
def noise_of_takes() -> dict[str, Any]:
    """Our NOISE against the core's, for a batch, for chosen takes, and for latents of other models."""
    av, noise = core("unitalk_core.av"), run("UniTalkNoise", 5, 7)

    def single(video: tuple[int, ...], audio: tuple[int, ...], take: int = 0) -> Any:
        return av.draw_noise(av.AV((1, *video[1:]), (1, *audio[1:])), av.AV(5 + take, 7 + take)).present()

    def same(latent: dict[str, Any], takes: list[int]) -> bool:
        made = noise.generate_noise(latent).unbind()
        shapes = [tuple(one.shape) for one in latent["samples"].unbind()]
        pairs = [
            (one[i], want[0])
            for i, take in enumerate(takes)
            for one, want in zip(made, single(*shapes, take), strict=True)
        ]
        return all(torch.equal(one, want) for one, want in pairs)

    def pack(*shapes: tuple[int, ...], **more: Any) -> dict[str, Any]:
        return {"samples": comfy.nested_tensor.NestedTensor([torch.zeros(one) for one in shapes])} | more

    image, sound = torch.zeros(1, 4, 8, 8), torch.zeros(1, 8, 16, 4)
    alone = [noise.generate_noise({"samples": image}), noise.generate_noise({"samples": image[:, :, 0]})]
    loud = noise.generate_noise({"samples": sound, "type": "audio"})
    return {
        "batch": same(empty(batch_size=3), [0, 1, 2]),
        "chosen": same(empty(batch_size=2) | {"batch_index": [4, 1]}, [4, 1]),
        "other model": same(pack((2, 128, 2, 3, 3), (2, 8, 16, 4)), [0, 1]),
        "image": torch.equal(alone[0], single(image.shape, (1, 1))[0]),
        "sound": torch.equal(alone[1], single((1, 1), (1, 4, 8))[1]),
        "sound of four axes": torch.equal(loud, single((1, 1), sound.shape)[1]),
        "seed": noise.seed,
        "three": error_of(lambda: noise.generate_noise(pack(*[(1, 2, 3)] * 3))),
    }


@measure
def batch_of_four() -> dict[str, dict[str, float]]:
    """Four clips at once against the same four one by one, with both seeds raised by one each time."""
    guider = run("CFGGuider", HERE.model, HERE.positive, HERE.negative, 2.0)
    sigmas = run("UniTalkSchedule", HERE.model, "unipc", 2, 1.0, 0.0)
    solver = run("UniTalkFlowSampler", "unipc")

    def box(latent: dict[str, Any], take: int) -> Any:
        return pair(joint(latent=latent, steps=2, video_seed=1 + take, audio_seed=2 + take))

    def stock(latent: dict[str, Any], take: int) -> Any:
        noise = run("UniTalkNoise", 1 + take, 2 + take)
        return pair(run("SamplerCustomAdvanced", noise, guider, solver, sigmas, latent)[0])

    return {name: apart(make) for name, make in (("box", box), ("stock", stock))}


def apart(make: Callable[[dict[str, Any], int], Any]) -> dict[str, float]:
    """Largest relative difference of each stream between a batch and single runs, and between two takes."""
    together, alone = make(empty(batch_size=4), 0), [make(empty(), take) for take in range(4)]
    found = {
        name: max(worst(stream[i : i + 1], one[which]) for i, one in enumerate(alone))
        for which, (name, stream) in enumerate(zip(("picture", "sound"), together, strict=True))
    }
    others = [worst(one, stream[:1]) for stream in together for one in stream[1:].split(1)]
    return found | {"takes": min(others)}


@measure
def schedules() -> dict[str, Any]:
    own = core("unitalk_core.diffusion.schedules").SCHEDULES["unipc"]
    shiftless = SimpleNamespace(get_model_object=lambda _: SimpleNamespace())
    return {
        "own shift": torch.equal(run("UniTalkSchedule", HERE.model, "unipc", 6, 1.0, 0.0), own(6, 3.0)),
        "shift": torch.equal(run("UniTalkSchedule", HERE.model, "unipc", 6, 1.0, 7.0), own(6, 7.0)),
        "part": torch.equal(run("UniTalkSchedule", HERE.model, "unipc", 3, 0.5, 0.0), own(6, 3.0)[-4:]),
        "no shift": error_of(lambda: run("UniTalkSchedule", shiftless, "unipc", 3, 1.0, 0.0)),
    }
