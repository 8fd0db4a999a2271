"""Sampling, with our node and with the host's: parity with the core, masks, progress, interrupt."""

from __future__ import annotations

import copy
import tempfile
import wave
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.nested_tensor
import comfy.utils
import folder_paths
import numpy as np
import torch
from rig import (
    HERE,
    NODES,
    core,
    core_denoiser,
    core_noise,
    difference,
    empty,
    host_nodes,
    joint,
    measure,
    pair,
    run,
    worst,
)


@measure
def joint_sampler_against_core() -> dict[str, list[float]]:
    schedules, samplers = core("unitalk_core.diffusion.schedules"), core("unitalk_core.diffusion.samplers")
    found = {}
    for name in ("euler", "unipc", "dpmpp_2m", "heun"):
        denoise = core_denoiser(2.0, 3.0, integer_timesteps=name in ("unipc", "dpmpp_2m"))
        sigmas = schedules.SCHEDULES[name](4, 3.0)
        found[name] = difference(
            joint(sampler=name, steps=4), samplers.SAMPLERS[name](denoise, core_noise(), sigmas)
        )
    return found


def stock_sampler(guider: Any, scales: tuple[float, float]) -> list[float]:
    """SamplerCustomAdvanced with stock Euler on the core's noise and sigmas, against the core."""
    sigmas = core("unitalk_core.diffusion.schedules").SCHEDULES["euler"](4, 3.0)
    noise = core_noise()
    given = SimpleNamespace(
        seed=0, generate_noise=lambda _: comfy.nested_tensor.NestedTensor(noise.present())
    )
    latent = run("SamplerCustomAdvanced", given, guider, run("KSamplerSelect", "euler"), sigmas, empty())[0]
    ours = core("unitalk_core.diffusion.samplers").sample_euler(core_denoiser(*scales), noise, sigmas)
    return difference(latent, ours)


@measure
def stock_sampler_against_core_CFGGuider() -> list[float]:  # noqa: N802  (the host's name)
    return stock_sampler(run("CFGGuider", HERE.model, HERE.positive, HERE.negative, 2.0), (2.0, 2.0))


@measure
def stock_sampler_against_core_LTXVDualCFGGuider() -> list[float]:  # noqa: N802  (the host's name)
    guider = run("LTXVDualCFGGuider", HERE.model, HERE.positive, HERE.negative, 2.0, 3.0)
    return stock_sampler(guider, (2.0, 3.0))


@measure
def stock_nodes_run() -> list[list[int]]:
    """Shapes from KSampler and from SamplerCustomAdvanced with RandomNoise and BasicScheduler."""
    sigmas = run("BasicScheduler", HERE.model, "simple", 2, 1.0)
    guider = run("CFGGuider", HERE.model, HERE.positive, HERE.negative, 2.0)
    given = (run("RandomNoise", 5), guider, run("KSamplerSelect", "euler"), sigmas, empty(batch_size=2))
    advanced = run("SamplerCustomAdvanced", *given)[0]
    plain = ksampler(empty(batch_size=2), steps=2)
    return [list(one.shape) for latent in (advanced, plain) for one in pair(latent)]


def ksampler(
    latent: dict[str, Any], steps: int = 3, sampler: str = "euler", denoise: float = 1.0
) -> dict[str, Any]:
    texts = (HERE.positive, HERE.negative)
    return host_nodes.common_ksampler(
        HERE.model, 3, steps, 2.0, sampler, "simple", *texts, latent, denoise=denoise
    )[0]


@measure
def progress_and_preview() -> dict[str, Any]:
    """What the progress hook of the host hears from KSampler and from the joint sampler."""
    heard = {"ksampler": [], "joint": []}

    def listen(name: str) -> None:
        def hook(value: int, total: int, preview: Any, **_: Any) -> None:
            heard[name].append([value, total, None if preview is None else list(preview[1].size)])

        comfy.utils.set_progress_bar_global_hook(hook)

    listen("ksampler")
    ksampler(empty())
    listen("joint")
    joint()
    comfy.utils.set_progress_bar_global_hook(None)
    return heard


@measure
def preview_of_sound() -> dict[str, Any]:
    """The last preview picture of each sampler, and of a model without a map from sound to mels."""
    shown, form = {}, HERE.model.model.latent_format

    def last(sample: Callable[[], Any]) -> np.ndarray:
        seen: list[Any] = []
        comfy.utils.set_progress_bar_global_hook(lambda *event, **_: seen.append(event[2][1]))
        sample()
        comfy.utils.set_progress_bar_global_hook(None)
        return np.asarray(seen[-1]) / 255

    for name, sample in (("ksampler", lambda: ksampler(empty())), ("joint", joint)):
        shown[name] = last(sample)
    sound_map, form.sound_map = form.sound_map, None
    plain = last(joint)
    form.sound_map = sound_map
    rows = shown["joint"].shape[0] * 2 // 3
    strip = shown["joint"][rows:, :, 0]
    mel = core("nodes.preview").sound_picture(pair(joint())[1][0], sound_map)[None, None]
    wanted = torch.nn.functional.interpolate(mel, size=strip.shape, mode="bilinear", antialias=True)
    return {
        "sizes": {name: list(one.shape) for name, one in shown.items()},
        "grey": float(np.ptp(shown["joint"][rows:], axis=-1).max()),
        "mel": float(np.abs(strip - wanted[0, 0].numpy()).mean()),
        "without a map": float(np.abs(plain[rows:] - shown["joint"][rows:]).mean()),
        "left behind": form.heard is not None,
    }


@measure
def sound_snippet() -> dict[str, Any]:
    """Samples and rate of the files of a short and of a long sound; what is left where no browser listens."""
    hearing, codec = core("nodes.hearing"), HERE.model.model.latent_format.codec
    before, folder = folder_paths.get_temp_directory(), Path(tempfile.mkdtemp())
    folder_paths.set_temp_directory(str(folder))
    try:
        _, sound = pair(joint())
        left = list(folder.iterdir())
        names = [hearing.write_snippet(codec, one, "5") for one in (sound, sound.repeat(2, 1, 20))]
        with wave.open(str(folder / names[1])) as file:
            long = [file.getnframes(), file.getframerate(), file.getnchannels()]
    finally:
        folder_paths.set_temp_directory(before)
    return {"left": len(left), "one file": len(set(names)), "long": long}


@measure
def heard_while_sampling() -> dict[str, Any]:
    """Whose audio codec a MODEL is heard with; what a device without room for it does."""
    key, form = core("nodes.hearing").CODEC, HERE.model.model.latent_format
    model = run("UniTalkHearWhileSampling", HERE.model, HERE.audio_vae)
    guided = run("UniTalkCouplingGuidance", model, 2.0, 2.0, 0.0, 1.0)
    codec = HERE.audio_vae.first_stage_model.codec

    def full(*_: Any) -> Any:
        raise comfy.model_management.OOM_EXCEPTION("full")

    crowded = copy.copy(codec)
    crowded.decode = full
    snippets = core("nodes.hearing").Snippets(crowded)
    snippets.tell(pair(joint())[1], "5", "a browser")
    return {
        "followed": [one.model_options.get(key) is codec for one in (model, guided)],
        "left": [key in HERE.model.model_options, form.heard is not None],
        "crowded": snippets.codec is None,
    }


@measure
def interrupt() -> dict[str, Any]:
    """Stop in the second step, and sample again afterwards."""
    found = {}
    for name, sample in (("ksampler", lambda: ksampler(empty(), steps=6)), ("joint", lambda: joint(steps=6))):
        steps = []

        def hook(value: int, total: int, preview: Any, **_: Any) -> None:
            steps.append(value)  # noqa: B023
            comfy.model_management.interrupt_current_processing(value == 2)

        comfy.utils.set_progress_bar_global_hook(hook)
        try:
            sample()
            ended = "no interrupt"
        except comfy.model_management.InterruptProcessingException:
            ended = "interrupted"
        comfy.utils.set_progress_bar_global_hook(None)
        sample()
        found[name] = [ended, max(steps)]
    return found


@measure
def kept_parts() -> dict[str, bool]:
    """Sound kept by a nested mask, and the first frame kept, with two samplers."""
    found = {}
    video, audio = pair(empty())
    start = [torch.randn(one.shape, generator=torch.Generator().manual_seed(3)) for one in (video, audio)]
    sound, frame = [torch.ones(1, 1, *video.shape[2:]), torch.zeros(1, 1, audio.shape[2])], None
    frame = [sound[0].clone(), torch.ones(1, 1, audio.shape[2])]
    frame[0][:, :, 0] = 0
    for name, masks in (("sound", sound), ("frame", frame)):
        latent = {
            "samples": comfy.nested_tensor.NestedTensor(start),
            "noise_mask": comfy.nested_tensor.NestedTensor(masks),
        }
        for sampler, sample in (("ksampler", ksampler), ("joint", lambda one: joint(latent=one))):
            made_video, made_audio = pair(sample(latent))
            if name == "sound":
                found[f"{sampler} keeps the sound"] = torch.equal(made_audio, start[1])
                found[f"{sampler} makes the picture"] = not torch.allclose(made_video, start[0])
            else:
                exact = sampler == "joint"
                first, given = made_video[:, :, 0], start[0][:, :, 0]
                same = torch.equal(first, given) if exact else torch.allclose(first, given, atol=1e-5)
                found[f"{sampler} keeps the first frame"] = same
                found[f"{sampler} makes the other frames"] = not torch.allclose(
                    made_video[:, :, 1], start[0][:, :, 1]
                )
    return found


@measure
def kept_sound_against_core() -> list[float]:
    """The picture to a given sound: per-token timesteps in the host and in the core."""
    av = core("unitalk_core.av")
    video, audio = pair(empty())
    given = torch.randn(audio.shape, generator=torch.Generator().manual_seed(3))
    masks = [torch.ones(1, 1, *video.shape[2:]), torch.zeros(1, 1, audio.shape[2])]
    latent = {
        "samples": comfy.nested_tensor.NestedTensor([video, given]),
        "noise_mask": comfy.nested_tensor.NestedTensor(masks),
    }
    denoise = core_denoiser(2.0, 3.0, clean=av.AV(video, given), denoise_mask=av.AV(*masks))
    sigmas = core("unitalk_core.diffusion.schedules").SCHEDULES["euler"](3, 3.0)
    ours = core("unitalk_core.diffusion.samplers").sample_euler(denoise, core_noise(), sigmas)
    return difference(joint(latent=latent), denoise.keep(ours))


@measure
def two_seeds() -> dict[str, bool]:
    """The sound's noise does not depend on the picture's size; each seed changes its stream."""
    av = core("unitalk_core.av")
    shapes = [
        core("nodes.host").unnested(empty(width=width)["samples"]).map(lambda one: tuple(one.shape))
        for width in (64, 96)
    ]
    small, large = (av.draw_noise(shape, av.AV(1, 2)) for shape in shapes)
    first, other = (
        joint(video_cfg=1.0, audio_cfg=1.0, steps=1),
        joint(video_cfg=1.0, audio_cfg=1.0, steps=1, video_seed=9),
    )
    return {
        "same sound noise at another size": torch.equal(small.audio, large.audio),
        "another picture": not torch.allclose(pair(first)[0], pair(other)[0]),
    }


@measure
def guidance_nodes() -> dict[str, float]:
    """The stock modality guidance and STG nodes change what is sampled."""
    plain = pair(joint(steps=2))
    modality = run("LTXVModalityGuidance", HERE.model, 3.0, 0.0, 1.0)
    stg = run("LTXVSpatioTemporalGuidance", HERE.model, 1.0, "2, 3", 0.0, 1.0)
    return {
        name: worst(pair(joint(model=one, steps=2))[0], plain[0])
        for name, one in (("modality", modality), ("stg", stg))
    }


@measure
def shift() -> list[float]:
    """The stock ModelSamplingSD3 changes the schedule of the joint sampler."""
    (patched,) = NODES["ModelSamplingSD3"]().patch(HERE.model, 7.0)
    look = core("nodes.host").model_shift
    return [look(HERE.model), look(patched), worst(pair(joint(model=patched))[0], pair(joint())[0])]
