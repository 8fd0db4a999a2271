"""What run_workflows.py runs with: the files that stand in for published ones, and the pack that is meant."""

from __future__ import annotations

import json
from pathlib import Path

from tests.host.run_workflows import NEEDS_FILES
from tests.host.serving import furnish
from tests.host.shipped import NAMES, SMALL, place, read
from tests.host.stand_ins import AUTHORS_UMT5, OVI, STAND_INS, TOKENIZER, WAN, write
from unitalk_core.weights.assemble import assemble
from unitalk_core.weights.loading import load_audio_codec, load_model, read_text_encoder

FOLDERS = {
    "UniTalkLoadModel": "diffusion_models", "UniTalkAssembleModel": "diffusion_models",
    "UniTalkLoadAudioVAE": "vae", "VAELoader": "vae", "CLIPLoader": "text_encoders",
    "UniTalkLoadTextEncoder": "text_encoders",
}  # fmt: skip
NO_FILE = {"none", "twin", "default", "griffin-lim"}


def files_of(name: str) -> set[str]:
    """The model files that a workflow names, by place below the models folder."""
    loaders = [one for one in read(name, quick=False)[1].values() if one["class_type"] in FOLDERS]
    return {
        f"{FOLDERS[one['class_type']]}/{value}"
        for one in loaders
        for key, value in one["inputs"].items()
        if ("_name" in key or key == "sound_stream") and value not in NO_FILE
    }


def test_every_file_that_a_workflow_names_has_a_stand_in():
    named = {name: files_of(name) for name in NAMES}
    assert {name for name, files in named.items() if files} == set(NEEDS_FILES)
    assert set().union(*named.values()) | {TOKENIZER} == STAND_INS.keys()


def test_a_small_workflow_differs_from_the_shipped_one_in_what_is_said():
    for name in NEEDS_FILES:
        (canvas, api), (_, whole) = read(name, quick=False, small=True), read(name, quick=False)
        for node in canvas["nodes"]:
            changed = SMALL.get(node["type"], {})
            assert {key: node["widgets_values"][place(node, key)] for key in changed} == changed
            if str(node["id"]) in api:
                assert api[str(node["id"])]["inputs"] == whole[str(node["id"])]["inputs"] | changed


def test_stand_ins_are_taken_as_what_they_stand_for(tmp_path):
    def stand_in(place: str) -> Path:
        return write(tmp_path / place, STAND_INS[place]())

    ovi, config = load_model(stand_in(f"diffusion_models/{OVI}"))
    assert config.markup == "ovi-960" and len(ovi.video_model.blocks) == 2
    assert load_model(stand_in("diffusion_models/unitalk.safetensors"))[1].reference_len == 257
    assert "picture: 2 blocks of 256, trained" in assemble(stand_in(f"diffusion_models/{WAN}")).said
    stand_in(TOKENIZER)
    assert read_text_encoder(stand_in(f"text_encoders/{AUTHORS_UMT5}"))[1].dim == 64
    codec = load_audio_codec(stand_in("vae/v1-16.pth"), stand_in("vae/best_netG.pt"))
    assert (codec.sample_rate, codec.stride, codec.channels) == (16000, 512, 20)
    codec = load_audio_codec(stand_in("vae/v1-44.pth"))
    assert (codec.sample_rate, codec.stride, codec.channels) == (44100, 1024, 40)


def test_a_folder_that_a_host_has_used_gets_the_pack_of_this_run(tmp_path):
    for pack in ("old", "new"):
        (tmp_path / pack).mkdir()
        (tmp_path / pack / "name.json").write_text(json.dumps(pack), "utf8")
        furnish(tmp_path / "base", tmp_path / pack)
    linked = tmp_path / "base" / "custom_nodes" / "ComfyUI-UniTalk" / "name.json"
    assert json.loads(linked.read_text("utf8")) == "new"
