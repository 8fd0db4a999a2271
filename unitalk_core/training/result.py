"""What a run leaves: a LoRA file, or the model itself, each whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import Tensor

from ..models.mmdit import JointDiT
from ..models.text_encoder import PhonemeEncoder
from ..weights.files import save_tensors
from ..weights.loading import Parts, built, save_embedded, save_part
from ..weights.lora import lora_file
from .setup import Setup
from .sharding import gathered
from .trainer import Trainer

LORA, MODEL, MODEL_FILE = "lora.safetensors", "model", "model.safetensors"
LORA_OF_STEP = "lora-{:06d}.safetensors"


def save_result(setup: Setup, trainer: Trainer, out: Path) -> None:
    """Write the averaged weights if there are any, else the last ones. Called by every process."""
    if setup.config.method == "lora":
        save_lora(setup, trainer, out / LORA)
        return
    with trainer.best_weights() as trainee:
        tensors = gathered(trainee.state_dict())
    if not trainer.accelerator.is_main_process:
        return
    if setup.base.bundle is None:
        save_part(out / MODEL_FILE, part(tensors, "model."), {"model": setup.base.config}, int8=False)
    else:
        save_model_folder(setup, tensors, out / MODEL)


def save_lora(setup: Setup, trainer: Trainer, path: Path) -> None:
    """The LoRA as it is now; a run leaves one at each checkpoint, since an early one may be the best."""
    with trainer.best_weights():
        trained = gathered(trainer.parameters())
    if trainer.accelerator.is_main_process:
        settings = setup.config.lora
        stored = lora_file(part(trained, "model."), part(setup.before, "model."), settings.alpha)
        about = {"base": setup.base.source, "rank": settings.rank, "step": trainer.step}
        save_tensors(path, stored, {"unitalk_lora": about})


def save_model_folder(setup: Setup, tensors: dict[str, Tensor], folder: Path) -> None:
    """A folder like the base, in floating point: its codecs are copied, its model is the trained one."""
    bundle = setup.base.bundle
    hidden = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir()
    source, encoder = "what was trained", bundle.text_encoder
    model = built(lambda: JointDiT(bundle.config), part(tensors, "model."), source)
    if own := part(tensors, "text_encoder."):
        encoder = built(lambda: PhonemeEncoder(encoder.config), own, source)
    parts = Parts(model, bundle.config, bundle.video_vae, bundle.audio_codec, encoder)
    save_embedded(hidden, parts, int8=False)
    shutil.rmtree(folder, ignore_errors=True)
    hidden.rename(folder)


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those under a prefix, without it."""
    return {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
