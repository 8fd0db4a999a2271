"""Rows of the interoperability table: what a stock node does with our model, latents and codecs.

A row is a function whose docstring says a property; it returns whether that holds, and what was measured.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfyui_version
import torch
from rig import HERE, MissingError, empty, pair, stock, worst

WORKS, NOTE, REFUSED = "works", "works, with a note", "does not work"
EXACT = 1e-5  # relative; two ways to the same number, in float32
Answer = tuple[bool, str]


@dataclass(frozen=True)
class Row:
    """result: one of the three above. note: what an artist should know, or use instead. since: which host."""

    section: str
    what: str
    result: str
    note: str
    call: Callable[[], Answer]
    slow: bool = False
    since: tuple[int, ...] = ()

    @property
    def claim(self) -> str:
        return " ".join((self.call.__doc__ or "").split())


ROWS: list[Row] = []


def row(section: str, what: str, result: str = WORKS, note: str = "", **more: Any) -> Callable:
    def add(call: Callable[[], Answer]) -> Callable[[], Answer]:
        ROWS.append(Row(section, what, result, note, call, **more))
        return call

    return add


def outcome(one: Row) -> dict[str, Any]:
    """Whether a row holds in this host, and what it measured; `missing` where the host cannot do it yet."""
    found = {"section": one.section, "what": one.what, "result": one.result, "note": one.note}
    found["claim"] = one.claim
    version = [int(part) for part in comfyui_version.__version__.split(".") if part.isdigit()]
    if version < list(one.since):
        since = ".".join(map(str, one.since))
        return found | {"missing": f"stops in this host; tried from ComfyUI {since} on"}
    try:
        holds, measured = one.call()
    except MissingError as missing:
        return found | {"missing": str(missing)}
    except Exception as error:
        holds, measured = False, f"{type(error).__name__}: {error}".splitlines()[0]
    return found | {"holds": holds, "measured": measured}


# --- clips -----------------------------------------------------------------------------------------------


def sampled(model: Any = None, latent: Any = None, **changes: Any) -> dict[str, Any]:
    """LATENT of the stock KSampler: Euler, three steps unless told otherwise."""
    given = {
        "model": model or HERE.model,
        "seed": 3,
        "steps": 3,
        "cfg": 2.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "positive": HERE.positive,
        "negative": HERE.negative,
        "latent_image": latent or empty(),
    }
    return stock("KSampler", **(given | changes))


def far(made: dict[str, Any], wanted: dict[str, Any]) -> list[float]:
    """The largest difference of picture and sound, each beside the largest value."""
    return [worst(one, other) for one, other in zip(pair(made), pair(wanted), strict=True)]


def same(made: dict[str, Any], wanted: dict[str, Any]) -> Answer:
    """Equal but for the order of sums."""
    found = far(made, wanted)
    return max(found) < EXACT, in_words(found)


def different(made: dict[str, Any], wanted: dict[str, Any]) -> Answer:
    """Finite, and both streams are others."""
    found = far(made, wanted)
    finite = all(torch.isfinite(one).all() for one in pair(made))
    return bool(finite) and min(found) > 1e-3, in_words(found)


def in_words(found: list[float]) -> str:
    if max(found) == 0:
        return "equal bit for bit"
    return "differs by " + " / ".join(f"{one:.2g}" for one in found)


def all_hold(*answers: Answer) -> Answer:
    return all(holds for holds, _ in answers), "; ".join(text for _, text in answers)


def stops(call: Callable[[], Any], *names: str) -> Answer:
    """It raises, and what it says holds these names."""
    try:
        call()
    except MissingError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        return all(name in said for name in names), f"`{said}`"
    return False, "no error"


# --- what the network does -------------------------------------------------------------------------------


@contextmanager
def watched() -> Iterator[list[list[tuple[int, ...]]]]:
    """The shapes of the streams in each call of the network, as the calls come."""
    calls: list[list[tuple[int, ...]]] = []
    network = type(HERE.model.model.diffusion_model)
    velocity = network._velocity

    def watching(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append([tuple(one.shape) for one in ([x] if torch.is_tensor(x) else x)])
        return velocity(self, x, *args, **kwargs)

    network._velocity = watching
    try:
        yield calls
    finally:
        network._velocity = velocity


@contextmanager
def quiet() -> Iterator[None]:
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
