"""A small dataset with everything: voices, mouths, timing; and a trainer on it in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from unitalk_core.data.synthetic_folder import write_clips
from unitalk_core.training.config import TrainConfig, read_config
from unitalk_core.training.setup import make_accelerator, set_up
from unitalk_core.training.trainer import Trainer

PLAIN = ("memory.precision=fp32", "optimizer.schedule=constant", "optimizer.warmup=0", "steps=8")


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four clips of different length, as `synthesize` writes it."""
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, 4, seed=5)
    return folder


@pytest.fixture
def configure() -> Callable[..., TrainConfig]:
    return lambda *changes: read_config("tiny-lora", [*PLAIN, *changes])


@pytest.fixture
def make_trainer(clips: Path, configure: Callable[..., TrainConfig]) -> Callable[..., Trainer]:
    """A trainer that has not made a step, from `key=value` changes of the preset tiny-lora."""

    def make(*changes: str) -> Trainer:
        config = configure(*changes)
        accelerator = make_accelerator(config)
        setup = set_up(config, clips, accelerator)
        return Trainer(setup.trainee, setup.names, setup.batches, accelerator)

    return make
