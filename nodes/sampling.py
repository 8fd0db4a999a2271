"""Nodes that sample: picture and sound from noise, together, in one box or in parts for the stock one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..unitalk_core.av import AV, draw_takes
from ..unitalk_core.diffusion.cache import StepCache
from ..unitalk_core.diffusion.guidance import Term, Without
from ..unitalk_core.diffusion.schedules import last_part
from ..unitalk_core.pipeline import check_finite
from . import hearing, host, stepping
from .host import io

SEED = {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF, "control_after_generate": True}
THRESHOLD = {"default": 0.1, "min": 0.0, "max": 1.0, "step": 0.01}
STRENGTH = {"default": 2.0, "min": 0.0, "max": 30.0, "step": 0.1}


class UniTalkJointSampler(io.ComfyNode):
    """The usual sampler box, with a seed and a strength for each stream."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkJointSampler",
            display_name="UniTalk Joint Sampler",
            search_aliases=["ksampler", "sample audio video", "unipc"],
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
                    options=["unipc", "dpmpp_2m", "euler", "heun", "dpmpp_3m"],
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
        text = Term(Without(text=True), AV(video_cfg, audio_cfg))
        guider = stepping.AVGuider(model, positive, negative, text)
        sigmas = last_part(sampler, steps, host.model_shift(model), denoise)
        seed = AV(video_seed, audio_seed)
        return io.NodeOutput(sample(guider, sampler, sigmas, latent, seed, fresh=denoise == 1))


def sample(
    guider: stepping.AVGuider,
    sampler: str,
    sigmas: Tensor,
    latent: dict[str, Any],
    seed: AV[int],
    fresh: bool,
) -> dict[str, Any]:
    """LATENT with both streams sampled. fresh: begin with the noise alone, whatever the latent holds."""
    samples = guider.sample(
        TakeNoise(seed).generate_noise(latent),
        latent["samples"],
        stepping.core_sampler(sampler, fresh),
        sigmas,
        denoise_mask=latent.get("noise_mask"),
        seed=seed.video,
        **host.sampling_options(guider.model_patcher, len(sigmas) - 1),
    )
    made = check_finite(host.travelling(host.unnested(samples)), "at the end of sampling")
    return latent | {"samples": host.nested(made)}


class UniTalkNoise(io.ComfyNode):
    """Noise with a seed for each stream."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkNoise",
            display_name="UniTalk Noise",
            search_aliases=["random noise", "two seeds", "seed"],
            category="UniTalk/sampling",
            description="Noise with one seed for the picture and one for the sound, for any model's latents.",
            inputs=[
                io.Int.Input(
                    "video_seed", **SEED, tooltip="Another picture; the noise of the sound stays as it is."
                ),
                io.Int.Input(
                    "audio_seed",
                    **SEED,
                    tooltip="Another take of the sound. It does not change with the size of the picture.",
                ),
            ],
            outputs=[io.Noise.Output(display_name="noise", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, video_seed: int, audio_seed: int) -> io.NodeOutput:
        return io.NodeOutput(TakeNoise(AV(video_seed, audio_seed)))


class TakeNoise:
    """NOISE: take i of a batch is what a single clip gets from both seeds raised by i."""

    def __init__(self, seeds: AV[int]) -> None:
        self.seeds = seeds
        self.seed = seeds.video  # of what ancestral samplers add

    def generate_noise(self, latent: dict[str, Any]) -> Any:
        shapes = host.av_of(latent).map(lambda one: tuple(one.shape))
        takes = latent.get("batch_index") or range(host.clips_of(host.streams_of(latent)))
        return host.nested(draw_takes(shapes, self.seeds, takes))


class UniTalkFlowSampler(io.ComfyNode):
    """The reference solvers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkFlowSampler",
            display_name="UniTalk Flow Sampler",
            search_aliases=["ksampler select", "unipc", "dpm++ 3m", "solver"],
            category="UniTalk/sampling",
            description="The solvers of Wan and Ovi for flow models, as they were published.",
            inputs=[
                io.Combo.Input(
                    "sampler",
                    options=["unipc", "dpmpp_2m", "euler", "heun", "dpmpp_3m"],
                    default="unipc",
                    tooltip="unipc is UniTalking's and Ovi's; heun calls the model twice a step.",
                ),
            ],
            outputs=[io.Sampler.Output(display_name="sampler", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, sampler: str) -> io.NodeOutput:
        return io.NodeOutput(stepping.core_sampler(sampler))


class UniTalkSchedule(io.ComfyNode):
    """The reference schedules."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkSchedule",
            display_name="UniTalk Schedule",
            search_aliases=["scheduler", "sigmas", "basic scheduler"],
            category="UniTalk/sampling",
            description="The noise levels that belong to each reference solver.",
            inputs=[
                io.Model.Input("model", tooltip="Its shift is taken where none is given."),
                io.Combo.Input(
                    "schedule",
                    options=["unipc", "dpmpp_2m", "euler", "heun", "dpmpp_3m"],
                    default="unipc",
                    tooltip="The same name as in UniTalk Flow Sampler.",
                ),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Calls of the model; 20 to 50."),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1 the latent is changed, not replaced: the last part of a schedule.",
                ),
                io.Float.Input(
                    "shift",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="More steps at high noise. 0 = the model's own.",
                    advanced=True,
                ),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, model: Any, schedule: str, steps: int, denoise: float, shift: float) -> io.NodeOutput:
        return io.NodeOutput(last_part(schedule, steps, shift or host.model_shift(model), denoise))


class UniTalkStepCache(io.ComfyNode):
    """Steps that would change little are not computed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkStepCache",
            display_name="UniTalk Step Cache",
            search_aliases=["easycache", "teacache", "speed up"],
            category="UniTalk/sampling",
            description="Take a step from the one before where neither picture nor sound would change much.",
            inputs=[
                io.Model.Input("model", tooltip="A UniTalk model, for any guider and sampler."),
                io.Float.Input(
                    "video_threshold",
                    **THRESHOLD,
                    tooltip="Change of the picture below which a step is skipped.",
                ),
                io.Float.Input(
                    "audio_threshold", **THRESHOLD, tooltip="The same for the sound; both must be below."
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.15,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The first steps are always computed.",
                    advanced=True,
                ),
                io.Float.Input(
                    "end_percent",
                    default=0.95,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The last ones too.",
                    advanced=True,
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For any guider and sampler.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        video_threshold: float,
        audio_threshold: float,
        start_percent: float,
        end_percent: float,
    ) -> io.NodeOutput:
        host.config_of(model)
        rule = StepCache(AV(video_threshold, audio_threshold), start_percent, end_percent)
        return io.NodeOutput(stepping.with_cache(model, rule))


class UniTalkHearWhileSampling(io.ComfyNode):
    """The sound of a clip while it is made."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkHearWhileSampling",
            display_name="UniTalk Hear While Sampling",
            search_aliases=["sound preview", "audio preview", "listen", "snippet"],
            category="UniTalk/sampling",
            description="Play the sound that is made so far in the node that samples, with any sampler.",
            inputs=[
                io.Model.Input("model", tooltip="A UniTalk model; the miniature is heard without this node."),
                io.Vae.Input(
                    "audio_vae", tooltip="The one that decodes the sound later, from UniTalk Load Audio VAE."
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For any guider and sampler.")],
        )

    @classmethod
    def execute(cls, model: Any, audio_vae: Any) -> io.NodeOutput:
        return io.NodeOutput(hearing.with_codec(model, audio_vae))
