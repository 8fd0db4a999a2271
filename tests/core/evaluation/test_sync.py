"""The sync judge finds agreement, its lag and its absence, on made-up tracks and on drawn faces."""

from __future__ import annotations

import pytest
import torch

from unitalk_core.evaluation.sync import (
    best_lag,
    correlation,
    lagged,
    loudness,
    mouth_opening,
    speech_window,
    sync,
)

RATE, FPS = 16000, 25


def bursts(frames: int = 60, seed: int = 0) -> torch.Tensor:
    """(f,) a level that changes from frame to frame, silent at both ends."""
    level = torch.rand(frames, generator=torch.Generator().manual_seed(seed))
    level[:8] = level[-8:] = 0
    return level


def test_loudness_follows_a_sound_frame_by_frame() -> None:
    level = bursts()
    noise = torch.randn(60 * 640, generator=torch.Generator().manual_seed(1))
    track = loudness(noise * level.repeat_interleave(640), RATE, FPS, 60)
    assert track.shape == (60,)
    assert correlation(track, torch.nn.functional.avg_pool1d(level[None], 3, 1, 1)[0]) > 0.9
    assert loudness(noise, RATE, FPS, 60).std() < 0.05
    assert loudness(noise[:640], RATE, FPS, 3).shape == (3,)


def test_silence_at_both_ends_is_outside_the_window() -> None:
    window = speech_window(bursts())
    assert window.start in range(7, 10) and window.stop in range(51, 54)
    assert speech_window(torch.zeros(10)) == slice(0, 10)


@pytest.mark.parametrize("lag", [-9, -2, 0, 3, 12])
def test_the_lag_is_found_and_positive_where_the_picture_is_late(lag: int) -> None:
    level = bursts(80)
    assert best_lag(level.roll(lag), level) == lag


def test_a_sound_fits_at_its_lag_and_nowhere_else() -> None:
    level = bursts(80)
    fits = lagged(level.roll(4), level)
    assert fits.keys() == set(range(-15, 16))
    assert fits[4] == pytest.approx(1.0)
    assert max(r for lag, r in fits.items() if lag != 4) < 0.6
    assert lagged(level, level[:9], reach=0) == {0: pytest.approx(1.0)}


def test_own_sound_fits_and_another_does_not() -> None:
    level, other = bursts(seed=0), bursts(seed=1)
    assert sync(level * 0.3 + 0.1, level) == pytest.approx(1.0)
    assert abs(sync(level, other)) < 0.3
    assert sync(-level, level) == pytest.approx(-1.0)
    assert sync(torch.ones(60), level) == 0.0
    assert sync(torch.cat([level, level]), level) == pytest.approx(1.0)


def test_on_drawn_faces_the_opening_is_seen_and_follows_the_sound() -> None:
    pytest.importorskip("espeakng_loader", reason="clips need espeak-ng: pip install espeakng-loader")
    from unitalk_core.data.synthetic import synthesize_clip

    clips = [synthesize_clip(3, i, held_out=True) for i in range(6)]
    seen = [mouth_opening(one.clip.frames) for one in clips]
    heard = [loudness(one.waveform, RATE, FPS, len(one.frames)) for one in clips]
    true = [correlation(track, one.mouth_opening) for track, one in zip(seen, clips, strict=True)]
    assert min(true) > 0.85 and sum(true) / 6 > 0.93
    own = [sync(a, b) for a, b in zip(seen, heard, strict=True)]
    shuffled = [sync(seen[i], heard[(i + k) % 6]) for i in range(6) for k in (1, 2, 3)]
    assert sum(own) / 6 > 0.6
    assert sum(shuffled) / 18 < 0.3
    assert all(abs(best_lag(a, b)) <= 2 for a, b in zip(seen, heard, strict=True))
