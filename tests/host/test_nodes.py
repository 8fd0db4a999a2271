"""The nodes inside a real ComfyUI, driven by its own Python: what `inside/` measured, judged."""

from __future__ import annotations

import json
import re

import pytest

from tests.rules.node_table import promise, read_table

PARITY = 1e-4  # relative, host against core: the order of float32 sums differs
SENTENCES = {
    "no audio": "no audio to join",
    "empty audio": r"is empty: waveform \(1, 1, 0\)",
    "three channels": "has 3 channels; mix it",
    "two clips of sound": "holds 2 clips",
    "odd width": "even width and height, got 63 x 64; crop the picture to 62 x 64",
    "no frames": "must be frames",
    "no fps": "fps must be from 1 to 240, got 0",
    "fps not a number": "fps must be from 1 to 240, got nan",
    "no prompt": "there is no prompt: give",
    "tags in the speech": "the speech holds the tag <S>",
    "illegal size": "multiples of 32, got 72 x 64; use 64 x 64",
    "no seconds": "seconds must be above 0 and at most 4.84, got 0",
    "too many seconds": "seconds must be above 0 and at most 4.84, got 1000",
    "another model": "takes a UniTalk model, got SimpleNamespace; load one",
    "a latent of nan": "video latent holds NaN",
    "a video VAE for sound": "takes an audio VAE of UniTalk, got PictureStage",
    "an audio VAE for picture": "this VAE has 20 latent channels, the picture 48",
    "a latent without sound": "has no audio stream",
    "an image latent": r"got \(1, 4, 8, 8\); use UniTalk Empty Latent",
    "a missing package": r'needs accelerate_0; install with: ".+" (-s )?-m pip install accelerate_0$',
    "one side of a size": "give width and height, or 0 for both; got 64 x 0",
}


def test_the_running_host_knows_the_nodes_as_the_stored_table_does(measured):
    live = measured("schemas")
    table = {
        name: {
            "inputs": [[one["id"], one["type"], one.get("default")] for one in node["inputs"]],
            "outputs": [[one["name"], one["type"]] for one in node["outputs"]],
        }
        for name, node in promise(read_table()).items()
    }
    assert live == table


@pytest.mark.parametrize("sampler", ["euler", "unipc", "dpmpp_2m", "heun"])
def test_the_joint_sampler_gives_the_latents_of_the_core(measured, sampler):
    assert max(measured("joint_sampler_against_core")[sampler]) < PARITY


@pytest.mark.parametrize("guider", ["CFGGuider", "LTXVDualCFGGuider"])
def test_stock_sampler_guider_and_euler_give_the_latents_of_the_core(measured, guider):
    assert max(measured(f"stock_sampler_against_core_{guider}")) < PARITY


def test_a_model_of_one_stream_makes_that_stream(measured):
    found = measured("one_stream")
    assert found["video"] == [[1, 48, 5, 4, 4], True]
    assert found["audio"] == [[1, 20, 21], True]
    assert found["of a joint model"] == [1, 48, 3, 4, 4]


def test_half_precision_weights_give_nearly_the_same(measured):
    found = measured("precision")
    assert found["fp32"] == 0
    assert 0 < found["bf16"] < 0.05
    assert 0 < found["fp16"] < 0.01


def test_a_kept_sound_has_the_timesteps_of_the_core(measured):
    assert max(measured("kept_sound_against_core")) < PARITY


def test_stock_samplers_take_and_give_batches_of_two(measured):
    video, audio = [2, 48, 5, 4, 4], [2, 20, 21]
    assert measured("stock_nodes_run") == [video, audio, video, audio]


@pytest.mark.parametrize("sampler", ["ksampler", "joint"])
def test_each_step_moves_the_bar_and_shows_a_picture(measured, sampler):
    heard = measured("progress_and_preview")[sampler]
    assert [one[:2] for one in heard] == [[1, 3], [2, 3], [3, 3]]
    assert all(one[2] is not None for one in heard)


def test_the_preview_has_frames_in_a_row_and_the_mel_of_the_sound_below(measured):
    found = measured("preview_of_sound")
    assert found["sizes"] == {"ksampler": [96, 256, 3], "joint": [96, 256, 3]}
    assert found["grey"] < 0.02
    assert found["mel"] < 0.01
    assert found["without a map"] > 0.01
    assert not found["left behind"]


def test_a_snippet_holds_three_seconds_at_most_and_none_is_made_for_nobody(measured):
    found = measured("sound_snippet")
    assert (found["left"], found["one file"]) == (0, 1)
    assert found["long"] == [93 * 512, 16000, 1]


def test_a_model_is_heard_with_the_vae_that_its_node_got_and_a_full_device_goes_without(measured):
    found = measured("heard_while_sampling")
    assert found["followed"] == [True, True]
    assert found["left"] == [False, False]
    assert found["crowded"]


@pytest.mark.parametrize("sampler", ["ksampler", "joint"])
def test_an_interrupt_stops_in_the_next_step_and_leaves_the_model_usable(measured, sampler):
    assert measured("interrupt")[sampler] == ["interrupted", 2]


def test_what_a_mask_keeps_comes_back_bit_by_bit_and_the_rest_is_made(measured):
    assert [name for name, holds in measured("kept_parts").items() if not holds] == []


def test_the_take_of_the_sound_does_not_depend_on_the_size_of_the_picture(measured):
    assert measured("two_seeds") == {"same sound noise at another size": True, "another picture": True}


def test_the_hosts_switches_cut_one_direction_of_the_coupling_each(measured):
    assert measured("coupling") == {"on": [True, True], "a2v off": [False, True], "v2a off": [True, False]}


def test_stock_modality_guidance_and_stg_nodes_act_on_the_model(measured):
    changes = measured("guidance_nodes")
    assert min(changes.values()) > 1e-3, changes


def test_patches_wrappers_and_attention_overrides_reach_every_block(measured):
    found = measured("transformer_options")
    assert found["blocks"] == [2] * 6  # both streams, once a block
    assert found["attention"] >= 6
    assert found["wrapper"] == 1


def test_a_patch_that_hands_the_block_through_changes_nothing_and_a_loud_one_does(measured):
    found = measured("transformer_options")
    assert found["same"] == 0
    assert found["changed"] > 1e-3
    assert found["stg"] > 1e-3


def test_a_lora_of_the_stock_spelling_acts_by_its_strength_and_goes_again(measured):
    found = measured("lora")
    assert found["0.0"] == found["after"] == 0
    assert found["1.0"] > 1e-4


def test_a_run_reads_a_text_once_unless_hooks_change_the_weights(measured):
    assert measured("readings") == {"plain": 1, "again": 1, "hooked": 3}


def test_a_lora_changes_the_streams_that_its_strengths_name(measured):
    found = measured("lora_by_parts")
    assert (found["both"], found["picture"], found["sound"]) == ([True, True], [True, False], [False, True])
    assert found["after"] == 0


def test_our_lora_loader_and_the_stock_one_do_the_same_at_one_strength(measured):
    assert measured("lora_by_parts")["stock"] == 0


@pytest.mark.parametrize("spelling", ["wan", "musubi"])
def test_a_lora_of_wan_alone_changes_the_picture_alone(measured, spelling):
    assert measured("lora_by_parts")[spelling] == [
        True,
        False,
        "2 of 2 keys fit; weights: picture 1 at 1",
    ]


def test_the_report_counts_by_part_and_names_each_key_that_does_not_fit(measured):
    found = measured("lora_by_parts")
    assert found["ours"][2] == "5 of 5 keys fit; weights: picture 2 at 1, sound 1 at 1"
    first, *lost = found["some"][2].splitlines()
    assert first.startswith("5 of 7 keys fit")
    assert sorted(lost) == [
        "does not fit: diffusion_model.blocks.77.ffn.0.lora_up.weight",
        "does not fit: lora_te_text.lora_up.weight",
    ]
    assert found["larger"][2].startswith("1 of 5 keys fit; weights: picture 1 at 1\n")
    assert re.search("fits nothing in this model: none of its 2 keys, such as .+; it was made", found["none"])


def test_the_host_can_load_the_model_a_second_time(measured):
    assert measured("loaded_again") == 0


def test_files_of_the_users_folders_load_as_the_miniature_does(measured):
    found = measured("loaded_from_files")
    assert found["velocity"] == 0
    assert found["info"].startswith("picture and sound, joint coupling")
    assert found["samples"] == [[1, 1, 16 * 512]] * 2
    assert "holds no model" in found["foreign"]


def test_the_stock_model_sampling_node_shifts_the_joint_sampler(measured):
    own, patched, change = measured("shift")
    assert (own, patched) == (3.0, 7.0)
    assert change > 1e-3


def test_the_stock_nodes_take_the_streams_apart_and_together(measured):
    assert measured("streams_apart_and_together")


def test_our_decoders_the_stock_ones_and_the_core_agree(measured):
    found = measured("decoders")
    assert found["images"] == [17, 64, 64, 3]
    assert found["stock"] == 0
    assert found["core"] < 1e-5
    assert found["sound"] == [1, 1, 21 * 512]
    assert found["loudness"] < 1e-5
    assert found["stock_sound"] == [[1, 1, 21 * 512], 16000, 16000]


@pytest.mark.parametrize(
    ("name", "rate", "stride", "channels"), [("16k", 16000, 512, 20), ("44k", 44100, 1024, 40)]
)
def test_both_rates_are_spoken_as_loud_as_they_are_and_encoded_by_the_stock_node(
    measured, name, rate, stride, channels
):
    found = measured("vocoders")[name]
    assert found["shape"] == found["stock"] == [2, 1, 12 * stride]
    assert found["rates"] == [rate, rate]
    assert found["as it is"] < 1e-5
    assert found["encoded"] == [2, channels, 12]


def test_tiles_join_into_the_picture_as_the_hosts_do(measured):
    found = measured("tiles")
    assert found["shape"] == [10, 160, 112, 3]
    assert found["one tile"] < 1e-5
    assert found["stock"] < 1e-5
    assert found["difference"] < 0.8 * found["no overlap"]


def test_tiles_report_progress_stop_when_told_and_refuse_odd_sizes(measured):
    found = measured("tiles")
    tiles = [
        [i, 24] for i in range(24)
    ]  # two clips of 4 x 3 tiles; the host leaves out what comes too quickly
    assert len(found["progress"]) > 3
    assert found["progress"] == [one for one in tiles if one in found["progress"]]
    assert found["interrupt"] == "interrupted"
    assert "multiples of 16 pixels" in found["sentence"] and "got 64 and 64" in found["overlap"]


def test_the_stock_encoders_make_latents_of_the_shapes_that_were_decoded(measured):
    picture, wanted, sound, heard = measured("decoders")["encoded"]
    assert picture == wanted
    assert sound == heard


def test_the_preview_shows_the_colours_of_the_picture(measured):
    assert measured("preview_colours") > 0.5


def test_the_hosts_wan_vae_and_the_cores_are_the_same_function(measured):
    assert measured("wan_vae_of_the_host") < PARITY


def test_a_voice_changes_the_sound_and_is_cut_to_what_the_model_hears(measured):
    found = measured("voice")
    assert found["shape"] == [1, 94, 20]
    assert found["changes"] > 1e-3
    assert found["long"] == [1, 20, 21]


def test_what_was_taken_of_a_voice_is_said(measured):
    used, cut, shape = measured("voice")["used"]
    assert used == "0.00-3.00 s of 3.00 s, 48 kHz stereo -> 16 kHz mono"
    assert cut == "1.50-5.60 s of 8.00 s, 44.1 kHz 6 channels -> 16 kHz mono"
    assert shape == [1, 128, 20]  # as many as this model hears


def test_a_voice_that_is_none_or_too_short_gets_a_sentence(measured):
    assert "there is no audio to take the voice from" in measured("voice")["none"]
    assert "at least 0.5 s" in measured("voice")["short"]


def test_text_is_marked_up_and_read_as_the_stock_node_reads_it(measured):
    found = measured("text")
    assert found["prompt"] == "<S>hello (melody:1.5)<E>"
    assert found["same"]
    assert found["ovi"] == "A room. <S>hello<E> Audio: rain"
    assert found["weights"] == [1, 1.5]


def test_words_that_the_miniature_lacks_are_shown_on_the_node(measured):
    told = "left out, because this model does not know it: "
    assert measured("text")["said"] == [f"{told}knight, 😀", f"{told}blur, bad, echo"]


@pytest.mark.parametrize("sampler", ["joint", "ksampler"])
def test_the_negative_of_a_stream_leads_that_stream_alone(measured, sampler):
    assert measured("negative")[sampler] == [[True, False], [False, True]]


def test_a_negative_with_speech_tags_is_refused(measured):
    assert "the sound holds the tag <S>" in measured("negative")["tags"]


def test_the_stock_umt5_reads_our_prompts_as_the_cores_does(measured):
    found = measured("stock_umt5")
    assert found["prompt"] == "a woman <S>hello (melody)<E> <AUDCAP>rain<ENDAUDCAP>"
    assert found["shape"] == [1, 512, 4096]
    assert found["core"] < PARITY


def test_the_stock_umt5_weighs_words_as_the_stock_node_does_and_reads_other_brackets_as_text(measured):
    assert measured("stock_umt5")["weighted"] == [True, True]


def test_a_length_mismatch_is_named_in_milliseconds_or_mended_when_told(measured):
    found = measured("lengths")
    assert found["fits"] == [25, 15400, "25"]
    assert "200 ms" in found["error"]
    assert found["pad"] == [25, 16000, "25"]
    assert found["trim"] == [20, 12800, "25"]
    assert found["ntsc"] == "30000/1001"


def test_both_lengths_are_reported_exactly(measured):
    fits, trimmed, ntsc = measured("lengths")["reports"]
    assert fits == (
        "picture 25 frames at 25 fps = 1000.000 ms, sound 15400 samples at 16000 Hz = 962.500 ms, "
        "sound - picture = -37.500 ms"
    )
    assert "= -200.000 ms; trim: picture 20 frames" in trimmed and trimmed.endswith("= +0.000 ms")
    assert "picture 25 frames at 30000/1001 fps = 834.167 ms" in ntsc and ntsc.endswith("= +0.021 ms")


def test_a_saved_video_says_that_ai_made_it_unless_told_not_to(measured):
    found = measured("saved_video")
    assert found["none"]["tags"] == {"prompt": '{"1": {}}', "comment": None, "provenance": None}
    assert found["track"]["tags"]["comment"].startswith('"Made by AI, ComfyUI-UniTalk ')
    assert json.loads(found["track"]["tags"]["provenance"])["made_by"] == "AI"
    assert found["track"]["tags"]["prompt"] == '{"1": {}}'


def test_subtitles_are_inside_the_saved_file_or_beside_it(measured):
    found = measured("saved_video")
    assert found["none"]["streams"] == found["srt"]["streams"] == ["video", "audio"]
    assert found["track"]["streams"] == ["video", "audio", "subtitle"]
    assert {one["frames"] for one in (found["none"], found["track"], found["srt"])} == {25}
    assert found["track"]["files"] == ["clip.mp4"]
    assert found["srt"]["files"] == ["clip.mp4", "clip.srt"]
    assert "\nGood morning.\n" in found["srt text"]
    assert found["stream"] > 1000
    assert "there are no words for subtitles; give" in found["no words"]


@pytest.mark.parametrize("name", SENTENCES)
def test_bad_input_gets_one_sentence_that_says_what_and_what_instead(measured, name):
    said = measured("sentences")[name]
    assert re.fullmatch(r"(ValueError|ImportError): [^\n]{20,200}", said)
    assert re.search(SENTENCES[name], said)


def test_a_previous_host_hears_in_one_sentence_what_is_needed(measured):
    found = measured("previous_host")
    assert found["loaded"] is False
    assert len(found["heard"]) == 1
    assert found["heard"][0].endswith(
        "ComfyUI-UniTalk needs ComfyUI 0.31.0 or newer, this is 0.30.7; update ComfyUI"
    )
