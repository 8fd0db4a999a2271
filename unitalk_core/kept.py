"""What is given of a clip and stays: it takes the place of latents, and a mask beside them says so.

b batch · c channels · f frames · h, w rows, columns · n samples
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from .media import OnMismatch


def keep(latent: Tensor, mask: Tensor, given: Tensor, at: int = 0) -> tuple[Tensor, Tensor]:
    """(latent, mask) with `given` from step `at` of the time on, kept; a negative `at` counts from the end.

    latent, given: (b, c, f, h, w) or (b, c, n), `given` for one clip or for each; mask: 1 = generate,
    0 = keep, (b, 1, ...) over the same steps. ValueError if the given part is of another kind or too long.
    """
    first = at % latent.shape[2]
    same = latent.shape[1] == given.shape[1] and latent.shape[3:] == given.shape[3:]
    if not same or len(given) not in (1, len(latent)) or first + given.shape[2] > latent.shape[2]:
        raise ValueError(
            f"what is to be kept is {tuple(given.shape)} from step {first}, "
            f"the latent {tuple(latent.shape)}; make both with the same VAE, in one size"
        )
    latent, mask = latent.clone(), mask.clone()
    steps = slice(first, first + given.shape[2])
    latent[:, :, steps], mask[:, :, steps] = given.to(latent), 0
    return latent, mask


def still_frames(image: Tensor, frame_stride: int) -> Tensor:
    """(h, w, 3) -> (1 + frame_stride, h, w, 3), whose last latent is the end of a clip that comes to rest.

    The first latent of a clip holds one frame, each other one `frame_stride`: a lone picture would be no end.
    """
    return image[None].expand(1 + frame_stride, *image.shape)


def fit_picture(frames: Tensor, count: int, on_mismatch: OnMismatch = "error") -> Tensor:
    """(f, h, w, 3) -> `count` frames; ValueError if that takes more than was allowed.

    "pad" repeats the last frame of a picture that is too short, "trim" leaves out the end of one too long.
    """
    missing = count - len(frames)
    if missing and on_mismatch != ("pad" if missing > 0 else "trim"):
        raise ValueError(
            f"the picture has {len(frames)} frames and the clip {count}; give another number of seconds to "
            f"UniTalk Empty Latent, or choose {'pad' if missing > 0 else 'trim'}"
        )
    last = frames[-1:].expand(max(0, missing), *frames.shape[1:])
    return torch.cat([frames[:count], last])


def fit_sound(
    waveform: Tensor, count: int, sample_rate: int, slack: int = 0, on_mismatch: OnMismatch = "error"
) -> Tensor:
    """(..., n) -> (..., count): cut, or with silence behind it, by `slack` samples at most, else ValueError.

    "pad" allows any silence, "trim" any cut.
    """
    missing = count - waveform.shape[-1]
    if abs(missing) > slack and on_mismatch != ("pad" if missing > 0 else "trim"):
        seconds = waveform.shape[-1] / sample_rate
        raise ValueError(
            f"the sound takes {seconds:.2f} s and the clip {count / sample_rate:.2f} s; set seconds of "
            f"UniTalk Empty Latent to {seconds:.2f}, or choose {'pad' if missing > 0 else 'trim'}"
        )
    return pad(waveform, (0, missing))
