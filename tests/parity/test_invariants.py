"""A joint model around reference weights gives the reference's numbers wherever its streams do not meet."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unitalk_core.av import AV
from unitalk_core.config import OVI_FORMAT, ModelConfig, StreamConfig
from unitalk_core.models.mmdit import JointDiT, initialise
from unitalk_core.weights.files import load_weights, read_tensors
from unitalk_core.weights.keymaps import find_part

from .goldens import Case, cases, check
from .towers import audio_latent, batched, stream_config

REFERENCE = {"reference": "linear", "reference_dim": 20, "reference_len": 9}
VOICE = 5  # reference latents


def twin_of(one: StreamConfig) -> StreamConfig:
    """The other stream of a joint model: same trunk, its own latents."""
    if one.input == "patch":
        return replace(one, in_channels=20, out_channels=20, patch=(1, 1, 1), input="linear", **REFERENCE)
    return replace(one, in_channels=12, out_channels=12, patch=(1, 2, 2), input="patch", **REFERENCE)


def around(case: Case) -> JointDiT:
    """A joint model with a second condition path, as it starts its training: one stream is the case's."""
    one = stream_config(case.config)
    own, twin = replace(one, **REFERENCE), twin_of(one)
    streams = AV(own, twin) if one.input == "patch" else AV(twin, own)
    model = JointDiT(ModelConfig(streams=streams, format=OVI_FORMAT))
    initialise(model, seed=3)
    tensors = read_tensors(case.weights_path)
    given = find_part(tensors, "model", case.name).take(tensors)
    load_weights(model, model.state_dict() | given, case.name)
    return model.eval()


def beside(own: Tensor, seed: int) -> Tensor:
    """Anything for the twin to work on: an audio latent beside a picture, a picture beside sound."""
    shape = (1, 20, 11) if own.ndim == 5 else (1, 12, 2, 4, 4)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pictures(case: Case, model: JointDiT, couple: tuple[bool, bool]) -> dict[str, Tensor]:
    """`out.<tag>.y<i>` of every sample, made beside some sound and with some voice."""
    got = {}
    for name in case.outputs():
        _, tag, what = name.split(".")
        if not what.startswith("y"):
            continue
        latent = batched(case.io[f"in.{tag}.x{what[1:]}"])
        tokens, time = latent.shape[2:].numel() // 4, case.io[f"in.{tag}.t"]
        time = time[int(what[1:])][None, :tokens] if time.ndim == 2 else time.float()
        context = batched(case.io[f"in.{tag}.context{what[1:]}"])
        voice = torch.randn(1, VOICE, 20)
        given = AV(time, torch.tensor([500.0])), AV(context, context), AV(voice, voice)
        got[name] = model(AV(latent, beside(latent, 5)), *given, couple=couple).video[0]
    return got


@cases("wan2.2_dit")
def test_dubbing_and_an_unheard_voice_leave_wan_as_it_is(case: Case) -> None:
    model = around(case)
    inner = dict.fromkeys(("out.*.time_emb", "out.*.text_emb", "out.*.block*"), "no output")
    for couple in ((False, True), (False, False)):
        check(case, pictures(case, model, couple), unchecked=inner)
    with pytest.raises(pytest.fail.Exception):  # where the picture hears the sound, it changes
        check(case, pictures(case, model, (True, True)), unchecked=inner)


@cases("ovi_audio_tower")
def test_an_uncoupled_picture_leaves_ovis_sound_as_it_is(case: Case) -> None:
    model = around(case)
    latent, context = audio_latent(case.io["in.x"]), batched(case.io["in.context"])
    out = model(
        AV(beside(latent, 6), latent),
        AV(case.io["in.t"], case.io["in.t"]),
        AV(context, context),
        couple=(True, False),
    )
    inner = dict.fromkeys(("out.y_pad", "out.*_emb*", "out.block*"), "no output")
    check(case, {"out.y": out.audio[0].T}, unchecked=inner)
