"""Spoken words with the exact time of every phone, from espeak-ng through ctypes.

- espeak-ng (GPL-3) is called when data is made, never at run time; nothing of it is stored here;
- its library comes with the PyPI package `espeakng-loader`: pip install 'comfyui-unitalk[data]';
- every `open_espeak` loads a fresh copy of the library, because its wave generator keeps state from word to
  word: so the same calls give the same samples in any process and any order.
"""

from __future__ import annotations

import ctypes
import math
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

ESPEAK_RATE = 22050
RATE, PITCH, PITCH_RANGE = 1, 3, 4  # espeak_PARAMETER
END_OF_EVENTS, PHONEME = 0, 7  # espeak_EVENT_TYPE
SYNCHRONOUS, PHONEME_EVENTS_IPA, UTF8 = 2, 3, 1
SECONDARY_STRESS, PRIMARY_STRESS = "ˌ", "ˈ"

_one_at_a_time = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A speaker: a variant of espeak-ng's American English, maybe with a longer or shorter vocal tract.

    hertz: its median pitch at espeak pitch 50, measured. sample_rate: how fast its sound is played; above
    22,050 Hz the vocal tract is shorter, and `Espeak.speak` speaks as much slower as the words get shorter.
    """

    name: str
    variant: str
    sex: str
    hertz: float
    sample_rate: int = ESPEAK_RATE
    held_out: bool = False

    def median_hertz(self, pitch: float) -> float:
        """Median pitch in Hz at an espeak pitch of 30..70: measured, an octave for 60 points."""
        return self.hertz * 2 ** ((pitch - 50) * 0.0165)


# chosen because a recogniser understands them (natural accuracy .9 to 1) and no two sound alike
VOICES: tuple[Voice, ...] = (
    Voice(name="benjamin", variant="benjamin", sex="male", hertz=86),
    Voice(name="edward", variant="edward", sex="male", hertz=85),
    Voice(name="hugo", variant="Hugo", sex="male", hertz=89),
    Voice(name="m5", variant="m5", sex="male", hertz=85),
    Voice(name="m6", variant="m6", sex="male", hertz=86),
    Voice(name="ed", variant="ed", sex="male", hertz=105),
    Voice(name="john-short", variant="john", sex="male", hertz=96, sample_rate=24000),
    Voice(name="m1", variant="m1", sex="male", hertz=82, held_out=True),
    Voice(name="f1-long", variant="f1", sex="female", hertz=141, sample_rate=20000),
    Voice(name="f2", variant="f2", sex="female", hertz=162),
    Voice(name="f5-short", variant="f5", sex="female", hertz=194, sample_rate=24000),
    Voice(name="f5-long", variant="f5", sex="female", hertz=161, sample_rate=20000),
    Voice(name="anika", variant="anika", sex="female", hertz=223),
    Voice(name="f1", variant="f1", sex="female", hertz=155, held_out=True),
)


@dataclass(frozen=True)
class Mark:
    """A word, phone or other stretch of a clip. start, end: seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Spoken:
    """One word. waveform: (samples,) float32 at the voice's sample rate; phones: IPA, from 0 s."""

    waveform: Tensor
    phones: tuple[Mark, ...]


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


def _close(library: ctypes.CDLL) -> None:
    import _ctypes

    close = _ctypes.FreeLibrary if hasattr(_ctypes, "FreeLibrary") else _ctypes.dlclose
    close(library._handle)


class Espeak:
    """One fresh copy of the library; made by `open_espeak`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._samples: list[bytes] = []
        self._events: list[tuple[int, str]] = []
        self._callback = _Callback(self._receive)  # kept alive as long as the library may call it
        library.espeak_SetSynthCallback(self._callback)

    def _receive(self, wave: ctypes._Pointer, count: int, events: ctypes._Pointer) -> int:
        if wave and count > 0:
            self._samples.append(ctypes.string_at(wave, 2 * count))
        i = 0
        while events[i].type != END_OF_EVENTS:
            if events[i].type == PHONEME:
                self._events.append((events[i].sample, events[i].id.string.decode("utf-8", "ignore")))
            i += 1
        return 0

    def speak(
        self, text: str, voice: Voice, *, words_per_minute: int, pitch: int, pitch_range: int = 50
    ) -> Spoken:
        """One word, from its first phone to the end of its last.

        words_per_minute: 80..450; pitch, pitch_range: 0..99. A comma after the word keeps its melody up,
        nothing lets it fall. ValueError for an unknown voice, or if nothing sounds.
        """
        self._samples.clear()
        self._events.clear()
        if self._library.espeak_SetVoiceByName(f"en-us+{voice.variant}".encode()):
            raise ValueError(f"espeak-ng has no variant {voice.variant!r} of its American English")
        rate = round(words_per_minute * ESPEAK_RATE / voice.sample_rate)
        for parameter, value in ((RATE, rate), (PITCH, pitch), (PITCH_RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        encoded = text.encode()
        with _heard():
            self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, UTF8, None, None)
        return self._spoken(text, voice.sample_rate)

    def _spoken(self, text: str, sample_rate: int) -> Spoken:
        sounding = [i for i, (_, phone) in enumerate(self._events) if phone]
        if not sounding or not self._samples:
            raise ValueError(f"espeak-ng makes no sound of {text!r}; give it a word of letters")
        first = self._events[sounding[0]][0]
        wave = torch.frombuffer(bytearray(b"".join(self._samples)), dtype=torch.int16).float() / 32768
        silence = [sample for sample, phone in self._events[sounding[-1] + 1 :] if not phone]
        last = min(silence[0] + RELEASE if silence else len(wave), len(wave))
        edges = [self._events[i][0] for i in sounding] + [min(silence[0], last) if silence else last]
        phones = tuple(
            Mark(self._events[i][1], (start - first) / sample_rate, (end - first) / sample_rate)
            for i, (start, end) in zip(sounding, pairwise(edges), strict=True)
        )
        return Spoken(_fade(wave[first:last]), phones)


RELEASE = 200  # samples that still ring after the last phone: 9 ms


def _fade(wave: Tensor, length: int = 66) -> Tensor:
    """(samples,) with raised-cosine edges of 3 ms, so that words can be cut and joined without a click."""
    ramp = 0.5 - 0.5 * torch.cos(torch.arange(length) * (math.pi / length))
    wave = wave.clone()
    wave[:length] *= ramp[: len(wave)]
    wave[-length:] *= ramp.flip(0)[-len(wave) :]
    return wave


@contextmanager
def _heard() -> Iterator[None]:
    """Raise what is raised in a callback, such as a stop: ctypes itself would print it and go on."""
    caught: list[BaseException] = []
    before, sys.unraisablehook = sys.unraisablehook, lambda one: caught.append(one.exc_value)
    try:
        yield
    finally:
        sys.unraisablehook = before
    if caught:
        raise caught[0]


@contextmanager
def open_espeak() -> Iterator[Espeak]:
    """A fresh espeak-ng for the length of a `with`; one at a time in a process (2 ms).

    ModuleNotFoundError without the package `espeakng-loader`; RuntimeError if its data cannot be read.
    """
    try:
        import espeakng_loader
    except ImportError:
        message = (
            "making clips with speech needs espeak-ng: run pip install espeakng-loader (or the extra [data])"
        )
        raise ModuleNotFoundError(message) from None
    with _one_at_a_time:
        library = ctypes.CDLL(espeakng_loader.get_library_path())
        path = espeakng_loader.get_data_path()
        rate = library.espeak_Initialize(SYNCHRONOUS, 200, path.encode(), PHONEME_EVENTS_IPA)
        if rate != ESPEAK_RATE:
            raise RuntimeError(f"espeak-ng cannot read its data in {path}; reinstall espeakng-loader")
        library.espeak_ng_SetRandSeed(1)  # its own choice is the time of day
        try:
            yield Espeak(library)
        finally:
            library.espeak_Terminate()
            _close(library)


# p phases of `up` output samples · k taps
@lru_cache(maxsize=4)
def _resampling_filters(up: int, down: int, zeros: int = 24) -> tuple[Tensor, int]:
    """(p, 1, k) windowed-sinc filters from `down` input samples to `up`, and how far they look back."""
    cutoff = min(1.0, up / down) * 0.97
    half = math.ceil(zeros / cutoff)
    position = torch.arange(up, dtype=torch.float64)[:, None] * down / up
    time = torch.arange(-half, down + half, dtype=torch.float64)[None] - position
    window = torch.cos(time.clamp(-half, half) * (math.pi / 2 / half)) ** 2
    taps = cutoff * torch.sinc(cutoff * time) * window
    return (taps / taps.sum(1, keepdim=True)).float()[:, None], half


def resample(waveform: Tensor, source: int, target: int) -> Tensor:
    """(samples,) at `source` Hz -> (ceil(samples * target / source),) at `target` Hz; Hann-windowed sinc."""
    divisor = math.gcd(source, target)
    up, down = target // divisor, source // divisor
    filters, half = _resampling_filters(up, down)
    padded = F.pad(waveform, (half, half + down - len(waveform) % down))
    phases = F.conv1d(padded[None, None], filters, stride=down)[0]  # (p, blocks)
    return phases.T.reshape(-1)[: math.ceil(len(waveform) * up / down)]
