"""Small clips in files: a picture that moves, a sound that is heard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from unitalk_core import media
from unitalk_core.av import Clip

CAPTION = "a woman with dark skin <S>good morning<E> a low female voice"


@dataclass(frozen=True, kw_only=True)
class Recording:
    """How a test clip is made."""

    frames: int = 13
    size: tuple[int, int] = (64, 64)  # width, height
    fps: int = 25
    rate: int = 16000
    channels: int = 1
    seed: int = 0

    @property
    def clip(self) -> Clip:
        """A bright bar wanders over a dark picture, under noise that everybody hears."""
        width, height = self.size
        picture = torch.full((self.frames, height, width, 3), 0.2)
        for i, frame in enumerate(picture):
            frame[:, (3 * i) % (width - 8) :][:, :8] = 0.8
        noise = torch.Generator().manual_seed(self.seed)
        samples = round(self.frames / self.fps * self.rate)
        waveform = 0.1 * torch.randn(self.channels, samples, generator=noise)
        return Clip(picture, waveform, Fraction(self.fps), self.rate)


Record = Callable[..., Path]


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """record("name", frames=…): writes name.mp4 and name.txt into `tmp_path` and returns the folder."""

    def make(name: str, caption: str | None = CAPTION, **how: object) -> Path:
        media.write_clip(tmp_path / f"{name}.mp4", Recording(**how).clip)
        if caption is not None:
            (tmp_path / f"{name}.txt").write_text(caption, encoding="utf-8")
        return tmp_path

    return make
