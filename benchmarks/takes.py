"""Do the scores that pick a take tell a sound that belongs to a picture from one that does not?

python benchmarks/takes.py [--texts 12] [--takes 4] [--out benchmarks/results/takes.json]

On held-out clips of the miniature, the true ones and those it makes from their words, `takes` of each text
with other seeds: how often a picture fits its own sound better than the sound of another text, and how often
the own sound is at most two frames off. Then the take with the best `motion` is judged by its `mouth`, beside
the mean take.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from unitalk_core.av import Clip
from unitalk_core.cli.sample import write_report
from unitalk_core.evaluation.held_out import draw_held_out
from unitalk_core.evaluation.report import request
from unitalk_core.evaluation.score import SEEN, best, score
from unitalk_core.pipeline import generate, load_bundle

LAG = 2  # frames


def main() -> None:
    parser = argparse.ArgumentParser(description="Do the scores of takes know which sound is theirs?")
    parser.add_argument("--texts", type=int, default=12)
    parser.add_argument("--takes", type=int, default=4)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    truths = draw_held_out(0, args.texts)
    bundle = load_bundle()
    asked = [
        [request("text", one, args.takes * i + k, one.seconds) for k in range(args.takes)]
        for i, one in enumerate(truths)
    ]
    made = [[generate(bundle, one) for one in takes] for takes in asked]
    clips = {"true": [one.clip for one in truths], "made": [takes[0] for takes in made]}
    found = {
        "machine": f"{platform.system()} {platform.machine()}, torch {torch.__version__}",
        "texts": args.texts,
        "takes": args.takes,
        **{f"{kind}.{seen}": ordered(some, seen) for kind, some in clips.items() for seen in SEEN},
        "picked": picked(made),
    }
    print(found)
    if args.out:
        write_report(args.out, found)


def ordered(clips: Sequence[Clip], seen: str) -> dict[str, float]:
    """How well the scores tell own sounds from those of every other text."""
    own = [score(one, seen) for one in clips]
    others = [
        [score(with_sound(one, other), seen).sync for other in clips if other is not one] for one in clips
    ]
    return {
        "own": mean(one.sync for one in own),
        "other": mean(mean(row) for row in others),
        "own_wins": mean(mean(one.sync > r for r in row) for one, row in zip(own, others, strict=True)),
        "lag_within_2": mean(abs(one.lag) <= LAG for one in own),
    }


def with_sound(seen: Clip, heard: Clip) -> Clip:
    return Clip(seen.frames, heard.waveform, seen.fps, seen.sample_rate)


def picked(made: Sequence[Sequence[Clip]]) -> dict[str, Any]:
    """The mouths' sync in all takes, in those that motion picks, and in those that the mouth would pick."""
    seen = {name: [[score(one, name) for one in takes] for takes in made] for name in SEEN}

    def of(places: list[int]) -> float:
        return mean(takes[i].sync for takes, i in zip(seen["mouth"], places, strict=True))

    picks = {name: [best(scores) for scores in takes] for name, takes in seen.items()}
    return {
        "mean_take": mean(mean(one.sync for one in takes) for takes in seen["mouth"]),
        "by_motion": of(picks["motion"]),
        "by_mouth": of(picks["mouth"]),
        "same_choice": mean(a == b for a, b in zip(*picks.values(), strict=True)),
    }


if __name__ == "__main__":
    main()
