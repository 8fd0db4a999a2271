"""The command line: `python -m unitalk_core sample | info | convert | check | prepare | train | …`.

Exit code 0: done; 1: some lines of --prompts failed, or some clips are no good; 2: the request cannot be met,
said in one sentence on stderr; 130: stopped. Nothing is left half-written in any case.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from .cli import check, convert, evaluate, info, prepare, sample, synthesize, train

COMMANDS = {
    "sample": sample,
    "info": info,
    "convert": convert,
    "check": check,
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "synthesize": synthesize,
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, as a ValueError."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m unitalk_core",
        description="Talking clips with their own sound.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="command", required=True)
    for name, command in COMMANDS.items():
        summary = command.__doc__.splitlines()[0]
        one = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        command.add_arguments(one)
        one.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("unitalk").setLevel(logging.INFO)
    try:
        args = build_parser().parse_args(argv)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries; ours go through the log
            return args.run(args)
    except KeyboardInterrupt:
        print("stopped; nothing is left half-written", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:
        print(f"unitalk: {error}", file=sys.stderr)
        return 2


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # threads that spin cost 8x on a busy machine (measured)
    signal.signal(signal.SIGTERM, _stop)
    sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character still gets the line
    sys.stderr.reconfigure(errors="replace")
    sys.exit(main())
