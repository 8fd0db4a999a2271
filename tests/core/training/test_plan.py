"""The plan: which tensors learn, what that takes, and what is refused before it starts."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from dataclasses import replace

import psutil
import pytest
import torch

from unitalk_core.av import AV
from unitalk_core.config import TINY, UNITALK
from unitalk_core.models.mmdit import Hooks, JointDiT, initialise
from unitalk_core.training.config import TrainConfig, from_data
from unitalk_core.training.hooks import plain_attention, training_hooks
from unitalk_core.training.memory import checkpointed
from unitalk_core.training.objective import Batch, flow_matching_loss
from unitalk_core.training.plan import (
    Plan,
    activations,
    amount,
    block_bytes,
    drawn_together,
    duration,
    make_plan,
    size,
)
from unitalk_core.training.selection import select

SHAPES = [(8, 4, 4, 40), (16, 4, 4, 75)]
CPU = torch.device("cpu")


def config(**keys) -> TrainConfig:
    return from_data(keys, "test")


def planned(made: TrainConfig, size=TINY, shapes=SHAPES, dtype=None, **options) -> Plan:
    with torch.device("meta"):
        model = JointDiT(size)
    if dtype is not None:
        model.to(dtype)
    return make_plan(model, select(model, made), made, shapes, **options)


FULL = {"method": "full", "train": ["*"], "memory": {"precision": "fp32"}}


def test_the_groups_say_what_is_trained_how_and_what_is_frozen():
    plan = planned(config(lora={"targets": ["audio.self"]}, train=["audio.head"]))
    groups = {one.part: one for one in plan.groups}
    assert groups["audio.self"].how == "LoRA"
    assert (groups["audio.self"].tensors, groups["audio.self"].parameters) == (48, 6 * 4 * 2 * 16 * 192)
    assert groups["audio.head"].how == "whole"
    assert groups["audio.head"].frozen == 0
    assert groups["video.ffn"].how == "frozen"
    assert groups["video.ffn"].tensors == 0
    model = sum(one.numel() for one in JointDiT(TINY).parameters())
    low = groups["audio.self"].parameters
    assert sum(one.parameters + one.frozen for one in plan.groups) == model + low


def test_it_names_exactly_the_tensors_that_learn():
    made = config(lora={"targets": ["audio.self"]}, train=["audio.head"])
    with torch.device("meta"):
        model = JointDiT(TINY)
    names = select(model, made)
    plan = make_plan(model, names, made, SHAPES)
    assert list(plan.trained) == names
    assert plan.to_json()["trained"] == names
    assert "audio_model.blocks.0-5.self_attn.q.lora_down.weight" in plan.tensors().splitlines()
    assert "video" not in plan.tensors()


def test_a_tensor_that_the_model_lacks_is_named():
    with torch.device("meta"), pytest.raises(ValueError, match="the model has no tensor nothing"):
        make_plan(JointDiT(TINY), ["nothing"], config(), SHAPES)


def test_memory_of_full_training_in_float32_is_sixteen_bytes_a_parameter():
    plan = planned(config(**FULL))
    parameters = sum(one.parameters for one in plan.groups)
    assert plan.memory.weights == plan.memory.gradients == 4 * parameters
    assert plan.memory.optimizer == 8 * parameters
    assert plan.memory.ema == 0
    assert plan.result == 4 * parameters
    assert plan.checkpoint == 12 * parameters
    assert plan.disk == 3 * plan.checkpoint + plan.result


def test_what_is_asked_for_counts():
    plain = planned(config(**FULL)).memory
    averaged = planned(config(**FULL, ema=0.99))
    assert averaged.memory.ema == plain.weights
    assert averaged.checkpoint == planned(config(**FULL)).checkpoint + plain.weights
    assert planned(config(**FULL, optimizer={"kind": "adamw8bit"})).memory.optimizer < plain.optimizer / 3
    assert planned(config(**FULL, batch=8)).memory.activations == 2 * plain.activations
    assert planned(config(**FULL, accumulate=4)).memory.activations == plain.activations // 4
    halves = planned(config(**FULL), processes=2)
    assert halves.memory.activations == plain.activations // 2
    assert halves.memory.weights == plain.weights
    shards = planned(config(**FULL), processes=8, sharded=True).memory
    assert shards.optimizer == plain.optimizer // 8
    assert plain.weights // 8 < shards.weights < plain.weights


def test_a_lora_needs_gradients_for_itself_alone_and_autocast_copies_the_matrices():
    lora = planned(config(memory={"precision": "fp32"}))
    full = planned(config(**FULL))
    assert lora.memory.gradients < full.memory.gradients / 8
    assert lora.result == lora.memory.gradients
    small = planned(config()).memory.weights
    assert 1.4 * lora.memory.weights < small < 1.6 * lora.memory.weights


def test_offload_leaves_two_blocks_on_the_device():
    offloaded = planned(config(memory={"offload": True}), UNITALK, dtype=torch.bfloat16).memory.weights
    assert offloaded < planned(config(), UNITALK, dtype=torch.bfloat16).memory.weights / 8


def test_a_lone_stream_is_planned():
    alone = replace(TINY, streams=AV(None, TINY.streams.audio))
    plan = planned(config(tasks={"t2a": 1}), alone)
    assert plan.tokens == AV(0, 75)
    assert plan.memory.activations < planned(config()).memory.activations


def test_sound_alone_has_no_tokens_of_picture():
    assert planned(config(tasks={"t2a": 1, "t2av": 0})).tokens == AV(0, 75)
    assert planned(config(tasks={"t2a": 1, "t2av": 1})).tokens == AV(64, 75)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("width", [96, 192])
def test_a_block_keeps_what_it_is_said_to(precision, width):
    model = wide(width)
    kept = kept_bytes(model, precision, training_hooks(False, plain_attention))
    if precision == "bf16":
        kept -= 2 * sum(one.numel() for one in model.parameters() if one.ndim > 1)
    told = 6 * block_bytes(model, AV(64, 75), precision, CPU)
    assert told == pytest.approx(kept, rel=0.15)
    assert activations(model, AV(64, 75), config(memory={"precision": precision}), CPU) > told


def test_a_device_with_fused_attention_keeps_no_weights_of_it():
    fused = block_bytes(wide(192), AV(64, 75), "bf16", torch.device("cuda"))
    assert fused < block_bytes(wide(192), AV(64, 75), "bf16", CPU)


def test_checkpointing_keeps_one_block_and_the_inputs_of_all():
    model, plain = wide(192), config()
    made = config(memory={"checkpointing": True})
    saved = 5 * block_bytes(model, AV(64, 75), "bf16", CPU) - 6 * 4 * 192 * (64 + 75)
    every, some = (activations(model, AV(64, 75), one, CPU) for one in (plain, made))
    assert some == every - saved
    hooks = training_hooks(False, plain_attention)
    assert kept_bytes(model, "fp32", checkpointed(hooks)) < kept_bytes(model, "fp32", hooks) / 4


def wide(width: int) -> JointDiT:
    model = JointDiT(replace(TINY, streams=TINY.streams.map(lambda one: replace(one, width=width))))
    initialise(model, 0)
    return model


def kept_bytes(model: JointDiT, precision: str, hooks: Hooks) -> int:
    """Bytes of what autograd saves for one clip of 16 latent frames, weights left out."""
    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
    held = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage  # kept alive, so that no address comes twice
        return tensor

    latent = AV(torch.randn(1, 48, 16, 4, 4), torch.randn(1, 20, 75))
    batch = Batch(
        latent=latent,
        denoise_mask=AV(torch.ones(1, 1, 16, 1, 1), torch.ones(1, 1, 75)),
        context=torch.randn(1, 112, 192),
        reference=torch.randn(1, 40, 20),
    )
    sigma, cast = torch.rand(1), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), cast:
        flow_matching_loss(model, batch, AV(sigma, sigma), latent.map(torch.randn_like), hooks)
    return sum(one.nbytes() for one in held.values())


def test_a_small_disk_is_one_sentence(tmp_path, monkeypatch):
    plan = planned(config(**FULL))
    plan.check(tmp_path / "new" / "out", CPU)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, plan.disk - 1))
    with pytest.raises(OSError, match=r"needs about .* of disk .* 3 checkpoints.* left; choose another"):
        plan.check(tmp_path / "new" / "out", CPU)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "old").write_bytes(bytes(100))
    plan.check(tmp_path, CPU)  # what is stored already need not fit again


def test_a_small_memory_is_one_sentence_that_says_what_would_help(tmp_path, monkeypatch):
    plan = planned(config(**FULL))
    memory = namedtuple("memory", "available")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(plan.memory.total))
    plan.check(tmp_path, CPU)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(plan.memory.total - 1))
    with pytest.raises(ValueError, match=r"of memory and cpu has .* left; set memory.checkpointing, or set"):
        plan.check(tmp_path, CPU)


def test_weights_that_are_in_memory_already_are_not_asked_for_twice(tmp_path, monkeypatch):
    made = config(**FULL)
    model = JointDiT(TINY)
    plan = make_plan(model, select(model, made), made, SHAPES)
    memory = namedtuple("memory", "available")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(plan.memory.total - plan.memory.weights))
    plan.check(tmp_path, CPU)


def test_the_text_says_it_all():
    plan = planned(config(steps=100, batch=4))
    text = plan.text()
    assert "tiny: a LoRA of rank 16" in text
    assert "the largest has 64 tokens of picture and 75 of sound" in text
    assert "100 of 4 clips, 400 in all, 200 times the data" in text
    assert plan.time(rate=2.0, steps=100) == "time: 2 clips a second, about 4 min for 100 steps"
    json.dumps(planned(config()).to_json())


def test_the_full_size_is_planned_on_the_meta_device():
    made = config(method="full", train=["*"], memory={"checkpointing": True})
    plan = planned(made, UNITALK, [(31, 44, 44, 217)], torch.bfloat16, processes=16, sharded=True)
    assert plan.tokens == AV(31 * 22 * 22, 217)
    assert sum(one.parameters for one in plan.groups) > 11e9


def test_names_of_blocks_are_drawn_together():
    names = [f"blocks.{i}.a" for i in (0, 1, 2, 5)] + ["head"]
    assert drawn_together(names) == ["blocks.0-2,5.a", "head"]


def test_numbers_are_short():
    assert [size(one) for one in (0, 999, 12_345_678, 4.56e12)] == ["0 B", "999 B", "12.3 MB", "4.56 TB"]
    assert [amount(one) for one in (12, 1234, 11.1e9)] == ["12", "1.23 k", "11.1 B"]
    assert [duration(one) for one in (20, 60, 4000)] == ["1 min", "1 min", "1 h 7 min"]
