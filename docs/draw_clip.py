"""Draw a clip as one picture: a strip of its frames, and the mel of its sound on the same clock.

python docs/draw_clip.py out/demo.mp4 docs/clip.jpg
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import av
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from unitalk_core.media import read_video, resample
from unitalk_core.models.mel import MEL_16K, Mel

FRAMES = 10  # in the strip


def draw(clip_path: Path, picture_path: Path) -> None:
    """Write the picture of a clip that has sound."""
    from matplotlib import pyplot

    clip = read_video(clip_path)
    picks = torch.linspace(0, len(clip.frames) - 1, FRAMES).round().long()
    strip = torch.cat(list(clip.frames[picks]), dim=1)  # (h, w * FRAMES, 3)
    waveform = resample(clip.waveform.mean(0, keepdim=True), clip.sample_rate, MEL_16K.sample_rate)
    figure, (above, below) = pyplot.subplots(
        2, figsize=(12, 2.75), dpi=120, height_ratios=(1.2, 1), layout="constrained"
    )
    above.imshow(strip.numpy(), aspect="auto")
    above.set_axis_off()
    above.set_title(said(clip_path), fontsize=10, loc="left")
    mel = Mel(MEL_16K)(waveform)[0]
    below.imshow(mel, origin="lower", aspect="auto", cmap="magma", extent=(0, clip.seconds, 0, 8))
    below.set_xlabel("seconds", fontsize=8)
    below.set_yticks([])
    figure.savefig(picture_path, pil_kwargs={"quality": 85})


def said(path: Path) -> str:
    """The words that the clip's metadata carry."""
    with av.open(str(path)) as file:
        request = json.loads(file.metadata.get("unitalk", "{}"))
    return f"“{request['say']}”" if request.get("say") else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("picture", type=Path)
    given = parser.parse_args()
    draw(given.clip, given.picture)
