"""Latents in files: what is read is what was saved, of any model, or a sentence says why not."""

from __future__ import annotations

import pytest
import torch

from unitalk_core.__main__ import main
from unitalk_core.latent_file import MARK, StoredLatent, read_latent, save_latent
from unitalk_core.weights.files import read_metadata, read_tensors, save_tensors

PACK = torch.randn(1, 1, 48 * 3 + 20 * 7)
OURS = StoredLatent(  # two views of one pack, as the host's samplers give them
    (PACK[..., :144].reshape(1, 48, 3, 1, 1), PACK[..., 144:].reshape(1, 20, 7)),
    (torch.zeros(1, 1, 3, 1, 1), torch.ones(1, 1, 7)),
    {"batch_index": [3]},
)
OTHERS = StoredLatent(  # another model's: three streams, sound of four axes, other precisions, no mask
    (torch.randn(2, 128, 3, 2, 4).bfloat16(), torch.randn(2, 8, 20, 16).half(), torch.randn(2, 5)),
    more={"type": "camera", "scale": 1.5, "track": torch.arange(4)},
)


@pytest.mark.parametrize("latent", [OURS, OTHERS], ids=["ours", "another model's"])
def test_what_is_read_is_what_was_saved_bit_for_bit(tmp_path, latent):
    save_latent(tmp_path / "a.latent.safetensors", latent, {"prompt": {"1": {}}})
    found = read_latent(tmp_path / "a.latent.safetensors")
    for saved, read in ((latent.streams, found.streams), (latent.masks, found.masks)):
        assert len(saved) == len(read)
        assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(saved, read, strict=True))
    assert found.more.keys() == latent.more.keys()
    assert all(torch.equal(torch.as_tensor(found.more[name]), torch.as_tensor(value))
               for name, value in latent.more.items() if not isinstance(value, str))  # fmt: skip
    assert read_metadata(tmp_path / "a.latent.safetensors")["prompt"] == '{"1": {}}'
    assert [one.name for one in tmp_path.iterdir()] == ["a.latent.safetensors"]


def test_info_knows_the_file(tmp_path, capsys):
    save_latent(tmp_path / "a.latent.safetensors", OURS)
    assert main(["info", str(tmp_path / "a.latent.safetensors")]) == 0
    said = capsys.readouterr().out
    assert "latent of a clip" in said and '"batch_index":[3]' in said


def test_a_latent_that_cannot_be_saved_leaves_no_file(tmp_path):
    for value in (object(), {1: 2}, float("nan")):
        with pytest.raises(ValueError, match=r"carries strange of type .* which a file cannot hold"):
            save_latent(tmp_path / "a.safetensors", StoredLatent((PACK,), more={"strange": value}))
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="does not exist"):
        save_latent(tmp_path / "nowhere" / "a.safetensors", OURS)


def test_a_file_that_is_another_one_or_damaged_is_named(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_latent(path)
    save_tensors(path, {"latent_tensor": PACK})
    with pytest.raises(ValueError, match="no latent of UniTalk Save Latent; use the stock Load Latent"):
        read_latent(path)
    save_latent(path, OURS)
    tensors, metadata = read_tensors(path), read_metadata(path)
    save_tensors(path, {name: one for name, one in tensors.items() if name != "mask.1"}, metadata)
    with pytest.raises(ValueError, match=r"not as it was saved: mask.1 differ"):
        read_latent(path)
    save_tensors(path, tensors, {MARK: metadata[MARK].replace('"version": 1', '"version": 2')})
    with pytest.raises(ValueError, match="of version 2, this reads 1; update the pack"):
        read_latent(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"is cut off or no .safetensors file"):
        read_latent(path)
