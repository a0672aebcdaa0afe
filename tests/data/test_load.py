"""A row's media on the canvas of its batch, pair by pair."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from video_factory import (
    block_frames,
    flat_frames,
    overwrite_packets,
    textured_frames,
    write_intra_mp4,
    write_video,
)

from resadapt_jax.data import container, load
from resadapt_jax.data.frame_sampling import SamplingConfig
from resadapt_jax.data.frame_size import native_size
from resadapt_jax.data.frames_cache import FramesCache
from resadapt_jax.data.load import Loading, load_row
from resadapt_jax.data.row import Medium, Row
from resadapt_jax.data.shapes import BatchShape
from resadapt_jax.operators.sizes import SizeLimits

STEP = 6  # grey levels between neighbouring flat frames
SHAPE = BatchShape(10, 84, 112, 16, 16)
LOADING = Loading(sampling=SamplingConfig(fps=2.0, min_frames=4, max_frames=8), limits=SizeLimits())


def loaded(folder, *media, shape=SHAPE, loading=LOADING):
    return load_row(Row(messages=(), media=media), shape, folder, loading)


def video(path, **options):
    return Medium(kind="video", path=path, **options)


def picture(folder, name, pixels):
    Image.fromarray(pixels).save(folder / name)
    return Medium(kind="image", path=name)


def numbers(row):
    """Which flat frame each frame is, by its first pixel."""
    return (row.frames[:, 0, 0, 0] // STEP).tolist()


def test_a_video_has_its_frames_in_the_corner_and_its_times(tmp_path):
    write_video(tmp_path / "a.mkv", flat_frames(40))  # 4 s, 56 x 84: 8 frames at 2 a second
    row = loaded(tmp_path, video("a.mkv"))
    assert row.skipped == ""
    assert row.frames.shape == (10, 84, 112, 3) and row.frames.dtype == np.uint8
    # Targets 3.9 s · i / 7: 0, .557, 1.114, 1.671, 2.229, 2.786, 3.343, 3.9.
    assert numbers(row) == [0, 6, 11, 17, 22, 28, 33, 39, 0, 0]
    np.testing.assert_allclose(row.times, [0, 0.6, 1.1, 1.7, 2.2, 2.8, 3.3, 3.9, 0, 0], atol=1e-9)
    assert row.frame_mask.tolist() == [True] * 8 + [False] * 2
    assert row.medium.tolist() == [0, 0, 0, 0, -1]
    assert row.source_heights.tolist() == [56] * 4 + [0]
    assert row.source_widths.tolist() == [84] * 4 + [0]
    assert np.all(row.frames[7, :56, :84] == 39 * STEP)
    assert not row.frames[:8, 56:].any() and not row.frames[:8, :, 84:].any()
    assert not row.frames[8:].any()
    (seconds,) = row.seconds_per_medium
    np.testing.assert_allclose(seconds, [0.3, 1.4, 2.5, 3.6], atol=1e-9)


def test_a_video_of_odd_length_repeats_its_last_frame(tmp_path):
    write_video(tmp_path / "a.mkv", flat_frames(3))
    row = loaded(tmp_path, video("a.mkv"))
    assert numbers(row)[:4] == [0, 1, 2, 2]
    assert row.frame_mask.tolist() == [True] * 3 + [False] * 7
    np.testing.assert_allclose(row.times[:4], [0, 0.1, 0.2, 0.2], atol=1e-9)
    assert row.medium.tolist() == [0, 0, -1, -1, -1]


def test_an_image_is_a_pair_whose_second_frame_is_masked(tmp_path):
    pixels = np.full((60, 80, 3), 77, np.uint8)  # 2.14 and 2.86 tokens: 56 x 84
    row = loaded(tmp_path, picture(tmp_path, "a.png", pixels))
    assert row.frame_mask.tolist() == [True] + [False] * 9
    assert np.all(row.frames[:2, :56, :84] == 77)
    assert (row.source_heights[0], row.source_widths[0]) == (56, 84)
    assert row.times.tolist() == [0.0] * 10
    assert row.medium.tolist() == [0, -1, -1, -1, -1]


def test_several_media_follow_each_other_each_from_a_whole_pair(tmp_path):
    write_video(tmp_path / "a.mkv", flat_frames(3))
    write_video(tmp_path / "b.mkv", flat_frames(40, height=84, width=56))
    image = picture(tmp_path, "a.png", np.full((28, 112, 3), 250, np.uint8))
    # The second video has two seconds from 1 s to 3 s: four frames of its 21 there.
    row = loaded(tmp_path, video("a.mkv"), image, video("b.mkv", start=1.0, end=3.0))
    assert row.skipped == ""
    assert row.medium.tolist() == [0, 0, 1, 2, 2]
    assert row.source_heights.tolist() == [56, 56, 28, 84, 84]
    assert row.source_widths.tolist() == [84, 84, 112, 56, 56]
    assert row.frame_mask.tolist() == [True] * 3 + [False, True, False] + [True] * 4
    # 1 + 2 · i / 3 s: 1, 1.667, 2.333 and 3, seconds of the file and not of the part.
    assert numbers(row)[6:] == [10, 17, 23, 30]
    np.testing.assert_allclose(row.times[6:], [1.0, 1.7, 2.3, 3.0], atol=1e-9)
    assert not row.frames[4, 28:].any() and not row.frames[6:, :, 56:].any()


def test_a_rows_own_limits_count(tmp_path):
    write_video(tmp_path / "a.mkv", flat_frames(40))
    assert loaded(tmp_path, video("a.mkv", max_frames=2)).frame_mask.sum() == 2
    assert loaded(tmp_path, video("a.mkv", end=0.2)).frame_mask.sum() == 2  # three, less one
    assert loaded(tmp_path, video("a.mkv", min_frames=6, end=1.0)).frame_mask.sum() == 6


def test_text_alone_is_an_empty_canvas_without_a_problem(tmp_path):
    row = loaded(tmp_path)
    assert row.skipped == "" and not row.frames.any() and not row.frame_mask.any()
    assert row.seconds_per_medium == ()


def test_bytes_in_the_row_are_as_good_as_files(tmp_path):
    path = write_video(tmp_path / "a.mp4", block_frames(30), codec="libx264")
    file = io.BytesIO()
    Image.fromarray(block_frames(1)[0]).save(file, "PNG")
    inside = loaded(
        tmp_path,
        Medium(kind="video", data=path.read_bytes()),
        Medium(kind="image", data=file.getvalue()),
        shape=SHAPE._replace(height=112, width=140),
    )
    outside = loaded(tmp_path, video("a.mp4"), shape=SHAPE._replace(height=112, width=140))
    assert inside.skipped == "" and inside.medium.max() == 1
    np.testing.assert_array_equal(inside.frames[:6], outside.frames[:6])


def test_frames_larger_than_their_header_said_are_shrunk(tmp_path):
    write_video(tmp_path / "a.mkv", flat_frames(4, height=168, width=224))
    row = loaded(tmp_path, video("a.mkv"))
    assert row.skipped == ""
    assert (row.source_heights[0], row.source_widths[0]) == (84, 112)
    assert numbers(row)[:4] == [0, 1, 2, 3]


def test_frames_of_a_legal_size_keep_it_whatever_their_limits_would_say_of_it(tmp_path):
    limits = SizeLimits(min_pixels=4 * 28**2, max_pixels=4 * 28**2)
    size = native_size(20, 29, limits)
    assert native_size(*size, limits, size) != size
    pixels = np.zeros((20, 29, 3), np.uint8)
    row = loaded(
        tmp_path,
        picture(tmp_path, "a.png", pixels),
        shape=BatchShape(2, *size, 16, 16),
        loading=replace(LOADING, limits=limits),
    )
    assert row.skipped == ""
    assert (row.source_heights[0], row.source_widths[0]) == size


def nothing_there(folder):
    return video("a.mp4")


def outside(folder):
    return video("../a.mp4")


def nothing_decodes(folder):
    overwrite_packets(write_intra_mp4(folder / "a.mp4", block_frames(10)), 0, 10)
    return video("a.mp4")


def no_video(folder):
    (folder / "a.mp4").write_text("hello")
    return video("a.mp4")


def sliver(folder):
    return picture(folder, "a.png", np.zeros((1, 300, 3), np.uint8))


def strip(folder):
    """41 x 6000 is 146 times as wide as high, but 28 x 5992, its legal size, 214 times."""
    return picture(folder, "a.png", np.zeros((41, 6000, 3), np.uint8))


def cut_image(folder):
    medium = picture(folder, "a.png", np.random.default_rng(0).integers(0, 255, (64, 64, 3), "u1"))
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:2000])
    return medium


def late(folder):
    write_video(folder / "a.mkv", flat_frames(10))
    return video("a.mkv", start=30.0)


def playlist(folder):
    """Leads out of the folder, if it is followed."""
    write_video(folder.parent / "secret.ts", block_frames(5), codec="libx264")
    lines = "#EXTM3U", "#EXT-X-TARGETDURATION:5", "#EXTINF:1,", "../secret.ts", "#EXT-X-ENDLIST"
    (folder / "a.mp4").write_text("\n".join(lines))
    return video("a.mp4")


def concatenation(folder):
    write_video(folder / "b.mkv", flat_frames(10))
    (folder / "a.mp4").write_text("ffconcat version 1.0\nfile b.mkv\n")
    return video("a.mp4")


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (nothing_there, "no such file: .*a.mp4"),
        (outside, "outside the media root"),
        (nothing_decodes, "unreadable video: no frame of"),
        (no_video, "unreadable video: not a video"),
        (sliver, "unreadable image: a.png: aspect ratio of 1 x 300"),
        (cut_image, "unreadable image"),
        (strip, "unreadable image: a.png: aspect ratio of 28 x 5992"),
        (late, "unreadable video: .*asked for from 30 s on, but lasts 1 s"),
        (playlist, "unreadable video: not a video"),
        (concatenation, "unreadable video: not a video"),
    ],
)
def test_what_cannot_be_read_makes_a_row_without_media(tmp_path, make, problem):
    folder = tmp_path / "root"
    folder.mkdir()
    write_video(folder / "good.mkv", flat_frames(4))
    row = loaded(folder, video("good.mkv"), make(folder))
    assert re.search(problem, row.skipped), row.skipped
    assert "\n" not in row.skipped
    assert not row.frames.any() and not row.frame_mask.any() and np.all(row.medium == -1)
    assert row.frames.shape == (10, 84, 112, 3)


def test_more_frames_than_the_batch_holds_are_a_problem(tmp_path):
    write_video(tmp_path / "a.mkv", flat_frames(40))
    row = loaded(tmp_path, video("a.mkv"), video("a.mkv"))
    assert row.skipped == "more frames than the survey found: 16 frames, but its batch holds 10"


def test_a_video_that_takes_too_long_is_given_up(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mkv", flat_frames(40))
    loading = Loading(sampling=LOADING.sampling, limits=LOADING.limits, time_limit=0.0)
    assert "takes too long" in loaded(tmp_path, video("a.mkv"), loading=loading).skipped
    # A damaged one is given up sooner.
    path = write_intra_mp4(tmp_path / "a.mp4", block_frames(40))
    overwrite_packets(path, 0, 2)
    monkeypatch.setattr(container, "_DAMAGED_SECONDS", 0.0)
    loading = Loading(sampling=LOADING.sampling, limits=LOADING.limits, time_limit=60.0)
    assert "takes too long" in loaded(tmp_path, video("a.mp4"), loading=loading).skipped


def cut(folder, share):
    """A clip of 100 frames, each a packet of the same size, that ends after a share of them."""
    path = write_video(folder / "a.mkv", textured_frames(100))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def test_a_video_of_which_a_tenth_is_lost_is_skipped_and_less_is_told(tmp_path):
    cut(tmp_path, 0.5)
    assert re.match("damaged video: .*a.mkv is damaged: 5. of 100 frames", skipped(tmp_path))
    cut(tmp_path, 0.93)
    row = loaded(tmp_path, video("a.mkv"))
    assert row.skipped == "" and row.frame_mask.sum() == 8
    assert re.search("a.mkv is damaged: [6-8] of 100 frames", row.damage)
    write_video(tmp_path / "a.mkv", textured_frames(100))
    assert loaded(tmp_path, video("a.mkv")).damage == ""


def skipped(folder):
    return loaded(folder, video("a.mkv")).skipped


def test_a_damaged_video_is_not_kept(tmp_path):
    cut(tmp_path, 0.93)
    cache = FramesCache(str(tmp_path / "cache"))
    loading = Loading(sampling=LOADING.sampling, limits=LOADING.limits, cache=cache)
    for _ in range(2):
        assert loaded(tmp_path, video("a.mkv"), loading=loading).damage
    assert not (tmp_path / "cache").exists()


def test_a_cached_video_is_not_decoded_again(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mkv", flat_frames(40))
    cache = FramesCache(str(tmp_path / "cache"))
    loading = Loading(sampling=LOADING.sampling, limits=LOADING.limits, cache=cache)
    first = loaded(tmp_path, video("a.mkv"), loading=loading)
    monkeypatch.setattr(load, "read_clip", None)  # a call of which would fail
    again = loaded(tmp_path, video("a.mkv"), loading=loading)
    assert again.skipped == ""
    np.testing.assert_array_equal(again.frames, first.frames)
    np.testing.assert_array_equal(again.times, first.times)
    # Other frames of it are other entries.
    assert loaded(tmp_path, video("a.mkv", end=1.0), loading=loading).skipped != ""


def test_a_damaged_entry_of_the_cache_is_made_anew(tmp_path):
    write_video(tmp_path / "a.mkv", flat_frames(40))
    cache = FramesCache(str(tmp_path / "cache"))
    loading = Loading(sampling=LOADING.sampling, limits=LOADING.limits, cache=cache)
    first = loaded(tmp_path, video("a.mkv"), loading=loading)
    (entry,) = (tmp_path / "cache").rglob("*.npz")
    entry.write_bytes(entry.read_bytes()[:1000])
    again = loaded(tmp_path, video("a.mkv"), loading=loading)
    np.testing.assert_array_equal(again.frames, first.frames)
    assert entry.stat().st_size > 1000
