"""What is drawn: only from the seed, the step and the place; and each task is what its name says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from unitalk_core.config import TINY
from unitalk_core.data.cache import Item, Text
from unitalk_core.models.phonemes import prompt_ids
from unitalk_core.training.batches import Batches, draw_sigma
from unitalk_core.training.config import Noise, from_data

LENGTHS = (2, 3, 2, 5, 3, 2)


class Table:
    """Six clips in memory, two speakers, made of numbers that tell them apart."""

    fingerprint = "table"

    def __init__(self, **changes) -> None:
        self.items = [replace(clip(i, length), **changes) for i, length in enumerate(LENGTHS)]

    names = property(lambda self: [one.name for one in self.items])
    speakers = property(lambda self: [one.speaker for one in self.items])
    shapes = property(lambda self: [(*one.video.shape[1:], one.audio.shape[1]) for one in self.items])

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Item:
        return self.items[i]

    def forms(self, i: int) -> list[str]:
        return list(self.items[i].texts)


def clip(i: int, frames: int) -> Item:
    return Item(
        name=f"clip{i}",
        video=torch.full((48, frames, 4, 4), i + 1.0),
        audio=torch.full((20, 5 * frames), i + 1.0),
        reference=torch.full((20, 7), -i - 1.0),
        texts={
            form: Text(f"<S>{form} hello<E>", torch.full((3, 192), i + 1.0)) for form in ("full", "speech")
        },
        mouth=torch.ones(frames, 4, 4, dtype=torch.bool),
        speaker="ab"[i % 2],
    )


def batches(table: Table | None = None, **changes) -> Batches:
    kept = {"drop": {"text": 0, "reference": 0, "couple": 0}, "batch": 6}
    return Batches(table or Table(), from_data(kept | changes, "test"), TINY)


def drawn(task: str, **changes):
    ours = batches(tasks={task: 1}, **changes)
    step = ours.step(0)
    return [ours.draw(step, one) for one in ours.passes(step)]


def test_each_epoch_shows_every_clip_once_in_an_order_of_its_own():
    ours = batches(batch=4)
    shown = [clip for number in range(6) for clip in ours.step(number).clips]
    assert all(shown.count(clip) == 4 for clip in range(6))
    assert len({tuple(ours._order(epoch)) for epoch in range(6)}) > 1


@pytest.mark.parametrize("count", [64, 67])  # of which the second lets every epoch end within a step
def test_clips_of_one_shape_come_together(count):
    """With shapes mixed by chance, eight clips of four shapes would make three passes or more on average."""
    table = Table()
    table.items = [replace(clip(i, 2 + i % 4), name=f"clip{i}") for i in range(count)]
    ours = batches(table, batch=8)
    passes = [len(ours.passes(ours.step(number))) for number in range(40)]
    assert sum(passes) / len(passes) < 1.6
    assert len({tuple(sorted(ours.step(number).clips)) for number in range(40)}) == 40


def test_passes_hold_one_shape_and_all_places_once():
    ours = batches(batch=12, accumulate=3)
    step = ours.step(1)
    passes = ours.passes(step)
    assert sorted(place for one in passes for place in one) == list(range(12))
    assert all(len({ours.cache.shapes[step.clips[place]] for place in one}) == 1 for one in passes)
    assert max(len(one) for one in passes) <= 4


def test_processes_share_the_places_and_make_as_many_passes():
    ours = batches(batch=12)
    step = ours.step(0)
    shares = [ours.passes(step, process, 3) for process in range(3)]
    assert len({len(share) for share in shares}) == 1
    busy = [place for share in shares for one in share for place in one]
    assert sorted(busy) == list(range(12))


def test_a_process_with_fewer_shapes_divides_its_clips():
    table = Table()
    table.items = [clip(i, 2 if i < 2 else 3) for i in range(8)]
    ours = batches(table, batch=8)
    step = ours.step(0)
    assert [ours.passes(step, process, 2) for process in range(2)] == [
        [[0, 1], [2, 3]],
        [[4, 5], [6, 7]],
    ]


def test_what_a_place_gets_does_not_depend_on_its_company():
    ours = batches(batch=12, tasks={"continue": 1})
    step = ours.step(2)
    together = [ours.draw(step, one) for one in ours.passes(step)]
    whole = {name: i for one in together for i, name in enumerate(one.names)}
    assert whole
    for one, places in zip(together, ours.passes(step), strict=True):
        for i, place in enumerate(places):
            alone = ours.draw(step, [place])
            assert torch.equal(alone.noise.audio[0], one.noise.audio[i])
            assert torch.equal(alone.batch.denoise_mask.video[0], one.batch.denoise_mask.video[i])
            assert alone.sigma.audio[0] == one.sigma.audio[i]
            assert torch.equal(alone.batch.context[0], one.batch.context[i])


def test_another_seed_or_step_draws_something_else():
    first, again, other = (batches(seed=seed) for seed in (0, 0, 1))
    noise = [ours.draw(ours.step(0), [0]).noise.audio for ours in (first, again, other)]
    assert torch.equal(noise[0], noise[1])
    assert noise[0].shape != noise[2].shape or not torch.equal(noise[0], noise[2])


@pytest.mark.parametrize(
    ("task", "couple", "video", "audio"),
    [
        ("t2av", (True, True), 1, 1),
        ("tr2av", (True, True), 1, 1),
        ("tv2a", (False, True), 0, 1),
        ("ta2v", (True, False), 1, 0),
    ],
)
def test_a_task_is_a_choice_of_masks_and_coupling(task, couple, video, audio):
    for one in drawn(task):
        assert one.batch.couple == couple
        assert (one.batch.denoise_mask.video == video).all()
        assert (one.batch.denoise_mask.audio == audio).all()


def test_only_a_generated_picture_has_losses():
    assert drawn("tv2a")[0].learns == ("audio",)
    assert drawn("ta2v")[0].learns == ("video", "mouth")
    assert drawn("t2a")[0].learns == ("audio",)
    assert drawn("t2a")[0].batch.latent.video is None


def test_a_given_first_frame_is_kept_and_no_more():
    for one in drawn("ti2av"):
        assert not one.batch.denoise_mask.video[:, :, 0].any()
        assert one.batch.denoise_mask.video[:, :, 1:].all()


def test_a_prefix_lasts_the_same_seconds_in_both_streams_and_leaves_something():
    clock = TINY.format
    for one in drawn("continue"):
        for video, audio in zip(one.batch.denoise_mask.video, one.batch.denoise_mask.audio, strict=True):
            frames, latents = int((video == 0).sum()), int((audio == 0).sum())
            assert 1 <= frames < video.shape[1]
            seconds = (1 + (frames - 1) * clock.frame_stride) / float(clock.fps)
            assert 0 <= seconds - latents / clock.audio_rate < 1 / clock.audio_rate


def test_a_continuation_cuts_no_word_and_is_told_only_those_that_follow():
    """Of five latent frames up to two are given, .04 or .2 s: before the first word, or between the words."""
    words = (("hello", 0.05, 0.15), ("there", 0.25, 0.6))
    said = {"full": Text("a man <S>hello, there<E> deep", torch.ones(3, 192))}
    table = Table(words=words, phones=(("ə", 0.05, 0.15), ("ɛ", 0.25, 0.6)), texts=said)
    ours = replace(batches(table, tasks={"continue": 1}, batch=24, seed=3), learn_text=True)
    step, seen = ours.step(0), set()
    for one in ours.passes(step):
        made = ours.draw(step, one)
        for video, ids in zip(made.batch.denoise_mask.video, made.batch.context, strict=True):
            frames = int((video == 0).sum())
            left = "hello, there" if frames < 2 else "there"
            wanted = prompt_ids(f"a man <S>{left}<E> deep", TINY.streams.audio.text_len)
            assert ids[: len(wanted)].tolist() == wanted and not ids[len(wanted) :].any()
            seen.add((video.shape[1], frames))
    assert {(5, 1), (5, 2)} <= seen and max(frames for _, frames in seen) == 2


def test_a_voice_is_given_where_the_task_has_one():
    assert all(one.batch.reference.any(dim=(1, 2)).all() for one in drawn("tr2av"))
    assert not any(one.batch.reference.any() for one in drawn("t2av"))


def test_without_a_reference_another_clip_of_the_same_speaker_is_heard():
    table = Table(reference=None)
    ours = batches(table, tasks={"tr2av": 1})
    step = ours.step(0)
    for one in ours.passes(step):
        made = ours.draw(step, one)
        for name, voice in zip(made.names, made.batch.reference, strict=True):
            heard, own = int(voice[0, 0]) - 1, int(name.removeprefix("clip"))
            assert heard != own
            assert heard % 2 == own % 2


def test_left_out_conditions_are_zeros():
    none = {"drop": {"text": 1, "reference": 1, "couple": 1}}
    for one in drawn("tr2av", **none):
        assert not one.batch.context.any() and not one.batch.reference.any()
        assert one.batch.couple == (False, False)


def test_captions_come_as_often_as_their_weight_and_a_missing_one_is_named():
    ours = batches(captions={"full": 1, "speech": 0}, batch=6)
    assert ours._text(ours.cache[0], torch.Generator()).prompt == "<S>full hello<E>"
    with pytest.raises(ValueError, match="clip0 has none of the captions long"):
        batches(captions={"long": 1})._text(Table()[0], torch.Generator())


def test_sigma_is_drawn_as_asked():
    generator = torch.Generator().manual_seed(0)
    mean = {
        kind: sum(draw_sigma(Noise(kind=kind), 5.0, generator)[0] for _ in range(2000)) / 2000
        for kind in ("uniform", "shifted", "logit-normal")
    }
    assert mean["uniform"] == pytest.approx(0.5, abs=0.03)
    assert mean["shifted"] == pytest.approx(0.748, abs=0.03)  # of 5u / (1 + 4u)
    assert mean["logit-normal"] == pytest.approx(0.5, abs=0.03)
    video, audio = draw_sigma(Noise(), 5.0, generator)
    assert video == audio
    video, audio = draw_sigma(Noise(shared=False), 5.0, generator)
    assert video != audio
