"""Synthetic clips as latents in files: made once, a shard at a time, and read again for every training run.

A shard is a safetensors file of `shard_size` clips: `<i>.video`, `<i>.audio`, `<i>.reference` in fp16, with
what each clip says as JSON metadata. A shard that is there is never made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..config import TINY, ModelConfig
from ..data.cache import Item, Text
from ..data.clips import FORMS, mark_box
from ..data.pool import clip_pool
from ..data.synthetic import SyntheticClip
from ..models.audio_codec import AudioCodec
from ..models.markup import build_prompt
from ..models.video_vae import VideoVAE
from ..weights.files import read_metadata, read_tensors, save_tensors

OnShard = Callable[[int, int], None]
PUNCTUATED = "_punctuated"
PAUSE = 0.12  # seconds of silence that a comma stands for
NO_FEATURES = torch.empty(0, 0)  # the text encoder learns along


@dataclass(frozen=True, kw_only=True)
class LatentMaker:
    """Encodes synthetic clips drawn by `workers` processes. Without `video_vae` only their sound is made."""

    audio_codec: AudioCodec
    video_vae: VideoVAE | None = None
    config: ModelConfig = TINY
    seed: int = 0
    shard_size: int = 100
    workers: int = 1
    device: str = "cpu"

    def make(self, folder: Path, clips: int, on_shard: OnShard | None = None) -> None:
        """Write the shards of clips 0..clips-1 that are missing in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        shards = -(-clips // self.shard_size)
        for codec in filter(None, (self.audio_codec, self.video_vae)):
            codec.to(self.device)
        with clip_pool(self.seed, self.workers, frames=self.video_vae is not None) as draw:
            for shard in range(shards):
                path = folder / f"shard-{shard:05d}.safetensors"
                if not path.exists():
                    first = shard * self.shard_size
                    self._write(path, draw(range(first, min(first + self.shard_size, clips))))
                if on_shard is not None:
                    on_shard(shard + 1, shards)

    @torch.inference_mode()
    def _write(self, path: Path, clips: Iterable[SyntheticClip]) -> None:
        tensors: dict[str, Tensor] = {}
        said: dict[str, dict[str, object]] = {}
        for clip in clips:
            name = str(clip.index)
            tensors |= {f"{name}.{what}": one.half().cpu() for what, one in self._encode(clip).items()}
            said[name] = {"captions": captions(clip), "box": mouth_area(clip)} | times(clip)
        save_tensors(path, tensors, {"clips": json.dumps(said)})

    def _encode(self, clip: SyntheticClip) -> dict[str, Tensor]:
        samples = self.config.format.samples(len(clip.mouth))
        encoded = {
            "audio": self.audio_codec.encode(clip.waveform[None, :samples].to(self.device))[0],
            "reference": self._reference(clip.reference),
        }
        if self.video_vae is not None:
            pixels = rearrange(clip.frames[None], "b f h w c -> b c f h w").float() / 127.5 - 1
            encoded["video"] = self.video_vae.encode(pixels.to(self.device), chunk=len(clip.mouth))[0]
        return encoded

    def _reference(self, waveform: Tensor) -> Tensor:
        longest = self.config.reference_len * self.audio_codec.stride
        return self.audio_codec.encode(self.audio_codec.pad(waveform[None, :longest].to(self.device)))[0]


@dataclass(frozen=True)
class Shards:
    """The clips of a folder of shards, all in memory; to the trainer they are like a `Cache`."""

    items: Sequence[Item]
    fingerprint: str

    @classmethod
    def read(cls, folder: Path, config: ModelConfig = TINY) -> Shards:
        """FileNotFoundError if there is no shard."""
        paths = shard_files(folder)
        if not paths:
            raise FileNotFoundError(f"{folder} holds no latents; make them first")
        items: list[Item] = []
        for path in paths:
            tensors, said = read_tensors(path), json.loads(read_metadata(path)["clips"])
            items += [_item(name, clip, tensors, config) for name, clip in said.items()]
        return cls(items, f"{len(items)} clips of {len(paths)} shards")

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Item:
        return self.items[i]

    @cached_property
    def names(self) -> list[str]:
        return [one.name for one in self.items]

    @cached_property
    def speakers(self) -> list[str]:
        return [one.speaker for one in self.items]

    @cached_property
    def shapes(self) -> list[tuple[int, int, int, int]]:
        sizes = ((0, 0, 0) if one.video is None else one.video.shape[1:] for one in self.items)
        return [(*size, one.audio.shape[1]) for size, one in zip(sizes, self.items, strict=True)]

    def forms(self, i: int) -> list[str]:
        """Which captions a clip has."""
        return list(self.items[i].texts)


def shard_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.safetensors"))


def _item(name: str, clip: dict[str, Any], tensors: dict[str, Tensor], config: ModelConfig) -> Item:
    video = tensors.get(f"{name}.video")
    return Item(
        name=name,
        video=video,
        audio=tensors[f"{name}.audio"],
        reference=tensors[f"{name}.reference"],
        texts={form: Text(prompt, NO_FEATURES) for form, prompt in prompts(clip, config).items()},
        mouth=None if video is None else mouth_mask(clip["box"], video.shape[1:], config),
        words=clip["words"],
        phones=clip["phones"],
    )


def times(clip: SyntheticClip) -> dict[str, list[list[object]]]:
    """Words and phones with their start and end in seconds."""
    named = {"words": clip.words, "phones": clip.phones}
    return {name: [[mark.text, mark.start, mark.end] for mark in marks] for name, marks in named.items()}


def prompts(clip: dict[str, Any], config: ModelConfig) -> dict[str, str]:
    """By form of the caption, each with and without punctuation, as artists may write it."""
    plain = " ".join(word for word, _, _ in clip["words"])
    spoken = {"": plain, PUNCTUATED: punctuated(clip["words"])}
    return {
        form + mark: build_prompt(config.markup, scene, said, sound)
        for (form, (scene, sound)), (mark, said) in product(clip["captions"].items(), spoken.items())
    }


def captions(clip: SyntheticClip) -> dict[str, tuple[str, str]]:
    """Scene and sound by form: `clips.FORMS`, and those of a synthetic clip."""
    scene, sound = clip.scene, clip.sound
    given = ((scene, sound), ("", sound), (scene, ""), ("", ""))
    return dict(zip(FORMS, given, strict=True)) | clip.captions


def punctuated(words: list[tuple[str, float, float]]) -> str:
    """A comma where the speaker paused, and a full stop."""
    pairs = zip(words, [*words[1:], ("", float("inf"), 0.0)], strict=True)
    marks = ["." if after[0] == "" else "," if after[1] - word[2] > PAUSE else "" for word, after in pairs]
    return " ".join(word[0] + mark for word, mark in zip(words, marks, strict=True))


def mouth_area(clip: SyntheticClip) -> list[int]:
    """left, top, right, bottom in pixels: where the mouth is at any time of the clip."""
    low, high = clip.mouth_boxes[:, :2].amin(0), clip.mouth_boxes[:, 2:].amax(0)
    return [int(edge) for edge in (*low.floor().clamp(min=0), *high.ceil())]


def mouth_mask(box: list[int], size: tuple[int, ...], config: ModelConfig) -> Tensor:
    """(f, h, w) bool, the latents that the box touches (JoVA, equation 5)."""
    mask = torch.zeros(*size, dtype=torch.bool)
    mark_box(mask, box, config.format.pixel_stride)
    return mask
