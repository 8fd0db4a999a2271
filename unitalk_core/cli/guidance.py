"""What guides a clip, as it is written on the command line: strengths for both streams, and where."""

from __future__ import annotations

import argparse
from typing import Any

STRENGTH = "SCALE[,SOUND][@START-END]"
CONDITIONS = {
    "voice_cfg": ("voice", "how strictly the voice that is given is followed; 1 is off (1,2)"),
    "image_cfg": ("image", "how strictly the picture that is kept is (1)"),
    "couple_cfg": ("coupling", "how much picture and sound listen to each other (1; with --keep-video 1,2)"),
}


def add_guidance(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "guidance", "a strength may differ for the sound, and hold for a part of the steps: 2,3@0-0.6"
    )
    for name, (_, text) in CONDITIONS.items():
        group.add_argument(f"--{name.replace('_', '-')}", metavar=STRENGTH, help=text)
    group.add_argument("--skip-cfg", metavar=STRENGTH, help="how far to go from a pass without --skip-blocks")
    group.add_argument("--skip-blocks", metavar="N,N", help="blocks of the model, counted from 0")
    group.add_argument("--cfg-range", metavar="START-END", help="where the words guide (0-1)")
    group.add_argument("--apg", type=float, metavar="ETA", help="share of guidance along the estimate (1)")
    group.add_argument("--apg-limit", type=float, metavar="SHARE", help="largest guidance; 0 is no limit (0)")
    group.add_argument("--rescale", type=float, help="how far the spread goes back, 0 to 1 (0)")
    group.add_argument(
        "--cache",
        metavar="THRESHOLD[,SOUND][@START-END]",
        help="skip steps that would change less, such as 0.05",
    )


def guidance_from(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of a Request for the options that were given; ValueError naming the one that cannot be."""
    from ..av import AV
    from ..diffusion.cache import StepCache
    from ..diffusion.guidance import Guidance

    given, fields = vars(args), {}
    if "cfg_range" in given:
        fields["cfg_range"] = as_range("--cfg-range", given["cfg_range"])
    if "cache" in given:
        threshold, where = as_strength("--cache", given["cache"])
        fields["cache"] = StepCache(AV(*threshold), *where)
    shape = {"apg": "eta", "apg_limit": "limit", "rescale": "rescale"}
    shapes = {field: given[name] for name, field in shape.items() if name in given}
    if (terms := terms_from(given)) or shapes:
        fields["guide"] = Guidance(terms, **shapes)
    return fields


def terms_from(given: dict[str, Any]) -> tuple:
    from ..av import AV
    from ..diffusion.guidance import Term, Without

    def term(name: str, without: Without) -> Term:
        scales, where = as_strength(f"--{name.replace('_', '-')}", given[name])
        return Term(without, AV(*scales), *where)

    terms = [term(name, Without(**{what: True})) for name, (what, _) in CONDITIONS.items() if name in given]
    if ("skip_cfg" in given) != ("skip_blocks" in given):
        raise ValueError("--skip-cfg and --skip-blocks go together; give both or neither")
    if "skip_cfg" in given:
        terms.append(term("skip_cfg", Without(blocks=as_blocks(given["skip_blocks"]))))
    return tuple(terms)


def as_strength(option: str, text: str) -> tuple[tuple[float, float], tuple[float, ...]]:
    """`2,3@0-0.6` -> ((2, 3), (0, 0.6)); one number is for both streams; no range is an empty one."""
    scales, _, where = text.partition("@")
    picture, _, sound = scales.partition(",")
    try:
        pair = float(picture), float(sound or picture)
    except ValueError:
        raise ValueError(f"{option} takes {STRENGTH}, such as 2,3@0-0.6; got {text}") from None
    return pair, as_range(option, where) if "@" in text else ()


def as_range(option: str, text: str) -> tuple[float, float]:
    """`0-0.6` -> (0, 0.6)"""
    start, _, end = text.partition("-")
    try:
        return float(start), float(end)
    except ValueError:
        raise ValueError(f"{option} takes START-END between 0 and 1, such as 0-0.6; got {text}") from None


def as_blocks(text: str) -> tuple[int, ...]:
    """`3,4` -> (3, 4)"""
    try:
        return tuple(int(one) for one in text.split(","))
    except ValueError:
        raise ValueError(f"--skip-blocks takes whole numbers, such as 3,4; got {text}") from None
