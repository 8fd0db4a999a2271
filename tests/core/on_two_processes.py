"""Run in each of several processes by test_parallel.py: networks and a clip, made together and alone.

Arguments: a folder for what is found, then the command line of a clip.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook

from unitalk_core.__main__ import build_parser
from unitalk_core.av import AV
from unitalk_core.cli.sample import make_one_clip, prepared
from unitalk_core.config import OVI_720, TINY
from unitalk_core.models.mmdit import PLAIN, JointDiT, initialise
from unitalk_core.models.voices import Voices
from unitalk_core.parallel import share_tokens
from unitalk_core.pipeline import Trace, generate, load_bundle
from unitalk_core.processes import Processes, together

SIZE = {"width": 48, "heads": 2, "depth": 2, "ffn_width": 64, "text_dim": 16, "text_len": 12}
FULL_SIZE = {"width": 3072, "heads": 24, "depth": 1, "ffn_width": 128, "text_dim": 16, "text_len": 12}


def network(base: str, size: dict[str, int], **changes) -> JointDiT:
    """Weights without the zeros of a fresh model, so that every path counts."""
    config = {"tiny": TINY, "ovi": OVI_720}[base]
    config = replace(config, streams=config.streams.map(lambda one: replace(one, **size)), **changes)
    model = JointDiT(config).eval()
    initialise(model, 0)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator) * 48 / size["width"]
    return model


def inputs() -> dict[str, AV]:
    """9 tokens of picture and 13 of sound: no number of processes divides both."""
    chance = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=chance)

    timestep, context = torch.tensor([637.0, 211.0]), draw(2, 9, 16)
    return {
        "latent": AV(draw(2, 48, 3, 2, 6), draw(2, 20, 13)),
        "timestep": AV(timestep, timestep),
        "context": AV(context, context.flip(1)),
        "reference": AV(None, draw(2, 6, 20)),
    }


def cases() -> dict[str, tuple[str, dict, dict]]:
    """name -> (network, what differs in its configuration, what differs in the call)"""
    given, wide = inputs(), {"couple_window": None}
    tokens = given["latent"].map(lambda _, n: torch.arange(2 * n).view(2, n) % 3 * 300.0, AV(9, 13))
    voices = Voices((given["reference"].audio[:, :4].flip(2), given["reference"].audio), ((0.4, 1.3), None))
    found = {
        "window": ("tiny", {}, {}),
        "joint": ("tiny", wide, {}),
        "to the sound": ("tiny", wide, {"couple": (False, True)}),
        "to the picture": ("tiny", {}, {"couple": (True, False)}),
        "apart": ("tiny", wide, {"couple": (False, False)}),
        "token by token": ("tiny", {}, {"timestep": tokens}),
        "padded": ("tiny", wide, {"lengths": AV(torch.tensor([3, 2]), torch.tensor([9, 13]))}),
        "padded window": ("tiny", {}, {"lengths": AV(torch.tensor([3, 2]), torch.tensor([9, 13]))}),
        "voices": ("tiny", {}, {"reference": AV(None, voices)}),
        "blocks": ("tiny", wide, {"skip_blocks": (1,), "hooks": replace(PLAIN, value_blocks=(0,))}),
        "sound alone": ("tiny", {}, {"latent": AV(None, given["latent"].audio)}),
        "picture alone": ("tiny", {}, {"latent": AV(given["latent"].video, None)}),
        "fusion": ("ovi", {}, {"reference": None}),
        "fusion to the sound": ("ovi", {}, {"reference": None, "couple": (False, True)}),
    }
    return {name: (base, changes, given | call) for name, (base, changes, call) in found.items()}


def compare(model: torch.nn.Module, given: dict, processes: Processes) -> float:
    """The largest error of what they make together, as a share of the largest value."""
    alone = model(**given)
    share_tokens(model, processes.rank, processes.size)
    return error(model(**given), alone)


def error(found: AV, expected: AV) -> float:
    return max(
        found.map(
            lambda one, other: ((one - other).abs().max() / other.abs().max()).item(), expected
        ).present()
    )


def networks_of(make: Callable[[], object]) -> list[str]:
    """Which of the transformer and the vocoder run."""
    ran = set()
    with register_module_forward_hook(lambda module, *_: ran.add(type(module).__name__)):
        make()
    return sorted(ran & {"JointDiT", "Vocos"})


def refused(processes: Processes) -> str:
    """A stream of fewer tokens than processes."""
    given = inputs()
    given |= {"latent": AV(given["latent"].video, given["latent"].audio[..., :1])}
    model = network("tiny", SIZE)
    share_tokens(model, processes.rank, processes.size)
    try:
        model(**given)
    except ValueError as told:
        return str(told)
    return ""


@torch.no_grad()
def main(out: Path, command: list[str]) -> None:
    with together() as processes:
        errors = {
            name: compare(network(base, SIZE, **changes), given, processes)
            for name, (base, changes, given) in cases().items()
        }
        if command == ["full size"]:
            errors = {"full size": compare(network("tiny", FULL_SIZE), inputs(), processes)}
        else:
            args = build_parser().parse_args(command)
            bundle, traces = load_bundle(), [Trace(), Trace()]
            _, request = prepared(bundle, args)
            alone = generate(bundle, request, None, traces[0])
            share_tokens(bundle.model, processes.rank, processes.size)
            both = generate(bundle, request, None, traces[1])
            errors["a clip"] = error(traces[1].latents, traces[0].latents)
            errors["decoded"] = error(AV(both.frames, both.waveform), AV(alone.frames, alone.waveform))
            ran = networks_of(lambda: make_one_clip(args, processes, time.perf_counter()))
            (out / f"ran_{processes.rank}.json").write_text(json.dumps(ran))
        said = refused(processes)
        if processes.first:
            (out / "errors.json").write_text(json.dumps(errors))
            (out / "refused.txt").write_text(said)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
