"""Train a LoRA or the whole model on a folder of clips.

python -m unitalk_core train tiny-lora --data clips --out runs/anna --set steps=300
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", metavar="PRESET_OR_FILE", help="a preset, or a .yaml or .json file like one"
    )
    parser.add_argument("--data", required=True, help="a folder of clips, or one that prepare has made")
    parser.add_argument("--out", help="the run's folder, made if it is not there; not needed with --plan")
    parser.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one key of the configuration, such as optimizer.learning_rate=1e-4; may be repeated",
    )
    parser.add_argument("--resume", action="store_true", help="go on at the last checkpoint in --out")
    parser.add_argument(
        "--plan", action="store_true", help="only say what would be trained, and what it takes"
    )


def run(args: argparse.Namespace) -> int:
    """Train, with progress on stderr; or print the plan."""
    from ..training.config import read_config
    from ..training.run import train

    config = read_config(args.config, args.changes)
    if args.plan:
        return show_plan(config, Path(args.data))
    if args.out is None:
        raise ValueError("there is no out; give the folder of the run with --out")
    train(config, Path(args.data), Path(args.out), args.resume)
    print(f"{args.out}: done")
    return 0


def show_plan(config: object, data: Path) -> int:
    from ..training.setup import make_accelerator, set_up

    plan = set_up(config, data, make_accelerator(config)).plan
    print(plan.text())
    print()
    print(plan.tensors())
    return 0
