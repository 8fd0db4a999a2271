"""The network under the host's model patcher: switches, patches, wrappers, LoRA, loading."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.hooks
import comfy.model_management
import comfy.nested_tensor
import comfy.patcher_extension
import comfy.sd
import comfy.utils
import folder_paths
import torch
from rig import HERE, SIZE, core, core_noise, empty, error_of, host_nodes, measure, run, stock, worst


def velocity(
    options: dict[str, Any] | None = None, model: Any = None, video: float = 0.0, audio: float = 0.0
) -> list[torch.Tensor]:
    """One call of the network, as the host's BaseModel makes it. video, audio: added to what goes in."""
    patcher = model or HERE.model
    comfy.model_management.load_model_gpu(patcher)
    noise = core_noise()
    x, shapes = comfy.utils.pack_latents([noise.video + video, noise.audio + audio])
    given = {
        "c_crossattn": HERE.positive[0][0],
        "latent_shapes": shapes,
        "transformer_options": options or {},
    }
    return comfy.utils.unpack_latents(patcher.model.apply_model(x, torch.tensor([0.7]), **given), shapes)


@measure
def coupling() -> dict[str, list[bool]]:
    """[picture hears sound, sound hears picture] with the host's switches for the two directions."""
    found = {}
    switches = {"on": {}, "a2v off": {"a2v_cross_attn": False}, "v2a off": {"v2a_cross_attn": False}}
    for name, options in switches.items():
        before = velocity(options)
        louder, brighter = velocity(options, audio=0.5), velocity(options, video=0.5)
        changed = [(before[0], louder[0]), (before[1], brighter[1])]
        found[name] = [not torch.allclose(a, b, atol=1e-6) for a, b in changed]
    return found


@measure
def transformer_options() -> dict[str, Any]:
    """Block patches, attention override, wrapper and STG blocks reach the network."""
    calls = {"attention": 0, "wrapper": 0, "blocks": []}

    def attention(function: Any, *args: Any, **kwargs: Any) -> Any:
        calls["attention"] += 1
        return function(*args, **kwargs)

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        calls["wrapper"] += 1
        return executor(*args, **kwargs)

    def patch(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        calls["blocks"].append(len(args["img"]))
        return extra["original_block"](args)

    def louder(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        return {"img": tuple(one * 1.5 for one in extra["original_block"](args)["img"])}

    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    plain = velocity()
    same = velocity({"patches_replace": {"dit": {("double_block", i): patch for i in range(6)}}})
    changed = velocity({"patches_replace": {"dit": {("double_block", 2): louder}}})
    velocity({"optimized_attention_override": attention, "wrappers": {kind: {"test": [wrapper]}}})
    stg = velocity({"stg_self_attn_blocks": (1,)})
    return calls | {
        "same": worst(same[0], plain[0]),
        "changed": worst(changed[1], plain[1]),
        "stg": worst(stg[0], plain[0]),
    }


@measure
def lora() -> dict[str, float]:
    """A LoRA in the stock spelling, through the stock loader."""
    key = "diffusion_model.video_model.blocks.0.self_attn.q"
    generator = torch.Generator().manual_seed(0)
    up, down = (torch.randn(*size, generator=generator) for size in ((192, 4), (4, 192)))
    weights = {
        f"{key}.lora_up.weight": up,
        f"{key}.lora_down.weight": down,
        f"{key}.alpha": torch.tensor(4.0),
    }
    plain = velocity()
    found = {}
    for strength in (0.0, 1.0):
        patched, _ = comfy.sd.load_lora_for_models(HERE.model, None, weights, strength, 0.0)
        found[str(strength)] = worst(velocity(model=patched)[0], plain[0])
    found["after"] = worst(velocity()[0], plain[0])
    return found


@measure
def readings() -> dict[str, int]:
    """How often a layer reads the text in three steps: as it is, and with a LoRA as a hook on it."""
    key = "diffusion_model.video_model.text_embedding.2"
    up, down = torch.ones(192, 1), torch.ones(1, 192)
    lora = {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}
    hook = comfy.hooks.create_hook_lora(lora, 1.0, 0.0)
    hooked = comfy.hooks.set_hooks_for_conditioning(HERE.positive, hook)
    layer, calls = HERE.model.model.diffusion_model.video_model.text_embedding[2], []

    def count(text: Any) -> int:
        calls.clear()
        stock("KSampler", HERE.model, 1, 3, 1.0, "euler", "simple", text, HERE.negative, empty())
        return len(calls)

    counter = layer.register_forward_hook(lambda *_: calls.append(1))
    try:
        return {"plain": count(HERE.positive), "again": count(HERE.positive), "hooked": count(hooked)}
    finally:
        counter.remove()


@measure
def lora_by_parts() -> dict[str, Any]:
    """Files in four spellings through our loader: which velocities change, and what the report says."""
    folder = Path(tempfile.mkdtemp())
    folder_paths.add_model_folder_path("loras", str(folder))
    generator = torch.Generator().manual_seed(0)
    up, down = (torch.randn(*size, generator=generator) for size in ((192, 4), (4, 192)))
    layer = "{}blocks.0.self_attn.v"
    ours = {
        f"diffusion_model.{layer.format(stream)}.{name}.weight": one
        for stream in ("video_model.", "audio_model.")
        for name, one in (("lora_up", up), ("lora_down", down))
    }
    ours["diffusion_model.video_model.blocks.1.modulation.diff"] = torch.full((1, 6, 192), 0.3)
    wan = {
        f"diffusion_model.{layer.format('')}.lora_{end}.weight": one for end, one in (("B", up), ("A", down))
    }
    musubi = {
        f"lora_unet_blocks_0_self_attn_v.lora_{end}.weight": one for end, one in (("up", up), ("down", down))
    }
    foreign = {"diffusion_model.blocks.77.ffn.0.lora_up.weight": up, "lora_te_text.lora_up.weight": up}
    larger = {name: torch.zeros(4, 256) if "lora_down" in name else one for name, one in ours.items()}
    files = {
        "ours": ours,
        "wan": wan,
        "musubi": musubi,
        "some": ours | foreign,
        "none": foreign,
        "larger": larger,
    }
    for name, tensors in files.items():
        apart = {key: one.clone() for key, one in tensors.items()}
        comfy.utils.save_torch_file(apart, str(folder / f"{name}.safetensors"))
    plain, found = velocity({"a2v_cross_attn": False, "v2a_cross_attn": False}), {}

    def load(name: str, *strengths: float) -> tuple[Any, str]:
        return run("UniTalkLoraLoader", HERE.model, f"{name}.safetensors", *strengths)

    def changes(name: str, *strengths: float) -> list[Any]:
        patched, report = load(name, *strengths)
        led = velocity({"a2v_cross_attn": False, "v2a_cross_attn": False}, patched)
        return [*(not torch.allclose(a, b, atol=1e-6) for a, b in zip(plain, led, strict=True)), report]

    for name, strengths in {"both": (1, 1), "picture": (1, 0), "sound": (0, 1)}.items():
        found[name] = changes("ours", *strengths, 1, 1, 1)[:2]
    for name in ("ours", "wan", "musubi", "some", "larger"):
        found[name] = changes(name, 1, 1, 1, 1, 1)
    stock, _ = comfy.sd.load_lora_for_models(HERE.model, None, ours, 0.7, 0.0)
    mine, _ = load("ours", *[0.7] * 5)
    found["stock"] = worst(velocity(model=mine)[0], velocity(model=stock)[0])
    found["after"] = worst(velocity({"a2v_cross_attn": False, "v2a_cross_attn": False})[0], plain[0])
    found["none"] = error_of(lambda: load("none", 1, 1, 1, 1, 1))
    return found


@measure
def loaded_again() -> float:
    """The host makes a second patcher from `cached_patcher_init`."""
    make, args = HERE.model.cached_patcher_init[:2]
    return worst(velocity(model=make(*args, disable_dynamic=True))[0], velocity()[0])


@measure
def loaded_from_files() -> dict[str, Any]:
    """The miniature's own files through the file loaders."""
    folder = os.environ["UNITALK_EMBEDDED"]
    for kind in ("diffusion_models", "vae"):
        folder_paths.add_model_folder_path(kind, folder)
    model, info = run("UniTalkLoadModel", "model.safetensors", "none", "default")
    rough = run("UniTalkLoadAudioVAE", "audio_vae.safetensors", "griffin-lim")
    fine = run("UniTalkLoadAudioVAE", "audio_vae.safetensors", "vocoder.safetensors")
    latent = {
        "samples": comfy.nested_tensor.NestedTensor([torch.zeros(1, 48, 1, 4, 4), torch.randn(1, 20, 16)])
    }
    heard = [run("UniTalkBigVGANVocode", latent, vae)["waveform"] for vae in (rough, fine)]
    return {
        "velocity": worst(velocity(model=model)[0], velocity()[0]),
        "info": info,
        "samples": [list(one.shape) for one in heard],
        "foreign": error_of(lambda: run("UniTalkLoadModel", "vocoder.safetensors", "none", "default")),
    }


@measure
def one_stream() -> dict[str, Any]:
    """A model of one stream, and one stream of a joint model, through the stock KSampler."""
    config, mmdit = core("unitalk_core.config"), core("unitalk_core.models.mmdit")
    found = {}
    for name in ("video", "audio"):
        streams = replace(config.TINY.streams, **{"audio" if name == "video" else "video": None})
        network = mmdit.JointDiT(replace(config.TINY, streams=streams))
        mmdit.initialise(network, seed=0)
        model = core("nodes.model").make_patcher(network, None, disable_dynamic=True)
        latent = run("UniTalkEmptyLatent", model, **SIZE)[0]
        options = (2, 2.0, "euler", "simple", HERE.positive, HERE.negative, latent)
        made = host_nodes.common_ksampler(model, 1, *options)[0]["samples"]
        found[name] = [list(made.shape), bool(torch.isfinite(made).all())]
    video = {"samples": torch.zeros(1, 48, 3, 4, 4)}
    alone = host_nodes.common_ksampler(
        HERE.model, 1, 2, 2.0, "euler", "simple", HERE.positive, HERE.negative, video
    )
    return found | {"of a joint model": list(alone[0]["samples"].shape)}


@measure
def precision() -> dict[str, float]:
    """The miniature's model with its weights in other precisions, against float32."""
    folder_paths.add_model_folder_path("diffusion_models", os.environ["UNITALK_EMBEDDED"])
    plain, found = velocity(), {}
    for name in ("fp32", "bf16", "fp16"):
        model, _ = run("UniTalkLoadModel", "model.safetensors", "none", name)
        found[name] = worst(velocity(model=model)[0].float(), plain[0])
    return found
