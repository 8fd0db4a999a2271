"""Several processes train what one would: two real ones on a CPU, and many that are only pretended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from unitalk_core.training import sharding
from unitalk_core.training.sharding import gathered, load_sharded, read_sharded, save_sharded

pytest.importorskip("accelerate")
KINDS = ("full", "lora", "float8", "text", "alternating")
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"even": (8, 3), "uneven": (5, 2), "single": (1, 6), "number": ()}
    found = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return found | {"half": found["even"].bfloat16(), "codes": torch.arange(6, dtype=torch.uint8)}


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory, root: Path):
    """Run kinds of training on two processes; gives the folder of what they found."""

    def run(*kinds: str, **environment: str) -> Path:
        out = tmp_path_factory.mktemp("processes")
        save_sharded(tensors(), out / "written")
        script = root / "tests/core/training/on_processes.py"
        settings = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)} | environment
        command = [*LAUNCH, str(script), str(out), *kinds]
        ended = subprocess.run(
            command, env=settings, capture_output=True, text=True, timeout=200, check=False
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        return out

    return run


@pytest.fixture(scope="module")
def sharded(launch) -> Path:
    return launch(*KINDS, "bf16", "units", "reshard", ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")


@pytest.fixture(scope="module")
def replicated(launch) -> Path:
    return launch(*KINDS)


def assert_equal_to_one_process(out: Path, kind: str, module: str) -> None:
    report = json.loads((out / f"{kind}.json").read_text())
    assert report["kind"] == module
    assert report["looked"] < 1e-3  # of the velocity of a clip, before and after training
    torch.testing.assert_close(
        torch.tensor(report["many"]), torch.tensor(report["one"]), rtol=1e-5, atol=1e-6
    )
    one, many = (load_file(out / f"{kind}-{which}.safetensors") for which in ("one", "many"))
    for name, weight in one.items():  # AdamW moves each by up to 0.03
        torch.testing.assert_close(many[name], weight, rtol=0, atol=1e-4, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_two_shards_train_what_one_process_does(sharded, kind):
    assert_equal_to_one_process(sharded, kind, "FSDPTrainee")


@pytest.mark.parametrize("kind", KINDS)
def test_two_replicas_train_what_one_process_does(replicated, kind):
    assert_equal_to_one_process(replicated, kind, "DistributedDataParallel")


def test_shards_compute_in_bfloat16_and_learn_in_float32(sharded):
    report = json.loads((sharded / "bf16.json").read_text())
    many, one = torch.tensor(report["many"]), torch.tensor(report["one"])
    assert not torch.allclose(many, one, rtol=1e-5)
    torch.testing.assert_close(many, one, rtol=0.01, atol=0.01)
    weights = load_file(sharded / "bf16-many.safetensors")
    assert {one.dtype for one in weights.values()} == {torch.float32}


def test_only_the_block_that_runs_is_whole_forward_and_backward(sharded):
    order = [0, 1, 2, 2, 1, 0]
    assert json.loads((sharded / "units.json").read_text()) == [[i, [i], [i]] for i in order]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_resume_what_they_saved(sharded, kind):
    assert json.loads((sharded / f"{kind}.json").read_text())["resumed"]


def test_shards_consolidate_to_whole_tensors_in_one_process(sharded):
    folder = sharded / "full-shards"
    assert len(list(folder.iterdir())) == 2
    whole, weights = read_sharded(folder), load_file(sharded / "full-many.safetensors")
    assert len(whole) == 4 * len(weights)  # the weight, two moments, and the number of steps
    for name, weight in weights.items():
        assert torch.equal(whole[name], weight), name
        assert whole[f"step.{name}"] == 3


def test_two_processes_load_what_one_has_written(sharded):
    loaded = load_file(sharded / "resharded.safetensors")
    assert loaded.keys() == tensors().keys()
    for name, one in tensors().items():
        assert torch.equal(loaded[name], one), name


def test_one_process_saves_and_loads_without_a_word(tmp_path, recwarn):
    save_sharded(tensors(), tmp_path)
    again = {name: torch.zeros_like(one) for name, one in tensors().items()}
    load_sharded(again, tmp_path)
    assert all(torch.equal(again[name], one) for name, one in tensors().items())
    assert not recwarn.list


def test_many_bytes_are_written_in_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(sharding, "FILE_BYTES", 100)
    save_sharded(tensors(), tmp_path)
    assert len(list(tmp_path.iterdir())) > 1
    assert all(torch.equal(one, tensors()[name]) for name, one in read_sharded(tmp_path).items())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"even": torch.zeros(8, 4)}, r"does not fit: 1 of 6 .* even \(\(8, 3\) for \(8, 4\)\)"),
        ({"more": torch.zeros(2)}, r"does not fit: 1 of 7 .* more \(missing for \(2,\)\)"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_and_changes_nothing(tmp_path, change, sentence):
    save_sharded(tensors(), tmp_path)
    mine = {name: torch.zeros_like(one) for name, one in tensors().items()} | change
    with pytest.raises(ValueError, match=sentence):
        load_sharded(mine, tmp_path)
    assert not any(one.any() for one in mine.values())


def test_a_damaged_file_is_refused_with_a_sentence(tmp_path):
    save_sharded(tensors(), tmp_path)
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match="is damaged"):
        load_sharded(tensors(), tmp_path)


def test_a_folder_that_cannot_be_written_is_an_oserror(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file cannot be written \("):
        save_sharded(tensors(), tmp_path / "file")


def test_an_older_sharding_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(ValueError, match="fsdp_version must be 2 in the configuration of accelerate, got 1"):
        sharding.spread(None, SimpleNamespace(num_processes=2), "fp32")


def test_plain_tensors_are_gathered_as_they_are():
    assert all(torch.equal(one, tensors()[name]) for name, one in gathered(tensors()).items())


PRETEND = """
import torch, torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from unitalk_core.config import UNITALK
from unitalk_core.models.mmdit import JointDiT
from unitalk_core.training.sharding import shard, units
from unitalk_core.training.trainee import Trainee

processes = 64
dist.init_process_group("fake", rank=0, world_size=processes, store=FakeStore())
with torch.device("meta"):
    trainee = Trainee(JointDiT(UNITALK))
parameters = list(trainee.parameters())
total, counted, sizes = sum(one.numel() for one in parameters), set(), []
for unit in units(trainee):
    own = set(unit.parameters()) - counted
    counted |= own
    sizes.append(sum(one.numel() for one in own))
shard(trainee, "bf16")
assert all(isinstance(one, DTensor) and one.is_meta for one in trainee.parameters())
share = sum(one.to_local().numel() for one in trainee.parameters())
print(len(sizes), total, max(sizes), share)
"""


def test_full_size_shards_into_blocks_of_equal_size(root):
    """On the meta device, as the first of 64 pretended processes: nothing is allocated."""
    settings = os.environ | {"PYTHONPATH": str(root)}
    ended = subprocess.run(
        [sys.executable, "-c", PRETEND],
        env=settings,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    units, total, largest, share = map(int, ended.stdout.split())
    assert units == 30 + 30 + 2  # blocks of both streams, the rest of the model, the trainee around it
    assert total == 11_131_908_328
    assert largest == 182_540_288  # one block: 365 MB in bfloat16 while it is whole
    assert share == pytest.approx(total / 64, rel=0.01)
