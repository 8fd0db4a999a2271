"""The adapter of sampling: the core's solvers and guidance as the host's SAMPLER and GUIDER."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import comfy.samplers
import comfy.utils
from torch import Tensor

from ..unitalk_core.av import AV
from ..unitalk_core.diffusion.guidance import CFG
from ..unitalk_core.diffusion.samplers import SAMPLERS, WHOLE_TIMESTEPS
from ..unitalk_core.diffusion.schedules import timesteps
from . import host

NEARLY_NOISE = 0.998  # a schedule that begins above it begins with noise alone, as the references do


class AVGuider(comfy.samplers.CFGGuider):
    """A GUIDER for AV latents whose strength is a core value: CFG, one scale a stream."""

    def __init__(self, model: Any, positive: Any, negative: Any, guidance: CFG) -> None:
        super().__init__(model)
        self.set_conds(positive, negative)
        self.set_cfg(max(guidance.scale.present()))
        self.guidance, self.shapes = guidance, []

    def sample(self, noise: Any, latent_image: Any, *args: Any, **kwargs: Any) -> Any:
        self.shapes = [one.shape for one in host.unnested(latent_image).present()]
        return super().sample(noise, latent_image, *args, **kwargs)

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None
    ) -> Tensor:
        options = dict(model_options or {})
        if self.guidance.needs_uncond:
            options |= {"sampler_cfg_function": self._combine, "disable_cfg1_optimization": True}
        return super().predict_noise(x, timestep, options, seed)

    def _combine(self, args: dict[str, Any]) -> Tensor:
        """Estimates come as flat packs of differences to the input; guidance is linear, so it is the same."""
        estimates = [
            host.by_rank(comfy.utils.unpack_latents(args[name], self.shapes)) for name in ("cond", "uncond")
        ]
        combined = self.guidance.combine(*estimates).present()
        return combined[0] if len(combined) == 1 else comfy.utils.pack_latents(combined)[0]


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
