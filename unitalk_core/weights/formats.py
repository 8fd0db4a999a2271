"""From our names of weights to those that ComfyUI, the original authors and diffusers give them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from .keymaps import TO_OVI, UMT5_IN_WAN, VAE_IN_DIFFUSERS, WAN_IN_DIFFUSERS, Table, rename, reversed_table
from .quantised import QUANT_MARKS

FORMATS = ("comfy", "original", "diffusers")
VIDEO, AUDIO = "video_model.", "audio_model."
BESIDE = (*QUANT_MARKS, "spiece_model")  # no weights; called so everywhere
OURS_ALONE = re.compile(r"[._](ref|fusion)\.|reference_embedding")  # what Wan does not have
TABLES: dict[tuple[str, str], Table] = {
    ("video vae", "diffusers"): reversed_table(VAE_IN_DIFFUSERS),
    ("video vae", "comfy"): (),
    ("video vae", "original"): (),
    ("text encoder", "original"): reversed_table(UMT5_IN_WAN),
    ("text encoder", "comfy"): (),
    ("text encoder", "diffusers"): (),
    ("audio vae", "original"): (),
    ("vocoder", "original"): (),
}


def spelling(
    names: Collection[str], part: str, form: str | None, own: Callable[[str], str] | None
) -> dict[str, str]:
    """Our name -> theirs. own: the names of the file they came from, for when no form is asked for.

    ValueError for a form in which this part, or one of its weights, has no name.
    """
    if form is None:
        return {name: (own or str)(name) for name in names}
    strip, table = ("", TABLES.get((part, form))) if part != "model" else model_table(names, form)
    if table is None:
        raise ValueError(f"{form} has no names for a {part}; use --format original, or none")
    bare = {name.removeprefix(strip): name for name in names}
    patterns = [re.compile(pattern) for pattern, _ in table if pattern.startswith("^")]
    for name in bare:
        known = not patterns or name.rpartition(".")[2] in BESIDE or any(one.match(name) for one in patterns)
        if not known:
            raise ValueError(f"{form} has no name for {name}")
    return {ours: theirs for theirs, ours in rename(bare, table).items()}


def model_table(names: Collection[str], form: str) -> tuple[str, Table | None]:
    """(what is taken off a model's names, the table for the rest); no table if there are no such names."""
    wan = not any(name.startswith(AUDIO) or OURS_ALONE.search(name) for name in names)
    if wan:
        return VIDEO, reversed_table(WAN_IN_DIFFUSERS) if form == "diffusers" else ()
    if form == "diffusers":
        return "", None
    fusion = any(".k_fusion." in name for name in names)
    return "", TO_OVI if form == "original" and fusion else ()
