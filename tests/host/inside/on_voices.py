"""Two voices in one clip: each heard in its own seconds, as in the core."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from on_guidance import guided, term
from on_tasks import ALONE, SECONDS, ksampler, of_the_core, pictures, sound
from rig import HERE, NODES, core, difference, empty, error_of, joint, measure, pair, run, worst

FIRST, SECOND = sound(31 * 512, seed=11), sound(39 * 512, seed=12)


@contextmanager
def listening() -> Iterator[Any]:
    """The rig's untrained model does not hear its reference; here it does, in the host and in the core."""
    parts = core("nodes.loading").load_miniature()
    networks = (HERE.model.model.diffusion_model, parts.model)
    layers = [[block.cross_attn.v_ref for block in one.audio_model.blocks] for one in networks]
    saved = [layer.weight.detach().clone() for layer in layers[0]]
    draw = torch.Generator().manual_seed(0)
    for pair_of_layers in zip(*layers, strict=True):
        loud = 0.1 * torch.randn(saved[0].shape, generator=draw)
        for layer in pair_of_layers:
            layer.weight.copy_(loud)
    yield parts
    for layer, weight in zip(layers[0], saved, strict=True):
        layer.weight.copy_(weight)


def spoken(*voices: tuple[dict[str, Any], float | None, float], of: Any = None) -> Any:
    """(sound, start, end) of each voice; a start of None leaves a voice without seconds."""
    told = of or HERE.positive
    for voice, start, end in voices:
        told, _ = run("UniTalkReferenceAudioEncode", told, HERE.audio_vae, voice)
        told = told if start is None else run("UniTalkVoiceRange", told, start, end)
    return told


def made(conditioning: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return pair(joint(latent=empty(**SECONDS), positive=conditioning, **ALONE))


@measure
def two_voices_against_core() -> dict[str, list[float]]:
    voice = core("unitalk_core.request").Voice
    one, two = (given["waveform"][0, 0] for given in (FIRST, SECOND))
    asked = {
        "two": (
            spoken((FIRST, 0.0, 0.3), (SECOND, 0.3, 0.0)),
            {"voices": (voice(one, (0.0, 0.3)), voice(two, (0.3, None)))},
        ),
        "one and the rest": (
            spoken((FIRST, 0.2, 0.4), (SECOND, None, 0)),
            {"voice": two, "voices": (voice(one, (0.2, 0.4)),)},
        ),
    }
    with listening() as parts:
        return {
            name: difference(
                joint(latent=empty(**SECONDS), positive=told, **ALONE),
                of_the_core(parts, seconds=0.68, **request),
            )
            for name, (told, request) in asked.items()
        }


@measure
def guided_voices_and_tasks() -> dict[str, list[float]]:
    """Guidance by voices that take turns, and where the picture is kept; and how much it changes."""
    voice = core("unitalk_core.request").Voice
    turns = tuple(
        voice(given["waveform"][0, 0], span) for given, span in ((FIRST, (0.0, 0.3)), (SECOND, (0.3, None)))
    )
    frames, told = pictures(17), spoken((FIRST, 0.0, 0.3), (SECOND, 0.3, 0.0))
    dub = run("UniTalkKeepVideo", empty(**SECONDS), HERE.vae, frames)
    asked = {
        "voice": (told, empty(**SECONDS), {"voices": turns, "seconds": 0.68}),
        "image": (None, dub, {"keep_video": frames}),
        "coupling": (None, dub, {"keep_video": frames}),
    }
    found = {}
    with listening() as parts:
        for what, (positive, latent, request) in asked.items():
            model = guided(HERE.model, what, 1.0, 3.0)
            ours = of_the_core(parts, guide=(term(what, 1.0, 3.0),), **request)
            made = joint(model, latent, positive, **ALONE)
            moved = worst(ours.audio, of_the_core(parts, **request).audio)
            found[what] = [*difference(made, ours), moved]
    return found


@measure
def voices_in_the_host() -> dict[str, Any]:
    """A voice with all seconds is the plain one; others change the sound; under CFG and KSampler too."""
    with listening():
        plain, timed = made(spoken((FIRST, None, 0))), made(spoken((FIRST, 0.0, 0.0)))
        both = made(spoken((FIRST, 0.0, 0.3), (SECOND, 0.3, 0.0)))
        told = spoken((FIRST, 0.0, 0.3), (SECOND, 0.3, 0.0))
        negative = NODES["ConditioningZeroOut"]().zero_out(told)[0]
        guided = run(
            "UniTalkJointSampler",
            HERE.model,
            told,
            negative,
            empty(**SECONDS),
            1,
            2,
            2,
            "euler",
            2.0,
            3.0,
            1.0,
        )
        stock = ksampler(empty(**SECONDS))
    return {
        "the same": all(map(torch.equal, plain, timed)),
        "another": worst(both[1], plain[1]),
        "finite": all(bool(one.isfinite().all()) for latent in (guided, stock) for one in pair(latent)),
        "left as it was": "voices" not in HERE.positive[0][1],
    }


@measure
def voice_sentences() -> dict[str, str]:
    calls = {
        "no voice": lambda: run("UniTalkVoiceRange", HERE.positive, 0.0, 1.0),
        "no time": lambda: spoken((FIRST, 1.0, 0.5)),
        "at once": lambda: spoken((FIRST, 0.0, 0.5), (SECOND, 0.4, 0.0)),
        "behind the end": lambda: made(spoken((FIRST, 2.0, 0.0))),
    }
    return {name: error_of(call) for name, call in calls.items()}
