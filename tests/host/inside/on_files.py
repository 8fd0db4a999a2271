"""Wan2.2 and Ovi from their files: loaded, put together, sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.sd
import folder_paths
import torch
from full_size import FOLDER, noise, normalised, ovi, save, scaled, stream, wan
from rig import HERE, NODES, core, error_of, measure, run, stock, worst

NEGATIVE = ("jitter, bad hands, blur, distortion", "robotic, muffled, echo, distorted")
SEEDS = {"video_seed": 1, "audio_seed": 2, "denoise": 1.0}


def equal(ours: Any, theirs: Any) -> bool:
    ours, theirs = (one.model.diffusion_model.state_dict() for one in (ours, theirs))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def saved(model: Any) -> Path:
    """What the stock node writes, where our loader finds it."""
    stock("ModelSave", model, "files/new")
    folder = Path(folder_paths.get_output_directory(), "files")
    folder_paths.add_model_folder_path("diffusion_models", str(folder))
    (file,) = folder.glob("new_*.safetensors")
    return file


def written(markup: str) -> Any:
    return run("UniTalkTextEncode", HERE.clip, "a woman", "hello melody", "rain", markup)[0]


@measure
def assembled() -> dict[str, Any]:
    """A new model of Wan's picture stream: said, sampled, saved, loaded again, made a second time."""
    picture = save("wan.safetensors", {f"model.diffusion_model.{key}": one for key, one in wan().items()})
    model, info = run("UniTalkAssembleModel", picture, "twin", 0, "default")
    latent = run("UniTalkEmptyLatent", model, 64, 64, 0.6, 0.0, 1)[0]
    text = written("unitalk")
    given = (model, text, text, latent)
    made = run("UniTalkJointSampler", *given, **SEEDS, steps=2, sampler="euler", video_cfg=1.0, audio_cfg=1.0)
    video, audio = normalised(made)
    drawn = noise(latent)
    file = saved(model)
    loaded, told = run("UniTalkLoadModel", file.name, "none", "default")
    make, args = model.cached_patcher_init
    found = {
        "info": info,
        "picture": worst(video, drawn.video),
        "sound": worst(audio, drawn.audio),
        "loaded": equal(model, loaded) and loaded.model.unitalk == model.model.unitalk,
        "told": told,
        "again": equal(model, make(*args, disable_dynamic=True)),
        "wrong": error_of(lambda: run("UniTalkAssembleModel", file.name, "twin", 0, "default")),
    }
    file.unlink()
    found["heard"] = error_of(lambda: run("UniTalkHearWhileSampling", model, HERE.audio_vae))
    sound = save("ovi_audio.safetensors", stream(ovi(), "audio_model."))
    model, found["ovi"] = run("UniTalkAssembleModel", picture, sound, 0, "bf16")
    found["dtypes"] = sorted({str(one.dtype) for one in model.model.diffusion_model.parameters()})
    found["length"] = list(
        run("UniTalkEmptyLatent", model, 64, 64, 5.04, 0.0, 1)[0]["samples"].unbind()[1].shape
    )
    return found


def ovi_text(markup: str = "ovi-720") -> tuple[Any, Any]:
    return written(markup), run("UniTalkNegativeEncode", HERE.clip, *NEGATIVE)


def ovi_by_the_core(name: str, latent: dict[str, Any], texts: tuple[Any, Any]) -> Any:
    """Ovi's loop at two steps, with its strengths, from the file alone."""
    av, denoiser = core("unitalk_core.av"), core("unitalk_core.diffusion.denoiser")
    network, found = core("unitalk_core.weights.loading").load_model(FOLDER / name)
    positive, negative = texts
    against = av.AV(negative[0][0], negative[0][1]["sound_context"])
    denoise = denoiser.Denoiser(
        model=network,
        cond=denoiser.Conditioning(av.AV(positive[0][0], positive[0][0])),
        uncond=denoiser.Conditioning(against),
        guidance=core("unitalk_core.diffusion.guidance").cfg(av.AV(4.0, 3.0)),
        shift=found.shift,
        integer_timesteps=True,
    )
    sigmas = core("unitalk_core.diffusion.schedules").SCHEDULES["unipc"](2, found.shift)
    return core("unitalk_core.diffusion.samplers").SAMPLERS["unipc"](denoise, noise(latent), sigmas)


def ovi_sampled(*names: str, seconds: float, markup: str) -> dict[str, Any]:
    """From the file to a clip through the nodes, beside the core."""
    model, info = run("UniTalkLoadModel", *(*names, "none")[:2], "fp32")
    latent, frames, fps = run("UniTalkEmptyLatent", model, 64, 64, seconds, 0.0, 1)
    texts = ovi_text(markup)
    strengths = {"video_cfg": 4.0, "audio_cfg": 3.0}
    made = run("UniTalkJointSampler", model, *texts, latent, **SEEDS, steps=2, sampler="unipc", **strengths)
    video, audio = normalised(made)
    ours = ovi_by_the_core(names[0], latent, texts) if len(names) == 1 else None
    return {
        "info": info,
        "made": made,
        "frames": [frames, fps],
        "shapes": [list(video.shape), list(audio.shape)],
        "difference": [] if ours is None else [worst(video, ours.video), worst(audio, ours.audio)],
    }


@measure
def ovi_720() -> dict[str, Any]:
    """Five seconds of 64 x 64, decoded and joined."""
    found = ovi_sampled(save("Ovi/model.safetensors", ovi()), seconds=5.04, markup="ovi-720")
    made = found.pop("made")
    images = run("UniTalkWanVAEDecode", made, HERE.vae, 0, 64)
    audio = run("UniTalkBigVGANVocode", made, HERE.audio_vae)
    video = run("UniTalkMuxAV", images, audio, found["frames"][1], "error", "", "none", False)[0]
    parts = video.get_components()
    sound = list(parts.audio["waveform"].shape), parts.audio["sample_rate"]
    return found | {"sound": sound, "pictures": list(parts.images.shape), "rate": float(parts.frame_rate)}


@measure
def ovi_960_10s() -> dict[str, Any]:
    """Ten seconds, in the markup of the 960 models; in the other one it stops."""
    name = save("Ovi/model_960x960_10s.safetensors", ovi())
    model = run("UniTalkLoadModel", name, "none", "fp32")[0]
    latent = run("UniTalkEmptyLatent", model, 64, 64, 0.6, 0.0, 1)[0]
    short = {"steps": 1, "sampler": "unipc", "video_cfg": 4.0, "audio_cfg": 3.0}
    wrong = error_of(lambda: run("UniTalkJointSampler", model, *ovi_text(), latent, **SEEDS, **short))
    found = ovi_sampled(name, seconds=10.04, markup="ovi-960")
    del found["made"]
    return found | {"wrong": wrong}


@measure
def ovi_in_two_files() -> dict[str, Any]:
    """The picture's file without a prefix, the sound's with its own, as they are shared."""
    bare = {key.removeprefix("video_model."): one for key, one in stream(ovi(), "video_model.").items()}
    picture = save("Ovi/Wan_2_2_Ovi_video_model_bf16.safetensors", bare)
    sound = save("Ovi/Wan_2_2_Ovi_audio_model_bf16.safetensors", stream(ovi(), "audio_model."))
    both = save("Ovi/model.safetensors", ovi())
    found = ovi_sampled(picture, sound, seconds=0.6, markup="ovi-720")
    whole = ovi_sampled(both, seconds=0.6, markup="ovi-720")
    pairs = zip(normalised(found["made"]), normalised(whole["made"]), strict=True)
    files = ((picture, sound), (both, "none"))
    return {
        "same": equal(*(run("UniTalkLoadModel", *names, "fp32")[0] for names in files)),
        "difference": [worst(a, b) for a, b in pairs],
        "alone": error_of(lambda: run("UniTalkLoadModel", sound, "none", "default")),
    }


def forms() -> dict[str, Any]:
    """How Wan's file is published: name of the file -> its tensors."""
    plain = wan()
    half = {key: one.half() for key, one in plain.items()}
    fp8 = {key: one.to(torch.float8_e4m3fn) if is_matrix(key, one) else one for key, one in half.items()}
    keymaps = core("unitalk_core.weights.keymaps")
    return {
        "fp16.safetensors": half,
        "bf16.pth": {key: one.bfloat16() for key, one in plain.items()},
        "diffusers.safetensors": keymaps.rename(half, keymaps.reversed_table(keymaps.WAN_IN_DIFFUSERS)),
        "fp8.safetensors": fp8,
        "scaled.safetensors": {f"model.diffusion_model.{key}": one for key, one in scaled(half).items()},
        "shards/model.safetensors.index.json": half,
    }


def is_matrix(key: str, one: torch.Tensor) -> bool:
    return "blocks." in key and one.ndim == 2


def one_step(model: Any) -> torch.Tensor:
    latent = run("UniTalkEmptyLatent", model, 64, 64, 0.6, 0.0, 1)[0]
    strengths = {"video_cfg": 1.0, "audio_cfg": 1.0}
    text = written("unitalk")
    given = (model, text, text, latent)
    return run("UniTalkJointSampler", *given, **SEEDS, steps=1, sampler="euler", **strengths)["samples"]


def in_memory(model: Any) -> list[str]:
    """How the matrices of the first block are held, and whether they are multiplied in full precision."""
    layer = model.model.diffusion_model.video_model.blocks[0].ffn[0]
    held = getattr(layer.weight, "_qdata", layer.weight).dtype
    return [str(held), str(getattr(layer, "_full_precision_mm_config", None))]


def saved_and_loaded(model: Any) -> Any:
    file = saved(model)
    loaded, _ = run("UniTalkLoadModel", file.name, "none", "default")
    file.unlink()
    return loaded


@measure
def published_forms() -> dict[str, Any]:
    """Each form of one model, from its file to a step of sampling, against the weights in float32."""
    exact = one_step(run("UniTalkLoadModel", save("fp32.safetensors", wan()), "none", "fp32")[0])
    found: dict[str, Any] = {}
    for name, tensors in forms().items():
        model, _ = run("UniTalkLoadModel", save(name, tensors), "none", "default")
        found[name] = [worst(one_step(model), exact), *in_memory(model)]
    for dtype in ("fp8_e4m3fn", "fp8_e4m3fn_fast"):
        model, told = run("UniTalkLoadModel", "fp16.safetensors", "none", dtype)
        found[dtype] = [worst(one_step(model), exact), *in_memory(model)]
    found["heard"] = error_of(lambda: run("UniTalkHearWhileSampling", model, HERE.audio_vae))
    make, args = model.cached_patcher_init
    plain = one_step(model)
    found["again"] = worst(one_step(make(*args, disable_dynamic=True)), plain)
    found["saved"] = worst(one_step(saved_and_loaded(model)), plain)
    lora = {
        f"diffusion_model.video_model.blocks.0.ffn.0.lora_{end}.weight": torch.full(size, 0.1)
        for end, size in (("up", (320, 2)), ("down", (2, 256)))
    }
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
    found["lora"] = [worst(one_step(patched), plain), worst(one_step(model), plain)]
    options = {one.id: one.options for one in NODES["UniTalkLoadModel"].define_schema().inputs}
    found["listed"] = "shards/model.safetensors.index.json" in options["model_name"]
    found["told"] = told
    shard = "shards/model-00001-of-00002.safetensors"
    found["a shard"] = error_of(lambda: run("UniTalkLoadModel", shard, "none", "default"))
    return found
