"""Files: what is written can be read again, in step, and whatever is wrong is one sentence and no file."""

from __future__ import annotations

import time
from dataclasses import replace
from fractions import Fraction

import av
import pytest
import torch

from unitalk_core import media
from unitalk_core.av import Clip, ClipStream

FPS = Fraction(25)


def make_clip(
    frames: int = 25, size: tuple[int, int] = (64, 64), rate: int = 16000, channels: int = 1
) -> Clip:
    """A dark clip that flashes white, and clicks, in the same moment: frame 10, 0.4 s."""
    picture = torch.full((frames, size[1], size[0], 3), 0.1)
    picture[10] = 1.0
    waveform = torch.zeros(channels, round(frames / FPS * rate))
    waveform[:, round(10 / FPS * rate) : round(11 / FPS * rate)] = 0.5
    return Clip(picture, waveform, FPS, rate)


def smooth(frames: int = 9, size: int = 64) -> torch.Tensor:
    """(f, h, w, 3): colours that change slowly across the picture and in time."""
    time = torch.linspace(0.9, 0.7, frames).view(-1, 1, 1)
    y, x = torch.meshgrid(*[torch.linspace(0.2, 0.8, size)] * 2, indexing="ij")
    return torch.stack([time * x, time * y, time * (1 - x * y)], dim=-1)


def probe(path) -> dict:
    with av.open(str(path)) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        return {
            "video": (video.codec_context.name, video.pix_fmt, video.width, video.height, video.average_rate),
            "audio": (audio.codec_context.name, audio.rate, audio.channels),
            "gap": abs(float(video.duration * video.time_base) - float(audio.duration * audio.time_base)),
            "metadata": dict(file.metadata),
        }


def test_a_clip_comes_back_as_it_was_written(tmp_path):
    clip = make_clip()
    path = media.write_clip(tmp_path / "a.mp4", clip, metadata={"unitalk": '{"seed": 7}'})
    found = probe(path)
    assert found["video"] == ("h264", "yuv420p", 64, 64, FPS)
    assert found["audio"] == ("aac", 16000, 1)
    assert found["gap"] <= 1 / 25
    assert found["metadata"]["unitalk"] == '{"seed": 7}'
    again = media.read_video(path)
    assert (again.fps, again.sample_rate) == (FPS, 16000)
    assert again.frames.shape == clip.frames.shape
    assert again.waveform.shape == clip.waveform.shape
    assert (again.frames - clip.frames).abs().max() < 0.05


def test_colours_stay_when_a_clip_is_written_and_read_again_and_again(tmp_path):
    frames = smooth()
    for i in range(4):
        path = media.write_clip(tmp_path / f"{i}.mp4", Clip(frames, None, FPS, 0))
        frames = media.read_video(path).frames
        assert torch.equal(media.read_image(path), frames[0])
    assert abs((frames - smooth()).mean()) < 0.5 / 255


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2), (48000, 1), (22050, 2)])
def test_the_flash_and_the_click_stay_together(tmp_path, rate, channels):
    again = media.read_video(media.write_clip(tmp_path / "a.mp4", make_clip(rate=rate, channels=channels)))
    flash = int(again.frames.mean((1, 2, 3)).argmax()) / 25
    click = int((again.waveform[0].abs() > 0.2).float().argmax()) / rate
    assert flash == pytest.approx(0.4)
    assert click == pytest.approx(0.4, abs=0.004)


@pytest.mark.parametrize("frames", [1, 9, 61, 121])
def test_any_decoder_finds_picture_and_sound_within_one_frame(tmp_path, frames):
    latents = int(frames * 16000 / (25 * 512))
    clip = Clip(torch.rand(frames, 64, 64, 3), torch.rand(1, max(1, latents) * 512) - 0.5, FPS, 16000)
    path = media.write_clip(tmp_path / "a.mp4", clip)
    with av.open(str(path)) as file:
        pictures = sum(1 for _ in file.decode(video=0))
        file.seek(0)
        samples = sum(frame.samples for frame in file.decode(audio=0))
    assert pictures == frames
    assert abs(pictures / 25 - samples / 16000) <= 1 / 25


def test_a_clip_can_be_shown_larger(tmp_path):
    clip = make_clip()
    large = media.read_video(media.write_clip(tmp_path / "a.mp4", clip, scale=4))
    assert large.frames.shape == (25, 256, 256, 3)
    small = large.frames.unflatten(1, (64, 4)).unflatten(3, (64, 4)).mean((2, 4))
    assert (small - clip.frames).abs().mean() < 0.02


def test_a_stream_may_be_absent(tmp_path):
    clip = make_clip()
    silent = media.read_video(media.write_clip(tmp_path / "v.mp4", Clip(clip.frames, None, FPS, 16000)))
    assert silent.waveform is None
    media.write_clip(tmp_path / "a.mp4", Clip(None, clip.waveform, FPS, 16000))
    assert media.read_audio(tmp_path / "a.mp4")[0].shape == clip.waveform.shape
    with pytest.raises(ValueError, match="no picture"):
        media.read_video(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="no sound"):
        media.read_audio(tmp_path / "v.mp4")


def bad_clips() -> dict[str, tuple[Clip, str]]:
    good = make_clip()
    frames, sound = good.frames, good.waveform
    nan_frames, nan_sound = frames.clone(), sound.clone()
    nan_frames[3, 2, 1, 0], nan_sound[0, 9] = torch.nan, torch.nan
    return {
        "odd size": (
            Clip(frames[:, :, :63], sound, FPS, 16000),
            "even width and height, got 63 x 64; use 64 x 64",
        ),
        "empty sound": (Clip(frames, sound[:, :0], FPS, 16000), "empty"),
        "three channels": (Clip(frames, sound.expand(3, -1), FPS, 16000), "1 or 2 channels"),
        "nan picture": (Clip(nan_frames, sound, FPS, 16000), "0..1"),
        "nan sound": (Clip(frames, nan_sound, FPS, 16000), "not numbers"),
        "bytes, not 0..1": (Clip(frames * 255, sound, FPS, 16000), "0..1"),
        "half the sound": (Clip(frames, sound[:, :8000], FPS, 16000), "500 ms longer"),
        "strange rate": (Clip(frames, sound, FPS, 16001), "resample to 16000"),
        "nothing": (Clip(None, None, FPS, 16000), "neither"),
        "no frames": (Clip(frames[:0], sound, FPS, 16000), "frames must be"),
    }


@pytest.mark.parametrize("name", bad_clips())
def test_a_bad_clip_is_one_sentence_and_no_file(tmp_path, name):
    clip, words = bad_clips()[name]
    with pytest.raises(ValueError, match=words) as caught:
        media.write_clip(tmp_path / "a.mp4", clip)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_bad_place_is_one_sentence(tmp_path):
    clip = make_clip()
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        media.write_clip(tmp_path / "no" / "a.mp4", clip)
    with pytest.raises(ValueError, match=r"must end in \.mp4"):
        media.write_clip(tmp_path / "a.webm", clip)
    (tmp_path / "d.mp4").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        media.write_clip(tmp_path / "d.mp4", clip)


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(media.Path, "touch", refuse)
    with pytest.raises(PermissionError, match=r"cannot be written to \(Read-only file system\)"):
        media.check_target(tmp_path / "a.mp4", ".mp4")


@pytest.mark.parametrize("blow", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_when_writing_stops_midway(tmp_path, monkeypatch, blow):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"the older clip")

    def stop(*_args):
        raise blow

    monkeypatch.setattr(media, "enlarge", stop)
    with pytest.raises(blow):
        media.write_clip(path, make_clip())
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert path.read_bytes() == b"the older clip"


def test_wav_files_keep_every_sample(tmp_path):
    sound = torch.rand(2, 5000) * 2 - 1
    path = media.write_wav(tmp_path / "a.wav", sound, 22050)
    again, rate = media.read_audio(path)
    assert rate == 22050
    assert again.shape == sound.shape
    assert (again - sound).abs().max() < 1e-4


@pytest.mark.parametrize(("there", "back"), [(44100, 16000), (22050, 16000), (16000, 44100), (8000, 48000)])
def test_resampling_keeps_tones_time_and_length(there, back):
    def tone(rate: int) -> torch.Tensor:
        time = torch.arange(rate) / rate
        return (torch.sin(2 * torch.pi * 440 * time) * torch.sin(torch.pi * time) ** 2)[None]

    out = media.resample(tone(there), there, back)
    assert out.shape == (1, back)
    assert (out - tone(back)).abs().max() < 0.01


def test_sound_is_mixed_and_resampled_when_asked(tmp_path):
    path = media.write_wav(
        tmp_path / "a.wav", torch.stack([torch.full((44100,), 0.5), torch.zeros(44100)]), 44100
    )
    sound, rate = media.read_audio(path, sample_rate=16000, mono=True)
    assert (rate, sound.shape) == (16000, (1, 16000))
    assert sound[0, 4000:12000].mean() == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("frames", [20, 30])
def test_lengths_are_matched_only_when_told(frames):
    clip = make_clip(25)
    uneven = Clip(clip.frames[:frames] if frames < 25 else torch.rand(30, 8, 8, 3), clip.waveform, FPS, 16000)
    with pytest.raises(ValueError, match="200 ms longer"):
        media.match_lengths(uneven)
    padded, trimmed = media.match_lengths(uneven, "pad"), media.match_lengths(uneven, "trim")
    assert (len(padded.frames), padded.waveform.shape[1]) == (max(frames, 25), max(frames, 25) * 640)
    assert (len(trimmed.frames), trimmed.waveform.shape[1]) == (min(frames, 25), min(frames, 25) * 640)
    assert media.match_lengths(clip) is clip


def test_a_part_of_a_video_keeps_its_sound(tmp_path):
    path = media.write_clip(tmp_path / "a.mp4", make_clip(50))
    part = media.read_video(path, start=0.2, seconds=0.8)
    assert len(part.frames) == 20
    assert part.waveform.shape == (1, 12800)
    assert int(part.frames.mean((1, 2, 3)).argmax()) == 5
    assert int((part.waveform[0].abs() > 0.2).float().argmax()) / 16000 == pytest.approx(0.2, abs=0.004)
    with pytest.raises(ValueError, match="outside"):
        media.read_video(path, start=9)


def test_another_frame_rate_keeps_the_time(tmp_path):
    path = media.write_clip(tmp_path / "a.mp4", make_clip(50))
    slow = media.read_video(path, fps=5)
    assert len(slow.frames) == 10
    assert int(slow.frames.mean((1, 2, 3)).argmax()) == 2


def test_a_telephone_video_is_upright(tmp_path):
    frames = torch.zeros(3, 32, 64, 3)
    frames[:, :, :32, 0] = 1.0  # red on the left; shown after a clockwise quarter turn: red on top
    path = media.write_clip(tmp_path / "a.mp4", Clip(frames, None, FPS, 0))
    identity = bytes.fromhex("0001000000000000000000000000000000010000")
    clockwise = bytes.fromhex("000000000001000000000000ffff000000000000")
    data = bytearray(path.read_bytes())
    at = data.index(identity, data.index(b"tkhd"))
    data[at : at + len(identity)] = clockwise
    path.write_bytes(data)
    turned = media.read_video(path).frames
    assert turned.shape == (3, 64, 32, 3)
    assert turned[0, :28, :, 0].min() > 0.8
    assert turned[0, 36:, :, 0].max() < 0.2


def test_pictures_are_read(tmp_path):
    image = av.VideoFrame.from_ndarray((torch.rand(48, 32, 3) * 255).byte().numpy(), format="rgb24")
    image.save(str(tmp_path / "face.png"))
    assert media.read_image(tmp_path / "face.png").shape == (48, 32, 3)


def test_foreign_and_missing_files_are_one_sentence(tmp_path):
    foreign = tmp_path / "a.mp4"
    foreign.write_bytes(b"this is no film" * 100)
    for read in (media.read_video, media.read_audio, media.read_image):
        with pytest.raises(ValueError, match="cannot be read"):
            read(foreign)
        with pytest.raises(FileNotFoundError, match="there is no file"):
            read(tmp_path / "none.mp4")


def in_parts(clip: Clip, sizes: tuple[int, ...]) -> ClipStream:
    return replace(ClipStream.of(clip), parts=iter(clip.frames.split(sizes)))


def test_a_picture_in_parts_is_the_same_file_bit_for_bit(tmp_path):
    clip = make_clip(25)
    media.write_clip(tmp_path / "a.mp4", clip, {"comment": "x"}, scale=2)
    media.write_stream(tmp_path / "b.mp4", in_parts(clip, (1, 4, 4, 16)), {"comment": "x"}, scale=2)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_few_parts_wait_for_the_encoder(tmp_path, monkeypatch):
    held = [0, 0]  # now, at most

    def slowly(frames, times):
        time.sleep(0.002)
        held[0] -= len(frames)
        return frames

    def parts():
        for part in make_clip(25).frames.split(1):
            held[0] += 1
            held[1] = max(held)
            yield part

    monkeypatch.setattr(media, "enlarge", slowly)
    stream = replace(ClipStream.of(make_clip(25)), parts=parts())
    assert len(media.read_video(media.write_stream(tmp_path / "a.mp4", stream)).frames) == 25
    assert 1 < held[1] <= media.AHEAD + 2


@pytest.mark.parametrize("blow", [KeyboardInterrupt, "a number that is none"])
def test_a_picture_that_does_not_go_on_leaves_nothing(tmp_path, blow):
    def parts():
        yield clip.frames[:20]
        if blow is KeyboardInterrupt:
            raise KeyboardInterrupt
        yield clip.frames[20:] + torch.nan

    clip = make_clip(25)
    with pytest.raises((KeyboardInterrupt, ValueError)):
        media.write_stream(tmp_path / "a.mp4", replace(ClipStream.of(clip), parts=parts()))
    assert not list(tmp_path.iterdir())
