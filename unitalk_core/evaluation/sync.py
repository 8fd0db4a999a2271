"""Does the mouth move with the sound? Mouth opening seen in the frames against the loudness heard.

- `mouth_opening`: how unlike skin the mouth's place is (r = .97 with the truth of synthetic clips);
- `motion`: how unlike itself the lower half of any picture is, wherever the face has its mouth;
- `loudness`: level of the sound at each frame;
- `speech_window`: from the first to the last frame with speech; silence at both ends does not count;
- `sync`, `lagged`, `best_lag`: the two tracks against each other. None of this is LSE-C or LSE-D.
"""

# f frames · h, w rows, columns

from __future__ import annotations

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

Box = tuple[float, float, float, float]  # left, top, right, bottom as parts of the picture

MOUTH: Box = (0.36, 0.66, 0.64, 0.90)  # of a portrait framed as the miniature's
CHEEKS: Box = (0.30, 0.50, 0.70, 0.62)
LOWER_HALF: Box = (0.0, 0.5, 1.0, 1.0)
COARSE, AROUND = (32, 64), 12  # rows and columns, frames to each side, that motion is seen in
SPEECH_FLOOR = 0.03  # of the loudest moment, -30 dB: speech begins
MAX_LAG = 15  # frames


def crop(frames: Tensor, box: Box) -> Tensor:
    """(f, h, w, 3) -> the part of each frame inside the box."""
    height, width = frames.shape[1:3]
    left, top, right, bottom = box
    return frames[:, int(top * height) : int(bottom * height), int(left * width) : int(right * width)]


def mouth_opening(frames: Tensor) -> Tensor:
    """(f, h, w, 3) in 0..1 -> (f,) how unlike skin the mouth region is, on average; larger is more open."""
    skin = rearrange(crop(frames, CHEEKS), "f h w c -> (f h w) c").median(0).values
    distance = (crop(frames, MOUTH) - skin).norm(dim=-1) / skin.norm().clamp_min(1e-3)
    return reduce(distance, "f h w -> f", "mean")


def motion(frames: Tensor) -> Tensor:
    """(f, h, w, 3) in 0..1 -> (f,) how far the lower half is from what it mostly is in the second around.

    Sizes above 32 x 64 are made smaller first.
    """
    lower = rearrange(crop(frames, LOWER_HALF), "f h w c -> f c h w")
    size = [min(side, most) for side, most in zip(lower.shape[2:], COARSE, strict=True)]
    small = adaptive_avg_pool2d(lower, size)
    spans = [small[max(0, i - AROUND) : i + AROUND + 1] for i in range(len(small))]
    usual = torch.stack([span.median(0).values for span in spans])
    return reduce((small - usual).norm(dim=1), "f h w -> f", "mean")


def loudness(waveform: Tensor, sample_rate: int, fps: float, frames: int) -> Tensor:
    """(n,) -> (frames,) root mean square over two frames' time around the middle of each frame."""
    span = sample_rate / float(fps)
    energy = torch.nn.functional.pad(waveform.detach().cpu().double().square().cumsum(0), (1, 0))
    middles = (torch.arange(frames, dtype=torch.float64) + 0.5) * span
    starts, ends = ((middles + side * span).round().long().clamp(0, len(waveform)) for side in (-1, 1))
    return ((energy[ends] - energy[starts]).clamp_min(0) / (ends - starts).clamp_min(1)).sqrt().float()


def speech_window(level: Tensor) -> slice:
    """(f,) loudness -> the frames from the first to the last that speaks, at least two."""
    heard = (level > SPEECH_FLOOR * level.max()).nonzero()[:, 0]
    if len(heard) < 2 or heard[0] == heard[-1]:
        return slice(0, len(level))
    return slice(int(heard[0]), int(heard[-1]) + 1)


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's r of two tracks (f,); 0 where one of them does not move."""
    a, b = (one.double() - one.double().mean() for one in (a, b))
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size > 1e-9 else 0.0


def sync(opening: Tensor, level: Tensor) -> float:
    """r of mouth opening and loudness (f,) within the speech window; the longer track is cut."""
    length = min(len(opening), len(level))
    window = speech_window(level[:length])
    return correlation(opening[:length][window], level[:length][window])


def lagged(opening: Tensor, level: Tensor, reach: int = MAX_LAG) -> dict[int, float]:
    """Lag -> r of the tracks (f,). The lag: frames by which the picture comes after the sound."""
    length = min(len(opening), len(level))
    reach = min(reach, length - 3)

    def fit(lag: int) -> float:
        seen, heard = slice(max(0, lag), length + min(0, lag)), slice(max(0, -lag), length + min(0, -lag))
        return correlation(opening[seen], level[heard])

    return {lag: fit(lag) for lag in sorted(range(-reach, reach + 1), key=abs)}


def best_lag(opening: Tensor, level: Tensor, reach: int = MAX_LAG) -> int:
    """The lag at which they fit best; of equals the nearest to 0."""
    fits = lagged(opening, level, reach)
    return max(fits, key=fits.get)
