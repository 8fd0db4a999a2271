"""Nodes that sample: picture and sound from noise, together."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..unitalk_core.av import AV, draw_noise
from ..unitalk_core.diffusion.guidance import CFG
from ..unitalk_core.diffusion.samplers import SAMPLERS
from ..unitalk_core.diffusion.schedules import SCHEDULES
from ..unitalk_core.pipeline import WHOLE_TIMESTEPS, check_finite
from . import host
from .host import io
from .model import with_whole_timesteps

SEED = {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF, "control_after_generate": True}
STRENGTH = {"default": 2.0, "min": 0.0, "max": 30.0, "step": 0.1}


class UniTalkJointSampler(io.ComfyNode):
    """The usual sampler box, with a seed and a strength for each stream."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkJointSampler",
            display_name="UniTalk Joint Sampler",
            category="UniTalk/sampling",
            description="Sample picture and sound together: reference solvers, two seeds, two strengths.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="A UniTalk model. Its shift is set with the stock ModelSamplingSD3."
                ),
                io.Conditioning.Input("positive", tooltip="What is wanted."),
                io.Conditioning.Input(
                    "negative", tooltip="What is not; the zeroed positive, or an encoded text."
                ),
                io.Latent.Input(
                    "latent", tooltip="From UniTalk Empty Latent; its noise mask says what is kept."
                ),
                io.Int.Input(
                    "video_seed",
                    **SEED,
                    tooltip="Another picture with the same seed of sound: another face for the same take.",
                ),
                io.Int.Input(
                    "audio_seed",
                    **SEED,
                    tooltip="Another take of the sound. It does not change with the size of the picture.",
                ),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Calls of the model; 20 to 50."),
                io.Combo.Input(
                    "sampler",
                    options=["unipc", "dpmpp_2m", "euler", "heun"],
                    default="unipc",
                    tooltip="Solver and schedule. unipc is UniTalking's and Ovi's; heun costs twice.",
                ),
                io.Float.Input(
                    "video_cfg",
                    **STRENGTH,
                    tooltip="Prompt strength for the picture: 2 for the miniature, 4 to 5 for full models.",
                ),
                io.Float.Input(
                    "audio_cfg",
                    **STRENGTH,
                    tooltip="Prompt strength for the sound. With both at 1 a step takes half the time.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1 the latent is changed, not replaced: the last part of a schedule.",
                    advanced=True,
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="Both streams.")],
        )

    @classmethod
    def execute(  # noqa: PLR0913, PLR0917  (the inputs of the node, by name)
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent: dict[str, Any],
        video_seed: int,
        audio_seed: int,
        steps: int,
        sampler: str,
        video_cfg: float,
        audio_cfg: float,
        denoise: float,
    ) -> io.NodeOutput:
        host.config_of(model)
        guidance = CFG(AV(video_cfg, audio_cfg))
        told = with_whole_timesteps(model) if sampler in WHOLE_TIMESTEPS else model
        guider = host.AVGuider(told, positive, negative, guidance)
        sigmas = last_part(sampler, steps, host.model_shift(model), denoise)
        seed = AV(video_seed, audio_seed)
        return io.NodeOutput(sample(guider, sampler, sigmas, latent, seed, fresh=denoise == 1))


def last_part(sampler: str, steps: int, shift: float, denoise: float) -> Tensor:
    """Sigmas of `steps` steps, the last part of a longer schedule where `denoise` is below 1."""
    return SCHEDULES[sampler](max(steps, int(steps / denoise)), shift)[-steps - 1 :]


def sample(
    guider: host.AVGuider, sampler: str, sigmas: Tensor, latent: dict[str, Any], seed: AV[int], fresh: bool
) -> dict[str, Any]:
    """LATENT with both streams sampled. fresh: begin with the noise alone, whatever the latent holds."""
    noise = draw_noise(host.unnested(latent["samples"]).map(lambda one: tuple(one.shape)), seed)
    samples = guider.sample(
        host.nested(noise),
        latent["samples"],
        host.core_sampler(SAMPLERS[sampler], fresh),
        sigmas,
        denoise_mask=latent.get("noise_mask"),
        seed=seed.video,
        **host.sampling_options(guider.model_patcher, len(sigmas) - 1),
    )
    made = check_finite(host.travelling(host.unnested(samples)), "at the end of sampling")
    return latent | {"samples": host.nested(made)}
