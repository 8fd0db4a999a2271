"""Read and write video, sound and pictures (PyAV). Files appear whole under their final name, or not at all.

f frames · h, w rows, columns of pixels · c channels · n samples
"""

from __future__ import annotations

import logging
import os
import uuid
import wave
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor
from torch.nn.functional import interpolate

from .av import Clip, ClipStream

log = logging.getLogger("unitalk")

AAC_RATES = (
    7350,
    8000,
    11025,
    12000,
    16000,
    22050,
    24000,
    32000,
    44100,
    48000,
    64000,
    88200,
    96000,
)  # ISO 14496-3
AAC_FRAME = 1024  # samples; an encoder rounds its last frame up to it
CRF = "16"  # x264 quality: near transparent
AHEAD = 2  # parts of a picture that may wait for the encoder
ROUNDED = 1 << 1 | 1 << 13 | 1 << 18  # swscale: bilinear, full chroma, accurate; without them it rounds down

OnMismatch = Literal["error", "pad", "trim"]


# --- reading ---------------------------------------------------------------------------------------------


def read_video(
    path: str | Path,
    *,
    start: float = 0.0,
    seconds: float | None = None,
    fps: Fraction | float | None = None,
    change: Callable[[Tensor], Tensor] | None = None,
) -> Clip:
    """A video file as a clip: frames (f, h, w, 3) in 0..1 upright, waveform (c, n) on the same clock or None.

    Frames stand on an even grid of `fps` (default: the file's own average rate), each the nearest in time,
    so a file with a varying rate stays in step with its sound. `start` and `seconds` cut a part of it.
    change: done to each frame (h, w, 3) as soon as it is decoded, so that large ones need not be held.
    Raises FileNotFoundError, or ValueError for a file that has no picture or no such part.
    """
    with _opened(path) as container:
        if not container.streams.video:
            raise ValueError(f"{path} has no picture; give a video file")
        stream = container.streams.video[0]
        own_rate = stream.average_rate or stream.guessed_rate
        images, times, to_rgb = [], [], VideoReformatter()
        for frame in container.decode(stream):
            time = float((frame.pts or 0) * frame.time_base)
            if seconds is not None and images and time > times[0] + start + seconds + 1:
                break
            image = _upright(frame, to_rgb)
            images.append(image if change is None else change(image.float().div_(255)))
            times.append(time)
    if not images or not own_rate:
        raise ValueError(f"{path} has no frame that can be decoded; give another video file")
    rate = own_rate if fps is None else Fraction(fps)
    offsets = np.asarray(times) - times[0]
    end = min(offsets[-1] + 1 / float(own_rate), float("inf") if seconds is None else start + seconds)
    ticks = start + np.arange(max(0, round((end - start) * float(rate)))) / float(rate)
    frames = _on_grid(images, offsets, ticks)
    if not len(frames):
        raise ValueError(
            f"{path} ends after {times[-1] - times[0]:.2f} s; start {start:g} s is outside of it"
        )
    waveform, sample_rate = _sound_beside(path, times[0] + start, len(frames) / rate)
    return Clip(frames, waveform, Fraction(rate), sample_rate)


def _upright(frame: av.VideoFrame, to_rgb: VideoReformatter) -> Tensor:
    """(h, w, 3) uint8, turned as the file says."""
    pixels = to_rgb.reformat(frame, format="rgb24", interpolation=ROUNDED).to_ndarray()
    turned = np.rot90(pixels, frame.rotation // 90)
    return torch.from_numpy(np.ascontiguousarray(turned))


def _on_grid(images: list[Tensor], offsets: np.ndarray, ticks: np.ndarray) -> Tensor:
    """The image nearest in time to each tick (seconds). -> (f, h, w, 3) in 0..1"""
    picked = [images[i] for i in nearest(offsets, ticks)]
    stacked = torch.stack(picked) if picked else torch.empty(0)
    return stacked if stacked.is_floating_point() else stacked.float() / 255


def nearest(offsets: np.ndarray, ticks: np.ndarray) -> np.ndarray:
    """Which of `offsets` (ascending, seconds) is nearest to each tick; the earlier one of two."""
    right = np.searchsorted(offsets, ticks).clip(0, len(offsets) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(ticks - offsets[left] <= offsets[right] - ticks, left, right)


def _sound_beside(path: str | Path, start: float, seconds: Fraction) -> tuple[Tensor | None, int]:
    """The sound of a video file over exactly the time that its picture takes, silence where it has none."""
    with _opened(path) as container:
        if not container.streams.audio:
            return None, 0
        waveform, sample_rate, first = _decode_sound(container)
    begin = round((start - first) * sample_rate)
    count = round(seconds * sample_rate)
    part = waveform[:, max(0, begin) : max(0, begin + count)]
    before = min(count, max(0, -begin))
    return torch.nn.functional.pad(part, (before, count - before - part.shape[1])), sample_rate


def read_audio(path: str | Path, sample_rate: int | None = None, mono: bool = False) -> tuple[Tensor, int]:
    """The sound of any media file: (waveform (c, n) in -1..1, sample_rate), resampled and mixed when asked.

    Raises FileNotFoundError, or ValueError for a file without sound.
    """
    with _opened(path) as container:
        if not container.streams.audio:
            raise ValueError(f"{path} has no sound; give a file with an audio track")
        waveform, rate, _ = _decode_sound(container)
    if not waveform.shape[1]:
        raise ValueError(f"{path} has an empty audio track; give a file with sound in it")
    waveform = waveform.mean(0, keepdim=True) if mono else waveform
    return resample(waveform, rate, sample_rate or rate), sample_rate or rate


def _decode_sound(container: Any) -> tuple[Tensor, int, float]:
    """(waveform (c, n), sample_rate, time of the first sample in seconds), without the encoder's padding."""
    stream = container.streams.audio[0]
    to_float = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
    parts, first = [], None
    for frame in container.decode(stream):
        first = float((frame.pts or 0) * frame.time_base) if first is None else first
        parts += [one.to_ndarray() for one in to_float.resample(frame)]
    parts += [one.to_ndarray() for one in to_float.resample(None)]
    waveform = torch.from_numpy(np.concatenate(parts, 1)) if parts else torch.empty(stream.channels, 0)
    if stream.duration:
        told = round(float(stream.duration * stream.time_base) * stream.rate)
        padding = waveform.shape[1] - told
        waveform = waveform[:, :told] if 0 < padding < AAC_FRAME else waveform
    return waveform.clone(), stream.rate, first or 0.0


def read_image(path: str | Path) -> Tensor:
    """A picture file as (h, w, 3) in 0..1. Raises FileNotFoundError, or ValueError for a foreign file."""
    with _opened(path) as container:
        if not container.streams.video:
            raise ValueError(f"{path} holds no picture; give a png or jpg file")
        frame = next(container.decode(video=0))
    return _upright(frame, VideoReformatter()).float() / 255


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """An open container; whatever the decoder says becomes one sentence."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with av.open(str(path)) as container:
            yield container
    except (av.FFmpegError, StopIteration) as error:
        raise ValueError(f"{path} cannot be read as video, sound or picture: {error}") from error


# --- changing --------------------------------------------------------------------------------------------


def resample(waveform: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """(c, n) at `from_rate` -> (c, round(n * to_rate / from_rate)) at `to_rate`; the start stays in place."""
    if from_rate < 1 or to_rate < 1:
        raise ValueError(f"sample rates must be positive, got {from_rate} and {to_rate}")
    if from_rate == to_rate or not waveform.shape[-1]:
        return waveform
    count = round(waveform.shape[-1] * to_rate / from_rate)
    rows = [_resample_row(row, from_rate, to_rate, count) for row in waveform.detach().cpu().float()]
    return torch.stack(rows).to(waveform)


def _resample_row(row: Tensor, from_rate: int, to_rate: int, count: int) -> Tensor:
    """(n) -> (count), through libswresample. Half a filter of silence behind keeps the end."""
    padded = torch.nn.functional.pad(row, (0, from_rate // 50 + 64))
    frame = av.AudioFrame.from_ndarray(padded.numpy()[None], format="fltp", layout="mono")
    frame.sample_rate = from_rate
    swr = av.AudioResampler(format="fltp", layout="mono", rate=to_rate)
    parts = [one.to_ndarray()[0] for one in [*swr.resample(frame), *swr.resample(None)]]
    return torch.from_numpy(np.concatenate(parts))[:count].clone()


def enlarge(frames: Tensor, times: int) -> Tensor:
    """(f, h, w, 3) -> (f, h * times, w * times, 3), bicubic, still in 0..1."""
    if times < 1:
        raise ValueError(f"frames can be enlarged by 1 or more, got {times}")
    if times == 1:
        return frames
    large = interpolate(frames.permute(0, 3, 1, 2), scale_factor=times, mode="bicubic", align_corners=False)
    return large.permute(0, 2, 3, 1).clamp(0, 1)


def fill(image: Tensor, width: int, height: int) -> Tensor:
    """(h, w, 3) -> (1, 3, height, width): scaled until it covers the whole clip, the rest cut off evenly."""
    size, (top, left) = fill_size(*image.shape[:2], width, height)
    pixels = image.permute(2, 0, 1)[None].float()
    pixels = interpolate(pixels, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    return pixels[:, :, top : top + height, left : left + width]


def fill_frames(frames: Tensor, width: int, height: int) -> Tensor:
    """(f, h, w, 3) -> (f, height, width, 3), each frame filled."""
    return torch.cat([fill(frame, width, height) for frame in frames]).permute(0, 2, 3, 1)


def fill_size(rows: int, columns: int, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """What `fill` scales a picture to, and where it cuts: ((rows, columns), (top, left))."""
    scale = max(height / rows, width / columns)
    size = max(height, round(scale * rows)), max(width, round(scale * columns))
    return size, ((size[0] - height) // 2, (size[1] - width) // 2)


def match_lengths(clip: Clip, on_mismatch: OnMismatch = "error") -> Clip:
    """The clip, if picture and sound end within one frame of each other; otherwise what was asked for.

    "error" raises ValueError with the difference in ms, "pad" adds silence or repeats the last frame, "trim"
    cuts the longer one to the shorter.
    """
    if on_mismatch not in ("error", "pad", "trim"):
        raise ValueError(f"on_mismatch is error, pad or trim, got {on_mismatch}")
    if clip.frames is None or clip.waveform is None:
        return clip
    picture = len(clip.frames) / clip.fps
    sound = Fraction(clip.waveform.shape[-1], clip.sample_rate)
    if abs(picture - sound) <= 1 / clip.fps:
        return clip
    if on_mismatch == "error":
        longer = "picture" if picture > sound else "sound"
        raise ValueError(
            f"the {longer} is {float(abs(picture - sound)) * 1000:.0f} ms longer "
            f"({float(picture):.3f} s of picture, {float(sound):.3f} s of sound); "
            "cut one of them, or choose pad or trim"
        )
    seconds = max(picture, sound) if on_mismatch == "pad" else min(picture, sound)
    return _cut_or_fill(clip, seconds)


def lengths(clip: Clip) -> str:
    """How long picture and sound are, each in its own units and in ms, and by how much they differ."""
    picture, sound = len(clip.frames) / clip.fps, Fraction(clip.waveform.shape[-1], clip.sample_rate)
    return (
        f"picture {len(clip.frames)} frames at {clip.fps} fps = {float(1000 * picture):.3f} ms, "
        f"sound {clip.waveform.shape[-1]} samples at {clip.sample_rate} Hz = {float(1000 * sound):.3f} ms, "
        f"sound - picture = {float(1000 * (sound - picture)):+.3f} ms"
    )


def _cut_or_fill(clip: Clip, seconds: Fraction) -> Clip:
    """Both streams over `seconds`: cut, or filled with the last frame and with silence."""
    count = max(1, round(seconds * clip.fps))
    samples = round(seconds * clip.sample_rate)
    last = clip.frames[-1:].expand(max(0, count - len(clip.frames)), *clip.frames.shape[1:])
    silence = max(0, samples - clip.waveform.shape[-1])
    waveform = torch.nn.functional.pad(clip.waveform[:, :samples], (0, silence))
    return replace(clip, frames=torch.cat([clip.frames[:count], last]), waveform=waveform)


# --- writing ---------------------------------------------------------------------------------------------


def check_target(path: str | Path, suffix: str) -> Path:
    """`path`, if a file can be written there; otherwise an OSError or ValueError of one sentence."""
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise ValueError(
            f"the output is a {suffix[1:]} file, so its name must end in {suffix}; got {path.name}"
        )
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent}; make it first or choose another output")
    probe = _temporary(path)
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise PermissionError(
            f"{path.parent} cannot be written to ({error.strerror}); choose another"
        ) from error
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it takes the final name if all goes well, else vanishes."""
    temporary = _temporary(path)
    try:
        yield temporary
        os.replace(temporary, path)  # noqa: PTH105 - the one call that is atomic on every system
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")


def write_clip(path: str | Path, clip: Clip, metadata: dict[str, str] | None = None, scale: int = 1) -> Path:
    """Write `clip` as mp4 (h264 yuv420p, aac), its picture enlarged `scale` times. A stream may be absent.

    Raises ValueError for odd sizes, values that are no picture or no sound, an empty or many-channelled
    sound, or lengths that differ by over one frame; OSError for a place that cannot be written to. Nothing is
    left then.
    """
    return write_stream(path, ClipStream.of(clip), metadata, scale)


def write_stream(
    path: str | Path, clip: ClipStream, metadata: dict[str, str] | None = None, scale: int = 1
) -> Path:
    """The same for a picture that comes in parts: one is encoded while the next is made.

    All but the values of the picture is checked before the first part is asked for.
    """
    path, outline = check_target(path, ".mp4"), clip.outline
    if outline.frames is None and outline.waveform is None:
        raise ValueError("the clip has neither picture nor sound; nothing to write")
    if outline.frames is not None:
        _check_frames(outline.frames, outline.fps, scale)
    if outline.waveform is not None:
        _check_waveform(outline.waveform)
        _check_aac_rate(outline.sample_rate)
    match_lengths(outline, "error")
    with replacing(path) as temporary:
        options = {"movflags": "+faststart+use_metadata_tags"}
        with av.open(str(temporary), "w", format="mp4", options=options) as container:
            container.metadata.update(metadata or {})
            _encode(container, clip, scale)
    return path


def _encode(container: Any, clip: ClipStream, scale: int) -> None:
    """Add both streams first, because a container's head is written with its first packet."""
    outline = clip.outline
    video = None if outline.frames is None else _video_stream(container, outline, scale)
    audio = None if outline.waveform is None else _audio_stream(container, outline)
    if video is not None:
        _encode_picture(container, video, clip, scale)
    if audio is not None:
        samples = outline.waveform.detach().cpu().float().clamp(-1, 1).contiguous().numpy()
        sound = av.AudioFrame.from_ndarray(samples, format="fltp", layout=audio.layout.name)
        sound.sample_rate, sound.pts = outline.sample_rate, 0
        container.mux(audio.encode(sound))
        container.mux(audio.encode())


def _encode_picture(container: Any, video: Any, clip: ClipStream, scale: int) -> None:
    """Encode in a thread of its own what has come, while the next part is made here."""
    numbers, waiting = count(), deque()

    def encode(part: Tensor) -> None:
        _check_values(part)
        for frame in part:
            pixels = enlarge(frame[None].detach().cpu().float(), scale)[0].clamp(0, 1).mul(255).round()
            picture = av.VideoFrame.from_ndarray(pixels.to(torch.uint8).numpy(), format="rgb24")
            picture.pts, picture.time_base = next(numbers), 1 / clip.outline.fps
            container.mux(video.encode(picture))

    with ThreadPoolExecutor(1) as encoder:
        for part in clip.parts:
            waiting.append(encoder.submit(encode, part))
            if len(waiting) > AHEAD:
                waiting.popleft().result()
        for one in waiting:
            one.result()
    container.mux(video.encode())


def _video_stream(container: Any, clip: Clip, scale: int) -> Any:
    stream = container.add_stream("libx264", rate=clip.fps, options={"crf": CRF})
    stream.height, stream.width = clip.frames.shape[1] * scale, clip.frames.shape[2] * scale
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = 1 / clip.fps
    return stream


def _audio_stream(container: Any, clip: Clip) -> Any:
    channels = clip.waveform.shape[0]
    stream = container.add_stream("aac", rate=clip.sample_rate, layout="mono" if channels == 1 else "stereo")
    stream.bit_rate = min(96_000, 6 * clip.sample_rate) * channels  # aac holds at most 6 bits a sample
    return stream


def _check_frames(frames: Tensor, fps: Fraction, scale: int) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or not frames.numel():
        raise ValueError(f"frames must be (frames, height, width, 3), got {tuple(frames.shape)}")
    height, width = frames.shape[1] * scale, frames.shape[2] * scale
    if height % 2 or width % 2:
        even = f"{width + width % 2} x {height + height % 2}"
        raise ValueError(f"h264 needs an even width and height, got {width} x {height}; use {even}")
    if fps <= 0:
        raise ValueError(f"fps must be above 0, got {fps}")


def _check_values(frames: Tensor) -> None:
    low, high = (float(v) for v in frames.aminmax())
    if not (low > -0.5 and high < 1.5):  # false for NaN too
        raise ValueError(f"frames must be in 0..1, found values from {low:g} to {high:g}")


def _check_waveform(waveform: Tensor) -> None:
    if waveform.ndim != 2 or waveform.shape[0] not in (1, 2):
        raise ValueError(f"sound must be (1 or 2 channels, samples), got {tuple(waveform.shape)}")
    if not waveform.shape[1]:
        raise ValueError("the sound is empty; give one with samples, or none at all")
    peak = float(waveform.abs().max())
    if not peak < float("inf"):
        raise ValueError("the sound has values that are not numbers (NaN or infinite); nothing was written")
    if peak > 1:
        log.warning("the sound peaks at %.2f; a file holds at most 1, so the peaks are clipped", peak)


def _check_aac_rate(sample_rate: int) -> None:
    if sample_rate not in AAC_RATES:
        near = min(AAC_RATES, key=lambda rate: abs(rate - sample_rate))
        raise ValueError(f"aac cannot hold {sample_rate} Hz; resample to {near}")


def write_wav(path: str | Path, waveform: Tensor, sample_rate: int) -> Path:
    """Write (c, n) in -1..1 as a 16-bit wav file. Raises ValueError or OSError before anything is written."""
    path = check_target(path, ".wav")
    _check_waveform(waveform)
    samples = (waveform.detach().cpu().float().clamp(-1, 1) * 32767).round().to(torch.int16)
    with replacing(path) as temporary, temporary.open("wb") as target, wave.open(target, "wb") as file:
        file.setnchannels(samples.shape[0])
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(samples.T.contiguous().numpy().tobytes())
    return path
