"""A running ComfyUI with the pack in its custom_nodes folder: both graphs become files, over HTTP."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
import torch

from benchmarks.prompts import sizes
from tests.host.stand_ins import OVI, STAND_INS, TRUNK, smaller, write
from tests.parity.published import MODELS
from tests.rules.node_table import ROOT
from unitalk_core.av import Clip
from unitalk_core.media import read_audio, read_video
from unitalk_core.provenance import words_hash
from unitalk_core.weights.files import read_metadata, save_tensors

GRAPHS = ("text_to_talking_clip", "stock_samplers", "guided_second_take")

# workflow: frames of each clip it makes
SEVERAL = {
    "a_clip_goes_on": [109], "a_voice_to_copy": [61], "compare_takes": [61] * 4, "drive_by_sound": [61],
    "dub_a_clip": [61], "picture_to_talking_clip": [61], "two_voices": [61],
}  # fmt: skip


def graph(name: str, **changes: Any) -> dict[str, Any]:
    """A shipped workflow in API format, with some inputs changed: `steps=4` in every node that has steps."""
    nodes = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text("utf8"))
    for node in nodes.values():
        node["inputs"] |= {key: value for key, value in changes.items() if key in node["inputs"]}
    return nodes


def only_mp4(server, history: dict[str, Any]) -> Path:
    assert history["status"]["status_str"] == "success", history["status"]["messages"][-1]
    (path,) = server.files(history)
    assert path.suffix == ".mp4"
    return path


def read(path: Path) -> Clip:
    clip = read_video(path)
    assert clip.frames is not None
    assert clip.waveform is not None
    return clip


def test_the_pack_loads_without_a_complaint(server):
    lines = [line for line in server.said().splitlines() if "UniTalk" in line]
    assert lines
    assert not [line for line in lines if "FAILED" in line or "Cannot import" in line or "Error" in line]


@pytest.mark.parametrize("name", GRAPHS)
def test_a_workflow_becomes_an_mp4_with_picture_and_sound_of_one_length(server, name):
    clip = read(only_mp4(server, server.wait_for(server.queue(graph(name, steps=4)))))
    picture, sound = len(clip.frames) / clip.fps, clip.waveform.shape[-1] / clip.sample_rate
    assert tuple(clip.frames.shape) == (61, 256, 256, 3)
    assert clip.sample_rate == 16000
    assert abs(float(picture) - sound) <= 1 / clip.fps
    assert clip.waveform.abs().max() > 1e-3


@pytest.mark.parametrize("name", SEVERAL)
def test_a_workflow_of_tasks_makes_its_clips(server, name):
    history = server.wait_for(server.queue(graph(name, steps=2)))
    assert history["status"]["status_str"] == "success", history["status"]["messages"][-1]
    clips = [read(path) for path in server.files(history) if path.suffix == ".mp4"]  # a preview is none
    assert sorted(len(clip.frames) for clip in clips) == sorted(SEVERAL[name])
    assert all(abs(clip.waveform.shape[-1] / clip.sample_rate - clip.seconds) <= 0.04 for clip in clips)


def test_a_take_is_saved_as_a_latent_and_gets_a_second_pass(server):
    first = server.wait_for(server.queue(graph("takes", steps=2)))
    assert len(read(only_mp4(server, first)).frames) == 61
    (saved,) = (server.base / "output" / "latents").iterdir()
    assert saved.name == "UniTalk_00001_.latent.safetensors"
    assert json.loads(read_metadata(saved)["prompt"]).keys() == graph("takes").keys()
    second = read(only_mp4(server, server.wait_for(server.queue(graph("second_stage", steps=2)))))
    assert tuple(second.frames.shape) == (61, 256, 256, 3)


def test_the_same_seeds_give_the_same_clip_and_other_seeds_another(server):
    """The rate comes once from the model and once by hand, since the host does not make the same twice."""
    clips = []
    for i, (seed, fps) in enumerate([(5, 0.0), (5, 25.0), (7, 25.0)]):
        made = graph(
            "text_to_talking_clip", steps=2, seconds=0.6, video_seed=seed, filename_prefix=f"again{i}"
        )
        made["4"]["inputs"]["fps"] = fps
        clips.append(read(only_mp4(server, server.wait_for(server.queue(made)))))
    first, second, other = clips
    assert first.frames.equal(second.frames)
    assert first.waveform.equal(second.waveform)
    assert not first.frames.equal(other.frames)


def test_a_saved_clip_says_which_model_seeds_and_words_made_it(server):
    changes = {"steps": 2, "seconds": 0.6, "video_seed": 5, "audio_seed": 6, "filename_prefix": "told"}
    made = graph("weights_and_negatives", **changes)
    path = only_mp4(server, server.wait_for(server.queue(made)))
    text = next(one["inputs"] for one in made.values() if one["class_type"] == "UniTalkTextEncode")
    with av.open(str(path)) as file:
        told = json.loads(file.metadata["provenance"])
        assert [one.type for one in file.streams] == ["video", "audio", "subtitle"]
    assert told["models"] == ["tiny"]
    assert told["seeds"] == {"video_seed": 5, "audio_seed": 6}
    assert words_hash(text["scene"], text["speech"], text["sound"]) in told["words_sha256"]


def test_a_lora_of_the_users_folder_runs_by_parts(server):
    layer = "diffusion_model.{}_model.blocks.0.self_attn.q"
    ends = {"lora_up": (192, 2), "lora_down": (2, 192)}
    tensors = {
        f"{layer.format(stream)}.{end}.weight": torch.ones(size)
        for stream in ("video", "audio")
        for end, size in ends.items()
    }
    (server.base / "models" / "loras").mkdir(exist_ok=True)
    save_tensors(server.base / "models" / "loras" / "my_character.safetensors", tensors)
    made = graph("lora_by_parts", steps=2, seconds=0.6)
    history = server.wait_for(server.queue(made))
    only_mp4(server, history)
    (report,) = [one["text"][0] for one in history["outputs"].values() if "text" in one]
    assert report == "4 of 4 keys fit; weights: picture 1 at 1, sound 1 at 0"


@pytest.mark.parametrize("name", ["text_to_talking_clip", "stock_samplers"])
def test_a_browser_that_asks_gets_a_snippet_of_the_sound_and_others_make_none(server, name):
    (server.base / "temp").mkdir(exist_ok=True)
    for client, on, more in ((f"deaf {name}", False, 0), (f"listening {name}", True, 1)):
        server.post("/unitalk/hear", {"client_id": client, "on": on})
        before = set((server.base / "temp").glob("unitalk_sound_*.wav"))
        seeds = dict.fromkeys(
            ("audio_seed", "noise_seed", "seed"), 30 + on
        )  # or the second comes from the cache
        made = graph(name, steps=2, seconds=0.6, **seeds)
        prompt = server.post("/prompt", {"prompt": made, "client_id": client})["prompt_id"]
        assert server.wait_for(prompt)["status"]["status_str"] == "success"
        snippets = set((server.base / "temp").glob("unitalk_sound_*.wav")) - before
        assert len(snippets) == more
        for path in snippets:
            waveform, rate = read_audio(path)
            assert (rate, waveform.shape[1] / rate) == (16000, pytest.approx(0.6, abs=0.1))
    server.post("/unitalk/hear", {"client_id": client, "on": False})


KSAMPLER = {"seed": 1, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}


@pytest.fixture(scope="module")
def ovi(server) -> Callable[..., dict[str, Any]]:
    """The workflow of Ovi on reduced files, one step, with the miniature's text; its sound alone is saved."""
    small = smaller(MODELS[OVI], TRUNK | {4096: 192})
    write(server.base / "models" / "diffusion_models" / OVI, small)
    for place in ("vae/v1-16.pth", "vae/best_netG.pt"):
        write(server.base / "models" / place, STAND_INS[place]())

    def made(sampler: str, seed: int) -> dict[str, Any]:
        nodes = graph("ovi_talking_clip", steps=1, seconds=0.6, width=64, height=64, audio_seed=seed)
        kept = {key: one for key, one in nodes.items() if one["class_type"] not in ("VAELoader", "SaveVideo")}
        kept["2"] = {"class_type": "UniTalkLoadEmbedded", "inputs": {}}
        for text in ("5", "6"):
            kept[text]["inputs"]["clip"] = ["2", 1]
        if sampler == "KSampler":
            given = kept["8"]["inputs"]
            links = {name: given[name] for name in ("model", "positive", "negative")}
            options = KSAMPLER | links | {"seed": seed, "latent_image": given["latent"]}
            kept["8"] = {"class_type": sampler, "inputs": options}
        return kept | {
            "99": {"class_type": "SaveAudio", "inputs": {"audio": ["10", 0], "filename_prefix": "ovi"}}
        }

    return made


@pytest.mark.parametrize("sampler", ["UniTalkJointSampler", "KSampler"])
def test_another_models_sound_is_heard_with_its_audio_vae_and_not_without(server, ovi, sampler):
    """After the only step the sound is as it will be, so the snippet is what the same VAE decodes."""
    client, folder = f"hears {sampler}", server.base / "temp"
    folder.mkdir(exist_ok=True)
    server.post("/unitalk/hear", {"client_id": client, "on": True})
    found = []
    for seed, has_node in ((3, False), (4, True)):
        nodes, before = ovi(sampler, seed), set(folder.glob("unitalk_sound_*.wav"))
        if not has_node:
            nodes["8"]["inputs"]["model"] = ["1", 0]
        prompt = server.post("/prompt", {"prompt": nodes, "client_id": client})["prompt_id"]
        history = server.wait_for(prompt)
        assert history["status"]["status_str"] == "success", history["status"]["messages"][-1]
        found.append(set(folder.glob("unitalk_sound_*.wav")) - before)
    server.post("/unitalk/hear", {"client_id": client, "on": False})
    without, (snippet,) = found
    assert not without
    (saved,) = history["outputs"]["99"]["audio"]
    heard, whole = read_audio(snippet), read_audio(server.base / "output" / saved["filename"])
    assert heard[1] == whole[1] == 16000
    assert heard[0].std() > 1e-3
    torch.testing.assert_close(heard[0][0], whole[0][0], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_prompts_in_a_row_do_not_grow_the_server(server):
    """The frames of one clip take 13 MiB: six of them that stayed would be seen."""
    found = list(sizes(server, 12))
    assert found[-1] - found[5] < 40, found


def test_a_running_graph_stops_when_told(server):
    prompt = server.queue(graph("text_to_talking_clip", steps=1000, seconds=4.8))
    server.wait_until_running(prompt)
    server.post("/interrupt", {"prompt_id": prompt})
    history = server.wait_for(prompt)
    assert history["status"]["status_str"] == "error"
    assert "execution_interrupted" in [kind for kind, _ in history["status"]["messages"]]


def test_a_bad_value_is_named_before_anything_is_written(server):
    before = sorted((server.base / "output").rglob("*.mp4"))
    history = server.wait_for(server.queue(graph("text_to_talking_clip", width=96, height=64, seconds=30.0)))
    (error,) = [one for kind, one in history["status"]["messages"] if kind == "execution_error"]
    assert error["node_type"] == "UniTalkEmptyLatent"
    assert error["exception_message"].strip() == "seconds must be above 0 and at most 4.84, got 30"
    assert sorted((server.base / "output").rglob("*.mp4")) == before


def test_the_workflows_are_offered_as_templates_with_their_pictures(server):
    offered = server.get("/workflow_templates")["ComfyUI-UniTalk"]
    assert sorted(offered) == sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
    for name in offered:
        with urllib.request.urlopen(
            f"{server.url}/api/workflow_templates/ComfyUI-UniTalk/{name}.jpg"
        ) as answer:
            assert answer.read(3) == b"\xff\xd8\xff"


def test_the_subgraphs_are_in_the_node_library(server):
    listed = server.get("/global_subgraphs").values()
    ours = [one["name"] for one in listed if one["info"]["node_pack"] == "custom_nodes.ComfyUI-UniTalk"]
    assert sorted(ours) == sorted(path.stem for path in (ROOT / "subgraphs").glob("*.json"))


def test_the_help_pages_their_pictures_and_translations_are_served(server):
    with urllib.request.urlopen(f"{server.url}/extensions/ComfyUI-UniTalk/docs/UniTalkMuxAV.png") as answer:
        assert answer.read(4) == b"\x89PNG"
    with urllib.request.urlopen(f"{server.url}/extensions/comfyui-unitalk/docs/UniTalkMuxAV.md") as answer:
        assert answer.read().decode().startswith("# UniTalk Mux AV")
    assert server.get("/i18n")["en"]["nodeDefs"]["UniTalkMuxAV"]["display_name"] == "UniTalk Mux AV"
