"""How a mouth moves while it speaks: phones become five mouth parameters at every frame.

Each phone pulls the mouth towards its viseme; neighbours overlap by dominance (Cohen and Massaro 1993: the
mouth at a moment is the mean of all nearby targets, weighted by nearness and by how much a sound insists on
its shape). Louder is wider: the opening also follows the sound itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .speech import PRIMARY_STRESS, SECONDARY_STRESS, Mark

OPEN, WIDTH, ROUND, TEETH, TONGUE = range(5)

# open, width, round, teeth, tongue, dominance
VISEMES: dict[str, tuple[float, float, float, float, float, float]] = {
    "silence": (0.00, 0.00, 0.00, 0.0, 0.0, 1.0),
    "p b m": (0.00, 0.05, 0.00, 0.0, 0.0, 8.0),
    "f v": (0.10, 0.10, 0.00, 1.0, 0.0, 4.0),
    "th": (0.22, 0.10, 0.00, 0.8, 1.0, 2.0),
    "t d": (0.17, 0.20, 0.00, 0.9, 0.5, 1.2),
    "n": (0.28, 0.20, 0.00, 0.7, 0.9, 1.2),
    "s z": (0.14, 0.55, 0.00, 1.0, 0.0, 2.0),
    "sh": (0.20, -0.10, 0.70, 1.0, 0.0, 2.5),
    "k g": (0.20, 0.10, 0.00, 0.4, 0.2, 0.8),
    "ng": (0.30, 0.15, 0.00, 0.4, 0.2, 0.8),
    "l": (0.45, 0.10, 0.00, 0.5, 1.0, 1.2),
    "r": (0.40, -0.10, 0.60, 0.3, 0.3, 1.5),
    "w": (0.20, -0.30, 1.00, 0.0, 0.0, 3.0),
    "y": (0.32, 0.70, 0.00, 0.7, 0.4, 1.2),
    "h": (0.25, 0.05, 0.00, 0.3, 0.2, 0.4),
    "ah": (1.00, 0.05, 0.00, 0.4, 0.3, 1.5),
    "ae": (0.92, 0.50, 0.00, 0.7, 0.3, 1.5),
    "uh": (0.68, 0.05, 0.00, 0.4, 0.3, 1.0),
    "aw": (0.85, -0.20, 0.60, 0.1, 0.2, 1.5),
    "eh": (0.70, 0.45, 0.00, 0.6, 0.4, 1.2),
    "er": (0.58, -0.10, 0.50, 0.3, 0.4, 1.2),
    "ee": (0.46, 1.00, 0.00, 0.9, 0.4, 1.5),
    "oo": (0.42, -0.30, 1.00, 0.0, 0.1, 2.5),
}

_SYMBOLS: dict[str, str] = {
    "silence": "ʔ",
    "p b m": "pbm",
    "f v": "fv",
    "th": "θð",
    "t d": "tdɾ",
    "n": "n",
    "s z": "sz",
    "sh": "ʃʒ",
    "k g": "kɡgx",
    "ng": "ŋ",
    "l": "lɫ",
    "r": "ɹr",
    "w": "wʍ",
    "y": "j",
    "h": "hɦ",
    "ah": "aɑ",
    "ae": "æ",
    "uh": "əɐʌ",
    "aw": "ɔoɒ",
    "eh": "ɛeɪᵻ",
    "er": "ɜɚɝ",
    "ee": "i",
    "oo": "uʊ",
}
VISEME_OF = {symbol: viseme for viseme, symbols in _SYMBOLS.items() for symbol in symbols}

GRID = 200  # points a second at which targets overlap
SPREAD = (0.028, 0.045, 0.055, 0.028, 0.028)  # seconds (standard deviation) over which each parameter blends
LOUDNESS_WINDOW = 0.018  # seconds (standard deviation)
LOUDEST = 1.35
UNSTRESSED = 0.82  # how far a vowel without stress opens


def viseme_names(phone: str) -> list[str]:
    """The visemes one IPA phone passes through: "aɪ" opens and then spreads, "tʃ" closes and then rounds."""
    return [VISEME_OF[symbol] for symbol in phone if symbol in VISEME_OF]


def _targets(
    phones: Sequence[Mark], emphasis: Sequence[float]
) -> tuple[list[float], list[tuple[float, ...]]]:
    """Start times and (5 parameters, dominance) of each stretch, silence between phones included."""
    starts, rows = [-1.0], [VISEMES["silence"]]
    for i, (phone, gain) in enumerate(zip(phones, emphasis, strict=True)):
        stressed = phone.text.startswith((PRIMARY_STRESS, SECONDARY_STRESS))
        names = viseme_names(phone.text)
        step = (phone.end - phone.start) / max(1, len(names))
        for k, name in enumerate(names):
            opening, *rest = VISEMES[name]
            starts.append(phone.start + k * step)
            rows.append((opening * gain * (1.0 if stressed or opening < 0.5 else UNSTRESSED), *rest))
        if i + 1 == len(phones) or phones[i + 1].start > phone.end + 0.01:
            starts.append(phone.end)
            rows.append(VISEMES["silence"])
    return starts, rows


def _blend(values: Tensor, dominance: Tensor, spread: float) -> Tensor:
    """(t,) targets and weights on the grid -> (t,) weighted means under a Gaussian window."""
    reach = round(3 * spread * GRID)
    window = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / (spread * GRID)) ** 2)
    both = torch.stack([values * dominance, dominance])[:, None]
    total, weight = F.conv1d(F.pad(both, (reach, reach), mode="replicate"), window[None, None])[:, 0]
    return total / weight


def mouth_track(phones: Sequence[Mark], emphasis: Sequence[float], times: Tensor) -> Tensor:
    """(f, 5) mouth parameters (open, width, round, teeth, tongue) at `times` (f,) in seconds.

    emphasis: one factor on the opening per phone. Open is 0 while nothing is said, and at most 1.
    """
    starts, rows = _targets(phones, emphasis)
    grid = torch.arange(int(float(times.max()) * GRID) + 2) / GRID
    table = torch.tensor(rows)[torch.searchsorted(torch.tensor(starts), grid, right=True) - 1]  # (t, 6)
    track = torch.stack([_blend(table[:, i], table[:, 5], SPREAD[i]) for i in range(5)], dim=1)
    track[:, OPEN] = ((track[:, OPEN] - 0.02) / 0.98).clamp(0, 1)
    at = (times * GRID).clamp(0, len(grid) - 1.001)
    low, part = at.floor().long(), at.frac()[:, None]
    return track[low] * (1 - part) + track[low + 1] * part


def loudness(waveform: Tensor, sample_rate: int, times: Tensor, least: float = 0.35) -> Tensor:
    """(f,) factor on the opening at `times` (f,): `least` in silence, LOUDEST where (samples,) is loudest."""
    step = sample_rate // GRID
    power = waveform[: len(waveform) // step * step].view(1, 1, -1, step).square().mean(3)
    reach = round(3 * LOUDNESS_WINDOW * GRID)
    window = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / (LOUDNESS_WINDOW * GRID)) ** 2)
    level = F.conv1d(F.pad(power, (reach, reach), mode="replicate"), (window / window.sum())[None, None])
    level = (level[0, 0] / level.max()).sqrt()[(times * GRID).long().clamp(0, level.shape[2] - 1)]
    return least + (LOUDEST - least) * level**0.8
