"""The pack inside a ComfyUI process, loaded by the host's own loader, and one of everything to measure with.

The host must have been told its options before this is imported: see `__main__.py`.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfyui_version
import torch

import nodes as host_nodes

MEASUREMENTS: dict[str, Callable[[], Any]] = {}
NODES = host_nodes.NODE_CLASS_MAPPINGS
STOCK = (
    "nodes_easycache", "nodes_lt", "nodes_custom_sampler", "nodes_audio", "nodes_model_advanced", "nodes_apg",
    "nodes_cfg", "nodes_context_windows", "nodes_differential_diffusion", "nodes_eps", "nodes_freelunch",
    "nodes_hunyuan", "nodes_images", "nodes_latent", "nodes_lt_audio", "nodes_mahiro", "nodes_model_merging",
    "nodes_nag", "nodes_pag", "nodes_perpneg", "nodes_rebatch", "nodes_slg", "nodes_tcfg",
    "nodes_torch_compile", "nodes_video", "nodes_wan",
)  # fmt: skip
SIZE = {"width": 64, "height": 64, "seconds": 0.6, "fps": 0.0, "batch_size": 1}
SAMPLING = {
    "video_seed": 1, "audio_seed": 2, "steps": 3, "sampler": "euler",
    "video_cfg": 2.0, "audio_cfg": 3.0, "denoise": 1.0,
}  # fmt: skip
HERE = SimpleNamespace()  # filled in by `load`


class MissingError(Exception):
    """This version of the host does not have what is measured."""


def measure(function: Callable[[], Any]) -> Callable[[], Any]:
    MEASUREMENTS[function.__name__] = function
    return function


def core(name: str) -> Any:
    """A module of the pack, as the host has loaded it."""
    return importlib.import_module(f"{HERE.package}.{name}")


def run(node: str, *args: Any, **kwargs: Any) -> Any:
    """The outputs of a V3 node; a single one as itself."""
    if node not in NODES:
        raise MissingError(f"ComfyUI {comfyui_version.__version__} has no {node}")
    out = NODES[node].execute(*args, **kwargs).args
    return out[0] if len(out) == 1 else out


def stock(name: str, *args: Any, **kwargs: Any) -> Any:
    """The outputs of a node of the host, of either kind; a single one as itself."""
    if name not in NODES:
        raise MissingError(f"ComfyUI {comfyui_version.__version__} has no {name}")
    node = NODES[name]
    if hasattr(node, "GET_SCHEMA"):
        prepared = node.PREPARE_CLASS_CLONE(None)
        made = prepared.execute(*args, **kwargs).args
    else:
        made = getattr(node(), node.FUNCTION)(*args, **kwargs)
        made = made.get("result", ()) if isinstance(made, dict) else made
    return made[0] if len(made) == 1 else made


def error_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


@contextmanager
def shown() -> Iterator[list[str]]:
    """What the nodes show meanwhile."""
    host, said = core("nodes.host"), []
    say, host.say = host.say, said.append
    try:
        yield said
    finally:
        host.say = say


def worst(ours: Any, theirs: Any) -> float:
    """Largest difference, relative to the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def pair(samples: Any) -> tuple[torch.Tensor, torch.Tensor]:
    video, audio = samples["samples"].unbind()
    return video, audio


def empty(**changes: Any) -> dict[str, Any]:
    return run("UniTalkEmptyLatent", HERE.model, **(SIZE | changes))[0]


def joint(model: Any = None, latent: Any = None, positive: Any = None, **changes: Any) -> dict[str, Any]:
    given = (model or HERE.model, positive or HERE.positive, HERE.negative, latent or empty())
    return run("UniTalkJointSampler", *given, **(SAMPLING | changes))


def load(pack: Path) -> None:
    """The pack through the host's loader, and one of everything that the measurements need."""
    before = set(sys.modules)
    asyncio.run(host_nodes.load_custom_node(str(pack), module_parent="custom_nodes"))
    names = [name for name in set(sys.modules) - before if name.endswith(".unitalk_core")]
    for name in STOCK:
        path = Path(comfyui_version.__file__).parent / "comfy_extras" / f"{name}.py"
        asyncio.run(host_nodes.load_custom_node(str(path), module_parent="comfy_extras"))
    model, clip, vae, audio_vae = run("UniTalkLoadEmbedded")
    positive, _ = run("UniTalkTextEncode", clip, "a woman", "hello melody", "a calm voice", "auto")
    negative = NODES["ConditioningZeroOut"]().zero_out(positive)[0]
    HERE.__dict__.update(
        folder=pack,
        package=names[0].removesuffix(".unitalk_core"),
        model=model,
        clip=clip,
        vae=vae,
        audio_vae=audio_vae,
        positive=positive,
        negative=negative,
    )


def core_denoiser(
    video_cfg: float,
    audio_cfg: float,
    terms: tuple = (),
    shape: Any = None,
    voice: Any = None,
    **changes: Any,
) -> Any:
    """The core's own path to the same model and text. terms, shape: of guidance beside the text's."""
    av, denoiser = core("unitalk_core.av"), core("unitalk_core.diffusion.denoiser")
    parts = core("nodes.loading").load_miniature()
    positive, negative = (text[0][0] for text in (HERE.positive, HERE.negative))
    heard = None if voice is None else av.AV(voice, voice)
    guidance = core("unitalk_core.diffusion.guidance")
    text = guidance.cfg(av.AV(video_cfg, audio_cfg)).terms
    return denoiser.Denoiser(
        model=parts.model,
        cond=denoiser.Conditioning(av.AV(positive, positive), heard),
        uncond=denoiser.Conditioning(av.AV(negative, negative), heard),
        guidance=guidance.Guidance((*text, *terms), **(shape or {})),
        shift=3.0,
        **changes,
    )


def core_noise(video_seed: int = 1, audio_seed: int = 2) -> Any:
    av = core("unitalk_core.av")
    video, audio = pair(empty())
    return av.draw_noise(av.AV(tuple(video.shape), tuple(audio.shape)), av.AV(video_seed, audio_seed))


def difference(latent: dict[str, Any], ours: Any) -> list[float]:
    """Host's latent against the core's, both normalised."""
    video, audio = pair(latent)
    return [worst(HERE.model.model.latent_format.process_in(video), ours.video), worst(audio, ours.audio)]
