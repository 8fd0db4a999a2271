"""Which stock samplers and schedulers work on our AV latents? Run by a host's Python in its folder:

cd ComfyUI; python PACK/tests/host/inside/stock_samplers.py PACK [STEPS] > table.md

Each makes a short clip with the shipped miniature, from the same noise, and is compared with Euler at many
steps: a deterministic sampler comes near, one that adds noise makes another clip of like spread.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

PACK, STEPS = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 8
sys.path.insert(1, str(Path.cwd()))
sys.argv = ["stock_samplers", "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.samplers  # noqa: E402
import comfy.utils  # noqa: E402
import rig  # noqa: E402
import torch  # noqa: E402
from rig import HERE, empty, pair, run  # noqa: E402

comfy.utils.PROGRESS_BAR_ENABLED = False
MANY = 40


def sample(sampler: str, scheduler: str, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A clip of half a second, with the steps that the stock KSampler would take."""
    discard = sampler in comfy.samplers.KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS
    sampling = HERE.model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, steps + discard)
    if discard:
        sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
    guider = run("CFGGuider", HERE.model, HERE.positive, HERE.negative, 2.0)
    given = (run("UniTalkNoise", 1, 2), guider, run("KSamplerSelect", sampler), sigmas, empty(seconds=0.52))
    return pair(run("SamplerCustomAdvanced", *given)[0])


def row(sampler: str, scheduler: str, true: tuple[torch.Tensor, torch.Tensor]) -> str:
    """One line of the table: relative distances to the true clip, spreads beside its own, seconds."""
    start = time.process_time()
    try:
        made = sample(sampler, scheduler, STEPS)
    except Exception as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0][:90]
        return f"| {sampler} | {scheduler} | fails: {said} | | | |"
    spent = time.process_time() - start
    finite = all(torch.isfinite(one).all() for one in made)
    far = [float((one - want).norm() / want.norm()) for one, want in zip(made, true, strict=True)]
    spread = [float(one.std() / want.std()) for one, want in zip(made, true, strict=True)]
    cells = [f"{one:.2f} / {other:.2f}" for one, other in (far, spread)]
    state = "yes" if finite else "not finite"
    return f"| {sampler} | {scheduler} | {state} | {cells[0]} | {cells[1]} | {spent:.1f} |"


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    torch.set_num_threads(1)
    with torch.inference_mode():
        rig.load(PACK)
        true: Any = sample("euler", "simple", MANY)
        tell("| sampler | scheduler | finite | distance, picture / sound | spread, picture / sound | CPU s |")
        tell("|---|---|---|---|---|---|")
        pairs = [(one, "simple") for one in comfy.samplers.SAMPLER_NAMES]
        pairs += [("euler", one) for one in comfy.samplers.SCHEDULER_NAMES if one != "simple"]
        for sampler, scheduler in pairs:
            tell(row(sampler, scheduler, true))


main()
