"""Decoding only what chosen frames need gives the pixels that decoding everything gives."""

import numpy as np
import pytest
from video_factory import block_frames, overwrite, packet_places, textured_frames, write_video

from resadapt_jax.data import decode
from resadapt_jax.data.container import Patience, read_index
from resadapt_jax.data.frame_sampling import spread
from resadapt_jax.data.pixels import ToRGB

OPEN_GROUPS = {"x264-params": "keyint=12:min-keyint=12:scenecut=0:open-gop=1:bframes=3"}
SHORT_GROUPS = {"g": "10", "bf": "3", "sc_threshold": "0"}


def decoded(path, count, chosen=True):
    index = read_index(path)
    wanted = index.times[spread(index.times, count)]
    how = decode.decode_chosen if chosen else decode.decode_all
    return how(path, index, wanted, ToRGB(), Patience())


@pytest.fixture
def packets_decoded(monkeypatch):
    """Numbers of the packets that reach a decoder."""
    seen = []
    decode_packets = decode._needed_frames

    def spy(packets, stream, needs):
        seen.extend(at for at, needed in enumerate(needs.decode) if needed)
        return decode_packets(packets, stream, needs)

    monkeypatch.setattr(decode, "_needed_frames", spy)
    return seen


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {}),
        ("a.mp4", "libx264", SHORT_GROUPS),
        ("a.mkv", "libx264", OPEN_GROUPS),
        ("a.mp4", "libx264", OPEN_GROUPS),
        ("a.ts", "libx264", SHORT_GROUPS),
        ("a.mp4", "mpeg4", {"g": "10", "bf": "2"}),
        ("a.webm", "libvpx", {"g": "10", "deadline": "realtime", "cpu-used": "8"}),
        ("a.webm", "libvpx-vp9", {"g": "10", "deadline": "realtime", "cpu-used": "8"}),
        ("a.mkv", "ffv1", {}),
    ],
)
def test_chosen_frames_are_those_of_the_whole_clip(tmp_path, name, codec, options):
    path = write_video(tmp_path / name, block_frames(60), codec=codec, codec_options=options)
    for count in (1, 2, 5, 13, 60):
        few, all_of_them = decoded(path, count), decoded(path, count, chosen=False)
        assert few is not None
        assert few.times == all_of_them.times
        np.testing.assert_array_equal(few.frames, all_of_them.frames)


def test_groups_without_a_chosen_frame_are_not_decoded(tmp_path, packets_decoded):
    options = {"g": "10", "bf": "0", "sc_threshold": "0"}
    path = write_video(tmp_path / "a.mp4", block_frames(60), codec="libx264", codec_options=options)
    few = decoded(path, 4)  # frames 0, 20, 39 and 59, in groups of ten
    np.testing.assert_allclose(few.times, [0, 2.0, 3.9, 5.9], atol=1e-6)
    assert packets_decoded == [0, 20, *range(30, 40), *range(50, 60)]


def test_frames_that_none_refers_to_are_skipped(tmp_path, monkeypatch):
    options = {"x264-params": "bframes=3:b-adapt=0:b-pyramid=0:keyint=60:scenecut=0"}
    path = write_video(tmp_path / "a.mp4", block_frames(60), codec="libx264", codec_options=options)
    shown = []
    monkeypatch.setattr(decode, "_needed_frames", _counting(decode._needed_frames, shown))
    few = decoded(path, 2)
    np.testing.assert_allclose(few.times, [0, 5.9], atol=1e-6)
    # Of each four frames three are B-frames that none refers to: 60 / 4, and the ends.
    assert len(shown) <= 20


def _counting(inner, shown):
    def count(*args):
        for frame in inner(*args):
            shown.append(frame.pts)
            yield frame

    return count


def test_damage_where_it_matters_is_left_to_the_careful_way(tmp_path):
    path = write_video(tmp_path / "a.mp4", textured_frames(20), codec="mpeg4")
    offset, size = packet_places(path)[7]
    overwrite(path, offset + size // 2, offset + size)
    assert decoded(path, 20) is None
    assert len(decoded(path, 20, chosen=False).times) == 19


def test_damage_in_a_group_that_is_not_needed_is_not_met(tmp_path):
    options = {"g": "5", "bf": "0", "sc_threshold": "0"}
    path = write_video(
        tmp_path / "a.mp4", textured_frames(20), codec="libx264", codec_options=options
    )
    sound = decoded(path, 2)
    for offset, size in packet_places(path)[6:14]:
        overwrite(path, offset, offset + size)
    np.testing.assert_array_equal(decoded(path, 2).frames, sound.frames)


def test_where_times_do_not_tell_frames_apart_all_is_decoded(tmp_path):
    # AVI knows no times of presentation.
    assert decoded(write_video(tmp_path / "a.avi", block_frames(20), codec="mpeg4"), 3) is None
