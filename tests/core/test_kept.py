"""What is given of a clip: it stands where it was put, the mask says so, and what does not fit is refused."""

from __future__ import annotations

import pytest
import torch

from unitalk_core.kept import fit_picture, fit_sound, keep, still_frames

LATENT, MASK = torch.zeros(2, 4, 6), torch.ones(1, 1, 6)


@pytest.mark.parametrize(("at", "steps"), [(0, [0, 1]), (3, [3, 4]), (-2, [4, 5])])
def test_what_is_kept_stands_where_it_was_put(at, steps):
    given = torch.randn(1, 4, 2)
    latent, mask = keep(LATENT, MASK, given, at)
    for i in range(6):
        assert bool(mask[0, 0, i]) is (i not in steps)
    assert torch.equal(latent[:, :, steps], given.expand(2, 4, 2))
    assert not latent[:, :, [i for i in range(6) if i not in steps]].any()
    assert not LATENT.any() and MASK.all()  # what came in is as it was


def test_parts_add_up_and_a_part_for_each_clip_goes_to_its_clip():
    first, last = torch.randn(1, 4, 2, 3, 3), torch.randn(2, 4, 1, 3, 3)
    latent, mask = keep(torch.zeros(2, 4, 5, 3, 3), torch.ones(2, 1, 5, 3, 3), first)
    latent, mask = keep(latent, mask, last, at=-1)
    assert torch.equal(latent[:, :, :2], first.expand(2, 4, 2, 3, 3))
    assert torch.equal(latent[:, :, -1:], last)
    assert mask.sum(dim=2).unique().tolist() == [2.0]


@pytest.mark.parametrize("shape", [(1, 5, 2), (1, 4, 7), (3, 4, 2)])
def test_a_part_of_another_kind_size_or_number_is_refused(shape):
    with pytest.raises(ValueError, match=r"what is to be kept is .* make both with the same VAE"):
        keep(LATENT, MASK, torch.zeros(shape))


def test_a_picture_is_as_long_as_the_clip_or_made_so_when_told():
    frames = torch.rand(5, 2, 2, 3)
    assert torch.equal(fit_picture(frames, 5), frames)
    padded = fit_picture(frames, 9, "pad")
    assert torch.equal(padded[:5], frames) and torch.equal(padded[5:], frames[4:].expand(4, 2, 2, 3))
    assert torch.equal(fit_picture(frames, 1, "trim"), frames[:1])


@pytest.mark.parametrize(
    ("count", "mode", "way"), [(9, "trim", "pad"), (1, "pad", "trim"), (9, "error", "pad")]
)
def test_another_length_is_named_with_the_way_out(count, mode, way):
    with pytest.raises(ValueError, match=f"5 frames and the clip {count}; .* or choose {way}"):
        fit_picture(torch.rand(5, 2, 2, 3), count, mode)
    with pytest.raises(ValueError, match=f"0.50 s and the clip 0.{count}0 s; .* to 0.50, or choose {way}"):
        fit_sound(torch.rand(1, 50), 10 * count, 100, on_mismatch=mode)


def test_a_sound_within_the_slack_is_cut_or_gets_silence():
    sound = torch.rand(1, 50)
    assert torch.equal(fit_sound(sound, 48, 100, slack=2), sound[:, :48])
    longer = fit_sound(sound, 53, 100, slack=3)
    assert torch.equal(longer[:, :50], sound) and not longer[:, 50:].any()
    with pytest.raises(ValueError, match="choose trim"):
        fit_sound(sound, 47, 100, slack=2)


def test_an_end_is_a_still_of_one_frame_and_one_latent():
    image = torch.rand(4, 4, 3)
    assert torch.equal(still_frames(image, 4), image.expand(5, 4, 4, 3))
