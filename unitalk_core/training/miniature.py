"""The recipe of the miniature, from nothing to the files that are shipped.

python -m unitalk_core.training.miniature OUT [STAGE ...] [--device cuda] [--processes 2]

Each stage leaves its result in OUT and is skipped where that is there already; an interrupted recipe goes on.
Without stages all are run: both codecs side by side (`LANES`), then one after the other what needs both.
OUT/recipe.log has what was said, OUT/*.png the curves of the codecs; OUT/stage1 and OUT/stage2 are runs of
`train`; OUT/embedded holds the files that are shipped.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from ..config import TINY
from ..data.pool import clip_pool
from ..data.synthetic import SyntheticClip
from ..models.audio_codec import AudioCodec
from ..models.mel import MEL_16K
from ..models.mmdit import JointDiT, initialise
from ..models.text_encoder import PhonemeEncoder
from ..models.video_vae import VideoVAE
from ..weights.assemble import copy_stream
from ..weights.files import load_weights, read_tensors
from ..weights.loading import (
    Parts,
    load_audio_codec,
    load_audio_vae,
    load_embedded,
    load_video_vae,
    save_embedded,
    save_part,
)
from .audio_codec import train_mel_vae, train_vocos
from .claim import CONFIG
from .latents import PUNCTUATED, LatentMaker, Shards, mouth_area
from .loop import Budget
from .progress import Progress
from .result import MODEL
from .stills import train_stills
from .video_codec import Windows, refine_decoder, train_video_vae

log = logging.getLogger("unitalk")

STEPS = {
    "mel-vae": 9000,
    "vocoder": 4000,
    "video-images": 1600,
    "video-vae": 1500,
    "video-decoder": 1200,
    "stage1": 2800,
    "stills": 500,
    "stage2": 2300,
}
SOUNDS, PICTURES = 2000, 1500  # clips that the codecs learn from
SPEECH_CLIPS, JOINT_CLIPS = 9000, 3200
IMAGES = ((1, 48),)  # windows of single frames
CAPTIONS = {"full": 1.0, "short": 1.0, "fused": 1.0, "no_scene": 0.5, "no_sound": 0.5, "speech": 0.5}
SAID = {form + mark: share for form, share in CAPTIONS.items() for mark in ("", PUNCTUATED)}
TASKS = {
    "t2av": 0.12, "ti2av": 0.08, "tr2av": 0.17, "tir2av": 0.15, "tv2a": 0.2, "ta2v": 0.18, "continue": 0.1,
}  # fmt: skip
FROM_NOTHING = {
    "stage1": ("optimizer.learning_rate=3.0e-3", "optimizer.warmup=60"),
    "stage2": ("optimizer.learning_rate=2.0e-3", "optimizer.warmup=50", f"tasks={TASKS}"),
}  # on top of the presets, which go on with the shipped weights
READS_TEXT = ("text_embedding.", "cross_attn.")
DATA = {"stage1": "speech", "stage2": "clips"}
LANES = (
    ("mel-vae", "vocoder", "speech-latents"),
    ("video-images", "video-vae", "video-decoder"),
)
AFTER = ("stage1", "clip-latents", "stills", "stage2", "pack", "report")


@dataclass(frozen=True)
class Recipe:
    """Where everything goes and what it runs on. share: of the steps and clips, to try the recipe out."""

    out: Path
    device: str = "cpu"
    processes: int = 1
    share: float = 1.0
    seed: int = 0

    def some(self, count: int, least: int = 2) -> int:
        return max(least, round(self.share * count))

    def budget(self, stage: str, **settings: Any) -> Budget:
        steps = self.some(STEPS[stage])
        return Budget(steps=steps, seed=self.seed, device=self.device, **settings)

    # ---- codecs --------------------------------------------------------------------------------------------

    def mel_vae(self) -> None:
        with self.watched("mel-vae") as on_step:
            budget = self.budget("mel-vae", average=0.998)
            vae = train_mel_vae(self.waveforms, budget=budget, on_step=on_step)
        self.save("audio_vae", vae.state_dict(), {"audio_vae": vae.config, "mel": MEL_16K})

    def vocoder(self) -> None:
        with self.watched("vocoder") as on_step:
            vae = load_audio_vae(self.file("audio_vae"))
            budget = self.budget("vocoder", learning_rate=2e-3, muon=0.01, average=0.995)
            vocoder = train_vocos(self.waveforms, budget=budget, vae=vae, on_step=on_step)
        self.save("vocoder", vocoder.state_dict(), {"vocoder": vocoder.config})

    def video_images(self) -> None:
        with self.watched("video-images") as on_step:
            settings = {"muon": 0.02, "average": 0.995, "compile": self.share == 1}
            budget = self.budget("video-images", **settings)
            vae = train_video_vae(self.windows(IMAGES), budget=budget, on_step=on_step)
        self.save_video("video_images", vae)

    def video_vae(self) -> None:
        with self.watched("video-vae") as on_step:
            budget = self.budget("video-vae", muon=0.01, average=0.995)
            start = load_video_vae(self.file("video_images"))
            vae = train_video_vae(self.windows(), budget=budget, start=start, on_step=on_step)
        self.save_video("video_frames", vae)

    def video_decoder(self) -> None:
        with self.watched("video-decoder") as on_step:
            budget = self.budget("video-decoder", learning_rate=5e-4, muon=0.005, average=0.995)
            start = load_video_vae(self.file("video_frames"))
            vae = refine_decoder(start, self.windows(), budget, mouth=4.0, noise=0.1, on_step=on_step)
        self.save_video("video_vae", vae)

    @cached_property
    def waveforms(self) -> list[torch.Tensor]:
        return [clip.waveform for clip in self.clips(SOUNDS, frames=False)]

    @cached_property
    def pictures(self) -> tuple[list[torch.Tensor], list[tuple[int, int, int, int]]]:
        clips = list(self.clips(PICTURES, frames=True))
        return [clip.frames for clip in clips], [tuple(mouth_area(clip)) for clip in clips]

    def windows(self, *shapes: Any) -> Windows:
        return Windows(*self.pictures, self.seed, *shapes)

    def clips(self, count: int, *, frames: bool) -> Iterator[SyntheticClip]:
        with clip_pool(self.seed, self.workers, frames=frames) as draw:
            yield from draw(range(self.some(count, least=8)))

    # ---- latents -------------------------------------------------------------------------------------------

    def speech_latents(self) -> None:
        self.latents("speech", SPEECH_CLIPS)

    def clip_latents(self) -> None:
        self.latents("clips", JOINT_CLIPS, video_vae=load_video_vae(self.file("video_vae")))

    def latents(self, folder: str, clips: int, **codecs: VideoVAE) -> None:
        """Shards that are there stay."""
        maker = LatentMaker(
            audio_codec=self.codec(), seed=self.seed, workers=self.workers, device=self.device, **codecs
        )
        on_shard = partial(log.info, f"{folder}: shard %d of %d")
        maker.make(self.out / folder, self.some(clips, least=8), on_shard)

    # ---- the joint model -----------------------------------------------------------------------------------

    def stage1(self) -> None:
        self.train("stage1", self.from_nothing())

    def stills(self) -> None:
        with self.watched("stills") as on_step:
            parts = self.from_stage1()
            budget = self.budget("stills", batch=64, learning_rate=2e-3, muon=0.02, average=0.99)
            clips = Shards.read(self.out / DATA["stage2"])
            model = train_stills(parts.model, parts.text_encoder, clips, SAID, budget, on_step)
        self.save("stills", model.state_dict(), {"model": parts.config})

    def stage2(self) -> None:
        self.train("stage2", self.from_stills())

    def from_nothing(self) -> Parts:
        """The trained codecs around a model and a text encoder that are drawn."""
        model = JointDiT(TINY)
        initialise(model, self.seed)
        torch.manual_seed(self.seed)
        video_vae = load_video_vae(self.file("video_vae"))
        return Parts(model, TINY, video_vae, self.codec(), PhonemeEncoder())

    def from_stage1(self) -> Parts:
        """What stage 1 left; its picture stream becomes a twin of the sound stream, but reads the text anew.

        The sound stream has learned to look past every word that is not spoken.
        """
        parts = load_embedded(self.out / "stage1" / MODEL)
        copy_stream(parts.model.audio_model, parts.model.video_model, but=READS_TEXT)
        return parts

    def from_stills(self) -> Parts:
        """What stage 1 left, with a picture stream that draws faces from words."""
        parts = load_embedded(self.out / "stage1" / MODEL)
        path = self.file("stills")
        load_weights(parts.model, read_tensors(path), path)
        return parts

    def train(self, stage: str, start: Parts, out: Path | None = None, changes: Sequence[str] = ()) -> None:
        """`train` on the latents, from `start`, which is put into a folder; an earlier run is taken up.

        out: another folder than the stage's; changes: `key=value`s on top of the recipe's.
        """
        out = out or self.out / stage
        base = out.with_name(f"{out.name}-start")
        base.mkdir(parents=True, exist_ok=True)
        save_embedded(base, start, int8=False)
        settings = (
            *(f"model={base}", f"seed={self.seed}", f"steps={self.some(STEPS[stage])}", f"captions={SAID}"),
            *(f"memory.compile={str(self.share == 1).lower()}", *FROM_NOTHING[stage], *changes),
        )
        several = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.processes}")
        self.call(
            *(*(several if self.processes > 1 else ()), "-m", "unitalk_core", "train", f"tiny-{stage}"),
            *("--data", str(self.out / DATA[stage]), "--out", str(out)),
            *(part for one in settings for part in ("--set", one)),
            *(("--resume",) if (out / CONFIG).is_file() else ()),
        )

    def pack(self) -> None:
        folder = self.out / "embedded"
        folder.mkdir(exist_ok=True)
        save_embedded(folder, load_embedded(self.out / "stage2" / MODEL))

    def report(self) -> None:
        folder = self.out / "embedded"
        small = ("--clips", "8") if self.share < 1 else ()
        found = (
            "--suite",
            "heldout",
            "--out",
            str(folder / "report.json"),
            "--processes",
            str(self.processes),
        )
        self.call("-m", "unitalk_core", "evaluate", "--model", str(folder), *found, *small)

    # ---- how it runs ---------------------------------------------------------------------------------------

    def run(self, stages: Sequence[str]) -> None:
        for stage in stages:
            make, product = STAGES[stage]
            if product and (self.out / product).exists():
                log.info("%s: already there", stage)
                continue
            start = time.monotonic()
            make(self)
            log.info("%s: done in %.1f min", stage, (time.monotonic() - start) / 60)

    def run_all(self) -> None:
        if self.processes == 1 and self.device == "cpu":
            self.run([stage for lane in LANES for stage in lane])
        else:
            self.side_by_side()
        self.run(AFTER)

    def side_by_side(self) -> None:
        """Each lane in a process of its own; when one fails, the other is ended too."""
        lanes = [subprocess.Popen(self.command(lane), env=self.environment) for lane in LANES]
        try:
            while any(lane.poll() is None for lane in lanes) and not any(lane.poll() for lane in lanes):
                time.sleep(1)
            codes = [lane.poll() for lane in lanes]
        finally:
            for lane in lanes:
                lane.terminate()
                lane.wait()
        for code, stages in zip(codes, LANES, strict=True):
            if code:
                raise RuntimeError(f"one of {', '.join(stages)} failed with code {code}")

    def command(self, stages: Sequence[str]) -> list[str]:
        settings = ("--device", self.device, "--share", str(self.share))
        return [sys.executable, "-m", __spec__.name, str(self.out), *stages, *settings]

    def call(self, *arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, env=self.environment)

    @property
    def environment(self) -> dict[str, str]:
        """Of a child: it sees no accelerator but the one that was asked for."""
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if self.device == "cpu" else {}
        threads = max(1, (os.cpu_count() or 1) // max(2, self.processes))
        return os.environ | hidden | {"OMP_NUM_THREADS": str(threads)}

    @property
    def workers(self) -> int:
        """Processes that draw clips."""
        return self.processes if self.device == "cpu" else os.cpu_count() or 1

    def file(self, name: str) -> Path:
        return self.out / f"{name}.safetensors"

    def save(self, name: str, weights: dict[str, torch.Tensor], configs: dict[str, Any]) -> None:
        save_part(self.file(name), weights, configs, int8=False)

    def save_video(self, name: str, vae: VideoVAE) -> None:
        self.save(name, vae.state_dict(), {"video_vae": vae.config})

    def codec(self) -> AudioCodec:
        return load_audio_codec(self.file("audio_vae"), self.file("vocoder"))

    @contextmanager
    def watched(self, stage: str) -> Iterator[Progress]:
        """Losses of a training: said now and then, and drawn at its end."""
        progress = Progress(stage)
        yield progress
        progress.draw(self.out / f"{stage}.png")


STAGES: dict[str, tuple[Callable[[Recipe], None], str]] = {
    "mel-vae": (Recipe.mel_vae, "audio_vae.safetensors"),
    "vocoder": (Recipe.vocoder, "vocoder.safetensors"),
    "speech-latents": (Recipe.speech_latents, ""),
    "video-images": (Recipe.video_images, "video_images.safetensors"),
    "video-vae": (Recipe.video_vae, "video_frames.safetensors"),
    "video-decoder": (Recipe.video_decoder, "video_vae.safetensors"),
    "stage1": (Recipe.stage1, f"stage1/{MODEL}"),
    "clip-latents": (Recipe.clip_latents, ""),
    "stills": (Recipe.stills, "stills.safetensors"),
    "stage2": (Recipe.stage2, f"stage2/{MODEL}"),
    "pack": (Recipe.pack, ""),
    "report": (Recipe.report, "embedded/report.json"),
}  # what a stage does, and the file or folder that says it is done


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the miniature from nothing.")
    parser.add_argument("out", type=Path)
    parser.add_argument("stages", nargs="*", choices=[[], *STAGES], help="which stages; all without")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--processes", type=int, default=1, help="that train side by side on CPUs (1)")
    parser.add_argument("--share", type=float, default=1.0, help="of all steps and clips, to try it out (1)")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    handlers = (logging.StreamHandler(), logging.FileHandler(given.out / "recipe.log", encoding="utf-8"))
    form = {"format": "%(asctime)s %(message)s", "datefmt": "%H:%M:%S", "handlers": handlers}
    logging.basicConfig(level=logging.INFO, **form)
    recipe = Recipe(given.out, given.device, given.processes, given.share)
    if given.stages:
        recipe.run(given.stages)
    else:
        recipe.run_all()


if __name__ == "__main__":
    main()
