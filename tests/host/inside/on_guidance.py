"""Guidance and the step cache in the host: parity with the core, passes that are run, what bad input gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.nested_tensor
import comfy.patcher_extension
import torch
from on_model import velocity
from on_solving import custom
from rig import (
    HERE,
    NODES,
    core,
    core_denoiser,
    core_noise,
    difference,
    empty,
    error_of,
    host_nodes,
    joint,
    measure,
    pair,
    run,
    shown,
    worst,
)

WHOLE = (0.0, 1.0)
NODE_OF = {
    "voice": "UniTalkVoiceGuidance",
    "image": "UniTalkImageGuidance",
    "coupling": "UniTalkCouplingGuidance",
}


def guided(model: Any, what: str, video: float, audio: float, where: tuple[float, float] = WHOLE) -> Any:
    blocks = ("1, 3",) if what == "blocks" else ()
    return run(NODE_OF.get(what, "UniTalkSkipLayerGuidance"), model, *blocks, video, audio, *where)


def term(what: str, video: float, audio: float, where: tuple[float, float] = WHOLE) -> Any:
    guidance, av = core("unitalk_core.diffusion.guidance"), core("unitalk_core.av")
    left = {"blocks": (1, 3)} if what == "blocks" else {what: True}
    return guidance.Term(guidance.Without(**left), av.AV(video, audio), *where)


def guider(model: Any, video_cfg: float = 2.0, audio_cfg: float = 3.0, where: tuple = WHOLE) -> Any:
    return run(
        "UniTalkGuider", model, spoken(HERE.positive), spoken(HERE.negative), video_cfg, audio_cfg, *where
    )


def spoken(conditioning: Any) -> Any:
    """The conditioning with a voice."""
    sound = {"waveform": torch.sin(torch.arange(32000) / 9)[None, None], "sample_rate": 16000}
    return run("UniTalkReferenceAudioEncode", conditioning, HERE.audio_vae, sound)[0]


def framed() -> dict[str, Any]:
    """An empty clip whose first frame is kept."""
    video, audio = pair(empty())
    masks = [torch.ones(1, 1, *video.shape[2:]), torch.ones(1, 1, audio.shape[2])]
    masks[0][:, :, 0] = 0
    picture = torch.randn(video.shape, generator=torch.Generator().manual_seed(3))
    nest = comfy.nested_tensor.NestedTensor
    return {"samples": nest([picture, torch.zeros_like(audio)]), "noise_mask": nest(masks)}


def core_latents(*terms: Any, steps: int = 3, cfg: tuple[float, float] = (2.0, 3.0), **more: Any) -> Any:
    """The core's latents for the framed clip with a voice, with Euler."""
    av, latent = core("unitalk_core.av"), framed()
    video, _ = pair(latent)
    clean = HERE.model.model.latent_format.process_in(video)
    voice = spoken(HERE.positive)[0][1]["reference"]
    mask = av.AV(latent["noise_mask"].unbind()[0], None)
    denoise = core_denoiser(*cfg, terms, clean=av.AV(clean, None), denoise_mask=mask, voice=voice, **more)
    sigmas = core("unitalk_core.diffusion.schedules").SCHEDULES["euler"](steps, 3.0)
    made = core("unitalk_core.diffusion.samplers").sample_euler(denoise, core_noise(), sigmas)
    return denoise.keep(made)


@measure
def guidance_against_core() -> dict[str, list[float]]:
    """Each node alone, all in a chain with ranges, and in shape; and how much each changes."""
    asked = {
        "voice": (1.0, 3.0),
        "image": (2.5, 1.5),
        "coupling": (3.0, 2.0, (0.0, 0.6)),
        "blocks": (1.5, 2.0, (0.2, 0.9)),
    }
    plain, found = core_latents(), {}

    def compare(name: str, model: Any, ours: Any) -> None:
        made = custom(guider(model), "euler", 3, framed())
        moved = [worst(a, b) for a, b in zip(ours.present(), plain.present(), strict=True)]
        found[name] = [*difference(made, ours), max(moved)]

    chain, terms = HERE.model, []
    for what, given in asked.items():
        compare(what, guided(HERE.model, what, *given), core_latents(term(what, *given)))
        chain, terms = guided(chain, what, *given), [*terms, term(what, *given)]
    compare("all", chain, core_latents(*terms))
    shape = {"eta": 0.3, "limit": 0.4, "rescale": 0.5}
    compare(
        "shape", run("UniTalkProjectedGuidance", chain, *shape.values()), core_latents(*terms, shape=shape)
    )
    return found


@measure
def guidance_under_stock_guiders() -> dict[str, list[float]]:
    """The same MODEL under CFGGuider and KSampler; the stock guider's one scale is both of ours."""
    model = guided(HERE.model, "coupling", 3.0, 2.0)
    stock = run("CFGGuider", model, spoken(HERE.positive), spoken(HERE.negative), 2.0)
    made = custom(stock, "euler", 3, framed())
    found = {"CFGGuider": difference(made, core_latents(term("coupling", 3.0, 2.0), cfg=(2.0, 2.0)))}
    texts = (HERE.positive, HERE.negative)
    with_it, without = (
        host_nodes.common_ksampler(one, 3, 2, 2.0, "euler", "simple", *texts, empty())[0]
        for one in (model, HERE.model)
    )
    found["KSampler"] = [worst(pair(with_it)[0], pair(without)[0])]
    return found


@measure
def box_and_parts() -> list[float]:
    """The joint sampler and its parts under SamplerCustomAdvanced: not a bit apart."""
    whole = joint(sampler="unipc")
    text = run("UniTalkGuider", HERE.model, HERE.positive, HERE.negative, 2.0, 3.0, 0.0, 1.0)
    parts = custom(text, "unipc", 3)
    return [float((a - b).abs().max()) for a, b in zip(pair(whole), pair(parts), strict=True)]


def counted(model: Any, call: Callable[[Any], Any]) -> tuple[int, list[str]]:
    """Passes through the network while `call(model)` runs, and what the nodes show."""
    passes = []
    clone = model.clone()

    def count(executor: Any, *args: Any, **kwargs: Any) -> Any:
        passes.append(len(args[3]["uuids"]))
        return executor(*args, **kwargs)

    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "count", count)
    with shown() as said:
        call(clone)
    return sum(passes), said


@measure
def passes() -> dict[str, Any]:
    """How many are run for four Euler steps, and what is said of it."""

    def with_guider(model: Any, *given: Any) -> tuple[int, list[str]]:
        return counted(model, lambda one: custom(guider(one, *given), "euler", 4, framed()))

    twice = guided(guided(HERE.model, "coupling", 2.0, 1.0), "coupling", 1.0, 1.5)
    part = guided(HERE.model, "coupling", 2.0, 1.0, (0.0, 0.5))
    off = guided(HERE.model, "voice", 1.0, 1.0)
    return {
        "text": with_guider(HERE.model)[0],
        "text off": with_guider(HERE.model, 1.0, 1.0)[0],
        "text half the way": with_guider(HERE.model, 2.0, 2.0, (0.0, 0.5))[0],
        "the same pass twice": with_guider(twice)[0],
        "off": with_guider(off)[0],
        "half the way": with_guider(part),
        "KSampler": counted(part, lambda one: ksampler_with(one, 2.0)),
        "KSampler without text": counted(part, lambda one: ksampler_with(one, 1.0)),
    }


def ksampler_with(model: Any, cfg: float) -> Any:
    given = (HERE.positive, HERE.negative, empty())
    return host_nodes.common_ksampler(model, 3, 4, cfg, "euler", "simple", *given)


@measure
def guidance_sentences() -> dict[str, str]:
    text = run(
        "UniTalkGuider", guided(HERE.model, "voice", 2.0, 2.0), HERE.positive, HERE.negative, 2.0, 2.0, *WHOLE
    )
    sound = {"samples": pair(empty())[1] + 1}  # the host gives empty ones the channels of a picture
    image, coupling = (guider(guided(HERE.model, what, 2.0, 2.0)) for what in ("image", "coupling"))
    skip = ("UniTalkSkipLayerGuidance", HERE.model)
    return {
        "no voice": error_of(lambda: custom(text, "euler", 1)),
        "no picture": error_of(lambda: custom(image, "euler", 1)),
        "one stream": error_of(lambda: custom(coupling, "euler", 1, sound)),
        "no such block": error_of(lambda: run(*skip, "6", 2.0, 2.0, *WHOLE)),
        "no blocks": error_of(lambda: run(*skip, "all", 2.0, 2.0, *WHOLE)),
        "backwards": error_of(lambda: guided(HERE.model, "voice", 2.0, 2.0, (0.5, 0.2))),
        "another model": error_of(lambda: guided(SimpleModel(), "voice", 2.0, 2.0)),
        "threshold": error_of(lambda: run("UniTalkStepCache", HERE.model, 0.1, 0.1, 0.9, 0.1)),
    }


class SimpleModel:
    model = None


@measure
def step_cache() -> dict[str, Any]:
    """Against the core's, with guidance; each run begins anew; and the host's EasyCache beside it."""
    diffusion, av = "unitalk_core.diffusion", core("unitalk_core.av")
    cache, schedules = core(f"{diffusion}.cache"), core(f"{diffusion}.schedules")
    rule = cache.StepCache(av.AV(1.0, 1.0), 0.0, 1.0)
    reuse = cache.Reuse(rule, lambda fraction: schedules.sigma_at(fraction, 3.0))
    ours = core_latents(term("coupling", 2.0, 1.0), steps=8, reuse=reuse)
    model = run("UniTalkStepCache", guided(HERE.model, "coupling", 2.0, 1.0), 1.0, 1.0, *WHOLE)
    made, found = [], {"core": reuse.skipped}

    def sample(one: Any) -> None:
        made.append(custom(guider(one), "euler", 8, framed()))

    first, again = counted(model, sample), counted(model, sample)
    strict = counted(run("UniTalkStepCache", HERE.model, 1.0, 0.0, *WHOLE), sample)
    easy = counted(NODES["EasyCache"].execute(HERE.model, 3.0, 0.0, 1.0, False).args[0], sample)
    plain = counted(HERE.model, sample)
    return found | {
        "difference": difference(made[0], ours),
        "said": first[1][-1],
        "passes": [first[0], again[0], strict[0], easy[0], plain[0]],
        "easy": [worst(a, b) for a, b in zip(pair(made[3]), pair(made[4]), strict=True)],
    }


@measure
def written_input() -> float:
    """A wrapper that writes into what the network was given, as EasyCache does, changes nothing else."""

    def write(executor: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        made = executor(x, *args, **kwargs)
        for one in x:
            one.add_(5)
        return made

    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    return worst(velocity({"wrappers": {kind: {"test": [write]}}})[0], velocity()[0])
