"""A clip that goes on: how much of its end the model sees, and how what it makes is joined to it.

f frames · h, w rows, columns of pixels · n samples
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import pad

from .av import Clip, ClipFormat, ClipStream
from .media import enlarge, fill_frames, match_lengths

MIN_OVERLAP, MAX_OVERLAP = 0.2, 4.0  # seconds
SOUND_FADE, PICTURE_FADE = 0.015, 0.4  # seconds, before and behind the seam
PAUSE, QUIET = 0.13, 0.02  # seconds; share of the loudest sample
PART = 16  # frames of the old clip that are filled at once


def check_old(form: ClipFormat, old: Clip, overlap: float) -> None:
    """ValueError if a clip cannot go on with the end of `overlap` seconds seen."""
    for name, part in {"picture": old.frames, "sound": old.waveform}.items():
        if part is None:
            raise ValueError(f"the clip to continue has no {name}; continue one with picture and sound")
    if (old.fps, old.sample_rate) != (form.fps, form.sample_rate):
        raise ValueError(
            f"the clip to continue must have the model's {float(form.fps):g} fps and {form.sample_rate} Hz, "
            f"got {float(old.fps):g} fps and {old.sample_rate} Hz"
        )
    if old.seconds < MIN_OVERLAP:
        raise ValueError(f"a clip to continue needs at least {MIN_OVERLAP:g} s, got {old.seconds:.2f} s")
    if not MIN_OVERLAP <= overlap <= MAX_OVERLAP:
        raise ValueError(f"overlap must be {MIN_OVERLAP:g} to {MAX_OVERLAP:g} s, got {overlap:g}")
    match_lengths(old)


def seen_frames(form: ClipFormat, old: Clip, overlap: float) -> int:
    """How many frames at the end of the old clip the model sees: `overlap` seconds, or all that there are."""
    held = len(old.frames)
    return min(form.frames_for(overlap), held - (held - 1) % form.frame_stride)


def check_room(form: ClipFormat, seen: int) -> int:
    """`seen`, if a clip of the format's full length has frames behind them; ValueError otherwise."""
    if seen >= form.max_frames:
        raise ValueError(
            f"the {seen} frames that are seen of the old clip fill all {form.max_frames} of the new one; "
            "make it longer with UniTalk Empty Latent, or the overlap shorter"
        )
    return seen


def room(form: ClipFormat, seen: int) -> float:
    """Seconds that fit behind the frames that are seen."""
    return float((form.max_frames - seen) / form.fps)


def added_frames(form: ClipFormat, seen: int, seconds: float) -> int:
    """How many frames are added in `seconds`; ValueError if they do not fit behind those that are seen."""
    longest, stride = room(form, seen), form.frame_stride
    if not 0 < seconds <= longest:
        raise ValueError(
            f"seconds must be above 0 and at most {longest:.2f} behind the {float(seen / form.fps):.2f} s "
            f"that the model sees of a clip, got {seconds:g}"
        )
    return stride * max(1, round(seconds * float(form.fps) / stride))


def end_of(old: Clip, seen: int, form: ClipFormat) -> tuple[Tensor, Tensor]:
    """The last `seen` frames, (seen, h, w, 3), and their sound as whole audio latents, (n,).

    A clip that ends quietly stays quiet for `PAUSE` more, or the next word would begin at the seam.
    """
    waveform = old.waveform.mean(0)
    sound = waveform[first_sample(old, seen) :]
    sound = pad(sound, (0, form.samples(seen) - len(sound)))  # or cut
    end = sound[-int(PAUSE * form.audio_rate) * form.audio_stride :]
    if end.abs().max() <= QUIET * waveform.abs().max():
        sound = torch.cat([sound, end.flip(0)])
    return old.frames[-seen:], sound


def first_sample(clip: Clip, frames: int) -> int:
    """The sample at which the last `frames` frames of a clip begin."""
    return round((len(clip.frames) - frames) * clip.sample_rate / clip.fps)


def check_join(old: Clip, made: Clip, seen: int) -> None:
    """ValueError if `made` cannot begin with the last `seen` frames of `old`."""
    if not 1 <= seen <= min(len(old.frames), len(made.frames) - 1):
        raise ValueError(
            f"{seen} frames of the overlap do not fit an old clip of {len(old.frames)} frames and a new one "
            f"of {len(made.frames)}; connect the seen_frames of UniTalk Continue"
        )
    match_lengths(old)
    match_lengths(made)


def joined(old: Clip, made: Clip, form: ClipFormat, seen: int) -> Clip:
    """The old clip and behind it `made`, whose first `seen` frames and their sound are the end of the old."""
    return joined_stream(old, ClipStream.of(made), form, seen).whole()


def joined_stream(old: Clip, made: ClipStream, form: ClipFormat, seen: int) -> ClipStream:
    """The same for a picture that comes in parts."""
    heard, fade = form.samples(seen), round(SOUND_FADE * form.sample_rate)
    seam = first_sample(old, seen) + heard
    sound = pad(old.waveform, (0, seam - old.waveform.shape[1]))  # or cut
    new = made.outline.waveform[:, heard - fade :].repeat(len(sound), 1)
    new[:, :fade].lerp_(sound[:, -fade:], torch.linspace(1, 0, fade))
    waveform = torch.cat([sound[:, :-fade], new], dim=1)
    count, rows, columns, _ = made.outline.frames.shape
    times = max(1, round(min(old.frames.shape[1] / rows, old.frames.shape[2] / columns)))
    frames = torch.empty(len(old.frames) + count - seen, rows * times, columns * times, 3, device="meta")
    new_frames = islice((one for part in made.parts for one in part), seen - 1, None)
    parts = join_pictures(old.frames, new_frames, times, frames.shape, round(PICTURE_FADE * form.fps))
    return ClipStream(replace(old, frames=frames, waveform=waveform), parts)


def join_pictures(
    old: Tensor, made: Iterable[Tensor], times: int, shape: tuple[int, ...], fade: int
) -> Iterator[Tensor]:
    """(f, h, w, 3), and 1 + n of (h', w', 3) -> f + n frames of the multiple `times` of h' x w', in parts.

    The first of `made` is the last of `old` through the codec; what that changed fades out in `fade` frames.
    """
    for part in old.split(PART):
        kept = fill_frames(part, shape[2], shape[1])
        yield kept
    larger = (enlarge(one[None], times) for one in made)
    change = kept[-1] - next(larger)
    strengths = 1 - torch.arange(fade + 1) / (fade + 1)
    for i, one in enumerate(larger, 1):
        yield (one + strengths[i] * change).clamp(0, 1) if i <= fade else one
