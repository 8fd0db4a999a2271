"""What is asked about held-out clips: words, sync, voice, face and picture, beside chance and the true clips.

Results and true clips come in the same order, the two takes of a text one after the other. Nothing here knows
what a good number is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import compress
from operator import not_
from typing import NamedTuple

from torch import Tensor

from . import sync, voice
from .held_out import TAKES, Result
from .measures import mean

SHUFFLES = 3  # other clips that a clip's sync is shuffled with
FACES = 40  # that a face is found among
LAG = 2  # frames
NO_PITCH = 2400.0  # cents, where no pitch is found


class Row(NamedTuple):
    """What one clip scores; baseline: by chance; ceiling: as the true clip."""

    value: float
    baseline: float | None = None
    ceiling: float | None = None


Results = Sequence[Result]
Rows = dict[str, list[Row]]  # by name of the measure, one for each clip
Score = Callable[[Results, int], float]


def twin(results: Results, i: int) -> Result:
    """The next take of the same text; after the last, the first."""
    return results[i - i % TAKES + (i + 1) % TAKES]


def others(results: Results, i: int, count: int) -> list[Result]:
    """The next texts in the round, `count` or as many as there are: what a clip is shuffled with."""
    count = min(count, len(results) // TAKES - 1)
    return [results[(i + TAKES * k) % len(results)] for k in range(1, count + 1)]


def rows(results: Results, ceiling: Results, score: Score, chance: Score) -> list[Row]:
    return [Row(score(results, i), chance(results, i), score(ceiling, i)) for i in range(len(results))]


def even(*_: object) -> float:
    """The chance of one in two."""
    return 0.5


# --- words -----------------------------------------------------------------------------------------------


def words_of(results: Results, ceiling: Results) -> Rows:
    """Accuracy for seen and for unseen words, and for all; by chance: another clip's sound."""
    found = rows(results, ceiling, said, said_by_another)
    unseen = [result.has_unseen_words for result in results]
    return {
        "words.all": found,
        "words.seen": list(compress(found, map(not_, unseen))),
        "words.unseen": list(compress(found, unseen)),
    }


def said(results: Results, i: int) -> float:
    return results[i].right_words


def said_by_another(results: Results, i: int) -> float:
    return results[i].right_words_in(*others(results, i, 1))


# --- sync ------------------------------------------------------------------------------------------------


def sync_of(results: Results, ceiling: Results) -> Rows:
    """Mouth and sound of a clip, beside sounds of other texts and the sound of the same text's other take."""
    return {
        "sync.r": rows(results, ceiling, own_r, shuffled_r),
        "sync.same_text_r": rows(results, ceiling, same_text_r, shuffled_r),
        "sync.lag_within_2": rows(results, ceiling, lag_is_small, shuffled_lag_is_small),
        "sync.own_wins": rows(results, ceiling, own_wins, even),
        "sync.lag_control": rows(results, ceiling, wins_moved, shuffled_wins_moved),
    }


def own_r(results: Results, i: int) -> float:
    return sync.sync(results[i].opening, results[i].level)


def same_text_r(results: Results, i: int) -> float:
    return sync.sync(results[i].opening, twin(results, i).level)


def shuffled_r(results: Results, i: int) -> float:
    return mean([sync.sync(results[i].opening, other.level) for other in others(results, i, SHUFFLES)])


def lag_is_small(results: Results, i: int) -> float:
    return fits_within_lag(results[i], results[i])


def shuffled_lag_is_small(results: Results, i: int) -> float:
    return mean([fits_within_lag(results[i], other) for other in others(results, i, SHUFFLES)])


def fits_within_lag(seen: Result, heard: Result) -> float:
    return float(abs(sync.best_lag(seen.opening, heard.level)) <= LAG)


def own_wins(results: Results, i: int) -> float:
    """Whether the mouth fits its own sound better than the same text's other take."""
    return float(own_r(results, i) > same_text_r(results, i))


def wins_moved(results: Results, i: int) -> float:
    """The same where the other take may be moved to its best lag, and the own sound stays."""
    return wins_at_any_lag(results[i], results[i], twin(results, i))


def shuffled_wins_moved(results: Results, i: int) -> float:
    return wins_at_any_lag(results[i], *others(results, i, 1), twin(results, i))


def wins_at_any_lag(seen: Result, heard: Result, rival: Result) -> float:
    fit = sync.lagged(seen.opening, heard.level, reach=0)[0]
    return float(fit > max(sync.lagged(seen.opening, rival.level).values()))


# --- voice -----------------------------------------------------------------------------------------------


def voice_of(results: Results, ceiling: Results) -> Rows:
    """Pitch error to the given voice, how often its timbre is nearer than another's; unseen voices apart."""
    unseen = [result.has_unseen_voice for result in results]
    found = {
        "voice.f0_cents": rows(results, ceiling, pitch_error, shuffled_pitch_error),
        "voice.timbre": rows(results, ceiling, nearer, even),
    }
    seen = {name: list(compress(part, map(not_, unseen))) for name, part in found.items()}
    return seen | {f"{name}_unseen": list(compress(part, unseen)) for name, part in found.items()}


def foreign(results: Results, i: int) -> list[Result]:
    """The given voices that are not this clip's."""
    return [one.reference for one in results if one.truth.voice != results[i].truth.voice]


def pitch_error(results: Results, i: int) -> float:
    return cents(results[i], results[i].reference)


def shuffled_pitch_error(results: Results, i: int) -> float:
    return mean([cents(results[i], other) for other in foreign(results, i)])


def cents(a: Result, b: Result) -> float:
    """Between two voices' median pitches; `NO_PITCH` where one of them has none."""
    missing = math.isnan(a.pitch) or math.isnan(b.pitch)
    return NO_PITCH if missing else min(voice.cents(a.pitch, b.pitch), NO_PITCH)


def nearer(results: Results, i: int) -> float:
    """Share of the foreign voices that are farther in timbre than the own one."""
    made, far = results[i].timbre, foreign(results, i)
    distance = voice.timbre_distance(made, results[i].reference.timbre)
    return mean([float(distance < voice.timbre_distance(made, one.timbre)) for one in far])


# --- picture ---------------------------------------------------------------------------------------------


def face_of(results: Results, ceiling: Results) -> Rows:
    """Whether the last frame is nearest to its own first frame among faces, and how well that one is kept."""
    return {
        "face.identity": rows(results, ceiling, is_own_face, chance_of_face),
        "face.first_frame_db": [
            Row(decibels(own.clip.frames[0], own.first), decibels(own.clip.frames[0], other.first))
            for i, own in enumerate(results)
            for other in others(results, i, 1)
        ],
    }


def is_own_face(results: Results, i: int) -> float:
    last = results[i].clip.frames[-1]
    own, *rest = (decibels(last, one.first) for one in (results[i], *others(results, i, FACES - 1)))
    return float(all(own > one for one in rest))


def chance_of_face(results: Results, i: int) -> float:
    return 1 / (1 + len(others(results, i, FACES - 1)))


def scene_of(results: Results, ceiling: Results) -> Rows:
    """How often a face that was asked for in words is nearer to the true one than to other texts' faces."""
    return {"face.as_asked": rows(results, ceiling, looks_as_asked, even)}


def looks_as_asked(results: Results, i: int) -> float:
    made = results[i].clip.frames.mean(0)
    own, *rest = (decibels(made, one.first) for one in (results[i], *others(results, i, FACES - 1)))
    return mean([float(own > one) for one in rest])


def picture_of(results: Results, ceiling: Results) -> Rows:
    """How well all frames are kept; by chance: a still, the first frame all along."""
    return {
        "video_db": [
            Row(decibels(own.clip.frames, true.clip.frames), decibels(true.first, true.clip.frames))
            for own, true in zip(results, ceiling, strict=True)
        ]
    }


def decibels(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio of two pictures in 0..1, at most 100."""
    return float(-10 * (a - b).square().mean().clamp_min(1e-10).log10())
