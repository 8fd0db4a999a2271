"""Synthetic talking portraits: random words spoken by espeak-ng, and a drawn face that says them.

- everything of a clip follows from (seed, index): no order, no process, no global random state;
- timing cannot be guessed from the text: lead-in, pauses, speed and emphasis have a random stream of
  their own, and `rendition` draws them anew for the same text, voice and face;
- held-out clips share no text and no face with training clips, by hash; words and voices that training
  never has are another choice.
"""

from __future__ import annotations

import hashlib
import logging
import math
import random
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache

import torch
from torch import Tensor

from ..av import Clip
from .emotions import NEUTRAL, Emotion, draw_emotion
from .faces import BROW, LID, SHIFT_Y, SLANT, SMILE, Look, draw_look, mouth_box, render, sway
from .speech import VOICES, Espeak, Mark, Spoken, Voice, open_espeak, resample
from .visemes import OPEN, loudness, mouth_track
from .vocabulary import draw_text, is_held_out, spoken_words, unseen_words

log = logging.getLogger("unitalk")

_Key = tuple[int | bool | str, ...]  # of random streams: seed, index, held_out, and more

FPS, SAMPLE_RATE = 25, 16000
FRAME_STRIDE, MAX_FRAMES = 4, 121
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
BASE_RATE = 150  # espeak words per minute at speed 1
ESPEAK_PITCH = (30, 70)  # for which the pitch in Hz is known
SPEED = (0.75, 1.3)
SPEED_OF_WORD = {"slow": (0.75, 0.9), "steady": (0.93, 1.08), "fast": (1.12, 1.3)}
LEAD_IN, PAUSE, TAIL = (0.0, 0.6), (0.0, 0.3), (0.1, 0.4)  # seconds
LONG_TAIL, LONG_TAIL_SHARE = (0.4, 1.4), 0.2  # a clip may be longer than its speech
SPEECH_LEVEL = -19.0  # dBFS
DITHER = 1e-4  # never digital silence


@dataclass(frozen=True, kw_only=True)
class SyntheticClip:
    """A clip with its whole truth. Times in seconds; frame i shows the middle of its 40 ms.

    frames: (f, h, w, 3) uint8 or None; waveform: (f * 640,) float32 at 16 kHz;
    mouth: (f, 5) open, width, round, teeth, tongue; mouth_opening: (f,) in 0..1;
    mouth_boxes: (f, 4) left, top, right, bottom in pixels;
    reference: (samples,) 3 to 4 s of another sentence by the same voice;
    captions: scene and sound in other forms, "short" and "fused"; emotion: its word, or "";
    phones: IPA with stress marks; emphasis: one number in -1..1 per word.
    """

    seed: int
    index: int
    rendition: int
    held_out: bool
    say: str
    scene: str
    sound: str
    captions: dict[str, tuple[str, str]]
    emotion: str
    voice: str
    look: Look
    frames: Tensor | None
    waveform: Tensor
    reference: Tensor
    reference_say: str
    words: tuple[Mark, ...]
    phones: tuple[Mark, ...]
    mouth: Tensor
    mouth_boxes: Tensor
    emphasis: tuple[float, ...]
    lead_in: float
    speed: float
    reference_speed: float
    pitch: int

    @property
    def mouth_opening(self) -> Tensor:
        return self.mouth[:, OPEN]

    @property
    def seconds(self) -> float:
        return len(self.mouth) / FPS

    @property
    def clip(self) -> Clip:
        """The same as a finished clip: frames in 0..1 and one channel of sound."""
        frames = None if self.frames is None else self.frames.float() / 255
        return Clip(frames, self.waveform[None], Fraction(FPS), SAMPLE_RATE)


# ---- who speaks, and how -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Cast:
    """What all renditions of a clip share. pace: the speed word of the caption, or "" if it has none.

    pitch, pitch_range: those of the voice in this emotion.
    """

    say: str
    voice: Voice
    pitch: int
    pitch_range: int
    pace: str
    look: Look
    emotion: Emotion
    reference_say: str

    @property
    def sound(self) -> str:
        """Such as "a deep slow male voice"."""
        hertz = self.voice.median_hertz(self.pitch)
        steps = (80, 98, 120) if self.voice.sex == "male" else (150, 185, 230)
        word = ("deep", "low", "medium", "high")[sum(hertz >= step for step in steps)]
        return self.emotion.colour(" ".join(filter(None, ("a", word, self.pace, self.voice.sex, "voice"))))

    @property
    def scene(self) -> str:
        """Such as "a sad woman with tan skin, long black hair, blue background"."""
        return self.emotion.colour(self.look.caption)

    @property
    def captions(self) -> dict[str, tuple[str, str]]:
        """Scene and sound in other forms. short: hardly anything; fused: one sentence for both."""
        short = self.emotion.colour(f"a {self.look.person}"), self.emotion.colour(f"a {self.voice.sex} voice")
        return {"short": short, "fused": (f"{self.scene} speaks with {self.sound}", "")}


def _stream(*key: object) -> random.Random:
    """A random stream that depends on the key alone."""
    return random.Random(hashlib.sha256("/".join(map(str, key)).encode()).digest())


@cache
def _vocabulary(words: str) -> tuple[str, ...]:
    """The sorted words of one split, "seen" or "unseen"."""
    unseen = unseen_words()
    return tuple(word for word in spoken_words() if (word in unseen) == (words == "unseen"))


def _draw_cast(rng: random.Random, held_out: bool, words: str, voices: str) -> _Cast:
    unseen_text = words == "unseen"
    say = draw_text(rng, _vocabulary(words), None if unseen_text else held_out)
    voice = rng.choice([voice for voice in VOICES if voice.held_out == (voices == "unseen")])
    while True:
        look = draw_look(rng, "woman" if voice.sex == "female" else "man")
        if is_held_out(look.caption) == held_out:
            break
    return _Cast(
        say=say,
        voice=voice,
        pitch=rng.randint(36, 68),
        pitch_range=rng.randint(35, 65),
        pace=rng.choice(tuple(SPEED_OF_WORD)) if rng.random() < 0.4 else "",
        look=look,
        emotion=NEUTRAL,
        reference_say=" ".join(rng.sample(_vocabulary("seen"), 9)),
    )


def _moved(cast: _Cast, emotion: Emotion) -> _Cast:
    low, high = ESPEAK_PITCH
    return replace(
        cast,
        emotion=emotion,
        pitch=min(max(cast.pitch + emotion.pitch, low), high),
        pitch_range=cast.pitch_range + emotion.pitch_range,
    )


# ---- speech ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Take:
    """A sentence as spoken once. waveform: (samples,) at `sample_rate`, from the first word's first phone."""

    waveform: Tensor
    words: tuple[Mark, ...]
    phones: tuple[Mark, ...]
    word_of_phone: tuple[int, ...]
    emphasis: tuple[float, ...]
    speed: float
    sample_rate: int

    @property
    def seconds(self) -> float:
        return len(self.waveform) / self.sample_rate


def _speak_word(espeak: Espeak, cast: _Cast, word: str, speed: float, emphasis: float) -> Spoken:
    spoken = espeak.speak(
        word,
        cast.voice,
        words_per_minute=round(BASE_RATE * speed * (1 - 0.08 * emphasis)),
        pitch=round(min(max(cast.pitch + 6 * emphasis, 0), 99)),
        pitch_range=cast.pitch_range,
    )
    return Spoken(spoken.waveform * 10 ** (3.0 * emphasis / 20), spoken.phones)


def _speak(espeak: Espeak, cast: _Cast, text: str, speed: float, rng: random.Random) -> _Take:
    """Say the words one after the other, each with its own emphasis and a random pause behind it."""
    pieces: list[Tensor] = []
    words: list[Mark] = []
    phones: list[Mark] = []
    word_of_phone: list[int] = []
    emphasis: list[float] = []
    length, sample_rate = 0, cast.voice.sample_rate
    names = text.split()
    for i, word in enumerate(names):
        emphasis.append(rng.uniform(-1, 1))
        ending = "" if i + 1 == len(names) or rng.random() < 0.3 else ","
        spoken = _speak_word(espeak, cast, word + ending, speed, emphasis[-1])
        start = length / sample_rate
        phones += [Mark(p.text, p.start + start, p.end + start) for p in spoken.phones]
        word_of_phone += [i] * len(spoken.phones)
        words.append(Mark(word, start, phones[-1].end))
        silence = 0.0 if rng.random() < 0.3 else rng.uniform(*PAUSE)
        pieces.append(spoken.waveform)
        if i + 1 < len(names):
            pieces.append(torch.zeros(round(silence * sample_rate)))
        length = sum(map(len, pieces))
    return _Take(
        waveform=torch.cat(pieces),
        words=tuple(words),
        phones=tuple(phones),
        word_of_phone=tuple(word_of_phone),
        emphasis=tuple(emphasis),
        speed=speed,
        sample_rate=sample_rate,
    )


def _leveled(waveform: Tensor, sample_rate: int, energy: float, rng: random.Random) -> Tensor:
    """(samples,) at 16 kHz with its speech `energy` dB over -19 dBFS, give or take a few, and no clipping."""
    waveform = resample(waveform, sample_rate, SAMPLE_RATE)
    frames = waveform[: len(waveform) // 160 * 160].view(-1, 160).square().mean(1)
    speech = frames[frames > frames.max() * 1e-3].mean()
    wanted = 10 ** ((SPEECH_LEVEL + energy + rng.uniform(-2, 2)) / 20)
    waveform = waveform * (wanted / speech.sqrt())
    return waveform * min(1.0, 0.95 / float(waveform.abs().max()))


def _dither(length: int, rng: random.Random) -> Tensor:
    return DITHER * torch.randn(length, generator=torch.Generator().manual_seed(rng.getrandbits(62)))


def _reference(espeak: Espeak, cast: _Cast, rng: random.Random) -> tuple[Tensor, str, float]:
    """(samples,) of 3 to 4 s, the words heard in it, and its speed."""
    speed, wanted = rng.uniform(*SPEED), rng.uniform(3.0, 4.0)
    take = _speak(espeak, cast, cast.reference_say, speed, rng)
    whole = [word for word in take.words if word.end <= wanted]
    end = round((whole[-1].end + 0.01) * take.sample_rate)
    sound = _leveled(take.waveform[:end], take.sample_rate, cast.emotion.energy, rng)
    waveform = _dither(round(wanted * SAMPLE_RATE), rng)
    count = min(len(sound), len(waveform))
    waveform[:count] += sound[:count]
    return waveform, " ".join(word.text for word in whole), speed


# ---- the clip ----------------------------------------------------------------------------------------------


def _perform(espeak: Espeak, cast: _Cast, rng: random.Random) -> tuple[_Take, float, int]:
    """(take, lead-in seconds, frames). Drawn again, a little faster, until 121 frames are enough."""
    low, high = SPEED_OF_WORD.get(cast.pace, SPEED)
    for attempt in range(40):
        slowest = low + (high - low) * min(attempt / 10, 0.95)
        take = _speak(espeak, cast, cast.say, rng.uniform(slowest, high) * cast.emotion.pace, rng)
        lead_in = rng.uniform(*LEAD_IN)
        wanted = (lead_in + take.seconds + _tail(rng)) * FPS
        frames = max(5, math.ceil((wanted - 1) / FRAME_STRIDE) * FRAME_STRIDE + 1)
        if frames <= MAX_FRAMES:
            return take, lead_in, frames
    raise ValueError(f"{cast.say!r} does not fit into {MAX_FRAMES} frames; say fewer words")


def _tail(rng: random.Random) -> float:
    return rng.uniform(*(LONG_TAIL if rng.random() < LONG_TAIL_SHARE else TAIL))


def _shift(marks: tuple[Mark, ...], seconds: float) -> tuple[Mark, ...]:
    return tuple(Mark(m.text, round(m.start + seconds, 5), round(m.end + seconds, 5)) for m in marks)


def _sound(take: _Take, lead_in: float, frames: int, energy: float, rng: random.Random) -> Tensor:
    waveform = _dither(frames * SAMPLES_PER_FRAME, rng)
    speech = _leveled(take.waveform, take.sample_rate, energy, rng)
    start = round(lead_in * SAMPLE_RATE)
    waveform[start : start + len(speech)] += speech[: len(waveform) - start]
    return waveform


def _pose(take: _Take, lead_in: float, times: Tensor, emotion: Emotion, rng: random.Random) -> Tensor:
    """(f, 7): the head sways and shows what it feels; on stressed words it nods and lifts its brows."""
    pose = sway(rng, times)
    pose[:, LID] *= emotion.lids
    pose[:, [BROW, SLANT, SMILE]] += torch.tensor([emotion.brow, emotion.slant, emotion.smile])
    for word, emphasis in zip(take.words, take.emphasis, strict=True):
        middle = lead_in + 0.5 * (word.start + word.end)
        near = torch.exp(-0.5 * ((times - middle) / 0.15) ** 2) * max(0.0, emphasis)
        pose[:, SHIFT_Y] += 0.025 * near
        pose[:, BROW] += near
    return pose


def _check_choice(index: int, size: int, held_out: bool, splits: dict[str, str]) -> None:
    for name, value in splits.items():
        if value not in ("seen", "unseen"):
            raise ValueError(f'{name} must be "seen" or "unseen", got {value!r}')
        if value == "unseen" and not held_out:
            raise ValueError(
                f'{name}="unseen" would put held-out {name} into training data; set held_out=True'
            )
    if index < 0 or size < 16:
        raise ValueError(f"index must be at least 0 and size at least 16, got {index} and {size}")


def synthesize_clip(
    seed: int,
    index: int,
    *,
    frames: bool = True,
    size: int = 64,
    held_out: bool = False,
    words: str = "seen",
    voices: str = "seen",
    rendition: int = 0,
) -> SyntheticClip:
    """One talking portrait of 25 fps and 16 kHz with all its ground truth, the same for the same arguments.

    frames: draw the picture, or leave it None; size: pixels of each side;
    held_out: a text and a face that no training clip has;
    words, voices: "seen", or with held_out "unseen": those kept from training altogether;
    rendition: another number gives the same text, voice, face and captions in another timing.
    Raises ValueError for a bad argument, ModuleNotFoundError without espeak-ng.
    """
    _check_choice(index, size, held_out, {"words": words, "voices": voices})
    key = (seed, index, held_out, words, voices)
    cast = _draw_cast(_stream("cast", *key), held_out, words, voices)
    cast = _moved(cast, draw_emotion(_stream("emotion", *key)))
    return _make(cast, key, rendition, size, frames)


def synthesize_person(
    seed: int,
    index: int,
    person: int,
    *,
    frames: bool = True,
    size: int = 64,
    words: str = "seen",
    rendition: int = 0,
) -> SyntheticClip:
    """A held-out clip with the face, voice and pitch that all clips of this calm `person` share.

    Face and voice are held out too, and follow from (seed, person); the rest is as in `synthesize_clip`.
    """
    _check_choice(index, size, True, {"words": words})
    if person < 0:
        raise ValueError(f"person must be at least 0, got {person}")
    who = _draw_cast(_stream("person", seed, person), True, "seen", "unseen")
    key = (seed, index, True, words, "unseen", "person", person)
    cast = _draw_cast(_stream("cast", *key), True, words, "unseen")
    cast = replace(cast, voice=who.voice, pitch=who.pitch, pitch_range=who.pitch_range, look=who.look)
    return _make(cast, key, rendition, size, frames)


def _make(cast: _Cast, key: _Key, rendition: int, size: int, frames: bool) -> SyntheticClip:
    """The clip of this cast; `key` and `rendition` decide its timing."""
    timing = _stream("timing", *key, rendition)
    with open_espeak() as espeak:
        take, lead_in, count = _perform(espeak, cast, timing)
    with open_espeak() as espeak:  # a fresh one: the reference must not depend on the take
        reference, reference_say, reference_speed = _reference(espeak, cast, _stream("reference", *key))
    times = (torch.arange(count) + 0.5) / FPS
    phones = _shift(take.phones, lead_in)
    strength = [cast.emotion.opening * (0.80 + 0.20 * take.emphasis[i]) for i in take.word_of_phone]
    mouth = mouth_track(phones, strength, times)
    pose = _pose(take, lead_in, times, cast.emotion, timing)
    waveform = _sound(take, lead_in, count, cast.emotion.energy, timing)
    mouth[:, OPEN] = (mouth[:, OPEN] * loudness(waveform, SAMPLE_RATE, times)).clamp(0, 1)
    return SyntheticClip(
        seed=key[0],
        index=key[1],
        rendition=rendition,
        held_out=key[2],
        say=cast.say,
        scene=cast.scene,
        sound=cast.sound,
        captions=cast.captions,
        emotion=cast.emotion.word,
        voice=cast.voice.name,
        look=cast.look,
        frames=render(cast.look, mouth, pose, size, size) if frames else None,
        waveform=waveform,
        reference=reference,
        reference_say=reference_say,
        words=_shift(take.words, lead_in),
        phones=phones,
        mouth=mouth,
        mouth_boxes=mouth_box(cast.look, pose, size, size),
        emphasis=take.emphasis,
        lead_in=lead_in,
        speed=take.speed,
        reference_speed=reference_speed,
        pitch=cast.pitch,
    )
