"""A dataset as it lies on disk: rows that name a video, its caption, and maybe a voice and a mouth.

- a folder of `name.mp4` (mov, mkv, webm) with `name.txt` and maybe `name.ref.wav` beside it, or
- a folder with one `.jsonl` file: an object of the fields of `Row` a line, paths relative to that file.

f frames · h, w rows, columns of pixels or latents · n samples
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ..av import Clip, ClipFormat
from ..media import fill, fill_size, nearest, read_video, resample
from ..models.markup import SPEECH_TAGS, build_prompt

VIDEOS = (".mp4", ".mov", ".mkv", ".webm")
FORMS = ("full", "no_scene", "no_sound", "speech")
UNSAFE = re.compile(r'[\x00-\x1f/\\:*?"<>|]')
LONGEST_NAME = 100  # characters; a file system takes 255 bytes, and a suffix comes behind
CAPTION = "scene <S>what is said<E> sound"

Timing = Sequence[tuple[str, float, float]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One clip. Times in seconds, paths as they can be opened.

    captions: further finished prompts by form, in the markup of the model; reference: a file with 3 to 5 s of
    the same voice; mouth: left, top, right, bottom in upright pixels of the video, for each of its frames;
    words, phones: (text, start, end) where they are known.
    """

    name: str
    video: Path
    scene: str = ""
    speech: str = ""
    sound: str = ""
    captions: Mapping[str, str] = field(default_factory=dict)
    reference: Path | None = None
    speaker: str = ""
    mouth: Sequence[tuple[float, float, float, float]] | None = None
    words: Timing = ()
    phones: Timing = ()

    __pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}  # noqa: RUF012 - read by pydantic alone


# ---- rows --------------------------------------------------------------------------------------------------


def read_rows(folder: Path) -> list[Row]:
    """Every clip of a folder, in the order of its names, or of the lines of its .jsonl file.

    Raises FileNotFoundError, or ValueError with file and line; whether a clip is any good, `check_rows` says.
    """
    folder = Path(folder)
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file; give the folder that holds the clips")
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give the folder that holds the clips")
    tables = _visible(folder, (".jsonl",))
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        raise ValueError(f"{folder} holds {len(tables)} lists of clips ({names}); keep one .jsonl file in it")
    found = _listed(tables[0]) if tables else [_beside(video) for video in _visible(folder, VIDEOS)]
    if not found:
        where = f"{tables[0]} has no lines" if tables else f"{folder} holds no clips"
        raise ValueError(f"{where}; give a folder of {', '.join(VIDEOS)} files, each with a .txt of its name")
    _check_names(found)
    return [row for row, _ in found]


def _visible(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    files = (one for one in folder.iterdir() if one.suffix.lower() in suffixes)
    return sorted(one for one in files if not one.name.startswith(".") and one.is_file())


def _beside(video: Path) -> tuple[Row, str]:
    """A row from a video and the files of the same name, and where it stands."""
    text, reference = video.with_suffix(".txt"), video.with_suffix(".ref.wav")
    caption = _read_text(text) if text.is_file() else ""
    voice = reference if reference.is_file() else None
    return Row(name=video.stem, video=video, reference=voice, **split_caption(caption)), str(video)


def split_caption(caption: str) -> dict[str, str]:
    """`scene <S>speech<E> sound` in its parts. What is not written so is a scene, tags and all."""
    start, end = SPEECH_TAGS
    tagged = re.fullmatch(f"(?s)(.*?){start}(.*?){end}(.*)", caption)
    parts = tagged.groups() if tagged else (caption, "", "")
    return dict(zip(("scene", "speech", "sound"), (part.strip() for part in parts), strict=True))


def _listed(table: Path) -> list[tuple[Row, str]]:
    lines = enumerate(_read_text(table).split("\n"), 1)
    return [(_from_line(table, number, line), f"{table}:{number}") for number, line in lines if line.strip()]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text; save it as UTF-8") from error


def _from_line(table: Path, number: int, line: str) -> Row:
    try:
        given = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{table}:{number}: this is no JSON ({error})") from error
    if not isinstance(given, dict):
        raise ValueError(
            f'{table}:{number}: a line is an object such as {{"video": "a.mp4"}}, got {line:.40}'
        )
    if isinstance(given.get("video"), str):
        given.setdefault("name", Path(given["video"]).stem)
    for key in ("video", "reference"):
        if isinstance(given.get(key), str):
            given[key] = table.parent / given[key]
    return _validated(given, f"{table}:{number}")


def _validated(given: dict[str, Any], where: str) -> Row:
    """The row, or a ValueError that names the first key that is wrong."""
    from pydantic import ValidationError

    try:
        return _adapter().validate_python(given)
    except ValidationError as error:
        wrong = error.errors()[0]
        key = ".".join(map(str, wrong["loc"]))
        if wrong["type"] == "unexpected_keyword_argument":
            known = ", ".join(one.name for one in fields(Row))
            raise ValueError(f"{where}: there is no key {key}; known are {known}") from error
        if wrong["type"] == "missing":
            raise ValueError(f"{where}: {key} is missing") from error
        got = f"{wrong['input']!r:.40}"
        raise ValueError(f"{where}: {key}: {wrong['msg'].lower()}, got {got}") from error


@lru_cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Row)


def _check_names(found: Sequence[tuple[Row, str]]) -> None:
    """ValueError for a name that cannot be a file's, or that two clips share."""
    taken: dict[str, str] = {}
    for row, where in found:
        if not row.name.strip() or row.name.startswith(".") or len(row.name) > LONGEST_NAME:
            raise ValueError(
                f"{where}: a clip's name has 1 to {LONGEST_NAME} characters and no dot in front, "
                f"got {row.name!r:.60}; rename it"
            )
        if bad := UNSAFE.search(row.name):
            raise ValueError(
                f"{where}: the name {row.name!r} holds {bad[0]!r}, which no file's can; rename it"
            )
        if forms := sorted(row.captions.keys() & set(FORMS)):
            raise ValueError(
                f"{where}: captions.{forms[0]} is made from scene, speech and sound; name it another"
            )
        first = taken.setdefault(row.name.casefold(), where)
        if first is not where:
            raise ValueError(f"{where}: the clip at {first} is called {row.name} too; give each its own name")


def prompts_of(row: Row, markup: str) -> dict[str, str]:
    """Finished prompts by form: `FORMS` and the row's captions. A form with nothing in it is the full one."""
    full = build_prompt(markup, row.scene, row.speech, row.sound)
    parts = {
        "full": (row.scene, row.speech, row.sound),
        "no_scene": ("", row.speech, row.sound),
        "no_sound": (row.scene, row.speech, ""),
        "speech": ("", row.speech, ""),
    }
    forms = {form: build_prompt(markup, *said) if any(said) else full for form, said in parts.items()}
    return forms | dict(row.captions)


# ---- reading -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """What a video file tells without being decoded. times: of its frames, from the first, in seconds."""

    width: int  # upright
    height: int
    times: np.ndarray
    fps: float
    sample_rate: int  # 0: no sound
    channels: int
    delay: float  # seconds that the sound begins after the picture

    @property
    def seconds(self) -> float:
        """Of picture."""
        return float(self.times[-1]) + 1 / self.fps

    def frames(self, clip: ClipFormat) -> int:
        """How many frames a model of this format sees, not yet cut to a whole number of latents."""
        return max(0, round(self.seconds * float(clip.fps)))


def probe(path: Path) -> Probe:
    """A look at a video file. Raises FileNotFoundError, or ValueError for one without a picture."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with av.open(str(path)) as file:
            if not file.streams.video:
                raise ValueError(f"{path} has no picture; give a video file")
            return _probe(file)
    except (av.FFmpegError, StopIteration) as error:
        raise ValueError(f"{path} cannot be read as a video ({error}); export it again as mp4") from error


def _probe(file: Any) -> Probe:
    stream = file.streams.video[0]
    packets = (one for one in file.demux(stream) if one.pts is not None and not one.is_discard)
    times = np.array(sorted(float(one.pts * one.time_base) for one in packets))
    fps = stream.average_rate or stream.guessed_rate
    if not times.size or not fps:
        raise ValueError(f"{file.name} has no frame that can be decoded; give another video file")
    file.seek(0)
    first = next(file.decode(stream))
    turned = first.rotation % 180 != 0
    sound = file.streams.audio[0] if file.streams.audio else None
    started = 0.0 if sound is None else float((sound.start_time or 0) * sound.time_base)
    return Probe(
        width=first.height if turned else first.width,
        height=first.width if turned else first.height,
        times=times - times[0],
        fps=float(fps),
        sample_rate=0 if sound is None else sound.rate,
        channels=0 if sound is None else sound.channels,
        delay=0.0 if sound is None else started - float(times[0]),
    )


def whole_frames(frames: int, clip: ClipFormat) -> int:
    """The first frames that fill whole latents."""
    return frames - (frames - 1) % clip.frame_stride


def read_clip(row: Row, clip: ClipFormat, size: tuple[int, int]) -> Clip:
    """The clip on the model's grid: 4n+1 frames of `size` (width, height), and one channel of sound.

    Scaled until it covers the size, the rest cut off evenly. ValueError for a file that cannot be read.
    """
    read = read_video(row.video, fps=clip.fps, change=lambda image: fill(image, *size)[0].permute(1, 2, 0))
    if read.waveform is None:
        raise ValueError(f"{row.video} has no sound; give a video file with sound")
    frames = whole_frames(len(read.frames), clip)
    samples = clip.samples(frames)
    sound = resample(read.waveform.mean(0, keepdim=True), read.sample_rate, clip.sample_rate)
    sound = pad(sound, (0, max(0, samples - sound.shape[1])))[:, :samples]
    return Clip(read.frames[:frames], sound, clip.fps, clip.sample_rate)


def mouth_mask(row: Row, clip: ClipFormat, size: tuple[int, int], frames: int) -> Tensor:
    """(f, h, w) bool: the latents that the mouth touches in any frame of theirs (JoVA, equations 4 and 5)."""
    file = probe(row.video)
    ticks = np.arange(frames) / float(clip.fps)
    boxes = torch.tensor(row.mouth, dtype=torch.float64)[nearest(file.times, ticks)]
    scaled, (top, left) = fill_size(file.height, file.width, *size)
    zoom = [scaled[1] / file.width, scaled[0] / file.height]
    boxes = boxes * torch.tensor(zoom * 2) - torch.tensor([left, top] * 2)
    width, height = size
    rows, columns = height // clip.pixel_stride, width // clip.pixel_stride
    mask = torch.zeros(clip.latent_frames(frames), rows, columns, dtype=torch.bool)
    windows = [boxes[:1], *boxes[1:].split(clip.frame_stride)]
    for one, window in zip(mask, windows, strict=True):
        box = [*window[:, :2].amin(0).tolist(), *window[:, 2:].amax(0).tolist()]
        mark_box(one, box, clip.pixel_stride)
    return mask


def mark_box(mask: Tensor, box: Sequence[float], stride: int) -> None:
    """Set the latents (..., h, w) that a box (left, top, right, bottom in pixels) touches in any part."""
    left, top = (max(0, math.floor(edge / stride)) for edge in box[:2])
    right, bottom = (max(0, math.ceil(edge / stride)) for edge in box[2:])
    mask[..., top:bottom, left:right] = True
