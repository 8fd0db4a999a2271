"""What every test may ask for: the project's root and its source files. Nothing here reaches the network."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # before torch is loaded: spinning threads stall a busy machine

ROOT = Path(__file__).resolve().parents[1]
IGNORED = {".venv", "__pycache__", ".pytest_cache", ".ruff_cache", "out", "build", "comfyui_unitalk.egg-info"}


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder that holds the whole project."""
    return ROOT


@pytest.fixture(scope="session")
def shipped() -> list[Path]:
    """Every file of the project, relative to the root: tracked, or new and not ignored."""
    listing = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    found = subprocess.run(listing, check=False, capture_output=True, text=True)
    if found.returncode:  # no clone but an archive of it
        names = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if not IGNORED & set(path.parts)}
    else:
        names = set(found.stdout.split("\0")) - {""}
    return sorted(Path(name) for name in names if (ROOT / name).is_file())


@pytest.fixture(scope="session")
def sources(shipped: list[Path]) -> list[Path]:
    """The Python files of the project itself, tests left out."""
    return [path for path in shipped if path.suffix == ".py" and path.parts[0] != "tests"]


@pytest.fixture(scope="session")
def tiny_bundle() -> Any:
    """The miniature with random weights: every shape and no sense, the same each time."""
    import torch

    from unitalk_core.config import TINY
    from unitalk_core.models.audio_codec import AudioCodec
    from unitalk_core.models.audio_vae import AUDIO_VAE_TINY, AudioVAE
    from unitalk_core.models.mel import MEL_16K, Mel
    from unitalk_core.models.mmdit import JointDiT, initialise
    from unitalk_core.models.text_encoder import PhonemeEncoder
    from unitalk_core.models.video_vae import TINY_VAE, VideoVAE
    from unitalk_core.models.vocos import VOCOS_TINY, Vocos
    from unitalk_core.pipeline import Bundle

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = JointDiT(TINY)
        initialise(model, seed=0)
        for stream in model.streams.present():
            torch.nn.init.normal_(stream.head.head.weight, std=0.02)
        codec = AudioCodec(Mel(MEL_16K), AudioVAE(AUDIO_VAE_TINY), Vocos(VOCOS_TINY))
        return Bundle(model, TINY, VideoVAE(TINY_VAE), codec, PhonemeEncoder(), shown=4)


@pytest.fixture(scope="session")
def embedded(tiny_bundle: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of `tiny_bundle`, laid out as the embedded miniature's."""
    from unitalk_core.weights.loading import Parts, save_embedded

    folder = tmp_path_factory.mktemp("embedded")
    parts = (getattr(tiny_bundle, name) for name in Parts._fields)
    save_embedded(folder, Parts(*parts))
    return folder


@pytest.fixture
def short_clip() -> Any:
    """Nine frames and their sound, neither of them even."""
    from fractions import Fraction

    import torch

    from unitalk_core.av import Clip

    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(9, 64, 64, 3, generator=generator)
    return Clip(picture, torch.rand(1, 5760, generator=generator) - 0.5, Fraction(25), 16000)


@pytest.fixture(scope="session")
def pieces() -> bytes:
    """A SentencePiece model laid out as UMT5's: pad 0, EOS 1, unknown 2."""
    from tests.host.inside.reduced import piece_model

    return piece_model(["hello world, hello there", "a man says hello to the world"] * 20)
