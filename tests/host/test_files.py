"""Published files at reduced size, under their own names, inside a real ComfyUI."""

from __future__ import annotations

import pytest


@pytest.fixture
def assembled(measured):
    return measured("assembled")


def test_an_assembled_model_says_what_is_trained_and_makes_what_it_says(assembled):
    assert "sound: a copy of the picture's blocks, not trained, 44100 Hz" in assembled["info"]
    assert "a picture, and noise for sound, until you train it" in assembled["info"]
    assert assembled["picture"] > 0.05
    assert assembled["sound"] < 1e-6  # of the noise that it began with


def test_an_assembled_model_is_saved_and_loaded_again_bit_by_bit(assembled):
    assert assembled["loaded"] and assembled["again"]
    assert "the sound is not trained: its head is zero" in assembled["told"]
    assert "needs UMT5-XXL, the Wan2.2 video VAE, MMAudio's VAE of 44.1 kHz" in assembled["told"]
    assert "GB of weights; cpu has" in assembled["told"]
    assert "has a sound stream already; name the file of a picture stream alone" in assembled["wrong"]


def test_ovis_sound_joins_wans_picture_in_the_precision_that_is_asked_for(assembled):
    assert "without what it read of its own picture, trained, 16000 Hz" in assembled["ovi"]
    assert assembled["dtypes"] == ["torch.bfloat16", "torch.float32"]  # the host keeps bare tables in float32
    assert assembled["length"] == [1, 20, 157]


def test_a_model_is_heard_with_an_audio_vae_of_its_own_latents_alone(measured):
    other = "20 channels at 16000 Hz, the model of 40 at 44100 Hz; connect the one that the model was trained"
    assert other in measured("assembled")["heard"]
    assert "this model makes no sound; load one with a sound" in measured("published_forms")["heard"]


PARITY = 1e-4  # relative, host against core: the order of float32 sums differs


def test_ovi_makes_five_seconds_of_picture_and_16_khz_sound_as_the_core_does(measured):
    found = measured("ovi_720")
    assert (
        "prompts as ovi-720; needs UMT5-XXL, the Wan2.2 video VAE, MMAudio's VAE of 16 kHz" in found["info"]
    )
    assert found["shapes"] == [[1, 48, 31, 4, 4], [1, 20, 157]]
    assert max(found["difference"]) < PARITY
    assert found["sound"] == [[1, 1, 157 * 512], 16000]
    assert (found["pictures"], found["rate"]) == ([121, 64, 64, 3], 24.0)


def test_ovis_ten_second_model_is_known_by_its_name_and_refuses_the_other_markup(measured):
    found = measured("ovi_960_10s")
    assert "up to 10.04 s; prompts as ovi-960" in found["info"]
    assert found["frames"] == [241, 24.0] and found["shapes"] == [[1, 48, 61, 4, 4], [1, 20, 313]]
    assert max(found["difference"]) < PARITY
    assert "written as ovi-720, and this model reads ovi-960; choose ovi-960 as markup" in found["wrong"]


def test_ovi_in_two_files_is_the_same_model_and_one_alone_is_named(measured):
    found = measured("ovi_in_two_files")
    assert found["same"] and max(found["difference"]) < PARITY  # in a file weights lie elsewhere
    assert "holds only the audio stream of an Ovi model; name the other's file too" in found["alone"]


IN_FP8 = {
    "fp8.safetensors": "True",  # no scales: multiplied in full
    "scaled.safetensors": "False",
    "fp8_e4m3fn": "True",
    "fp8_e4m3fn_fast": "False",
}


def test_every_published_form_of_a_file_samples_as_its_weights_in_float32(measured):
    found = measured("published_forms")
    near = {"fp16.safetensors", "diffusers.safetensors", "shards/model.safetensors.index.json"}
    assert all(0 < found[name][0] < 1e-3 for name in near)
    assert 0 < found["bf16.pth"][0] < 5e-3
    assert all(0 < found[name][0] < 2e-2 for name in IN_FP8)


def test_fp8_stays_fp8_in_memory_and_says_how_it_is_multiplied(measured):
    found = measured("published_forms")
    assert {name: found[name][1:] for name in IN_FP8} == {
        name: ["torch.float8_e4m3fn", full] for name, full in IN_FP8.items()
    }
    assert found["again"] == found["saved"] == 0
    changed, after = found["lora"]
    assert changed > 1e-3 and after == 0


def test_a_model_in_shards_is_listed_by_its_index_and_a_shard_alone_is_named(measured):
    found = measured("published_forms")
    assert found["listed"]
    assert "is one of several shards; name the .safetensors.index.json beside it" in found["a shard"]
