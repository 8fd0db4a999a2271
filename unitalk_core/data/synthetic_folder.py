"""Synthetic clips in files: a folder for each with all its ground truth, together a dataset to train on."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ..media import replacing, write_clip, write_wav
from ..models.markup import build_prompt
from .synthetic import FPS, SAMPLE_RATE, SyntheticClip, synthesize_clip, synthesize_person

log = logging.getLogger("unitalk")


def ground_truth(clip: SyntheticClip) -> dict[str, object]:
    """All that is known of a clip but its frames and sound, as plain JSON values."""
    heavy = {"frames", "waveform", "reference", "mouth", "mouth_boxes", "words", "phones", "look"}
    truth: dict[str, object] = {k: v for k, v in vars(clip).items() if k not in heavy}
    truth["look"] = asdict(clip.look)
    for name in ("words", "phones"):
        truth[name] = [[mark.text, mark.start, mark.end] for mark in getattr(clip, name)]
    truth["mouth"] = [[round(v, 4) for v in row] for row in clip.mouth.tolist()]
    truth["mouth_boxes"] = [[round(v, 2) for v in row] for row in clip.mouth_boxes.tolist()]
    return truth | {"fps": FPS, "sample_rate": SAMPLE_RATE, "frames": len(clip.mouth)}


def _write_clip_folder(folder: Path, clip: SyntheticClip) -> None:
    """clip.mp4, reference.wav and clip.json, or nothing at all."""
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        write_clip(part / "clip.mp4", clip.clip)
        write_wav(part / "reference.wav", clip.reference[None], SAMPLE_RATE)
        (part / "clip.json").write_text(json.dumps(ground_truth(clip), ensure_ascii=False), encoding="utf-8")
        part.replace(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def dataset_row(folder: Path) -> dict[str, object]:
    """A line of `clips.jsonl`, paths relative to it, for a folder that holds a clip."""
    truth = json.loads((folder / "clip.json").read_text(encoding="utf-8"))
    return {
        "name": folder.name,
        "video": f"{folder.name}/clip.mp4",
        "scene": truth["scene"],
        "speech": truth["say"],
        "sound": truth["sound"],
        "captions": {
            form: build_prompt("phonemes", scene, truth["say"], sound)
            for form, (scene, sound) in truth["captions"].items()
        },
        "reference": f"{folder.name}/reference.wav",
        "speaker": truth["voice"],
        "mouth": truth["mouth_boxes"],
        "words": truth["words"],
        "phones": truth["phones"],
    }


def write_clips(
    out: Path,
    clips: int,
    seed: int,
    size: int = 64,
    on_clip: Callable[[int, Path], None] | None = None,
    person: int | None = None,
) -> list[Path]:
    """Write clips 0 .. clips-1 into folders `out`/00000 and so on, and `clips.jsonl`, which makes a dataset.

    Folders that are there already are kept. person: all clips show this one held-out face and voice.
    on_clip(i, folder) after each, also for a kept one. An interrupted run leaves whole folders only.
    Raises ValueError if `clips` is under 1 or `out` holds clips of another seed, size or person,
    ModuleNotFoundError without espeak-ng.
    """
    if clips < 1:
        raise ValueError(f"clips must be at least 1, got {clips}")
    out = Path(out)
    _check_settings(out, {"seed": seed, "size": size} | ({} if person is None else {"person": person}))
    folders = []
    for index in range(clips):
        folder = out / f"{index:05d}"
        if not (folder / "clip.json").is_file():
            _write_clip_folder(folder, _synthesize(seed, index, size, person))
        folders.append(folder)
        if on_clip is not None:
            on_clip(index, folder)
    _write_rows(out / "clips.jsonl", folders)
    log.info("%d synthetic clips in %s", clips, out)
    return folders


def _synthesize(seed: int, index: int, size: int, person: int | None) -> SyntheticClip:
    if person is None:
        return synthesize_clip(seed, index, size=size)
    return synthesize_person(seed, index, person, size=size)


def _write_rows(path: Path, folders: list[Path]) -> None:
    lines = [json.dumps(dataset_row(folder), ensure_ascii=False) for folder in folders]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _check_settings(out: Path, wanted: dict[str, int]) -> None:
    """Remember what a folder of clips is made from; ValueError if it was begun with others."""
    path = out / "synthetic.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != wanted:
            raise ValueError(f"{out} holds clips of {found}, not of {wanted}; give another folder")
        return
    out.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(wanted), encoding="utf-8")
