"""A training run from a configuration and clips to what it leaves: `train(config, data, out)`.

What it writes into its folder: config.json, run.json, metrics.jsonl, curves.png, samples/, checkpoints/, a
LoRA at each checkpoint (lora-000100.safetensors), and at the end lora.safetensors, or model/ (a folder like
the base), or model.safetensors.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from ..data.clips import split_caption
from .batches import Clips
from .checkpoints import resumable
from .claim import Stop, Stopped, Tell, claimed
from .config import TrainConfig, ValidationPrompt
from .curves import draw_curves
from .metrics import Metrics, read_metrics
from .result import LORA_OF_STEP, save_lora, save_result
from .setup import Setup, make_accelerator, set_up
from .trainer import Trainer
from .validation import FOLDER as SAMPLES
from .validation import Validator, read_scores

log = logging.getLogger("unitalk")

CURVES = "curves.png"


def train(config: TrainConfig, data: Path | Clips, out: Path, resume: bool = False) -> None:
    """Train, or go on with it, until `config.steps`. data: a folder of clips or a cache, or open clips.

    Raises ValueError or OSError of one sentence, before the first step wherever that can be known;
    KeyboardInterrupt when stopped, after the step that runs and a checkpoint.
    """
    accelerator = make_accelerator(config)
    with claimed(out, config, resume, accelerator) as tell, Stop(accelerator) as stop:
        tell("preparing", 0)
        setup = set_up(config, data, accelerator)
        checkpoint = resumable(out, config.fingerprint, setup.cache.fingerprint)
        if accelerator.is_main_process:
            log.info("%s", setup.plan.text())
        setup.plan.check(out, accelerator.device)
        trainer = Trainer(setup.trainee, setup.names, setup.batches, accelerator)
        if checkpoint is not None:
            trainer.load(checkpoint)
        if left := config.steps - trainer.step:
            pace = trainer.pace()
            if accelerator.is_main_process:
                log.info("%s", setup.plan.time(pace, left))
        go_on(setup, trainer, out, tell, stop)
        tell("done", trainer.step)


def go_on(setup: Setup, trainer: Trainer, out: Path, tell: Tell, stop: Stop) -> None:
    """The steps that are left, with what is written along the way and at the end."""
    config, main = setup.config, trainer.accelerator.is_main_process
    validator = make_validator(setup, out, main)
    if trainer.step == 0:
        validate(validator, trainer, stop)
    with Metrics(out, config.steps, config.tensorboard, main) as metrics:
        metrics.truncate(trainer.step)
        while trainer.step < config.steps:
            metrics.write(trainer.take_step())
            tell("running", trainer.step)
            finished = trainer.step == config.steps
            due = trainer.step % config.checkpoints.every == 0
            if finished or trainer.step % (config.validation.every or config.steps) == 0:
                validate(validator, trainer, stop)
            stopped = stop.asked()
            if stopped or finished or due:
                trainer.save(out)
            if due and config.method == "lora":
                save_lora(setup, trainer, out / LORA_OF_STEP.format(trainer.step))
            if main and (stopped or finished or due):
                draw_curves(read_metrics(out), out / CURVES, read_scores(out / SAMPLES))
            if stopped and not finished:
                raise KeyboardInterrupt
    save_result(setup, trainer, out)


def make_validator(setup: Setup, out: Path, main: bool) -> Validator | None:
    """None if no clips are wanted. Without prompts of its own it takes captions of the first clips."""
    config, bundle, cache = setup.config.validation, setup.base.bundle, setup.cache
    if not config.every:
        return None
    if bundle is None:
        raise ValueError(
            f"validation needs codecs and a text encoder, which {setup.base.source} lacks; "
            "set validation.every to 0"
        )
    captions = [next(iter(cache[i].texts.values())) for i in range(min(config.clips, len(cache)))]
    parts = [split_caption(one.prompt) for one in captions]
    told = [ValidationPrompt(say=one["speech"], scene=one["scene"], sound=one["sound"]) for one in parts]
    _, rows, columns, _ = cache.shapes[0]
    stride = setup.base.config.format.pixel_stride
    size = (columns * stride, rows * stride)
    return Validator(bundle, config, config.prompts or told, out, size, main)


def validate(validator: Validator | None, trainer: Trainer, stop: Stop) -> None:
    """Make the clips, unless the run is told to stop meanwhile."""
    if validator is not None:
        with trainer.best_weights() as trainee, suppress(Stopped):
            validator.make(trainer.step, trainee.model, lambda *_: stop.heed())
