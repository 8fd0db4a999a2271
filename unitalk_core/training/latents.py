"""Synthetic clips as latents in files: made once, a shard at a time, and read again for every training run.

A shard is a safetensors file of `shard_size` clips: `<i>.video`, `<i>.audio`, `<i>.reference` in fp16, with
what each clip says as JSON metadata. A shard that is there is never made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from ..config import TINY, ModelConfig
from ..data.speech import Mark
from ..data.synthetic import SyntheticClip, synthesize_clip
from ..models.audio_codec import AudioCodec
from ..models.markup import build_prompt
from ..models.phonemes import prompt_ids, pronounce
from ..models.video_vae import VideoVAE
from ..weights.files import read_metadata, read_tensors, save_tensors
from .alignment import Span, phone_spans, spoken_tokens
from .joint import Example, Prompt

OnShard = Callable[[int, int], None]
PAUSE = 0.12  # seconds of silence that a comma stands for
MOUTH_WEIGHT = 5.0  # of a latent that the mouth box touches (JoVA, equation 7)


@dataclass(frozen=True, kw_only=True)
class LatentMaker:
    """Encodes synthetic clips. Without `video_vae` only their sound is made."""

    audio_codec: AudioCodec
    video_vae: VideoVAE | None = None
    config: ModelConfig = TINY
    seed: int = 0
    shard_size: int = 100

    def make(self, folder: Path, clips: int, on_shard: OnShard | None = None) -> None:
        """Write the shards of clips 0..clips-1 that are missing in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        shards = -(-clips // self.shard_size)
        for shard in range(shards):
            path = folder / f"{shard:05d}.safetensors"
            if not path.exists():
                self._write(path, range(shard * self.shard_size, (shard + 1) * self.shard_size))
            if on_shard is not None:
                on_shard(shard + 1, shards)

    @torch.inference_mode()
    def _write(self, path: Path, indices: range) -> None:
        tensors: dict[str, Tensor] = {}
        said: dict[str, dict[str, object]] = {}
        for i in indices:
            clip = synthesize_clip(self.seed, i, frames=self.video_vae is not None)
            tensors |= {f"{i}.{name}": one.half() for name, one in self._encode(clip).items()}
            said[str(i)] = {"scene": clip.scene, "sound": clip.sound, "box": mouth_area(clip)} | times(clip)
        save_tensors(path, tensors, {"clips": json.dumps(said)})

    def _encode(self, clip: SyntheticClip) -> dict[str, Tensor]:
        samples = self.config.format.samples(len(clip.mouth))
        encoded = {
            "audio": self.audio_codec.encode(clip.waveform[None, :samples])[0],
            "reference": self._reference(clip.reference),
        }
        if self.video_vae is not None:
            pixels = rearrange(clip.frames[None], "b f h w c -> b c f h w").float() / 127.5 - 1
            encoded["video"] = self.video_vae.encode(pixels, chunk=len(clip.mouth))[0]
        return encoded

    def _reference(self, waveform: Tensor) -> Tensor:
        longest = self.config.streams.audio.reference_len * self.audio_codec.stride
        return self.audio_codec.encode(self.audio_codec.pad(waveform[None, :longest]))[0]


def read_examples(folder: Path, config: ModelConfig = TINY, limit: int | None = None) -> list[Example]:
    """Every clip of the shards in `folder`; FileNotFoundError if there is none."""
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise FileNotFoundError(f"{folder} holds no latents; make them first")
    examples: list[Example] = []
    for shard in shards:
        tensors, said = read_tensors(shard), json.loads(read_metadata(shard)["clips"])
        examples += [_example(i, clip, tensors, config) for i, clip in said.items()]
        if limit is not None and len(examples) >= limit:
            break
    return examples[:limit]


def _example(index: str, clip: dict[str, object], tensors: dict[str, Tensor], config: ModelConfig) -> Example:
    video = tensors.get(f"{index}.video")
    weight = None if video is None else mouth_weight(clip["box"], video.shape[2:], config)
    audio = tensors[f"{index}.audio"]
    heard = (spans(clip), audio.shape[1], config.format.audio_rate)
    made = [Prompt(ids, spoken_tokens(ids, *heard)) for ids in prompts(clip, config)]
    return Example(video, audio, tensors[f"{index}.reference"], made, weight)


def times(clip: SyntheticClip) -> dict[str, list[list[object]]]:
    """Words and phones with their start and end in seconds."""
    named = {"words": clip.words, "phones": clip.phones}
    return {name: [[mark.text, mark.start, mark.end] for mark in marks] for name, marks in named.items()}


def spans(clip: dict[str, object]) -> list[list[Span]]:
    """When each phone of each word is heard, in the phones of the miniature's language."""
    phones = [Mark(*phone) for phone in clip["phones"]]
    inside = [
        [phone for phone in phones if start <= (phone.start + phone.end) / 2 < end]
        for _, start, end in clip["words"]
    ]
    return [phone_spans(pronounce(word[0]), heard) for word, heard in zip(clip["words"], inside, strict=True)]


def prompts(clip: dict[str, object], config: ModelConfig) -> list[Tensor]:
    """Token ids of the prompt, with and without descriptions and punctuation, as artists may write it."""
    limit = config.streams.audio.text_len
    plain = " ".join(word for word, _, _ in clip["words"])
    forms = product((clip["scene"], ""), (plain, punctuated(clip["words"])), (clip["sound"], ""))
    return [torch.tensor(prompt_ids(build_prompt(config.markup, *form), limit)) for form in forms]


def punctuated(words: list[tuple[str, float, float]]) -> str:
    """A comma where the speaker paused, and a full stop."""
    pairs = zip(words, [*words[1:], ("", float("inf"), 0.0)], strict=True)
    marks = ["." if after[0] == "" else "," if after[1] - word[2] > PAUSE else "" for word, after in pairs]
    return " ".join(word[0] + mark for word, mark in zip(words, marks, strict=True))


def mouth_area(clip: SyntheticClip) -> list[int]:
    """left, top, right, bottom in pixels: where the mouth is at any time of the clip."""
    low, high = clip.mouth_boxes[:, :2].amin(0), clip.mouth_boxes[:, 2:].amax(0)
    return [int(edge) for edge in (*low.floor().clamp(min=0), *high.ceil())]


def mouth_weight(box: list[int], size: tuple[int, ...], config: ModelConfig) -> Tensor:
    """(h, w) loss weight, `MOUTH_WEIGHT` on latents the box touches (JoVA, equations 5 to 7)."""
    step = config.format.pixel_stride
    left, top, right, bottom = box
    weight = torch.ones(*size)
    weight[top // step : -(-bottom // step), left // step : -(-right // step)] = MOUTH_WEIGHT
    return weight
