"""The recipe from nothing, with a thousandth of its steps: every stage, and what it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unitalk_core.pipeline import Request, generate, load_bundle
from unitalk_core.training.miniature import AFTER, LANES, STAGES, Recipe, main

pytest.importorskip("espeakng_loader", reason="clips need espeak-ng: pip install espeakng-loader")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Codecs side by side, then both stages and the files: `make miniature` without its report."""
    recipe = Recipe(tmp_path_factory.mktemp("recipe"), processes=2, share=0.001)
    recipe.side_by_side()
    recipe.run([stage for stage in AFTER if stage != "report"])
    return recipe.out


def test_every_stage_leaves_what_it_promises(made):
    lanes = {stage for lane in LANES for stage in lane}
    assert lanes | set(AFTER) == set(STAGES)
    for stage, (_, product) in STAGES.items():
        assert stage == "report" or (made / product).exists(), stage
    said = (made / "recipe.log").read_text(encoding="utf-8")
    assert all(f"{stage}: done in" in said for stage in lanes)
    for curves in ("mel-vae.png", "video-vae.png", "stage1/curves.png", "stage2/curves.png"):
        assert (made / curves).stat().st_size > 10_000


def test_its_files_make_a_clip_and_are_small(made):
    folder = made / "embedded"
    assert sum(one.stat().st_size for one in folder.glob("*.safetensors")) < 20e6
    clip = generate(load_bundle(str(folder)), Request(say="potato", seconds=0.4, steps=2))
    assert clip.frames.shape[1:] == (64, 64, 3)


def test_the_picture_begins_as_the_sounds_twin_that_reads_anew(made):
    model = Recipe(made).from_stage1().model
    sound, picture = (dict(one.named_parameters()) for one in (model.audio_model, model.video_model))
    same = {name for name, one in picture.items() if name in sound and torch.equal(one, sound[name])}
    assert {"blocks.0.ffn.0.weight", "blocks.3.self_attn.q.weight", "blocks.3.norm3.weight"} <= same
    drawn = {f"text_embedding.{place}.weight" for place in (0, 2)}
    drawn |= {f"blocks.{i}.cross_attn.{part}.weight" for i in (0, 3) for part in "qkvo"}
    assert drawn <= picture.keys() - same


def test_what_is_there_is_not_made_again(made):
    kept = [made / product for _, product in STAGES.values() if product.endswith(".safetensors")]
    kept += (made / "speech").glob("*.safetensors")
    before = [one.stat().st_mtime_ns for one in kept]
    main([str(made), "mel-vae", "speech-latents", "video-decoder", "stage1", "--share", "0.001"])
    assert [one.stat().st_mtime_ns for one in kept] == before


def test_a_lane_that_fails_ends_the_recipe_with_its_name(tmp_path):
    (tmp_path / "audio_vae.safetensors").write_bytes(b"nothing")
    with pytest.raises(RuntimeError, match="one of mel-vae, vocoder, speech-latents failed with code 1"):
        Recipe(tmp_path, processes=2, share=0.001).side_by_side()
