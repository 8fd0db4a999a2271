"""Where does the time of a clip go, and what do step caches and fp8 weights save and cost?

python -m benchmarks.clip --out benchmarks/results/clip.json

The clips are those of `evaluate --suite heldout`, made from text: each by every variant in turn, so a busy
machine slows all of them, with the passes of a step one by one. Times are of the processor, on one thread.
*error*: distance of the finished latents from the plain run's, as a share of their size, mean over clips.
Words and sync are the report's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from benchmarks.measuring import machine
from unitalk_core.av import AV, Clip
from unitalk_core.cli.sample import write_report
from unitalk_core.diffusion.cache import StepCache
from unitalk_core.evaluation.report import evaluate
from unitalk_core.media import check_target, write_clip
from unitalk_core.models.float8 import Float8, hold_in_float8
from unitalk_core.pipeline import Bundle, Trace, generate, load_bundle
from unitalk_core.request import Request

PLAIN = "plain"
CACHES = (0.1, 0.2)
MEASURES = ("words.seen", "words.unseen", "sync.r", "sync.lag_within_2")


class ProcessorTrace(Trace):
    """Seconds of the processor by stage: other processes disturb them less than those of the wall."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start


@dataclass
class Variant:
    """A way to make clips, and what it has made of each request."""

    bundle: Bundle
    changes: dict = field(default_factory=dict)
    written: bool = False
    clips: list[Clip] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)

    def make(self, request: Request) -> None:
        trace = ProcessorTrace()
        asked = replace(request, passes="sequential", **self.changes)
        self.clips.append(generate(self.bundle, asked, None, trace))
        if self.written:
            with trace.stage("write"), tempfile.TemporaryDirectory() as folder:
                write_clip(Path(folder) / "clip.mp4", self.clips[-1], scale=self.bundle.shown)
        self.traces.append(trace)


def main() -> None:
    parser = argparse.ArgumentParser(description="A clip by stage, cached, and from fp8.")
    parser.add_argument("--clips", type=int, default=8, help="held-out clips (8)")
    parser.add_argument("--out", metavar="FILE.json")
    args = parser.parse_args()
    out = None if args.out is None else check_target(args.out, ".json")
    torch.set_num_threads(1)
    start = time.process_time()
    bundle = load_bundle()
    loaded = time.process_time() - start
    variants = {
        PLAIN: Variant(bundle, written=True),
        "fp8": Variant(replace(bundle, model=in_float8(bundle.model, "held"))),
        "fp8, fast": Variant(replace(bundle, model=in_float8(bundle.model, "fast"))),
    }
    variants |= {f"cache {one:g}": Variant(bundle, {"cache": StepCache(AV(one, one))}) for one in CACHES}
    measures = {name: judged(name, variants, args.clips) for name in variants}
    found = {"machine": machine(), "clips": args.clips, "load_seconds": round(loaded, 3)}
    found |= {"stages": stages(variants[PLAIN]), "variants": {}}
    for name, one in variants.items():
        found["variants"][name] = compared(one, variants[PLAIN]) | measures[name]
    print_tables(found)
    if out is not None:
        write_report(out, found)


def in_float8(model: torch.nn.Module, how: Float8) -> torch.nn.Module:
    """A copy whose blocks hold their matrices in float8, and maybe multiply so."""
    return hold_in_float8(deepcopy(model).requires_grad_(False), how)


def judged(name: str, variants: dict[str, Variant], clips: int) -> dict[str, float]:
    """Measures of the clips of one variant; the plain one is asked first, and has all of them make theirs."""
    asked = iter(range(2 * clips))

    def make(_: Bundle, request: Request) -> Clip:
        if name == PLAIN:
            for one in variants.values():
                one.make(request)
        return variants[name].clips[next(asked)]

    found = evaluate(variants[name].bundle, clips, tasks=("text",), make=make)
    return {measure: round(found[measure]["value"], 3) for measure in MEASURES}


def stages(variant: Variant) -> dict[str, float]:
    """Median seconds of a clip."""
    return {
        stage: round(statistics.median(one.seconds[stage] for one in variant.traces), 3)
        for stage in variant.traces[0].seconds
    }


def compared(variant: Variant, plain: Variant) -> dict[str, object]:
    """Beside the same clips of the plain run."""
    pairs = list(zip(variant.traces, plain.traces, strict=True))
    errors = [one.latents.map(error, other.latents) for one, other in pairs]
    ratios = [one.seconds["sample"] / other.seconds["sample"] for one, other in pairs]
    return {
        "sampling_time": round(statistics.median(ratios), 3),
        "passes": statistics.mean(one.passes for one, _ in pairs),
        "error": {
            stream: round(statistics.mean(getattr(one, stream) for one in errors), 4)
            for stream in ("video", "audio")
        },
        "weights_mb": round(sum(map(size_of, variant.bundle.model.parameters())) / 1e6, 1),
    }


def size_of(one: torch.Tensor) -> int:
    return one.numel() * one.element_size()


def error(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


def print_tables(found: dict) -> None:
    total = sum(found["stages"].values())
    print("| stage | seconds | share |\n|---|---|---|")
    print(f"| load | {found['load_seconds']:.2f} | once |")
    for stage, seconds in found["stages"].items():
        print(f"| {stage} | {seconds:.2f} | {seconds / total:.0%} |")
    print(
        f"\n| variant | sampling time | passes | error, picture / sound | weights | {' | '.join(MEASURES)} |"
    )
    print("|---|---|---|---|---|" + "---|" * len(MEASURES))
    for name, one in found["variants"].items():
        errors = " / ".join(f"{share:.3f}" for share in one["error"].values())
        cells = [f"{one['sampling_time']:.2f}", f"{one['passes']:.1f}", errors, f"{one['weights_mb']:g} MB"]
        print(f"| {name} | {' | '.join(cells)} | {' | '.join(f'{one[name]:.3f}' for name in MEASURES)} |")


if __name__ == "__main__":
    main()
