"""Stock nodes with our model, latents and codecs in a real ComfyUI, and what a wrong connection says."""

from __future__ import annotations

import re

import pytest

from tests.rules.node_table import ROOT

PAGE = ROOT / "docs" / "interoperability.md"
EMPTY = "use UniTalk Empty Latent"
WRONG_LATENTS = {
    "LTX's latent": rf"got \(1, 128, 3, 2, 2\) and \(1, 8, 20, 16\); {EMPTY}",
    "a picture of other channels": rf"the video latent \(1, 16, 5, 8, 8\) is not of this model, .*; {EMPTY}",
    "a sound of other channels": rf"the audio latent \(1, 40, 21\) is not of this model, .*; {EMPTY}",
    "sound before picture": "the sound stands before the picture; .* UniTalk Join Latent",
    "an odd width": f"80 x 64 pixels, width and height must be multiples of 32; {EMPTY}",
    "a picture of HunyuanVideo": rf"the video latent \(1, 16, 5, 8, 8\) is not of this model, .*; {EMPTY}",
    "an image of Stable Diffusion": rf"\(1, 4,( 1,)? 8, 8\).*; {EMPTY}",
    "no frames": rf"the video latent \(1, 48, 0, 4, 4\) is empty; {EMPTY}",
    "NaN in the picture": "the video latent holds NaN or infinity; begin again with UniTalk Empty Latent",
    "NaN in the sound": "the audio latent holds NaN or infinity; begin again with UniTalk Empty Latent",
}
WRONG = {
    "wrong_latents_at_decoders": {
        "a picture alone, vocoded": "the latent has no audio stream; begin with UniTalk Empty Latent",
        "a sound alone, decoded": "the latent has no video stream; begin with UniTalk Empty Latent",
        "LTX's latent, decoded": rf"\(1, 8, 20, 16\); {EMPTY}",
        "LTX's latent, vocoded": rf"\(1, 8, 20, 16\); {EMPTY}",
        "a picture of other channels, decoded": "48 latent channels, the picture 16; connect the Wan2.2 VAE",
        "a sound of other channels, vocoded": r"sound \(b, 20, n\), got \(1, 40, 21\); .* Load Audio VAE",
        "NaN, vocoded": "the audio latent holds NaN",
    },
    "wrong_vaes": {
        "the audio VAE at the picture": "has 20 latent channels, the picture 48; .* UniTalk Load Embedded",
        "the VAE of SD at the picture": "has 4 latent channels, the picture 48; .* stock VAELoader",
        "the video VAE at the vocoder": "takes an audio VAE of UniTalk, got PictureStage; .* Load Audio VAE",
        "the VAE of SD at a first image": "has 4 latent channels, the picture 48; .* stock VAELoader",
        "the video VAE for a voice": "got PictureStage; use UniTalk Load Audio VAE",
        "the video VAE to hear with": "got PictureStage; use UniTalk Load Audio VAE",
        "the VAE of SD to hear with": "takes an audio VAE of UniTalk, got .*; use UniTalk Load Audio VAE",
        "the audio VAE at the stock decode": r"decodes sound .* got \(1, 48, 5, 4, 4\); .* Wan2.2 VAE",
        "the video VAE at the stock audio decode": r"decodes pictures .* got \(1, 20, 21\); .* audio VAE",
        "the audio VAE at the stock tiles": r"decodes sound .* got \(1, 48, 5, 4, 4\); .* Wan2.2 VAE",
        "the audio VAE at the stock encode": r"encodes sound .* got \(17, 64, 64, 3\); .* VAELoader",
        "the video VAE at the stock audio encode": r"encodes pictures .* Load Audio VAE",
    },
    "wrong_texts": {
        "the CLIP of SD": "this CLIP is SD1ClipModel, .* CLIPLoader of type wan",
        "no CLIP": "this CLIP is NoneType, .* CLIPLoader of type wan",
        "the CLIP of SD as negative": "this CLIP is SD1ClipModel, .* CLIPLoader of type wan",
        "text of SD at KSampler": "64 numbers a token, this model reads 192; .* UniTalk Load Embedded",
        "text of umT5 at the miniature": "4096 numbers a token, this model reads 192; .* Load Embedded",
        "the voice of another audio VAE": "40 channels, this model hears 20; .* Reference Audio Encode",
    },
    "wrong_lengths": {
        "mux a short sound": "500 ms .*pad",
        "mux an odd width": "even width and height, got 63 x 64; crop the picture to 62 x 64",
        "mux no frames": r"must be frames .* got \(0, 64, 64, 3\); connect decoded images",
        "mux an empty sound": "the audio to join with the picture is empty.*; take that of LoadAudio",
        "keep a long sound": "the sound .* 2.00 s and the clip .* UniTalk Empty Latent",
        "keep a short picture": "13 frames and the clip 17; .* UniTalk Empty Latent",
        "keep an empty sound": "the audio to keep is empty.*; take that of LoadAudio",
        "a silent voice": "the voice is silent; give a recording",
        "an empty voice": "is empty.*; take that of LoadAudio",
        "a voice behind the end": "ends before the voice of 5-6 s begins; .*UniTalk Voice Range",
        "a voice's seconds in context windows": "leave out UniTalk Voice Range, .* UniTalk Continue",
        "a range without a voice": "put UniTalk Reference Audio Encode before",
        "streams of one clip and of two": "hold 1 and 2 clips; .* UniTalk Repeat Latent",
        "no seconds": "seconds must be above 0 and at most 4.84, got 0",
        "an odd size": "multiples of 32, got 72 x 64; use 64 x 64",
    },
}
MODEL_NODES = (
    "EmptyLatent", "JointSampler", "VoiceGuidance", "ImageGuidance", "CouplingGuidance", "SkipLayerGuidance",
    "StepCache", "HearWhileSampling", "ReferenceAudioEncode", "LoraLoader",
)  # fmt: skip
SENTENCE = r"ValueError: [^\n]{20,260}"


def test_every_row_of_the_interoperability_table_holds_in_this_host(measured):
    rows = [row for row in measured("interoperability") if "missing" not in row]
    assert len(rows) > 50
    assert [(row["what"], row["measured"]) for row in rows if not row["holds"]] == []


def test_the_page_says_what_the_rows_say(measured):
    page = PAGE.read_text("utf8")
    for row in measured("interoperability"):
        assert f"| {row['what']} | {row['result']} |" in page, row["what"]
        assert row["claim"] in page and row["note"] in page


@pytest.mark.parametrize("sampler", ["KSampler", "Joint Sampler"])
@pytest.mark.parametrize("name", WRONG_LATENTS)
def test_a_latent_of_another_model_is_named_with_the_node_to_use(measured, name, sampler):
    said = measured("wrong_latents")[name][sampler]
    assert re.fullmatch(SENTENCE, said)
    assert re.search(WRONG_LATENTS[name], said)


@pytest.mark.parametrize(("where", "name"), [(where, name) for where in WRONG for name in WRONG[where]])
def test_a_wrong_connection_gets_one_sentence_with_what_to_use_instead(measured, where, name):
    said = measured(where)[name]
    assert re.fullmatch(SENTENCE, said)
    assert re.search(WRONG[where][name], said)


@pytest.mark.parametrize("node", MODEL_NODES)
def test_a_model_of_another_kind_is_named_at_each_node_that_needs_ours(measured, node):
    said = measured("wrong_models")[f"UniTalk{node}"]
    assert re.search("takes a UniTalk model, got BaseModel; load one with UniTalk Load Model", said)


def test_a_run_stopped_after_any_step_leaves_nothing_and_the_next_is_as_without_it(measured):
    for where, (ended, stayed, same) in measured("interrupted_anywhere").items():
        assert (ended, same) == ("interrupted", True), where
        assert stayed <= 0, where


def test_another_width_keeps_the_sound_bit_for_bit_where_it_does_not_see_the_picture(measured):
    assert measured("width_and_voice") == {"apart": True, "together": False}


def test_another_seed_of_one_stream_leaves_the_noise_of_the_other(measured):
    found = measured("seeds_apart")
    assert found == {"other picture": [False, True], "other sound": [True, False]}
