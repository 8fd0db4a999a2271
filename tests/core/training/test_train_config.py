"""Configurations: what is wrong is said in one sentence, and presets are right."""

from __future__ import annotations

import json

import pytest

from unitalk_core.training.config import PRESETS, from_data, presets, read_config


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_read_and_comes_back_from_json(name):
    config = read_config(name)
    assert from_data(config.to_json(), "again") == config


def test_the_presets_are_all_there():
    assert presets() == [
        "character-lora",
        "tiny-lora",
        "tiny-stage1",
        "tiny-stage2",
        "wan-stage1",
        "wan-stage2",
    ]


def test_the_stages_of_the_paper():
    one, two = read_config("wan-stage1"), read_config("wan-stage2")
    assert (one.batch, two.batch) == (256, 64)
    for config in (one, two):
        assert config.optimizer.learning_rate == 1e-5
        assert (config.optimizer.betas, config.optimizer.eps) == ((0.9, 0.999), 1e-8)
        assert config.memory.precision == "bf16"
    assert not {"audio.text", "audio.time"} & set(one.train) and all(
        one.startswith("audio.") for one in one.train
    )
    assert {task for task, share in two.tasks.items() if share} == {"t2av", "ti2av", "tr2av", "tv2a"}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"stepz": 1}, "there is no key stepz; did you mean steps?"),
        ({"loss": {"mouht": 1}}, "there is no key loss.mouht; did you mean loss.mouth?"),
        ({"steps": 0}, "steps: input should be greater than or equal to 1, got 0"),
        ({"tasks": {"lipsync": 1}}, "tasks knows t2av,"),
        ({"tasks": {"t2av": 0}}, "tasks needs at least one weight above 0"),
        ({"method": "dora"}, "method: input should be 'lora' or 'full', got 'dora'"),
        ({"method": "full"}, "method full trains the parts in train, and there are none"),
        ({"method": "full", "train": ["*"], "memory": {"fp8": True}}, "memory.fp8 holds frozen weights"),
        ({"optimizer": {"learning_rate": float("nan")}}, "optimizer.learning_rate: input should be a finite"),
        ({"memory": {"offload": True}, "validation": {"every": 5}}, "memory.offload keeps blocks where"),
        ({"batch": 4, "accumulate": 3}, "accumulate must divide batch, got 3 and 4"),
        ({"drop": {"text": 1.5}}, "drop.text: input should be less than or equal to 1, got 1.5"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(data, sentence):
    with pytest.raises(ValueError) as error:
        from_data(data, "mine.yaml")
    assert str(error.value).startswith(f"mine.yaml: {sentence}")
    assert "\n" not in str(error.value)


def test_changes_go_on_top(tmp_path):
    config = read_config("tiny-lora", ["lora.rank=4", "tasks={t2av: 1, ti2av: 2}", "ema=0.9"])
    assert (config.lora.rank, config.tasks, config.ema) == (4, {"t2av": 1, "ti2av": 2}, 0.9)
    assert config.lora.targets == read_config("tiny-lora").lora.targets


@pytest.mark.parametrize("change", ["steps", "steps.more=1"])
def test_a_change_that_is_none_is_refused(change):
    with pytest.raises(ValueError, match="--set"):
        read_config("tiny-lora", [change])


def test_a_file_of_ones_own_is_read_and_a_missing_one_is_named(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"steps": 7}), encoding="utf-8")
    assert read_config(path).steps == 7
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.yaml; presets are"):
        read_config(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="there is no preset tiny-lorra; take character-lora"):
        read_config("tiny-lorra")
    path.write_text("[1, 2", encoding="utf-8")
    with pytest.raises(ValueError, match="is no YAML"):
        read_config(path)


def test_the_fingerprint_is_of_what_decides_the_weights():
    plain = read_config("tiny-lora")
    assert (
        plain.fingerprint
        == read_config("tiny-lora", ["validation.every=10", "checkpoints.keep=5"]).fingerprint
    )
    assert plain.fingerprint != read_config("tiny-lora", ["seed=1"]).fingerprint


def test_presets_are_installed_with_the_core():
    assert (PRESETS / "tiny-lora.yaml").is_file()
