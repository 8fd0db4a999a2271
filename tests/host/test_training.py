"""Training in a running ComfyUI: from clips to a LoRA or a model, through whatever may happen meanwhile."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.host.serving import Server
from unitalk_core.data.synthetic_folder import write_clips
from unitalk_core.media import read_video
from unitalk_core.training.metrics import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PACK = Path(__file__).resolve().parents[2]
LISTENING = Path(__file__).with_name("listening.py")
WATCHED = "validation.every=2\nvalidation.steps=2\nvalidation.clips=1\nmemory.precision=fp32"
LORA = {
    "model": "tiny", "preset": "tiny-lora", "name": "anna", "steps": 4, "learning_rate": 1e-2, "rank": 4,
    "alpha": 4.0, "learn": "face and voice", "batch": 2, "seed": 0, "settings": WATCHED,
}  # fmt: skip
FULL = {
    "model": "tiny", "preset": "tiny-stage2", "name": "own", "steps": 2, "learning_rate": 1e-3, "parts": "",
    "batch": 2, "seed": 0, "settings": "memory.compile=false",
}  # fmt: skip
SIZE = {"width": 64, "height": 64, "seconds": 0.6, "fps": 0.0, "batch_size": 1}
SAMPLING = {
    "video_seed": 1, "audio_seed": 1, "steps": 2, "sampler": "euler", "video_cfg": 1.0, "audio_cfg": 1.0,
    "denoise": 1.0,
}  # fmt: skip

Graph = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dataset") / "clips"
    write_clips(folder, 2, 0)
    return folder


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def dataset(folder: Path | str) -> Graph:
    """Nodes "check" and "prepare"."""
    files = dict.fromkeys(("video_vae", "audio_vae", "vocoder", "text_encoder"), "none")
    size = {"model": "tiny", "width": 0, "height": 0}
    return {
        "check": node("UniTalkCheckDataset", folder=str(folder), **size),
        "prepare": node("UniTalkPrepareDataset", folder=["check", 0], show="", **size, **files),
    }


def lora_graph(folder: Path | str, **changes: Any) -> Graph:
    return dataset(folder) | {"train": node("UniTalkTrainLoRA", data=["prepare", 0], **(LORA | changes))}


def long_run(folder: Path, name: str) -> Graph:
    """A run that nobody waits for: its checkpoints come when it is stopped."""
    return lora_graph(folder, name=name, steps=5000, settings="memory.precision=fp32")


def sampled(model: list[Any], prefix: str) -> Graph:
    """Nodes that sample with `model` and save both latents; names begin with `prefix`."""
    n = prefix.__add__
    return {
        n("base"): node("UniTalkLoadEmbedded"),
        n("text"): node(
            "UniTalkTextEncode", clip=[n("base"), 1], scene="", speech="hello", sound="", markup="auto"
        ),
        n("empty"): node("UniTalkEmptyLatent", model=[n("base"), 0], **SIZE),
        n("sample"): node(
            "UniTalkJointSampler",
            model=model,
            positive=[n("text"), 0],
            negative=[n("text"), 0],
            latent=[n("empty"), 0],
            **SAMPLING,
        ),
        n("apart"): node("LTXVSeparateAVLatent", av_latent=[n("sample"), 0]),
        n("video"): node("SaveLatent", samples=[n("apart"), 0], filename_prefix=f"{prefix}video"),
        n("audio"): node("SaveLatent", samples=[n("apart"), 1], filename_prefix=f"{prefix}audio"),
    }


def latents(server: Server, prefix: str) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(
        load_file(sorted((server.base / "output").glob(f"{prefix}{stream}_*.latent"))[-1])["latent_tensor"]
        for stream in ("video", "audio")
    )


def done(server: Server, graph: Graph) -> dict[str, Any]:
    history = server.wait_for(server.queue(graph))
    assert history["status"]["status_str"] == "success", history["status"]["messages"][-1]
    return history


def error_of(server: Server, graph: Graph) -> tuple[str, str]:
    """(node, sentence) of the error that a graph ends with."""
    history = server.wait_for(server.queue(graph))
    (error,) = [one for kind, one in history["status"]["messages"] if kind == "execution_error"]
    return error["node_type"], error["exception_message"].strip()


def run_of(server: Server, name: str) -> Path:
    return server.base / "output" / "unitalk" / name


def state(out: Path) -> dict[str, Any]:
    return json.loads((out / "run.json").read_text("utf8"))


def steps(out: Path) -> list[int]:
    return [record.step for record in read_metrics(out)]


def wait_until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + 300
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


# --- from clips to a LoRA --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def heard(server, host, clips, tmp_path_factory) -> dict[str, Any]:
    """What is shown of a graph from clips to a LoRA, with all that stock nodes do with its results."""
    base, lora, auto = ["in_graph_base", 0], ["train", 0], {"format": "auto", "codec": "auto"}
    graph = lora_graph(clips) | {
        "loader": node("LoraModelLoader", model=base, lora=lora, strength_model=1.0, bypass=False),
        "save": node("SaveLoRA", lora=["train", 0], prefix="loras/anna"),
        "graph": node("LossGraphNode", loss=["train", 1], filename_prefix="loss"),
        "curves": node("SaveImage", images=["train", 2], filename_prefix="curves"),
        "clip": node("SaveVideo", video=["train", 3], filename_prefix="sample", **auto),
        "stored": node("SaveVideo", video=["prepare", 1], filename_prefix="stored", **auto),
        "report": node("PreviewAny", source=["check", 1]),
    }
    folder = tmp_path_factory.mktemp("heard")
    file, out = folder / "graph.json", folder / "heard.json"
    file.write_text(json.dumps(graph | sampled(["loader", 0], "in_graph_")), "utf8")
    told = host.run(LISTENING, server.url, file, out)
    assert told.returncode == 0, told.stderr
    return json.loads(out.read_text("utf8"))


@pytest.fixture(scope="module")
def trained(server, heard) -> dict[str, Any]:
    """The history of that graph."""
    history = server.wait_for(heard["prompt"])
    assert history["status"]["status_str"] == "success", history["status"]["messages"][-1]
    return history


def saved(server: Server, history: dict[str, Any], name: str) -> Path:
    one = history["outputs"][name]["images"][0]
    return server.base / one["type"] / one["subfolder"] / one["filename"]


def test_stock_nodes_take_what_the_training_node_gives(server, trained):
    assert Image.open(saved(server, trained, "graph")).size == (840, 520)
    assert min(Image.open(saved(server, trained, "curves")).size) > 200
    clip = read_video(saved(server, trained, "clip"))
    assert clip.waveform.abs().max() > 0
    assert steps(run_of(server, "anna")) == [1, 2, 3, 4]


def test_the_node_shows_how_far_it_is_and_what_it_makes(heard, trained):
    last = [one for one in heard["progress"] if one[0] == "train"][-1]
    lines = [text for place, text in heard["text"] if place == "train"]
    assert last == ["train", 4, 4]
    assert "preparing" in lines
    assert lines[-1].startswith("step 4 of 4, done\nloss: video ")
    assert [line for line in lines if re.match(r"step [1234] of 4, \d+ s left\nloss: ", line)]
    assert heard["pictures"] >= 2  # a sample, then one with the curves
    assert ["prepare", 4, 4] in heard["progress"]


def test_the_report_names_each_clip(trained, clips):
    report = trained["outputs"]["report"]["text"][0]
    assert "2 of 2 clips can be used" in report
    assert "00000: good" in report


def test_a_clip_of_the_cache_can_be_looked_at(server, trained, clips):
    shown, source = read_video(saved(server, trained, "stored")), read_video(clips / "00000" / "clip.mp4")
    assert shown.frames.shape[1:] == (64, 64, 3)
    assert (shown.frames[:5] - source.frames[:5]).abs().mean() < 0.1


def test_the_saved_lora_loads_with_the_stock_loader_and_changes_picture_and_sound(server, trained):
    (made,) = (server.base / "output" / "loras").glob("anna*.safetensors")
    stored = load_file(run_of(server, "anna") / "lora.safetensors")
    assert {key: one.tolist() for key, one in load_file(made).items()} == {
        key: one.tolist() for key, one in stored.items()
    }
    (server.base / "models" / "loras").mkdir(exist_ok=True)
    shutil.copy(made, server.base / "models" / "loras" / "anna.safetensors")
    loader = {
        "model": node("UniTalkLoadEmbedded"),
        "lora": node(
            "LoraLoaderModelOnly", model=["model", 0], lora_name="anna.safetensors", strength_model=1.0
        ),
    }
    before = server.said().count("lora key not loaded")
    done(server, loader | sampled(["lora", 0], "from_file_") | sampled(["plain_base", 0], "plain_"))
    plain, from_file = latents(server, "plain_"), latents(server, "from_file_")
    in_graph = latents(server, "in_graph_")
    for own, other, same in zip(plain, from_file, in_graph, strict=True):
        assert (own - other).abs().max() / own.abs().max() > 1e-3
        torch.testing.assert_close(other, same)
    assert server.said().count("lora key not loaded") == before


def test_a_lora_of_the_voice_leaves_the_picture_stream_alone(server, clips):
    done(server, lora_graph(clips, name="voice", steps=2, learn="voice", settings=""))
    keys = load_file(run_of(server, "voice") / "lora.safetensors").keys()
    assert {key.split(".")[1] for key in keys} == {"audio_model"}


def test_a_trained_model_samples_and_loads_again(server, clips):
    graph = dataset(clips) | {
        "train": node("UniTalkTrainFull", data=["prepare", 0], **FULL),
        "path": node("PreviewAny", source=["train", 5]),
    }
    graph["added"] = node(
        "LoraModelLoader", model=["untrained_base", 0], lora=["train", 6], strength_model=1.0, bypass=False
    )
    graph |= sampled(["train", 0], "full_") | sampled(["untrained_base", 0], "untrained_")
    graph |= sampled(["added", 0], "added_")
    for prefix in ("full_", "added_"):
        graph[f"{prefix}text"]["inputs"]["clip"] = ["train", 1]
    history = done(server, graph)
    made = [latents(server, prefix) for prefix in ("untrained_", "full_", "added_")]
    for untrained, own, added in zip(*made, strict=True):
        assert not torch.equal(own, untrained)
        assert (added - own).norm() < 0.02 * (untrained - own).norm()
    assert history["outputs"]["path"]["text"] == [str(run_of(server, "own") / "model")]


# --- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [
        ("", "there is no folder; give the path of the folder with your clips"),
        ("nowhere", "nowhere"),
        ("empty", "empty"),
    ],
)
def test_a_bad_folder_gets_one_sentence(server, folder, sentence):
    (server.base / "input" / "empty").mkdir(exist_ok=True)
    where, said = error_of(server, lora_graph(folder))
    assert where == "UniTalkCheckDataset"
    assert sentence in said
    assert "\n" not in said


def test_clips_that_cannot_be_used_are_named(server, clips, tmp_path):
    shutil.copytree(clips, tmp_path / "bad")
    for path in (tmp_path / "bad").glob("*/clip.mp4"):
        path.write_bytes(b"no video")
    where, said = error_of(server, lora_graph(tmp_path / "bad"))
    assert where == "UniTalkCheckDataset"
    assert said.startswith("none of the 2 clips")
    assert "00000: " in said


def test_a_changed_folder_is_looked_at_again(server, clips, tmp_path):
    shutil.copytree(clips, tmp_path / "changing")
    graph = dataset(tmp_path / "changing")
    done(server, graph)
    (tmp_path / "changing" / "00001" / "clip.mp4").write_bytes(b"no video")
    where, said = error_of(server, graph)
    assert where == "UniTalkPrepareDataset"
    assert "00001" in said


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "../elsewhere"}, "a run's name is letters"),
        ({"settings": "loss.mouht=1"}, "did you mean loss.mouth?"),
        ({"settings": "steps"}, "key=value, got steps"),
        ({"settings": "lora.targets=[audio.nose]", "name": "nose"}, "audio.nose, which this model lacks"),
    ],
)
def test_a_bad_setting_gets_one_sentence(server, clips, change, sentence):
    where, said = error_of(server, lora_graph(clips, **change))
    assert where == "UniTalkTrainLoRA"
    assert sentence in said
    assert "\n" not in said


def test_other_settings_ask_for_another_name(server, trained, clips):
    _, said = error_of(server, lora_graph(clips, rank=8))
    assert "lora.rank 4 and not 8; give this run another name" in said


# --- stop, go on, start again ----------------------------------------------------------------------------


def test_an_interrupt_leaves_a_checkpoint_and_the_next_run_goes_on_there(server, clips):
    out, graph = run_of(server, "stopped"), long_run(clips, "stopped")
    prompt = server.queue(graph)
    wait_until(lambda: steps(out))
    server.post("/interrupt", {"prompt_id": prompt})
    history = server.wait_for(prompt)
    assert "execution_interrupted" in [kind for kind, _ in history["status"]["messages"]]
    stopped = state(out)
    assert stopped["state"] == "stopped"
    assert (out / "checkpoints" / f"step-{stopped['step']:06d}").is_dir()
    again = server.queue(graph)
    wait_until(lambda: len(steps(out)) > stopped["step"])
    server.post("/interrupt", {"prompt_id": again})
    server.wait_for(again)
    assert steps(out) == list(range(1, state(out)["step"] + 1))


@pytest.fixture
def own_base(tmp_path) -> Iterator[Path]:
    """A folder for a host of one test; no training is left behind in it."""
    yield tmp_path / "own"
    for file in (tmp_path / "own" / "output").glob("unitalk/*/run.json"):
        now = json.loads(file.read_text("utf8"))
        if now["state"] in ("preparing", "running"):
            stop_process(now["pid"])


def stop_process(pid: int) -> None:
    import psutil

    if psutil.pid_exists(pid):
        psutil.Process(pid).send_signal(signal.SIGTERM)


def test_a_training_outlives_a_killed_host_and_is_followed_again(host, miniature, clips, own_base):
    out = own_base / "output" / "unitalk" / "kept"
    graph = lora_graph(clips, name="kept", steps=60, settings="memory.precision=fp32")
    env = {"UNITALK_EMBEDDED": str(miniature)}
    with Server.start(host.python, host.path, PACK, own_base, env) as first:
        first.queue(graph)
        wait_until(lambda: steps(out))
        first.process.kill()
        first.process.wait()
    before = state(out)
    assert before["state"] == "running"
    with Server.start(host.python, host.path, PACK, own_base, env) as second:
        done(second, graph)
    after = state(out)
    assert (after["state"], after["pid"]) == ("done", before["pid"])
    assert steps(out) == list(range(1, 61))
