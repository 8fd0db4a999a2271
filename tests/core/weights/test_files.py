"""Files of weights: whole and fitting, or one sentence that says what is wrong."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from unitalk_core.weights.files import (
    load_weights,
    open_weights,
    read_metadata,
    read_shapes,
    read_tensors,
    save_tensors,
)
from unitalk_core.weights.quantised import dequantise, quantise_int8


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"a.weight": torch.randn(4, 3, generator=generator), "a.bias": torch.randn(4, generator=generator)}


def same(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> bool:
    return got.keys() == want.keys() and all(torch.equal(got[name], want[name]) for name in want)


def test_what_is_saved_is_read_again(tmp_path: Path, weights) -> None:
    path = tmp_path / "w.safetensors"
    save_tensors(path, weights, {"note": "text", "unitalk": {"depth": 6}})
    assert same(read_tensors(path), weights)
    assert read_metadata(path) == {"note": "text", "unitalk": '{"depth": 6}'}
    assert read_shapes(path) == {"a.weight": (4, 3), "a.bias": (4,)}


def test_a_tensor_is_read_alone_as_it_is_among_all(tmp_path: Path, weights) -> None:
    kinds = {"b": torch.tensor([True, False]), "s": torch.tensor(3.5), "e": torch.empty(0, 4)}
    kinds |= {"f": torch.ones(3, 5).to(torch.float8_e4m3fn), "i": torch.arange(7), "h": torch.ones(3).half()}
    path = tmp_path / "w.safetensors"
    save_file(weights | kinds, path)  # in the library's own order
    file = open_weights(path)
    for name, one in file.mapped().items():
        assert file.entries[name] == (one.dtype, tuple(one.shape))
        assert torch.equal(file.read(name).float(), one.float())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="cut off"):
        file.read("b")


def views() -> dict[str, torch.Tensor]:
    """Tensors that share numbers, lie in another order, begin later, are one number, or none."""
    table = torch.arange(24.0).reshape(4, 6)
    whole = {"table": table, "again": table, "turned": table.t(), "rows": table[1:3], "column": table[:, 2]}
    alone = {"s": torch.tensor(3.5), "e": torch.empty(0, 4), "one": torch.ones(()).expand(5, 7)}
    kinds = {"h": torch.randn(3, 5).bfloat16(), "i": torch.arange(7), "b": torch.tensor([True, False])}
    kinds |= {"n": torch.randn(4, dtype=torch.complex64).conj().imag}  # of which the file has the negative
    kinds |= {"f": torch.randn(3, 5).to(torch.float8_e4m3fn), "p": nn.Parameter(torch.randn(4, 3))}
    return whole | alone | kinds


def equal(got: torch.Tensor, want: torch.Tensor) -> bool:
    """Bit for bit, and lying in memory in the same order."""
    form = (got.dtype, got.shape, got.stride())
    return form == (want.dtype, want.shape, want.stride()) and torch.equal(got.float(), want.float())


def repacked(path: Path, how: int, **changed: bytes) -> None:
    """The same records, written by another program; some of them changed."""
    with zipfile.ZipFile(path) as file:
        records = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", how) as file:
        for name, content in records.items():
            file.writestr(name, changed.get(name.rpartition("/")[2], content))


def resident(path: Path) -> int:
    """KiB of a mapped file that are in memory."""
    told, found = Path("/proc/self/smaps").read_text().splitlines(), 0
    for i, line in enumerate(told):
        if line.endswith(str(path)):
            found += next(int(one.split()[1]) for one in told[i:] if one.startswith("Rss:"))
    return found


@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_a_tensor_of_a_pickle_is_read_alone_as_it_is_among_all(tmp_path: Path, wrapper) -> None:
    path, tensors = tmp_path / "w.pth", views()
    torch.save(tensors if wrapper is None else {wrapper: tensors, "step": 3}, path)
    file = open_weights(path)
    assert list(file.entries) == list(tensors)
    for name, one in torch.load(path, weights_only=True).items() if wrapper is None else tensors.items():
        assert file.entries[name] == (one.dtype, tuple(one.shape))
        assert equal(file.read(name), one) and equal(file.mapped()[name], one), name
    assert not file.read("p").requires_grad
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"w\.pth is cut off"):
        file.read("table")


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not say what is in memory")
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_what_is_read_alone_leaves_nothing_of_the_file_in_memory(tmp_path: Path, suffix: str) -> None:
    path, tensors = tmp_path / f"w{suffix}", {f"{i}.weight": torch.randn(256, 1024) for i in range(8)}
    save_tensors(path, tensors) if suffix == ".safetensors" else torch.save(tensors, path)
    file = open_weights(path)
    held = file.mapped()
    assert all(torch.equal(file.read(name), one) for name, one in tensors.items())
    size = path.stat().st_size / 1024
    assert resident(path) < 0.1 * size
    assert sum(float(one.sum()) for one in held.values()) and resident(path) > 0.9 * size


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_pickle_that_another_program_packed_is_read_too(tmp_path: Path, how: int) -> None:
    path, tensors = tmp_path / "w.pth", views()
    torch.save(tensors, path)
    repacked(path, how)
    file = open_weights(path)
    assert all(equal(file.read(name), one) for name, one in tensors.items())


def test_a_pickle_in_another_byte_order_is_turned(tmp_path: Path) -> None:
    path, numbers = tmp_path / "w.pth", torch.tensor([1, 2, 3 << 24], dtype=torch.int32)
    torch.save({"a": numbers}, path)
    swapped = numbers.numpy().byteswap().tobytes()
    repacked(path, zipfile.ZIP_STORED, byteorder=b"big", **{"0": swapped})
    assert torch.equal(open_weights(path).read("a"), numbers)


def test_a_pickle_that_does_not_tell_where_its_tensors_lie_is_read_too(tmp_path: Path, weights) -> None:
    path = tmp_path / "w.pth"
    torch.save(weights, path, _use_new_zipfile_serialization=False)
    file = open_weights(path)
    assert same({name: file.read(name) for name in file.entries}, weights)
    quantised = torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8)
    sparse = torch.eye(3).to_sparse()
    for kept in ({"model": weights, "other": quantised}, weights | {"s": sparse}):
        torch.save(kept, path)
        file = open_weights(path)
        assert same({name: file.read(name) for name in weights}, weights)
    assert torch.equal(file.read("s").to_dense(), sparse.to_dense())


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path, weights) -> None:
    path = tmp_path / "w.safetensors"
    save_tensors(path, weights)
    with pytest.raises((TypeError, ValueError, AttributeError, RuntimeError)):
        save_tensors(path, {"a": torch.empty(3, device="meta")})
    assert [one.name for one in tmp_path.iterdir()] == ["w.safetensors"]
    assert same(read_tensors(path), weights)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        save_tensors(tmp_path / "no" / "w.safetensors", weights)


def test_shards_are_read_as_one(tmp_path: Path, weights) -> None:
    table = {}
    for i, (name, one) in enumerate(weights.items()):
        table[name] = f"w-{i + 1:05}-of-00002.safetensors"
        save_file({name: one}, tmp_path / table[name])
    index = tmp_path / "w.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    assert same(read_tensors(index), weights)
    with pytest.raises(ValueError, match=r"one of several shards.*index\.json"):
        read_tensors(tmp_path / table["a.bias"])
    (tmp_path / table["a.bias"]).unlink()
    with pytest.raises(FileNotFoundError, match="00002-of-00002"):
        read_tensors(index)
    index.write_text(json.dumps({"weight_map": {"a.bias": "w-00001-of-00002.bin"}}))
    with pytest.raises(ValueError, match=r"names w-00001-of-00002\.bin; only shards in \.safetensors"):
        read_tensors(index)
    index.write_text("{}")
    with pytest.raises(ValueError, match="weight_map"):
        read_tensors(index)


@pytest.mark.parametrize("key", ["generator", "module", "app.model", "state_dict"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_a_pickle_of_tensors_is_unwrapped(tmp_path: Path, weights, key: str, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    torch.save({key: weights, "step": 3}, path)
    assert same(read_tensors(path), weights)
    torch.save({"app": {"model": weights}}, path)
    assert same(read_tensors(path), weights)
    torch.save(weights, path)
    assert same(read_tensors(path), weights)


class Payload:
    """A pickle that would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("old_format", [False, True])
def test_a_pickle_with_code_is_refused_and_never_run(tmp_path: Path, old_format: bool) -> None:
    path, target = tmp_path / "w.pth", tmp_path / "ran"
    torch.save({"a": Payload(target)}, path, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(ValueError, match=r"w\.pth holds code besides tensors, which is never run"):
        read_tensors(path)
    path.write_bytes(pickle.dumps(Payload(target)))
    with pytest.raises(ValueError, match="holds code besides tensors"):
        read_tensors(path)
    assert not target.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_cut_off_file_is_named(tmp_path: Path, weights, suffix: str, share: float) -> None:
    path = tmp_path / f"w{suffix}"
    save_tensors(path, weights) if suffix == ".safetensors" else torch.save(weights, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ValueError, match="cut off") as error:
        read_tensors(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_a_file_of_something_else_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(b"<html>" + bytes(range(256)) * 20)
    with pytest.raises(ValueError, match="cut off or no") as error:
        read_tensors(path)
    assert "\n" not in str(error.value)


def test_other_things_than_tensors_are_named(tmp_path: Path, weights) -> None:
    torch.save(weights | {"epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="no tensors, such as epoch"):
        read_tensors(tmp_path / "w.pt")
    torch.save([1, 2], tmp_path / "w.pt")
    with pytest.raises(ValueError, match="a list instead of a table"):
        read_tensors(tmp_path / "w.pt")
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.pt"):
        read_tensors(tmp_path / "gone.pt")
    (tmp_path / "w.gguf").touch()
    with pytest.raises(ValueError, match="no weights file"):
        read_tensors(tmp_path / "w.gguf")


def test_weights_fit_exactly_or_not_at_all(weights) -> None:
    def fresh() -> nn.ModuleDict:
        return nn.ModuleDict({"a": nn.Linear(3, 4)})

    load_weights(module := fresh(), weights, "w")
    assert same(dict(module.state_dict()), weights)
    with pytest.raises(
        ValueError, match=r"w does not fit ModuleDict: 1 missing \['a.bias'\], 1 extra \['b'\]"
    ):
        load_weights(fresh(), {"a.weight": weights["a.weight"], "b": weights["a.bias"]}, "w")
    with pytest.raises(ValueError, match=r"1 of another shape \['a.bias \(3,\) for \(4,\)'\]"):
        load_weights(fresh(), weights | {"a.bias": torch.zeros(3)}, "w")


def test_a_module_on_the_meta_device_takes_over_the_weights(weights) -> None:
    with torch.device("meta"):
        module = nn.ModuleDict({"a": nn.Linear(3, 4)})
    load_weights(module, {name: one.half() for name, one in weights.items()}, "w")
    assert module["a"].weight.dtype == torch.float16
    assert module["a"].weight.requires_grad


@pytest.mark.parametrize("scale", ["scale_weight", "weight_scale"])
def test_fp8_is_multiplied_by_its_scale(scale: str) -> None:
    weight = torch.tensor([[1.0, -2.0], [0.5, 448.0]])
    tensors = {
        "m.weight": weight.to(torch.float8_e4m3fn),
        f"m.{scale}": torch.tensor(0.25),
        "m.scale_input": torch.tensor(3.0),
        "m.bias": torch.ones(2),
        "scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn),
        "m.comfy_quant": torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8),
    }
    plain = dequantise(tensors)
    assert sorted(plain) == ["m.bias", "m.weight"]
    torch.testing.assert_close(plain["m.weight"], (weight * 0.25).half())
    assert dequantise(tensors, torch.bfloat16)["m.weight"].dtype == torch.bfloat16


def test_unknown_quantisation_is_refused() -> None:
    fp8 = torch.ones(2, 4).to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=r"m\.weight has a scale of \(3,\)"):
        dequantise({"m.weight": fp8, "m.weight_scale": torch.ones(3)})
    stated = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)
    with pytest.raises(ValueError, match="'nvfp4'"):
        dequantise({"m.weight": fp8, "m.comfy_quant": stated})


def test_int8_comes_back_within_half_a_scale_and_small_tensors_as_float16() -> None:
    generator = torch.Generator().manual_seed(1)
    big = torch.randn(64, 8, 7, generator=generator) * torch.logspace(-6, 2, 64)[:, None, None]
    big[5] = 0
    tensors = {
        "a.weight": big,
        "a.bias": torch.randn(64),
        "b": torch.randn(1, 6, 900),
        "n": torch.arange(2000),
    }
    packed = quantise_int8(tensors)
    assert packed["a.weight"].dtype == torch.int8 and packed["a.weight_scale"].shape == (64,)
    plain = dequantise(packed)
    assert plain.keys() == tensors.keys()
    half = packed["a.weight_scale"][:, None, None] / 2
    assert ((plain["a.weight"] - big).abs() <= half * 1.001).all()
    assert not plain["a.weight"][5].any()
    assert all(torch.equal(plain[name], tensors[name].half().float()) for name in ("a.bias", "b"))
    assert torch.equal(plain["n"], tensors["n"])
    assert torch.equal(quantise_int8(tensors, keep=["a.*"])["a.weight"], big)


def test_a_file_may_be_read_by_whoever_reads_other_files(tmp_path):
    (tmp_path / "other").touch()
    save_tensors(tmp_path / "a.safetensors", {"a": torch.ones(2)})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
