"""Latents apart, together, repeated, picked, larger, in files: ours and another model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.nested_tensor
import folder_paths
import torch
from rig import NODES, core, empty, error_of, joint, measure, run


def nested(*streams: torch.Tensor) -> Any:
    return comfy.nested_tensor.NestedTensor(list(streams))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def another_models(batch: int = 2) -> dict[str, Any]:
    """Of the shapes of LTX: sound of four axes. The mask is one of the host's plain ones, for the picture."""
    samples = nested(draw(batch, 128, 3, 2, 5).bfloat16(), draw(batch, 8, 20, 16, seed=1).bfloat16())
    mask = (draw(batch, 1, 3, 2, 5, seed=2) > 0).float()
    return {"samples": samples, "noise_mask": nested(mask, torch.ones(batch, 1, 20, 16)), "kind": "ltx"}


def three_streams() -> dict[str, Any]:
    return {"samples": nested(draw(2, 4, 3, 2, 2), draw(2, 5, 6), draw(2, 7))}


def parts(latent: dict[str, Any], name: str = "samples") -> list[torch.Tensor]:
    value = latent[name]
    return list(value.unbind()) if getattr(value, "is_nested", False) else [value]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two LATENTs carry the same, bit for bit."""
    rest = [
        {k: v for k, v in latent.items() if k not in ("samples", "noise_mask")} for latent in (one, other)
    ]
    names = one.keys() & {"samples", "noise_mask"}
    tensors = [[t for name in sorted(names) for t in parts(latent, name)] for latent in (one, other)]
    equal = [a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(*tensors, strict=True)]
    return one.keys() == other.keys() and rest[0] == rest[1] and all(equal)


@measure
def latents_in_files() -> dict[str, Any]:
    found = {}
    picture = {"samples": draw(1, 48, 1, 4, 4), "noise_mask": torch.zeros(1, 1, 64, 64)}
    sampled = joint(steps=1)
    for name, latent in {
        "ours": sampled,
        "another model's": another_models(),
        "three streams": three_streams(),
        "a picture": picture,
    }.items():
        file = run("UniTalkSaveLatent", latent, f"latents/test {name}")
        listed = next(one for one in core("nodes.host").output_files(".latent.safetensors") if name in one)
        found[name] = [same(run("UniTalkLoadLatent", listed), latent), listed.endswith(" [output]")]
        second = run("UniTalkSaveLatent", latent, f"latents/test {name}")
        found["numbered"] = [
            file.endswith("_00001_.latent.safetensors"),
            second.endswith("_00002_.latent.safetensors"),
        ]
        first = NODES["UniTalkLoadLatent"].fingerprint_inputs(listed)
        Path(file).touch()
        found["noticed"] = first != NODES["UniTalkLoadLatent"].fingerprint_inputs(listed)
        for one in (file, second):
            Path(one).unlink()
    found["left"] = len(list(Path(folder_paths.get_output_directory(), "latents").glob("*test *")))
    return found


@measure
def latents_apart_and_together() -> dict[str, bool]:
    ours, others = joint(steps=1), another_models()
    found = {}
    for name, latent in (("ours", ours), ("another model's", others)):
        video, audio = run("UniTalkSplitLatent", latent)
        found[name] = same(run("UniTalkJoinLatent", video, audio), latent)
        stock = run("LTXVSeparateAVLatent", latent)
        found[f"{name} as the stock node"] = torch.equal(
            stock[0]["samples"], video["samples"]
        ) and torch.equal(stock[1]["samples"], audio["samples"])
    take, other = joint(steps=1), joint(steps=1, video_seed=8, audio_seed=9)
    mixed = run("UniTalkJoinLatent", take, other)
    found["picture of one, sound of another"] = torch.equal(parts(mixed)[0], parts(take)[0]) and torch.equal(
        parts(mixed)[1], parts(other)[1]
    )
    half = run("UniTalkJoinLatent", *run("UniTalkSplitLatent", {"samples": nested(*parts(others))}))
    found["no mask, no mask"] = "noise_mask" not in half
    return found


@measure
def batches_of_latents() -> dict[str, Any]:
    latent = another_models() | {"batch_index": [4, 7]}
    six = run("UniTalkRepeatLatent", latent, 3)
    last, middle = run("UniTalkLatentFromBatch", six, -1, 1), run("UniTalkLatentFromBatch", six, 2, 3)
    video, audio = parts(latent)
    three = run("UniTalkRepeatLatent", three_streams(), 2)
    takes = joint(latent=run("UniTalkRepeatLatent", empty(), 2), steps=1)
    plain = {"samples": draw(3, 4, 2, 4, 4), "noise_mask": torch.ones(1, 1, 32, 32)}
    return {
        "order": torch.equal(parts(six)[0], video.repeat(3, 1, 1, 1, 1))
        and torch.equal(parts(six)[1], audio.repeat(3, 1, 1, 1)),
        "masks": torch.equal(
            parts(six, "noise_mask")[0], parts(latent, "noise_mask")[0].repeat(3, 1, 1, 1, 1)
        ),
        "numbers": [six["batch_index"], last["batch_index"], middle["batch_index"]],
        "last": torch.equal(parts(last)[1], audio[1:]),
        "middle": torch.equal(parts(middle)[0], video[[0, 1, 0]]),
        "three": [list(one.shape) for one in parts(three)],
        "takes differ": not torch.equal(*parts(takes)[0]) and not torch.equal(*parts(takes)[1]),
        "no numbers unless there were some": "batch_index" not in three,
        "plain": [
            list(parts(run("UniTalkLatentFromBatch", plain, 1, 2), name)[0].shape)
            for name in ("samples", "noise_mask")
        ],
    }


@measure
def larger_latents() -> dict[str, Any]:
    """Sizes; the sound; a second pass on top, with the sound kept."""
    found, others = {}, another_models()
    for method in ("nearest-exact", "bilinear", "area", "bicubic", "bislerp"):
        made = run("UniTalkResizeLatent", others, method, 2.0)
        found[method] = [list(parts(made)[0].shape), list(parts(made, "noise_mask")[0].shape)]
        found[f"{method} sound"] = torch.equal(parts(made)[1], parts(others)[1])
    ours = joint(steps=1)
    larger = run("UniTalkResizeLatent", ours, "bilinear", 1.4)
    stock = NODES["LatentUpscaleBy"]().upscale({"samples": parts(ours)[0]}, "bilinear", 1.5)[0]["samples"]
    kept = run("UniTalkKeepAudio", larger)
    made = joint(latent=kept, steps=2, denoise=0.5)
    return found | {
        "as the stock node": torch.equal(stock, parts(larger)[0]),
        "second pass": [list(one.shape) for one in parts(made)],
        "sound stays": torch.equal(parts(made)[1], parts(ours)[1]),
        "picture changes": not torch.equal(parts(made)[0], parts(larger)[0]),
    }


@measure
def latent_sentences() -> dict[str, str]:
    picture, sound = {"samples": draw(1, 48, 3, 4, 4)}, {"samples": draw(2, 20, 7)}
    uneven = {"samples": nested(draw(1, 48, 3, 4, 4), draw(2, 20, 7))}
    strange = {"samples": draw(1, 48, 1, 4, 4), "strange": object()}
    masks = {"noise_mask": nested(torch.ones(1, 1, 3, 4, 4), torch.ones(1, 1, 7))}
    calls = {
        "more masks than streams": lambda: run("UniTalkJoinLatent", picture | masks, sound),
        "no sound to split": lambda: run("UniTalkSplitLatent", picture),
        "no picture to join": lambda: run("UniTalkJoinLatent", sound, sound),
        "other batches": lambda: run("UniTalkJoinLatent", picture, sound),
        "uneven": lambda: run("UniTalkRepeatLatent", uneven, 2),
        "behind the batch": lambda: run("UniTalkLatentFromBatch", sound, 1, 2),
        "before the batch": lambda: run("UniTalkLatentFromBatch", sound, -3, 1),
        "no picture to resize": lambda: run("UniTalkResizeLatent", sound, "bilinear", 2.0),
        "strange": lambda: run("UniTalkSaveLatent", strange, "latents/strange"),
        "no file": lambda: run("UniTalkLoadLatent", "nowhere.latent.safetensors"),
        "outside": lambda: run("UniTalkLoadLatent", "../../etc/passwd"),
    }
    return {name: error_of(call) for name, call in calls.items()}
