"""What a file says about itself: made by AI, by whom and from what, and not the words themselves."""

from __future__ import annotations

import hashlib
import json

import torch

from unitalk_core import media
from unitalk_core.__main__ import main
from unitalk_core.provenance import as_text, provenance_tags, words_hash


def test_a_hash_is_that_of_the_three_fields_one_a_line():
    assert words_hash(" a man", "hi ", "") == hashlib.sha256(b"a man\nhi\n").hexdigest()


def test_the_tags_say_it_in_a_sentence_in_the_standard_term_and_as_an_object():
    tags = provenance_tags(["tiny", "mine.safetensors"], {"video_seed": 3}, [words_hash("secret words")])
    assert tags["comment"].startswith("Made by AI, ComfyUI-UniTalk ")
    assert "model tiny, mine.safetensors, video_seed 3, words sha256 " in tags["comment"]
    assert tags["digital_source_type"].endswith("/trainedAlgorithmicMedia")
    assert tags["provenance"]["seeds"] == {"video_seed": 3}
    assert "secret" not in json.dumps(tags)


def test_nothing_known_leaves_made_by_ai():
    assert provenance_tags([], {}, [])["comment"].count(",") == 1


def test_info_reads_back_what_a_clip_was_tagged_with(tmp_path, short_clip, capsys):
    tags = provenance_tags(["tiny"], {"video_seed": 3}, [words_hash("a")])
    media.write_clip(tmp_path / "a.mp4", short_clip, as_text(tags))
    assert main(["info", str(tmp_path / "a.mp4")]) == 0
    said = capsys.readouterr().out
    assert "Made by AI" in said and "trainedAlgorithmicMedia" in said and words_hash("a") in said


def test_a_text_that_the_host_stored_as_json_is_shown_without_its_quotes(tmp_path, short_clip, capsys):
    media.write_clip(tmp_path / "a.mp4", short_clip, {"comment": json.dumps("Made by AI")})
    assert main(["info", str(tmp_path / "a.mp4")]) == 0
    assert "Made by AI\n" in capsys.readouterr().out


def test_sample_says_by_default_what_it_was_made_from(tmp_path, embedded, monkeypatch, capsys):
    monkeypatch.setenv("UNITALK_EMBEDDED", str(embedded))
    options = [
        "--say",
        "good morning",
        "--scene",
        "a man",
        "--seconds",
        "0.36",
        "--steps",
        "1",
        "--seed",
        "5",
    ]
    assert main(["sample", *options, "--out", str(tmp_path / "a.mp4")]) == 0
    assert main(["info", str(tmp_path / "a.mp4")]) == 0
    said = capsys.readouterr().out
    assert words_hash("a man", "good morning", "") in said
    assert '"models":["tiny"],"seeds":{"video_seed":5,"audio_seed":5}' in said


def test_a_clip_is_still_bit_by_bit_the_same_with_its_tags(tmp_path, short_clip):
    plain = media.read_video(media.write_clip(tmp_path / "a.mp4", short_clip))
    tagged = media.read_video(
        media.write_clip(tmp_path / "b.mp4", short_clip, as_text(provenance_tags(["x"], {}, [])))
    )
    assert torch.equal(plain.frames, tagged.frames)
    assert torch.equal(plain.waveform, tagged.waveform)
