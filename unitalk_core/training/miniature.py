"""The recipe of the miniature, from nothing to the files that are shipped.

python -m unitalk_core.training.miniature OUT [STAGE ...] [--minutes STAGE=M ...]

Stages, in order: `audio-codec`, `video-codec`, `speech-latents`, `stage1`, `clip-latents`, `stage2`, `pack`.
Each leaves its result in OUT and can be run alone once those before it are there.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..config import TINY
from ..data.synthetic import synthesize_clip
from ..models.audio_codec import AudioCodec
from ..models.mel import MEL_16K
from ..models.mmdit import JointDiT, initialise
from ..models.text_encoder import PhonemeEncoder
from ..models.video_vae import VideoVAE
from ..weights.loading import (
    Parts,
    load_audio_codec,
    load_embedded,
    load_video_vae,
    save_embedded,
    save_part,
)
from .audio_codec import train_mel_vae, train_vocos
from .claim import CONFIG
from .config import read_config
from .latents import PUNCTUATED, LatentMaker, Shards, mouth_area
from .loop import Budget, OnStep
from .origin import copy_stream
from .result import MODEL
from .run import train
from .video_codec import Windows, refine_decoder, train_video_vae

log = logging.getLogger("unitalk")

MINUTES = {
    "mel-vae": 5.0,
    "vocoder": 12.0,
    "video-codec": 45.0,
    "video-decoder": 25.0,
}  # of one free core each
CLIPS = {"stage1": "speech", "stage2": "clips"}  # folders of latents
SAID = {"full": 1.0, "short": 1.0, "fused": 1.0, "no_scene": 0.5, "no_sound": 0.5, "speech": 0.5}
CAPTIONS = "captions=" + str(
    {form + mark: share for form, share in SAID.items() for mark in ("", PUNCTUATED)}
)
LONG = (CAPTIONS, "memory.compile=true")  # a run of an hour wins back the minutes that compiling takes
FROM_NOTHING = {
    "stage1": (*LONG, "steps=2800", "optimizer.learning_rate=3.0e-3", "optimizer.warmup=60"),
    "stage2": (*LONG, "steps=2300", "optimizer.learning_rate=2.0e-3", "optimizer.warmup=50"),
}  # on top of the presets, which go on with the shipped weights
SPEECH_CLIPS, JOINT_CLIPS, CODEC_CLIPS = 8900, 3200, 900
WIDTH = TINY.streams.audio.width  # layers that sum more inputs learn slower


@dataclass(frozen=True)
class Recipe:
    """Where everything goes, and how long each training takes."""

    out: Path
    minutes: Mapping[str, float] = field(default_factory=lambda: MINUTES)
    seed: int = 0

    def budget(self, stage: str, **settings: Any) -> Budget:
        return Budget(minutes=self.minutes[stage], seed=self.seed, **settings)

    def audio_codec(self) -> None:
        waveforms = [synthesize_clip(self.seed, i, frames=False).waveform for i in range(CODEC_CLIPS)]
        vae = train_mel_vae(waveforms, budget=self.budget("mel-vae"), on_step=progress("mel-vae"))
        vocoder = train_vocos(waveforms, budget=self.budget("vocoder"), vae=vae, on_step=progress("vocoder"))
        save_part(
            self.out / "audio_vae.safetensors",
            vae.state_dict(),
            {"audio_vae": vae.config, "mel": MEL_16K},
            int8=False,
        )
        save_part(
            self.out / "vocoder.safetensors", vocoder.state_dict(), {"vocoder": vocoder.config}, int8=False
        )

    def video_codec(self) -> None:
        clips = [synthesize_clip(self.seed, i) for i in range(CODEC_CLIPS)]
        windows = Windows(
            [clip.frames for clip in clips], [tuple(mouth_area(clip)) for clip in clips], self.seed
        )
        budget = self.budget("video-codec", learning_rate=3e-3, average=0.995, width=WIDTH)
        vae = train_video_vae(windows, budget=budget, on_step=progress("video-codec"))
        budget = self.budget("video-decoder", learning_rate=1.5e-3, average=0.995)
        vae = refine_decoder(vae, windows, budget, mouth=4.0, noise=0.1, on_step=progress("video-decoder"))
        save_part(self.out / "video_vae.safetensors", vae.state_dict(), {"video_vae": vae.config}, int8=False)

    def speech_latents(self) -> None:
        LatentMaker(audio_codec=self._codec(), seed=self.seed).make(
            self.out / "speech", SPEECH_CLIPS, shards("speech")
        )

    def clip_latents(self) -> None:
        maker = LatentMaker(audio_codec=self._codec(), video_vae=self._video_vae(), seed=self.seed)
        maker.make(self.out / "clips", JOINT_CLIPS, shards("clips"))

    def stage1(self) -> None:
        model = JointDiT(TINY)
        initialise(model, self.seed)
        self._train("stage1", Parts(model, TINY, self._video_vae(), self._codec(), self._text_encoder()))

    def stage2(self) -> None:
        parts = load_embedded(self.out / "stage1" / MODEL)
        copy_stream(parts.model.audio_model, parts.model.video_model)
        self._train("stage2", parts)

    def pack(self) -> None:
        folder = self.out / "embedded"
        folder.mkdir(exist_ok=True)
        save_embedded(folder, load_embedded(self.out / "stage2" / MODEL))

    def _train(self, stage: str, start: Parts) -> None:
        """From `start`, which is put into a folder; goes on where an earlier run of this stage stopped."""
        base, out = self.out / f"{stage}-start", self.out / stage
        base.mkdir(exist_ok=True)
        save_embedded(base, start, int8=False)
        config = read_config(f"tiny-{stage}", [f"model={base}", f"seed={self.seed}", *FROM_NOTHING[stage]])
        train(config, Shards.read(self.out / CLIPS[stage]), out, resume=(out / CONFIG).is_file())

    def _codec(self) -> AudioCodec:
        return load_audio_codec(self.out / "audio_vae.safetensors", self.out / "vocoder.safetensors")

    def _video_vae(self) -> VideoVAE:
        return load_video_vae(self.out / "video_vae.safetensors")

    def _text_encoder(self) -> PhonemeEncoder:
        torch.manual_seed(self.seed)
        return PhonemeEncoder()


STAGES: dict[str, Callable[[Recipe], None]] = {
    "audio-codec": Recipe.audio_codec,
    "video-codec": Recipe.video_codec,
    "speech-latents": Recipe.speech_latents,
    "stage1": Recipe.stage1,
    "clip-latents": Recipe.clip_latents,
    "stage2": Recipe.stage2,
    "pack": Recipe.pack,
}


def progress(stage: str, every: int = 25) -> OnStep:
    """Log smoothed losses every few steps."""
    smooth: dict[str, float] = {}
    start = time.monotonic()

    def on_step(step: int, losses: dict[str, float]) -> None:
        for name, value in losses.items():
            smooth[name] = 0.98 * smooth.get(name, value) + 0.02 * value
        if step % every == 0:
            shown = " ".join(f"{name} {value:.4f}" for name, value in smooth.items())
            log.info("%s step %d, %.0f s: %s", stage, step, time.monotonic() - start, shown)

    return on_step


def shards(what: str) -> Callable[[int, int], None]:
    return lambda done, of: log.info("%s: shard %d of %d", what, done, of)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the miniature.")
    parser.add_argument("out", type=Path)
    parser.add_argument("stages", nargs="*", choices=[[], *STAGES], help="which stages; all without")
    parser.add_argument(
        "--minutes", nargs="*", default=[], metavar="STAGE=M", help="how long a training takes"
    )
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    minutes = MINUTES | {name: float(value) for name, value in (one.split("=") for one in given.minutes)}
    for stage in given.stages or STAGES:
        STAGES[stage](Recipe(given.out, minutes))


if __name__ == "__main__":
    main()
