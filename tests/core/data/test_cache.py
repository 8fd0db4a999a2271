"""The cache: true to the clips, made once, resumable, and honest about everything that changed under it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from unitalk_core import media
from unitalk_core.config import OVI_720, TINY, UNITALK
from unitalk_core.data import cache as caching
from unitalk_core.data.cache import Cache, cache_for, decode_item, prepare
from unitalk_core.data.clips import FORMS, Row, mouth_mask, read_clip, read_rows
from unitalk_core.data.encoders import Encoders, encoders_of, load_config, load_encoders
from unitalk_core.models.phonemes import prompt_ids
from unitalk_core.models.text_encoder import UMT5Config, UMT5Encoder
from unitalk_core.weights.files import read_tensors, save_tensors
from unitalk_core.weights.loading import save_part

from .conftest import CAPTION, Recording

SIZE = (64, 64)


@pytest.fixture(scope="session")
def encoders(tiny_bundle) -> Encoders:
    return encoders_of(
        tiny_bundle.config, tiny_bundle.video_vae, tiny_bundle.audio_codec, tiny_bundle.text_encoder
    )


@pytest.fixture
def rows(record, tmp_path) -> list[Row]:
    """Two clips; the first with everything that a row can have."""
    record("b", "<S>hello<E>", frames=9)
    media.write_wav(tmp_path / "a.ref.wav", Recording(frames=40, seed=5).clip.waveform, 16000)
    a, b = read_rows(record("a"))
    return [
        replace(
            a,
            captions={"short": "<S>good morning<E>", "short too": "<S>good morning<E>"},
            speaker="ann",
            mouth=[(20, 40, 40, 50)] * 13,
            words=[("good", 0.1, 0.2), ("morning", 0.2, 0.5)],
            phones=[("g", 0.1, 0.15)],
        ),
        b,
    ]


def everything(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


# ---- what is in it -----------------------------------------------------------------------------------------


def test_an_item_is_what_the_encoders_make(rows, encoders, tmp_path):
    cache = prepare(rows, encoders, tmp_path / "cache", SIZE)
    item, clip = cache[0], read_clip(rows[0], TINY.format, SIZE)
    assert len(cache) == 2 and cache.names == ["a", "b"] and cache.speakers == ["ann", ""]
    assert cache.shapes == [(4, 4, 4, 16), (3, 4, 4, 11)] and cache.size == SIZE
    pixels = clip.frames.permute(3, 0, 1, 2)[None] * 2 - 1
    torch.testing.assert_close(item.video.float(), encoders.video_vae.encode(pixels)[0], atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(
        item.audio.float(), encoders.audio_codec.encode(clip.waveform)[0], atol=2e-3, rtol=2e-3
    )
    assert {item.video.dtype, item.audio.dtype, item.reference.dtype} == {torch.float16}
    assert item.reference.shape == (20, 50)  # 1.6 s of 512 samples
    assert torch.equal(item.mouth, mouth_mask(rows[0], TINY.format, SIZE, 13))
    assert (item.name, item.speaker) == ("a", "ann")
    assert item.words == [["good", 0.1, 0.2], ["morning", 0.2, 0.5]] and item.phones == [["g", 0.1, 0.15]]
    assert cache[1].reference is None and cache[1].mouth is None and cache[1].words == []


def test_texts_are_the_features_of_every_form_without_padding(rows, encoders, tmp_path):
    texts = prepare(rows, encoders, tmp_path / "cache", SIZE)[0].texts
    assert set(texts) == {*FORMS, "short", "short too"}
    assert (
        texts["full"].prompt == CAPTION
        and texts["no_scene"].prompt == "<S>good morning<E> a low female voice"
    )
    for text in texts.values():
        whole = encoders.text_encoder.encode([text.prompt])[0]
        count = len(prompt_ids(text.prompt, 112))
        assert text.features.shape == (count, 192)
        torch.testing.assert_close(text.features.float(), whole[:count], atol=2e-3, rtol=2e-3)


def test_a_real_text_encoder_is_trimmed_to_its_tokens(rows, tiny_bundle, tmp_path):
    """UMT5 with a letter a token: as many rows as letters and the end, in the checkpoint's own markup."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = UMT5Config(vocabulary=200, dim=192, attention_dim=32, ffn_width=32, heads=2, depth=1)
        umt5 = UMT5Encoder(config, lambda text: [*(3 + ord(c) % 128 for c in text), 1]).eval()
    model = replace(TINY, markup="unitalk")
    full = encoders_of(model, tiny_bundle.video_vae, tiny_bundle.audio_codec, umt5)
    texts = prepare(rows[:1], full, tmp_path / "cache", SIZE)[0].texts
    assert texts["full"].prompt.endswith("<AUDCAP>a low female voice<ENDAUDCAP>")
    for text in texts.values():
        assert len(text.features) == len(text.prompt) + 1
    long = replace(rows[1], speech="word " * 120)
    with pytest.raises(ValueError, match="makes 606 tokens and 112 fit"):
        prepare([long], full, tmp_path / "other", SIZE)


def test_a_long_reference_is_cut_and_a_long_sound_is_not(rows, encoders, tmp_path):
    media.write_wav(tmp_path / "long.wav", Recording(frames=150).clip.waveform, 16000)
    cache = prepare([replace(rows[1], reference=tmp_path / "long.wav")], encoders, tmp_path / "cache", SIZE)
    assert cache[0].reference.shape == (20, 128)


def test_an_item_can_be_looked_at_again(rows, encoders, tmp_path):
    clip = decode_item(prepare(rows, encoders, tmp_path / "cache", SIZE)[0], encoders)
    assert clip.frames.shape == (13, 64, 64, 3) and clip.waveform.shape == (1, 16 * 512)
    media.write_clip(tmp_path / "look.mp4", clip)


def test_a_model_of_sound_alone_has_no_picture(rows, tiny_bundle, tmp_path):
    config = replace(TINY, streams=replace(TINY.streams, video=None))
    alone = encoders_of(config, tiny_bundle.video_vae, tiny_bundle.audio_codec, tiny_bundle.text_encoder)
    cache = prepare(rows, alone, tmp_path / "cache", SIZE)
    assert cache[0].video is None and cache.shapes[0] == (0, 0, 0, 16)
    assert decode_item(cache[0], alone).frames is None
    assert cache.verify(deep=True) == []


# ---- made once ---------------------------------------------------------------------------------------------


def test_what_is_fresh_is_not_made_again(rows, encoders, tmp_path):
    folder, seen = tmp_path / "cache", []
    first = prepare(rows, encoders, folder, SIZE, lambda *one: seen.append(one))
    assert seen == [(1, 4, "a"), (2, 4, "b"), (3, 4, "a"), (4, 4, "b")]
    before, written = everything(folder), (folder / "cache.json").stat().st_mtime_ns
    os.utime(rows[0].video)  # touched, not changed
    again = prepare(rows, encoders, folder, SIZE, lambda *_: pytest.fail("nothing is to be done"))
    assert everything(folder) == before and again.fingerprint == first.fingerprint
    assert (folder / "cache.json").stat().st_mtime_ns == written


CHANGES: dict[str, Callable[[Row], Row]] = {
    "caption": lambda row: replace(row, speech="good evening"),
    "captions": lambda row: replace(row, captions={}),
    "speaker": lambda row: replace(row, speaker="bob"),
    "mouth": lambda row: replace(row, mouth=None),
    "reference": lambda row: replace(row, reference=None),
    "timing": lambda row: replace(row, words=[("good", 0.1, 0.3)]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_row_is_made_again_alone(rows, encoders, tmp_path, change):
    folder, seen = tmp_path / "cache", []
    before = prepare(rows, encoders, folder, SIZE).fingerprint
    after = prepare(
        [CHANGES[change](rows[0]), rows[1]], encoders, folder, SIZE, lambda *one: seen.append(one[2])
    )
    assert seen == ["a", "a"] and after.fingerprint != before
    assert prepare(rows, encoders, folder, SIZE).fingerprint == before


def test_a_changed_file_is_made_again(rows, encoders, tmp_path):
    folder = tmp_path / "cache"
    cache = prepare(rows, encoders, folder, SIZE)
    media.write_clip(rows[1].video, Recording(frames=9, seed=7).clip)
    assert cache.verify() == [
        f"b: its source {rows[1].video} has changed since it was encoded; run prepare again"
    ]
    again = prepare(rows, encoders, folder, SIZE)
    assert again.verify(deep=True) == [] and again.fingerprint != cache.fingerprint


def test_a_deleted_clip_is_noticed(rows, encoders, tmp_path, caplog):
    cache = prepare(rows, encoders, tmp_path / "cache", SIZE)
    rows[1].video.unlink()
    assert "b.mp4 is gone; put it back, or run prepare without it" in cache.verify()[0]
    with pytest.raises(ValueError, match=r"1 of 1 clips cannot be used; .*b: there is no file"):
        prepare(rows, encoders, tmp_path / "cache", SIZE)
    less = prepare(rows[:1], encoders, tmp_path / "cache", SIZE)
    assert less.names == ["a"] and less.fingerprint != cache.fingerprint
    assert "no longer lists 1 clips" in caplog.text


def test_an_interrupted_run_goes_on_where_it_stopped(rows, encoders, tmp_path):
    folder = tmp_path / "cache"

    def stop(i: int, of: int, name: str) -> None:
        if i == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(rows, encoders, folder, SIZE, stop)
    assert sorted(p.name for p in folder.iterdir()) == ["a.safetensors", "cache.json"]
    with pytest.raises(ValueError, match="is unfinished; run prepare again"):
        Cache.open(folder)
    kept, seen = (folder / "a.safetensors").stat().st_mtime_ns, []
    whole = prepare(rows, encoders, folder, SIZE, lambda *one: seen.append(one[2]))
    assert seen == ["b", "b"] and (folder / "a.safetensors").stat().st_mtime_ns == kept
    assert whole.fingerprint == prepare(rows, encoders, tmp_path / "other", SIZE).fingerprint


def test_a_failure_while_writing_leaves_nothing_half(rows, encoders, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unitalk_core.weights.files.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(rows, encoders, tmp_path / "cache", SIZE)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["cache.json"]


def test_bad_clips_are_refused_before_anything_is_written(rows, encoders, tmp_path):
    with pytest.raises(
        ValueError, match="1 of 2 clips cannot be used; mend or remove them: b: it has no caption"
    ):
        prepare([rows[0], replace(rows[1], speech="")], encoders, tmp_path / "cache", SIZE)
    assert not (tmp_path / "cache").exists()


def test_too_small_a_disk_is_refused(rows, encoders, tmp_path, monkeypatch):
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match="needs about 0 MB and its disk has 0 MB left; make room"):
        prepare(rows, encoders, tmp_path / "cache", SIZE)
    assert not list((tmp_path / "cache").iterdir())


def test_latents_that_are_no_numbers_are_refused_by_name(rows, encoders, tmp_path, monkeypatch):
    monkeypatch.setattr(encoders.audio_codec.vae, "encode", lambda mel: mel[:, :20] * torch.nan)
    with pytest.raises(ValueError, match="a: its audio becomes values that are not numbers"):
        prepare(rows, encoders, tmp_path / "cache", SIZE)


# ---- settings ----------------------------------------------------------------------------------------------


def test_a_cache_of_other_settings_is_not_mixed(rows, encoders, tmp_path, record):
    folder = tmp_path / "cache"
    prepare(rows, encoders, folder, SIZE)
    with pytest.raises(ValueError, match="was made with size 64 x 64, not 32 x 32; give another folder"):
        prepare(rows, encoders, folder, (32, 32))
    other = replace(encoders, hashes=encoders.hashes | {"audio_vae": "0"})
    with pytest.raises(ValueError, match="was made with another audio_vae; give another folder"):
        prepare(rows, other, folder, SIZE)
    with pytest.raises(ValueError, match="was made with another audio_vae"):
        cache_for(folder, other)
    with pytest.raises(ValueError, match="size 64 x 64, not 32 x 32"):
        cache_for(folder, encoders, (32, 32))
    with pytest.raises(ValueError, match="multiples of 32"):
        prepare(rows, encoders, tmp_path / "new", (60, 64))


def test_a_folder_of_clips_gets_a_cache_for_each_setting(record, encoders):
    folder = record("a", size=(96, 96), frames=5)
    small, large = cache_for(folder, encoders), cache_for(folder, encoders, (96, 96))
    assert small.size == SIZE and large.size == (96, 96) and small.folder != large.folder
    assert small.folder.parent == folder / ".unitalk"
    assert small.fingerprint != large.fingerprint
    assert cache_for(small.folder, encoders).fingerprint == small.fingerprint
    other = replace(encoders, hashes=encoders.hashes | {"video_vae": "0"})
    assert cache_for(folder, other).folder != small.folder


def test_a_cache_may_move_with_its_clips(record, encoders, tmp_path):
    folder = record("a", frames=5) / "set"
    folder.mkdir()
    for name in ("a.mp4", "a.txt"):
        (tmp_path / name).rename(folder / name)
    cache = cache_for(folder, encoders)
    folder.rename(tmp_path / "moved")
    moved = cache_for(tmp_path / "moved", encoders, on_clip=lambda *_: pytest.fail("nothing is to be done"))
    assert moved.fingerprint == cache.fingerprint and moved.verify(deep=True) == []


# ---- damage ------------------------------------------------------------------------------------------------


def test_a_damaged_folder_is_one_sentence(rows, encoders, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no cache\.json; make a cache with prepare"):
        Cache.open(tmp_path)
    folder = tmp_path / "cache"
    prepare(rows, encoders, folder, SIZE)
    index = folder / "cache.json"
    whole = index.read_text()
    for text in ("{", "[]", "{}", whole.replace('"clips"', '"clops"')):
        index.write_text(text)
        with pytest.raises(ValueError, match=r"cache\.json is damaged"):
            Cache.open(folder)
    index.write_text(whole.replace('"version": 1', '"version": 2'))
    with pytest.raises(ValueError, match="has version 2, this program writes 1"):
        Cache.open(folder)
    index.write_text(whole)
    (folder / "a.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="lacks 1 of 2 clips, such as a; run prepare again"):
        Cache.open(folder)


def test_a_damaged_entry_is_found_and_mended(rows, encoders, tmp_path):
    cache = prepare(rows, encoders, tmp_path / "cache", SIZE)
    entry = cache.path("a")
    entry.write_bytes(entry.read_bytes()[:500])
    assert "cut off" in cache.verify()[0]
    mended = prepare(rows, encoders, tmp_path / "cache", SIZE)
    assert mended.fingerprint == cache.fingerprint and mended.verify(deep=True) == []


def test_verify_reads_values_and_lengths(rows, encoders, tmp_path):
    cache = prepare(rows, encoders, tmp_path / "cache", SIZE)
    known = {"unitalk": json.dumps(cache.known("a"))}
    tensors = read_tensors(cache.path("a"))
    save_tensors(cache.path("a"), tensors | {"audio": tensors["audio"] * torch.nan}, known)
    assert cache.verify() == []
    assert [one for one in cache.verify(deep=True) if "its audio holds values that are not numbers" in one]
    save_tensors(cache.path("a"), tensors | {"audio": tensors["audio"][:, :9]}, known)
    assert ["do not last the 0.52 s" in one for one in cache.verify(deep=True)] == [True]


def test_verify_notices_an_entry_of_another_clip(rows, encoders, tmp_path):
    cache = prepare(rows, encoders, tmp_path / "cache", SIZE)
    cache.path("a").write_bytes(cache.path("b").read_bytes())
    assert any("is not the entry that cache.json lists" in one for one in cache.verify())


def test_verify_compares_contents_only_where_it_must(rows, encoders, tmp_path, monkeypatch):
    cache, read = prepare(rows, encoders, tmp_path / "cache", SIZE), []
    real = caching.sha256
    monkeypatch.setattr(caching, "sha256", lambda path: (read.append(path.name), real(path))[1])
    assert cache.verify() == [] and read == []
    os.utime(rows[1].video)
    assert cache.verify() == [] and read == ["b.mp4"]
    told = rows[0].video.stat()
    rows[0].video.write_bytes(rows[0].video.read_bytes()[:-1] + b"x")
    os.utime(rows[0].video, ns=(told.st_atime_ns, told.st_mtime_ns))
    assert cache.verify() == []
    assert [one.split(":")[0] for one in cache.verify(deep=True)] == ["a"]


# ---- encoders ----------------------------------------------------------------------------------------------


def test_encoders_are_told_apart_by_their_weights(embedded, tiny_bundle, monkeypatch):
    monkeypatch.setenv("UNITALK_EMBEDDED", str(embedded))
    first = load_encoders()
    assert first.config == TINY and set(first.hashes) == {"video_vae", "audio_vae", "text_encoder"}
    assert load_encoders(str(embedded)).hashes == first.hashes
    with torch.no_grad():
        next(first.text_encoder.parameters()).add_(1)
    parts = (first.video_vae, first.audio_codec, first.text_encoder)
    changed = encoders_of(TINY, *parts)
    assert changed.hashes["text_encoder"] != first.hashes["text_encoder"]
    assert changed.hashes["video_vae"] == first.hashes["video_vae"]


def test_encoders_of_another_model_are_refused(tiny_bundle):
    parts = (tiny_bundle.video_vae, tiny_bundle.audio_codec, tiny_bundle.text_encoder)
    with pytest.raises(ValueError, match=r"audio VAE makes .* the model takes \(44100"):
        encoders_of(UNITALK, *parts)
    with pytest.raises(ValueError, match=r"text encoder makes \(width\) 192, the model takes 4096"):
        encoders_of(OVI_720, *parts)


def test_a_full_size_model_wants_its_files(tmp_path, tiny_bundle):
    with pytest.raises(ValueError, match="name the video VAE, the audio VAE, the text encoder"):
        load_encoders("unitalk")
    assert load_config("ovi-720") == OVI_720
    save_part(tmp_path / "own.safetensors", tiny_bundle.model.state_dict(), {"model": TINY})
    assert load_config(str(tmp_path / "own.safetensors")) == TINY
