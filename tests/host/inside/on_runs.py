"""Runs beside each other: interrupted ones and the next, other widths, other seeds."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from rig import HERE, empty, host_nodes, joint, measure, pair, run

STEPS = 4


def in_use() -> int:
    """Bytes of all tensors that Python knows."""
    gc.collect()
    return sum(one.nbytes for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter))


def stopped_at(step: int, sample: Callable[[], Any]) -> str:
    """What a run ends with that is told to stop once `step` steps are done."""

    def hook(value: int, *_: Any, **__: Any) -> None:
        comfy.model_management.interrupt_current_processing(value == step)

    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        sample()
    except comfy.model_management.InterruptProcessingException:
        return "interrupted"
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
        comfy.model_management.interrupt_current_processing(False)
    return "no interrupt"


def ksampler() -> dict[str, Any]:
    texts = (HERE.positive, HERE.negative)
    return host_nodes.common_ksampler(HERE.model, 3, STEPS, 2.0, "euler", "simple", *texts, empty())[0]


@measure
def interrupted_anywhere() -> dict[str, list]:
    """After each step but the last: how it ended, bytes that stayed, whether the next run is as ever."""
    cached = run("UniTalkStepCache", HERE.model, 0.1, 0.1, 0.15, 0.95)
    samplers = {
        "ksampler": ksampler,
        "joint": lambda: joint(steps=STEPS),
        "with a step cache": lambda: joint(cached, steps=STEPS),
    }
    found = {}
    for name, sample in samplers.items():
        plain = pair(sample())
        for step in range(1, STEPS):
            before = in_use()
            ended = stopped_at(step, sample)
            stayed = in_use() - before
            again = pair(sample())
            found[f"{name}, step {step}"] = [ended, stayed, all(map(torch.equal, again, plain))]
    return found


@measure
def width_and_voice() -> dict[str, bool]:
    """The same seeds at two widths, with the streams apart and together."""
    apart = HERE.model.clone()
    apart.model_options["transformer_options"] |= {"a2v_cross_attn": False, "v2a_cross_attn": False}
    sounds = {
        name: [pair(joint(model, empty(width=width)))[1] for width in (64, 96)]
        for name, model in (("apart", apart), ("together", HERE.model))
    }
    return {name: torch.equal(*one) for name, one in sounds.items()}


@measure
def seeds_apart() -> dict[str, list[bool]]:
    """Whether the noise of picture and of sound stays when one seed changes."""

    def noise(*seeds: int) -> list[torch.Tensor]:
        return list(run("UniTalkNoise", *seeds).generate_noise(empty(batch_size=2)).unbind())

    return {
        f"other {which}": [torch.equal(a, b) for a, b in zip(noise(1, 2), noise(*seeds), strict=True)]
        for which, seeds in (("picture", (9, 2)), ("sound", (1, 9)))
    }
