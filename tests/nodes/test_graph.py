"""What made a clip is found in the graph above it, and nothing beside it."""

from __future__ import annotations

from nodes.graph import sources

GRAPH = {
    "1": {
        "class_type": "UniTalkLoadModel",
        "inputs": {"model_name": "big.safetensors", "second_name": "none"},
    },
    "2": {"class_type": "UniTalkTextEncode", "inputs": {"scene": "a", "speech": ["9", 0], "sound": "c"}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "no blur", "clip": ["8", 0]}},
    "4": {
        "class_type": "UniTalkJointSampler",
        "inputs": {
            "model": ["6", 0],
            "positive": ["2", 0],
            "negative": ["3", 0],
            "video_seed": 1,
            "audio_seed": 2,
        },
    },
    "5": {"class_type": "UniTalkMuxAV", "inputs": {"images": ["4", 0], "audio": ["4", 0], "fps": 25.0}},
    "6": {"class_type": "LoraLoaderModelOnly", "inputs": {"model": ["1", 0], "lora_name": "me.safetensors"}},
    "7": {"class_type": "KSampler", "inputs": {"seed": 99, "model": ["1", 0]}},
    "9": {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "b"}},
}


def test_models_seeds_and_words_above_a_node_are_found_each_once():
    models, seeds, words = sources(GRAPH, "5")
    assert sorted(models) == ["big.safetensors", "me.safetensors"]
    assert seeds == {"video_seed": 1, "audio_seed": 2}
    assert sorted(words) == [("a", "b", "c"), ("no blur",)]


def test_of_several_samplers_in_a_row_the_last_one_names_the_seeds():
    later = {"latent": ["4", 0], "video_seed": 7, "audio_seed": 8}
    graph = GRAPH | {
        "5": {"class_type": "UniTalkMuxAV", "inputs": {"images": ["10", 0], "audio": ["10", 0]}},
        "10": {"class_type": "UniTalkJointSampler", "inputs": later},
    }
    assert sources(graph, "5")[1] == {"video_seed": 7, "audio_seed": 8}


def test_what_is_computed_in_the_graph_is_left_out():
    graph = GRAPH | {"9": {"class_type": "SomeWriter", "inputs": {"topic": "b"}}}
    assert sources(graph, "5")[2] == [("no blur",)]


def test_a_node_that_is_not_in_the_graph_has_no_sources():
    assert sources(GRAPH, "77") == sources({}, "") == ([], {}, [])


def test_the_miniature_has_a_name_though_it_has_no_file():
    assert sources({"1": {"class_type": "UniTalkLoadEmbedded", "inputs": {}}}, "1")[0] == ["tiny"]
