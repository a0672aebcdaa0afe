"""Video files that are damaged, no videos at all, or on a disk that fails."""

import time

import av
import numpy as np
import pytest
from video_factory import (
    block_frames,
    flat_frames,
    overwrite,
    overwrite_packets,
    packet_places,
    textured_frames,
    write_audio,
    write_intra_mp4,
    write_video,
)

from resadapt_jax.data import container, decode, video
from resadapt_jax.errors import UserError


def readable_frames(path) -> int:
    """Frames that FFmpeg hands out by itself, counted without the code under test."""
    count = 0
    with av.open(str(path)) as file:
        file.streams.video[0].thread_type = "NONE"
        for packet in file.demux(file.streams.video[0]):
            try:
                count += sum(not frame.is_corrupt for frame in packet.decode())
            except av.error.FFmpegError:
                continue
    return count


# --- damage -------------------------------------------------------------------------------------


def test_frames_lost_in_the_middle_are_counted_and_the_rest_is_kept(tmp_path):
    path = write_intra_mp4(tmp_path / "clip.mp4", textured_frames(40))
    sound = video.sample(path, num_frames=40)
    assert sound.frames_lost == 0
    overwrite_packets(path, 15, 20)
    clip = video.sample(path, num_frames=40)
    assert clip.frames_lost == 5
    assert clip.warnings == (f"{path} is damaged: 5 of 40 frames were lost",)
    kept = [i for i in range(40) if not 15 <= i < 20]
    np.testing.assert_allclose(clip.times, 0.1 * np.array(kept), atol=1e-6)
    np.testing.assert_array_equal(clip.frames, sound.frames[kept])


@pytest.mark.parametrize("first", [12, 17, 19])
def test_frames_lost_near_the_end_are_counted(tmp_path, first):
    path = write_intra_mp4(tmp_path / "clip.mp4", textured_frames(20))
    overwrite_packets(path, first, first + 1)
    clip = video.sample(path)
    assert clip.frames_lost == 1
    assert len(clip.times) == 19


def test_frames_that_follow_damage_are_repaired_as_well_as_they_can_be(tmp_path):
    options = {"bf": "0", "g": "250"}
    path = write_video(
        tmp_path / "clip.mp4", block_frames(20), codec="libx264", codec_options=options
    )
    sound = video.sample(path)
    offset, size = packet_places(path)[10]
    overwrite(path, offset + size * 6 // 10, offset + size)
    clip = video.sample(path)
    assert clip.frames_lost == 1
    kept = [i for i in range(20) if i != 10]
    off = np.abs(clip.frames.astype(int) - sound.frames[kept]).mean(axis=(1, 2, 3))
    assert np.all(off[:10] == 0)
    assert np.all(off[10:] < 10)  # without concealment the hole spreads and this is about 20


def test_a_chosen_frame_that_is_lost_is_replaced_by_its_neighbour(tmp_path):
    path = write_intra_mp4(tmp_path / "clip.mp4", textured_frames(21))
    overwrite_packets(path, 9, 11)
    clip = video.sample(path, num_frames=3)
    # Targets 0, 1 and 2 s; frames 9 and 10 are gone, 11 (1.1 s) is nearer to 1 s than 8 (0.8 s).
    np.testing.assert_allclose(clip.times, [0, 1.1, 2.0], atol=1e-6)


def test_damage_does_not_reduce_the_count_while_other_frames_are_left(tmp_path):
    path = write_intra_mp4(tmp_path / "clip.mp4", textured_frames(21))
    overwrite_packets(path, 8, 13)
    assert len(video.sample(path, num_frames=16).times) == 16  # all that are left
    # Even indices 0 to 20 were meant; 8, 10 and 12 are gone, and 7 and 13 can stand for two.
    clip = video.sample(path, num_frames=11)
    assert len(clip.times) == 11
    assert np.all(np.diff(clip.times) > 0)
    assert clip.frames_lost == 5


def test_a_frame_the_decoder_patched_up_is_lost(tmp_path):
    path = write_video(tmp_path / "clip.mp4", textured_frames(20), codec="mpeg4")
    offset, size = packet_places(path)[7]
    overwrite(path, offset + size // 2, offset + size)
    clip = video.sample(path)
    assert clip.frames_lost == 1
    assert len(clip.times) == 19


def test_bytes_a_matroska_reader_skips_are_noticed(tmp_path):
    # Ten clusters of half a second; the damage spans parts of two.
    options = {"cluster_time_limit": "500"}
    path = write_video(tmp_path / "clip.mkv", textured_frames(50), container_options=options)
    places = packet_places(path)
    overwrite(path, places[17][0] - 20, places[22][0] + 100)
    clip = video.sample(path, num_frames=50)
    assert 30 < len(clip.times) == readable_frames(path) < 45
    assert clip.frames_lost == 50 - len(clip.times)


@pytest.mark.parametrize("name", ["clip.mkv", "clip.webm"])
def test_a_truncated_file_keeps_its_beginning(tmp_path, name):
    codec = "libvpx" if name == "clip.webm" else "libx264"
    path = write_video(tmp_path / name, textured_frames(40), codec=codec)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    clip = video.sample(path, num_frames=40)
    assert 5 < len(clip.times) == readable_frames(path) < 35
    assert clip.frames_lost == 40 - len(clip.times)
    np.testing.assert_allclose(clip.times, 0.1 * np.arange(len(clip.times)), atol=1e-6)


def test_a_truncated_mp4_with_its_index_in_front_keeps_its_beginning(tmp_path):
    options = {"movflags": "faststart"}
    path = write_video(
        tmp_path / "clip.mp4", textured_frames(40), codec="libx264", container_options=options
    )
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 7 // 10])
    clip = video.sample(path, num_frames=40)
    assert 5 < len(clip.times) < 40
    assert clip.frames_lost == 40 - len(clip.times)


# --- what cannot be used ------------------------------------------------------------------------


def zero_bytes(folder):
    (folder / "clip.mp4").touch()


def text_named_mp4(folder):
    (folder / "clip.mp4").write_text("this is not a video\n" * 50)


def text_ffmpeg_would_draw(folder):
    (folder / "clip.txt").write_text("this is not a video\n" * 50)


def truncated_without_index(folder):
    path = write_video(folder / "clip.mp4", textured_frames(10), codec="libx264")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def sound_only(folder):
    write_audio(folder / "clip.wav")


def no_frame(folder):
    with av.open(str(folder / "clip.avi"), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 56, 84, "yuv420p"
        file.start_encoding()


def nothing_decodes(folder):
    path = write_intra_mp4(folder / "clip.mp4", textured_frames(10))
    overwrite_packets(path, 0, 10)


def sliver(folder):
    write_video(folder / "clip.mkv", flat_frames(2, height=2, width=500))


def folder_instead(folder):
    (folder / "clip.mp4").mkdir()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (zero_bytes, "not a video"),
        (text_named_mp4, "not a video"),
        (text_ffmpeg_would_draw, "not a video"),
        (truncated_without_index, "damaged beyond reading"),
        (sound_only, "no video stream"),
        (no_frame, "no video frame"),
        (nothing_decodes, "no frame of .* could be decoded"),
        (sliver, "aspect ratio"),
        (folder_instead, "not a file"),
    ],
)
def test_what_is_no_video_is_refused_in_one_line(tmp_path, make, reason):
    make(tmp_path)
    (path,) = tmp_path.iterdir()
    with pytest.raises(UserError, match=reason) as caught:
        video.sample(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_bad_arguments_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        video.sample(tmp_path / "clip.mp4")
    with pytest.raises(UserError, match="at least 1"):
        video.sample(tmp_path / "clip.mp4", num_frames=0)


@pytest.mark.parametrize(("name", "most"), [("PIXELS", 56 * 84 - 1), ("SIDE", 83)])
def test_absurd_dimensions_are_refused_before_decoding(tmp_path, monkeypatch, name, most):
    path = write_video(tmp_path / "clip.mkv", flat_frames(2))
    monkeypatch.setattr(container, f"MAX_SOURCE_{name}", most)
    with pytest.raises(UserError, match="too large to decode: 84 x 56"):
        video.sample(path)


def test_frames_larger_than_the_container_says_are_refused(tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.mkv", flat_frames(2))
    with container.open_video(path) as file:
        stream = container.video_stream(file, path)
        assert stream.codec_context.options == {"max_pixels": str(2**26)}
        monkeypatch.setattr(container, "MAX_SOURCE_PIXELS", 56 * 84 - 1)  # as if it had said less
        with pytest.raises(UserError, match="too large to decode: 84 x 56"):
            decode.first_frame(file, stream, path, container.Patience())


# --- what the disk does, and how long it takes --------------------------------------------------


class Broken:
    """A container whose file gives an error after two packets."""

    def __init__(self, path, error):
        self.path, self.error = path, error

    def demux(self, *streams):
        with av.open(str(self.path)) as file:
            for packet, _ in zip(file.demux(video=0), range(2), strict=False):
                yield packet
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (av.error.ExitError(0, "Immediate exit requested"), "no answer"),
        (av.error.FFmpegError(5, "Input/output error"), "Input/output error"),
        (av.error.FFmpegError(116, "Stale file handle"), "Stale file handle"),
    ],
)
def test_an_error_of_the_disk_is_not_the_end_of_the_video(tmp_path, error, reason):
    path = write_video(tmp_path / "clip.mkv", flat_frames(5))
    how = {"patience": container.Patience(), "source": path}
    with pytest.raises(UserError, match=f"{path} cannot be read to its end: {reason}"):
        list(container.read_packets(Broken(path, error), **how))
    for end in (av.error.EOFError(0, ""), av.error.InvalidDataError(0, "")):
        assert len(list(container.read_packets(Broken(path, end), **how))) == 2


def test_patience_counts_what_is_computed_and_not_the_clock(monkeypatch):
    now = 100.0
    monkeypatch.setattr(container.time, "thread_time", lambda: now)
    patience = container.Patience.with_file(b"0" * 10**6, most=120.0)  # 6 s and 1 s
    time.sleep(0.01)
    assert patience.left == 7.0
    patience.allow(packets=1000)  # 10 s for as many
    assert patience.left == 17.0
    patience.allow(packets=10**6)
    assert patience.left == 120.0
    now += 50.0
    patience.damaged()
    assert patience.left == 5.0
    patience.check(b"")
    now += 5.1
    with pytest.raises(UserError, match="the row's bytes takes too long"):
        patience.check(b"")


def test_opening_has_no_more_time_than_is_left(tmp_path):
    path = write_video(tmp_path / "clip.mkv", flat_frames(2))
    with pytest.raises(UserError, match="takes too long"):
        container.open_video(path, container.Patience(0.0))
    container.open_video(path, container.Patience(1.0)).close()
