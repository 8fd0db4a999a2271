"""The words of a clip as subtitles: beside it as .srt, or inside it as a text track that players can show.

c channels · n samples
"""

from __future__ import annotations

import re
import struct
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import av
from torch import Tensor

from .av import Clip
from .media import replacing
from .models.markup import SPEECH, without_weights

COLUMNS, LINES = 42, 2  # of one subtitle, as broadcasters have it
SENTENCE = re.compile(r"(?<=[.!?…])\s+|\n+")
WINDOW = 0.02  # seconds over which a level is measured
HEARD = 0.05  # of the loudest window: from the first to the last that is as loud, somebody speaks
MILLISECOND = Fraction(1, 1000)
OF_THE_FILE = {"major_brand", "minor_version", "compatible_brands", "encoder"}
# what the encoder needs to know of fonts; players use their own
STYLE = (
    "[V4+ Styles]\nFormat: Name, Fontname, Fontsize, PrimaryColour, Alignment\n"
    "Style: Default,Arial,16,&Hffffff,2\n[Events]\nFormat: Layer, Start, End, Style, Text\n"
)


@dataclass(frozen=True)
class Cue:
    """One subtitle. start, end: milliseconds."""

    start: int
    end: int
    text: str


def subtitler(kind: str, speech: str, clip: Clip, since: float = 0.0) -> Callable[[Path], Any]:
    """What gives the file of a clip its subtitles. kind: track, inside an mp4, or srt, beside any file.

    since: seconds before which nothing of the speech is said. ValueError if there is no speech.
    """
    check_speech(speech)
    cues = cues_of(speech, clip.waveform, clip.sample_rate, since)
    write = {"track": add_track, "srt": write_srt}[kind]
    return lambda path: write(path, cues)


def check_speech(speech: str) -> None:
    """ValueError if there are no words for subtitles."""
    if not texts_of(speech):
        raise ValueError("there are no words for subtitles; give the speech, or choose none")


def texts_of(speech: str) -> list[str]:
    """What is said, or a finished prompt with it -> the texts of the subtitles."""
    return broken(" ".join(SPEECH.findall(speech)) or speech)


def cues_of(speech: str, waveform: Tensor, sample_rate: int, since: float = 0.0) -> list[Cue]:
    """Subtitles for what is said in a sound (c, n): its words, or a finished prompt with them.

    The times are estimated: the texts share what is heard, from `since` seconds on, in proportion to their
    letters.
    """
    texts = texts_of(speech)
    if not texts:
        return []
    start, end = heard(waveform[:, round(since * sample_rate) :], sample_rate)
    shares = list(accumulate((len(text) for text in texts), initial=0))
    times = [round(1000 * (since + start + (end - start) * share / shares[-1])) for share in shares]
    return [Cue(*span, text) for span, text in zip(pairwise(times), texts, strict=True)]


def broken(speech: str) -> list[str]:
    """Sentence by sentence, each in texts of two lines at most."""
    sentences = (one.strip() for one in SENTENCE.split(without_weights(speech)))
    wrapped = [textwrap.wrap(one, COLUMNS) for one in sentences if one]
    return ["\n".join(lines[i : i + LINES]) for lines in wrapped for i in range(0, len(lines), LINES)]


def heard(waveform: Tensor, sample_rate: int) -> tuple[float, float]:
    """From when to when something is heard, in seconds; all of a sound that is silent or very short."""
    seconds, window = waveform.shape[1] / sample_rate, round(WINDOW * sample_rate)
    if waveform.shape[1] < window or not waveform.any():
        return 0.0, seconds
    levels = waveform.mean(0).unfold(0, window, window).square().mean(1)
    loud = (levels >= HEARD**2 * levels.max()).nonzero()[:, 0]
    return float(loud[0]) * WINDOW, min(float(loud[-1] + 1) * WINDOW, seconds)


def srt(cues: Sequence[Cue]) -> str:
    """The text of a .srt file."""
    parts = (f"{i}\n{_clock(cue.start)} --> {_clock(cue.end)}\n{cue.text}\n" for i, cue in enumerate(cues, 1))
    return "\n".join(parts)


def _clock(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02},{rest:03}"


def write_srt(video: Path, cues: Sequence[Cue]) -> Path:
    """Write the subtitles beside a video, under its name."""
    path = video.with_suffix(".srt")
    with replacing(path) as temporary:
        temporary.write_text(srt(cues), encoding="utf-8")
    return path


def add_track(video: Path, cues: Sequence[Cue]) -> None:
    """Put the subtitles into an mp4 file; picture, sound and tags stay as they are."""
    with replacing(video) as temporary, av.open(str(video)) as old, _mp4(temporary) as new:
        new.metadata.update({name: text for name, text in old.metadata.items() if name not in OF_THE_FILE})
        streams = {one: new.add_stream_from_template(one) for one in old.streams}
        track = new.add_stream("mov_text", time_base=MILLISECOND)
        track.codec_context.subtitle_header = STYLE.encode()
        for packet in old.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream]
                new.mux(packet)
        for cue in cues:
            new.mux(_packet(cue, track))


def _mp4(path: Path) -> Any:
    return av.open(str(path), "w", format="mp4", options={"movflags": "+faststart+use_metadata_tags"})


def _packet(cue: Cue, track: Any) -> av.Packet:
    """3GPP timed text (TS 26.245): its length in two bytes, then UTF-8."""
    text = cue.text.encode()
    packet = av.Packet(struct.pack(">H", len(text)) + text)
    packet.stream, packet.time_base = track, MILLISECOND
    packet.pts = packet.dts = cue.start
    packet.duration = cue.end - cue.start
    return packet
