"""The adapter of sampling: guidance, step cache and solvers of the core as the host's GUIDER, MODEL, SAMPLER.

Guidance of a MODEL is one value in its options: nodes in a chain add to it, and one function, after the
host's own guidance, runs what it asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any
from uuid import uuid5

import comfy.patcher_extension
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ..unitalk_core.av import AV
from ..unitalk_core.diffusion.cache import Reuse, StepCache
from ..unitalk_core.diffusion.denoiser import noised
from ..unitalk_core.diffusion.guidance import FULL, UNGUIDED, Guidance, Term, Without
from ..unitalk_core.diffusion.samplers import SAMPLERS, WHOLE_TIMESTEPS
from ..unitalk_core.diffusion.schedules import timesteps
from . import host

NEARLY_NOISE = 0.998  # a schedule that begins above it begins with noise alone, as the references do
GUIDANCE, MEMORY = "unitalk_guidance", "unitalk_memory"  # keys of a model's options and wrappers
WRAPPERS = comfy.patcher_extension.WrappersMP


# --- guidance --------------------------------------------------------------------------------------------


class AVGuider(comfy.samplers.CFGGuider):
    """A GUIDER for the AV latents of any model: guidance by the text, a strength for each stream."""

    def __init__(self, model: Any, positive: Any, negative: Any, text: Term) -> None:
        super().__init__(model)
        self.set_conds(positive, negative)
        self.set_cfg(max(text.scale.present()))
        self.text = Guidance((text,))

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None
    ) -> Tensor:
        options, scale = dict(model_options or {}), 1.0
        now = guidance_at(self.text, self.inner_model, timestep)
        if now.terms:
            combine = {"sampler_cfg_function": partial(combined, now), "disable_cfg1_optimization": True}
            options, scale = options | combine, self.cfg
        texts = self.conds.get("negative"), self.conds.get("positive")
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, *texts, scale, model_options=options, seed=seed
        )


def combined(guidance: Guidance, args: dict[str, Any]) -> Tensor:
    """With and without the text: differences to the input, for which guidance, being linear, is the same."""
    shapes = args["model"].latent_shapes
    texts = {FULL: args["cond"], guidance.terms[0].without: args["uncond"]}
    return packed(guidance.combine({one: unpacked(pack, shapes) for one, pack in texts.items()}))


def with_guidance(model: Any, change: Callable[[Guidance], Guidance]) -> Any:
    """A MODEL whose guidance is changed; any guider and sampler of the host will follow it."""
    clone = model.clone()
    first = GUIDANCE not in clone.model_options
    clone.model_options[GUIDANCE] = change(guidance_of(clone))
    if first:
        clone.set_model_sampler_post_cfg_function(guided)
        clone.add_wrapper_with_key(WRAPPERS.OUTER_SAMPLE, GUIDANCE, announced)
    return clone


def guidance_of(model: Any) -> Guidance:
    """What the nodes before have added to a MODEL."""
    return model.model_options.get(GUIDANCE, UNGUIDED)


def guidance_at(guidance: Guidance, model: Any, sigma: Tensor) -> Guidance:
    return guidance.at(sigma.flatten()[0].item(), model.model_sampling.percent_to_sigma)


def announced(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Around the sampling of any guider: nothing may be missing, and the node says what it will cost."""
    guider, sigmas, mask = executor.class_obj, args[3], args[4]
    guidance = guider.model_options[GUIDANCE]
    check(guidance, guider.conds.get("positive", []), mask, kwargs["latent_shapes"])
    host.say(cost(guider, guidance, sigmas[:-1].tolist()))
    return executor(*args, **kwargs)


def cost(guider: Any, guidance: Guidance, sigmas: list[float]) -> str:
    """How many passes the steps take; a guider of the host has one without the text unless its scale is 1."""
    sampling = guider.model_patcher.get_model_object("model_sampling")
    own = getattr(guider, "text", None)
    both = guidance if own is None else Guidance((*own.terms, *guidance.terms))
    stock = own is None and guider.cfg != 1
    passes = sum(len(both.at(sigma, sampling.percent_to_sigma).passes()) + stock for sigma in sigmas)
    return f"{passes} passes in {len(sigmas)} steps: {both}" + ", without text" * stock


def check(guidance: Guidance, positive: list[dict[str, Any]], mask: Tensor | None, shapes: list) -> None:
    """ValueError if there is nothing that a pass could leave out."""
    for without in (term.without for term in guidance.terms if term.counts):
        if without.voice and not any(heard(one) for one in positive):
            raise ValueError("guidance by the voice needs one; use UniTalk Reference Audio Encode before")
        if without.image and (mask is None or unpacked(mask, shapes).video.min() == 1):
            raise ValueError("guidance by the image needs a latent whose mask keeps a part of the picture")
        if without.coupling and len(shapes) < 2:
            raise ValueError("guidance by the coupling needs a latent with a picture and a sound")


def heard(entry: dict[str, Any]) -> bool:
    """Whether a conditioning has a voice, throughout or in some seconds."""
    return entry.get("reference") is not None or bool(entry.get("voices"))


def guided(args: dict[str, Any]) -> Tensor:
    """After the host's own guidance: what the nodes of a MODEL ask for."""
    model, sigma = args["model"], args["sigma"]
    guidance = guidance_at(args["model_options"][GUIDANCE], model, sigma)
    if not guidance.terms and not guidance.shapes:
        return args["denoised"]
    runs = {FULL: args["cond_denoised"]} | {one: estimate(args, one) for one in guidance.passes()[1:]}
    estimates = {one: unpacked(pack, model.latent_shapes) for one, pack in runs.items()}
    total = guidance.combine(estimates, unpacked(args["denoised"], model.latent_shapes))
    return packed(guidance.shape(estimates[FULL], total))


def estimate(args: dict[str, Any], without: Without) -> Tensor:
    """What the positive conditioning gives without something, as a denoised pack."""
    x = seen = args["input"]
    if without.image:
        streams = unpacked(x, args["model"].latent_shapes)
        mask = args["cond"][0]["model_conds"]["video_mask"].cond
        seen = packed(AV(noised(streams.video, mask, args["sigma"].flatten()[0]), streams.audio))
    options = args["model_options"]
    switched = options["transformer_options"] | switches(without)
    cond = [conditions(entry, without) for entry in args["cond"]]
    (made,) = comfy.samplers.calc_cond_batch(
        args["model"], [cond], seen, args["sigma"], options | {"transformer_options": switched}
    )
    return made + (x - seen)


def switches(without: Without) -> dict[str, Any]:
    """What the network is told by its transformer options."""
    apart = {"a2v_cross_attn": False, "v2a_cross_attn": False} if without.coupling else {}
    return apart | ({"unitalk_skip_blocks": without.blocks} if without.blocks else {})


def conditions(entry: dict[str, Any], without: Without) -> dict[str, Any]:
    """A conditioning with something left out, and a name of its own, by which caches tell passes apart."""
    left = {"reference": without.voice, "voices": without.voice, "video_mask": without.image}
    values = {name: value for name, value in entry["model_conds"].items() if not left.get(name)}
    return entry | {"model_conds": values, "uuid": uuid5(entry["uuid"], str(without))}


def unpacked(pack: Tensor, shapes: list) -> AV[Tensor | None]:
    """A flat pack, or the only stream -> (video, audio)"""
    streams = comfy.utils.unpack_latents(pack, shapes)
    return AV(*streams) if len(streams) == 2 else host.av_of({"samples": streams[0]})


def packed(streams: AV[Tensor | None]) -> Tensor:
    present = streams.present()
    return present[0] if len(present) == 1 else comfy.utils.pack_latents(present)[0]


# --- step cache ------------------------------------------------------------------------------------------


def with_cache(model: Any, rule: StepCache) -> Any:
    """A MODEL that takes steps from a cache; each run has a memory of its own."""
    clone = model.clone()
    for kind in (WRAPPERS.OUTER_SAMPLE, WRAPPERS.DIFFUSION_MODEL):
        clone.remove_wrappers_with_key(kind, MEMORY)  # of a cache before this one
    clone.add_wrapper_with_key(WRAPPERS.OUTER_SAMPLE, MEMORY, partial(remembering, rule))
    clone.add_wrapper_with_key(WRAPPERS.DIFFUSION_MODEL, MEMORY, from_memory)
    return clone


def remembering(rule: StepCache, executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Around the sampling: the guider's options are this run's own, and so is the memory in them."""
    guider = executor.class_obj
    sampling = guider.model_patcher.get_model_object("model_sampling")
    memory = Memory(Reuse(rule, sampling.percent_to_sigma))
    guider.model_options["transformer_options"][MEMORY] = memory
    made = executor(*args, **kwargs)
    host.say(str(memory.reuse))
    return made


def from_memory(executor: Any, x: Any, timestep: Any, context: Any, options: Any, **conditions: Any) -> Any:
    """Around the network: its velocity, computed or remembered, packed as it came."""
    latent = host.by_rank([x] if torch.is_tensor(x) else list(x))

    def run() -> AV[Tensor | None]:
        made = executor(x, timestep, context, options, **conditions)
        return host.by_rank([made] if torch.is_tensor(made) else list(made))

    velocity = options[MEMORY].velocity(latent, options, run).present()
    return velocity[0] if torch.is_tensor(x) else velocity


class Memory:
    """Calls of the network, each a batch of passes, as the steps that the core's cache knows."""

    def __init__(self, reuse: Reuse) -> None:
        self.reuse, self.sigma, self.served, self.skips = reuse, None, set(), False

    def velocity(
        self, latent: AV[Tensor | None], options: dict[str, Any], run: Callable[[], AV]
    ) -> AV[Tensor | None]:
        """The step is judged by its first call, by the positive pass in it."""
        keys = [(uuid, *told(options)) for uuid in options["uuids"]]
        sigma, kinds = options["sigmas"].flatten()[0].item(), options["cond_or_uncond"]
        first = sigma != self.sigma or not self.served.isdisjoint(keys)
        judge = part(latent, kinds.index(0) if 0 in kinds else 0, len(keys))
        if first:
            self.sigma, self.served, self.skips = sigma, set(), self.reuse.skips(judge, sigma, keys)
            if not self.skips:
                self.reuse.stored.clear()
        self.served.update(keys)
        stored = self.reuse.stored
        if not (self.skips and all(key in stored for key in keys)):
            made = run()
            stored.update({key: part(made, i, len(keys)) for i, key in enumerate(keys)})
            if first:
                self.reuse.learn(judge, stored[keys[kinds.index(0) if 0 in kinds else 0]])
        rows = [stored[key] for key in keys]
        return rows[0].map(lambda *streams: torch.cat(streams), *rows[1:])


def told(options: dict[str, Any]) -> tuple:
    """By which of the network's switches a pass differs from another of the same conditioning."""
    blocks = (options.get(name, ()) for name in ("stg_self_attn_blocks", "unitalk_skip_blocks"))
    coupled = (options.get(name, True) for name in ("a2v_cross_attn", "v2a_cross_attn"))
    return (*coupled, *(tuple(sorted(one)) for one in blocks))


def part(streams: AV[Tensor | None], index: int, count: int) -> AV[Tensor | None]:
    return streams.map(lambda one: one.chunk(count)[index])


# --- solvers ---------------------------------------------------------------------------------------------


def core_sampler(name: str, fresh: bool | None = None) -> comfy.samplers.KSAMPLER:
    """A sampler of the core as SAMPLER. It sees the flat pack as one stream: all numbers are treated alike.

    fresh: begin with the noise itself, as the core does, whatever is in the latent; None = where the schedule
    begins at noise. What the references of UniPC and DPM++ tell their network, ours is told: whole timesteps.
    """

    def run(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any, callback: Any, **_: Any) -> Tensor:
        def denoise(now: AV, sigma: Tensor) -> AV:
            return AV(model(now.video, sigma.expand(len(x)), **extra_args), None)

        def on_step(i: int, denoised: AV) -> None:
            if callback is not None:
                callback({"i": i, "x": x, "denoised": denoised.video, "sigma": sigmas[i]})

        begin = sigmas[0] > NEARLY_NOISE if fresh is None else fresh
        network = model.inner_model.inner_model
        whole = name in WHOLE_TIMESTEPS and hasattr(network, "unitalk")
        with whole_timesteps(network.model_sampling) if whole else nullcontext():
            return SAMPLERS[name](denoise, AV(model.noise if begin else x, None), sigmas, on_step).video

    return comfy.samplers.KSAMPLER(run)


@contextmanager
def whole_timesteps(sampling: Any) -> Iterator[None]:
    """For a while a model is told timesteps cut off after the point."""
    sampling.timestep = lambda sigma: timesteps(sigma, whole=True).float()
    try:
        yield
    finally:
        del sampling.timestep
