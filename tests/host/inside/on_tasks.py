"""Tasks as latents and masks: a picture, a sound or a clip is given. Parity with the core's pipeline."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import comfy.nested_tensor
import torch
from rig import HERE, NODES, core, difference, empty, error_of, host_nodes, joint, measure, pair, run, worst

SECONDS = {"seconds": 0.68}  # 17 frames, 21 latents of sound
ALONE = {"video_cfg": 1.0, "audio_cfg": 1.0, "steps": 3}


def pictures(frames: int, size: tuple[int, int] = (64, 64), seed: int = 5) -> torch.Tensor:
    return torch.rand(frames, *size, 3, generator=torch.Generator().manual_seed(seed))


def sound(samples: int, seed: int = 6, channels: int = 1) -> dict[str, Any]:
    waveform = 0.1 * torch.randn(1, channels, samples, generator=torch.Generator().manual_seed(seed))
    return {"waveform": waveform, "sample_rate": 16000}


def of_the_core(parts: Any = None, guide: tuple = (), **asked: Any) -> Any:
    """The latents that the core's own pipeline makes of the text of the rig, guided by `guide` alone."""
    pipeline, parts = core("unitalk_core.pipeline"), parts or core("nodes.loading").load_miniature()
    guidance, av = core("unitalk_core.diffusion.guidance"), core("unitalk_core.av")
    by_task = (guidance.Without(voice=True), guidance.Without(coupling=True))
    off = tuple(guidance.Term(one, av.AV(1.0, 1.0)) for one in by_task)
    words = {"scene": "a woman", "say": "hello melody", "sound": "a calm voice", "sampler": "euler"}
    trace = pipeline.Trace()
    given = words | ALONE | {"seed": 1, "audio_seed": 2, "guide": guidance.Guidance((*guide, *off))} | asked
    pipeline.generate(pipeline.Bundle(*parts), pipeline.Request(**given), trace=trace)
    return trace.latents


def masks(latent: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(latent["noise_mask"].unbind())


@measure
def tasks_against_core() -> dict[str, list[float]]:
    """Our sampler on the latents of the task nodes, and the pipeline on the same request."""
    frames, heard, image = pictures(17, (40, 50)), sound(17 * 640), pictures(1, (100, 80))
    old, last = pictures(21), pictures(1, (64, 64), 7)
    clip = core("unitalk_core.av").Clip(old, sound(26 * 512)["waveform"][0], Fraction(25), 16000)
    voice, _ = run("UniTalkReferenceAudioEncode", HERE.positive, HERE.audio_vae, sound(26 * 512))
    start = {name: empty(**SECONDS) for name in ("dub", "drive", "image")}
    longer = empty(seconds=1.0)  # the 17 frames that are seen, and 8 more
    both = run("UniTalkImageToLatent", start["image"], HERE.vae, image, last)
    dub = run("UniTalkKeepVideo", start["dub"], HERE.vae, frames)
    drive = run("UniTalkKeepAudio", start["drive"], HERE.audio_vae, heard)
    goes_on, _ = run("UniTalkContinue", longer, HERE.vae, HERE.audio_vae, 25.0, 0.68, old, sound(26 * 512))
    waveform = heard["waveform"][0, 0]
    asked = {
        "image": (both, {"image": image[0], "last_image": last[0], "seconds": 0.68}),
        "dub": (dub, {"keep_video": frames}),
        "drive": (drive, {"keep_audio": waveform}),
        "continue": (
            goes_on,
            {"continued": clip, "overlap": 0.68, "seconds": 0.32, "voice": clip.waveform[0]},
        ),
    }
    return {
        name: difference(
            joint(latent=latent, positive=voice if name == "continue" else None, **ALONE),
            of_the_core(**request),
        )
        for name, (latent, request) in asked.items()
    }


@measure
def tasks_in_a_chain() -> dict[str, bool]:
    """A picture, then a sound, in both orders; and what each keeps comes back bit by bit."""
    image, heard = pictures(1), sound(17 * 640)
    one = run("UniTalkImageToLatent", empty(**SECONDS), HERE.vae, image)
    one = run("UniTalkKeepAudio", one, HERE.audio_vae, heard)
    other = run("UniTalkKeepAudio", empty(**SECONDS), HERE.audio_vae, heard)
    other = run("UniTalkImageToLatent", other, HERE.vae, image)
    made = joint(latent=one, **ALONE)
    video, audio = pair(made)
    video_mask, audio_mask = masks(one)
    again = run("UniTalkKeepVideo", made)
    redone = joint(latent=again, **(ALONE | {"audio_seed": 9}))
    kept_twice = run("UniTalkKeepAudio", made)
    stock = ksampler(one)
    return {
        "the order does not matter": all(
            map(torch.equal, [*pair(one), *masks(one)], [*pair(other), *masks(other)])
        ),
        "the masks say what is made": [
            float(one.mean()) for one in (video_mask[:, :, 0], video_mask[:, :, 1:])
        ]
        == [0.0, 1.0]
        and not audio_mask.any(),
        "the first frame stays": torch.equal(video[:, :, 0], pair(one)[0][:, :, 0]),
        "the sound stays": torch.equal(audio, pair(one)[1]),
        "the rest is made": bool(video[:, :, 1:].any()),
        "a stock sampler keeps them too": torch.equal(pair(stock)[1], audio)
        and torch.allclose(pair(stock)[0][:, :, 0], video[:, :, 0], atol=1e-5),
        "a take keeps its picture and gets another sound": torch.equal(pair(redone)[0], video),
        "a take keeps its sound": not masks(kept_twice)[1].any() and bool(masks(kept_twice)[0].any()),
    }


def ksampler(latent: dict[str, Any]) -> dict[str, Any]:
    texts = (HERE.positive, HERE.negative)
    return host_nodes.common_ksampler(HERE.model, 3, 3, 2.0, "euler", "simple", *texts, latent)[0]


@measure
def kept_picture_does_not_hear() -> list[bool]:
    """Whether the network is told that the picture hears the sound, and the other way, by KSampler."""
    told = []
    network = HERE.model.model.diffusion_model
    forward = type(network)._velocity

    def watched(self: Any, *args: Any, couple: Any = (True, True), **kwargs: Any) -> Any:
        told.append(list(couple))
        return forward(self, *args, couple=couple, **kwargs)

    type(network)._velocity = watched
    try:
        ksampler(run("UniTalkKeepVideo", empty(**SECONDS), HERE.vae, pictures(17)))
        ksampler(run("UniTalkKeepAudio", empty(**SECONDS), HERE.audio_vae, sound(17 * 640)))
        ksampler(run("UniTalkImageToLatent", empty(**SECONDS), HERE.vae, pictures(1)))
    finally:
        type(network)._velocity = forward
    return [told[0], told[3], told[6], len(told) == 9]


@measure
def batches_of_tasks() -> dict[str, Any]:
    """One picture for all clips of a batch, one for each, and a sound for all."""
    latent = empty(**SECONDS, batch_size=2)
    alike = run("UniTalkImageToLatent", latent, HERE.vae, pictures(1))
    apart = run("UniTalkImageToLatent", latent, HERE.vae, pictures(2))
    heard = run("UniTalkKeepAudio", apart, HERE.audio_vae, sound(17 * 640, channels=2))
    made = joint(latent=heard, **ALONE)
    alone = empty(**SECONDS)
    stock = run("VAEEncodeAudio", HERE.audio_vae, sound(21 * 512)) if "VAEEncodeAudio" in NODES else None
    return {
        "alike": torch.equal(*pair(alike)[0][:, :, 0]),
        "apart": [worst(pair(apart)[0][:1, :, :1], first) for first in first_latents(pictures(2)[:1], alone)],
        "kept": torch.equal(pair(made)[1], pair(heard)[1]) and torch.equal(*pair(made)[1]),
        "stock": None if stock is None else list(stock["samples"].shape),
    }


def first_latents(image: torch.Tensor, latent: dict[str, Any]) -> list[torch.Tensor]:
    return [pair(run("UniTalkImageToLatent", latent, HERE.vae, image))[0][:, :, :1]]


@measure
def clip_goes_on() -> dict[str, Any]:
    """From frames and sound, and from their latent; joined to the old clip."""
    old, heard = pictures(21), sound(26 * 512)
    latent, seen = run(
        "UniTalkContinue", empty(seconds=1.0), HERE.vae, HERE.audio_vae, 25.0, 0.68, old, heard
    )
    made = joint(latent=latent, **ALONE)
    new = (run("UniTalkWanVAEDecode", made, HERE.vae), run("UniTalkBigVGANVocode", made, HERE.audio_vae))
    images, audio = run("UniTalkJoinClips", old, heard, *new, HERE.audio_vae, 25.0, seen)
    first = joint(latent=empty(seconds=0.84), **ALONE)
    decoded = (
        run("UniTalkWanVAEDecode", first, HERE.vae),
        run("UniTalkBigVGANVocode", first, HERE.audio_vae),
    )
    ends = [
        run("UniTalkContinue", empty(seconds=1.0), HERE.vae, HERE.audio_vae, 25.0, 0.68, *given)[0]
        for given in ((*decoded, None), (None, None, first))
    ]
    return {
        "seen": seen,
        "made": [int(masks(latent)[0].amin((3, 4)).sum()), int(masks(latent)[1].sum())],
        "frames": list(images.shape),
        "old frames": torch.equal(images[:21], old),
        "sound": [list(audio["waveform"].shape), audio["sample_rate"]],
        "old sound": torch.equal(audio["waveform"][0, :, : 26 * 512 - 240], heard["waveform"][0, :, :-240]),
        "of a latent": [worst(a, b) for a, b in zip(pair(ends[1]), pair(ends[0]), strict=True)],
    }


@measure
def lengths_of_tasks() -> dict[str, Any]:
    """A picture and a sound of other lengths than the clip's, padded and trimmed."""
    found = {}
    for mode, frames in (("pad", 13), ("trim", 20)):
        latent = run("UniTalkKeepVideo", empty(**SECONDS), HERE.vae, pictures(frames), mode)
        found[f"picture {mode}"] = [list(pair(latent)[0].shape), bool(masks(latent)[0].any())]
    for mode, samples in (("pad", 5000), ("trim", 20000)):
        latent = run("UniTalkKeepAudio", empty(**SECONDS), HERE.audio_vae, sound(samples), mode)
        found[f"sound {mode}"] = [list(pair(latent)[1].shape), bool(masks(latent)[1].any())]
    near = [
        run("UniTalkKeepAudio", empty(**SECONDS), HERE.audio_vae, sound(n))
        for n in (10752 - 1200, 10752 + 1200)
    ]
    return found | {"near": [list(pair(one)[1].shape) for one in near]}


@measure
def task_sentences() -> dict[str, str]:
    latent, vae, audio_vae = empty(**SECONDS), HERE.vae, HERE.audio_vae
    silent = {"samples": torch.zeros(1, 48, 5, 4, 4)}
    deaf = {"samples": torch.zeros(1, 20, 21)}
    two = {"samples": comfy.nested_tensor.NestedTensor([torch.zeros(2, 48, 5, 4, 4), torch.zeros(2, 20, 21)])}
    one_frame = empty(seconds=0.04)
    going = (HERE.vae, HERE.audio_vae, 25.0, 0.68)
    calls = {
        "no image": lambda: run("UniTalkImageToLatent", latent, vae),
        "three images": lambda: run("UniTalkImageToLatent", latent, vae, pictures(3)),
        "an end of one frame": lambda: run("UniTalkImageToLatent", one_frame, vae, None, pictures(1)),
        "an image for sound": lambda: run("UniTalkImageToLatent", deaf, vae, pictures(1)),
        "the audio VAE for an image": lambda: run("UniTalkImageToLatent", latent, audio_vae, pictures(1)),
        "a picture too short": lambda: run("UniTalkKeepVideo", latent, vae, pictures(13)),
        "a picture too long": lambda: run("UniTalkKeepVideo", latent, vae, pictures(18), "pad"),
        "frames without a VAE": lambda: run("UniTalkKeepVideo", latent, None, pictures(17)),
        "an empty picture": lambda: run("UniTalkKeepVideo", latent),
        "an empty sound": lambda: run("UniTalkKeepAudio", latent),
        "a sound too short": lambda: run("UniTalkKeepAudio", latent, audio_vae, sound(5000)),
        "a sound too long": lambda: run("UniTalkKeepAudio", latent, audio_vae, sound(20000)),
        "the video VAE for sound": lambda: run("UniTalkKeepAudio", latent, vae, sound(10752)),
        "sound of another VAE": lambda: run(
            "UniTalkKeepAudio",
            {
                "samples": comfy.nested_tensor.NestedTensor(
                    [torch.zeros(1, 48, 5, 4, 4), torch.zeros(1, 40, 21)]
                )
            },
            audio_vae,
            sound(10752),
        ),
        "no sound": lambda: run("UniTalkKeepAudio", silent, audio_vae, sound(10752)),
        "a clip twice": lambda: run("UniTalkContinue", latent, *going, pictures(21), None, latent),
        "no clip": lambda: run("UniTalkContinue", latent, *going),
        "a clip without sound": lambda: run("UniTalkContinue", latent, *going, pictures(21)),
        "two clips": lambda: run("UniTalkContinue", latent, *going, None, None, two),
        "no room": lambda: run("UniTalkContinue", latent, *going, pictures(21), sound(21 * 640)),
        "another rate": lambda: run(
            "UniTalkContinue", latent, vae, audio_vae, 24.0, 0.68, pictures(21), sound(21 * 640)
        ),
        "too short to go on": lambda: run("UniTalkContinue", latent, *going, pictures(4), sound(4 * 640)),
        "other lengths": lambda: run("UniTalkContinue", latent, *going, pictures(21), sound(5000)),
        "too many seen": lambda: run(
            "UniTalkJoinClips", pictures(9), sound(5760), pictures(9), sound(5760), audio_vae, 25.0, 9
        ),
    }
    return {name: error_of(call) for name, call in calls.items()}
