"""Decoding and sampling of video files that are sound."""

import numpy as np
import pytest
from PIL import Image
from video_factory import flat_frames, turn_by_header, write_video

from resadapt_jax.data import container, pixels, video
from resadapt_jax.errors import UserError
from resadapt_jax.operators.sizes import SizeLimits

STEP = 6  # grey levels between neighbouring flat frames
QUADRANTS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255,) * 3}


def frame_numbers(clip: video.VideoClip) -> list[int]:
    """Which flat frame each sampled frame is."""
    levels = clip.frames.reshape(len(clip.frames), -1)
    assert np.all(levels == levels[:, :1])
    return (levels[:, 0] // STEP).tolist()


# --- which frames -------------------------------------------------------------------------------


def test_samples_frames_nearest_to_even_times(tmp_path):
    path = write_video(tmp_path / "clip.mkv", flat_frames(40))
    clip = video.sample(path, num_frames=8)
    # Targets are 3.9 s · i / 7 = 0, .557, 1.114, 1.671, 2.229, 2.786, 3.343, 3.9; frames come
    # every 0.1 s.
    assert frame_numbers(clip) == [0, 6, 11, 17, 22, 28, 33, 39]
    np.testing.assert_allclose(clip.times, [0, 0.6, 1.1, 1.7, 2.2, 2.8, 3.3, 3.9], atol=1e-9)
    assert clip.frames.dtype == np.uint8 and clip.frames.shape == (8, 56, 84, 3)
    assert (clip.source_height, clip.source_width) == (56, 84)
    assert clip.duration == pytest.approx(4.0)
    assert clip.frames_lost == 0 and clip.warnings == ()


def test_variable_frame_rate_is_sampled_by_time_and_is_not_damage(tmp_path):
    # Ten frames in the first second, then one every two seconds, the first at 5 s into the file.
    milliseconds = [5000 + 100 * i for i in range(10)] + [8000, 10000, 12000, 14000]
    path = write_video(tmp_path / "clip.mkv", flat_frames(14), milliseconds=milliseconds)
    clip = video.sample(path, num_frames=4)
    assert frame_numbers(clip) == [0, 10, 11, 13]  # targets 0, 3, 6 and 9 s: 3 is exact, 6 is
    # between 5 and 7 and goes to the earlier
    np.testing.assert_allclose(clip.times, [0, 3, 5, 9], atol=1e-9)
    assert clip.frames_lost == 0


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_short_clip_gives_each_frame_once(tmp_path, count):
    path = write_video(tmp_path / "clip.mkv", flat_frames(count))
    clip = video.sample(path)
    assert frame_numbers(clip) == list(range(count))
    assert clip.duration == pytest.approx(0.1 * count)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("clip.mp4", "libx264"),
        ("clip.mp4", "mpeg4"),
        ("clip.ts", "libx264"),
        ("clip.avi", "mpeg4"),
        ("clip.webm", "libvpx"),
        ("a:b.mkv", "libx264"),
        ("clip.h264", "libx264"),
    ],
)
def test_common_containers(tmp_path, name, codec):
    path = write_video(tmp_path / name, flat_frames(20, step=12), codec=codec)
    clip = video.sample(path)
    interval = 0.04 if name == "clip.h264" else 0.1  # a raw stream has no times; 25 fps is assumed
    np.testing.assert_allclose(clip.times, interval * np.arange(20), atol=1e-6)
    levels = clip.frames.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(levels, 12 * np.arange(20), atol=5.5)  # lossy
    assert clip.frames_lost == 0


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.tiff", "a"])
def test_a_picture_is_a_clip_of_one_frame(tmp_path, name):
    exif = Image.Exif()
    exif[0x010E] = "FFmpeg hands EXIF data on, for which PyAV has no name"
    image = Image.fromarray(flat_frames(21)[-1])
    image.save(tmp_path / name, "PNG" if name == "a" else None, exif=exif)
    clip = video.sample(tmp_path / name)
    assert clip.times.tolist() == [0.0]
    assert np.all(np.abs(clip.frames.astype(int) - 120) < 4)


# --- part of a clip -----------------------------------------------------------------------------


def part(path, num_frames, start=None, end=None):
    return video.read_clip(path, container.read_index(path), num_frames, start=start, end=end)


def test_a_part_is_sampled_from_its_start_to_its_end(tmp_path):
    path = write_video(tmp_path / "clip.mkv", flat_frames(40))
    clip = part(path, 4, 1.0, 2.5)
    # 1 + 1.5 · i / 3 s; the times stay those of the file.
    assert frame_numbers(clip) == [10, 15, 20, 25]
    np.testing.assert_allclose(clip.times, [1.0, 1.5, 2.0, 2.5], atol=1e-9)
    assert clip.duration == pytest.approx(4.0)
    assert frame_numbers(part(path, 2, 3.0)) == [30, 39]
    assert frame_numbers(part(path, 2, end=0.1)) == [0, 1]


def test_a_part_after_the_end_is_refused(tmp_path):
    path = write_video(tmp_path / "clip.mkv", flat_frames(10))
    with pytest.raises(UserError, match=f"{path}: it is asked for from 2 s on"):
        part(path, 4, 2.0)


# --- orientation --------------------------------------------------------------------------------

RIGHT_ANGLES = [
    (a, b, c, d)
    for a, b, c, d in np.ndindex(3, 3, 3, 3)
    if abs((a - 1) * (d - 1) - (b - 1) * (c - 1)) == 1 and (a == d == 1 or b == c == 1)
]


@pytest.mark.parametrize("matrix", [tuple(v - 1 for v in m) for m in RIGHT_ANGLES])
def test_turn_moves_every_pixel_as_the_matrix_says(matrix):
    a, b, c, d = matrix
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    y, x = np.mgrid[:2, :3]
    new_x, new_y = a * x + c * y, b * x + d * y
    new_x, new_y = new_x - new_x.min(), new_y - new_y.min()
    expected = np.empty((new_y.max() + 1, new_x.max() + 1, 3), np.uint8)
    expected[new_y, new_x] = image
    full = np.array([a, b, 0, c, d, 0, 0, 0, 1]) * 65536
    np.testing.assert_array_equal(pixels.turn(image, full.astype(np.int32)), expected)


def test_all_eight_right_angle_matrices_are_tested():
    assert len(RIGHT_ANGLES) == 8


def quadrant_clip(path, **kwargs):
    """Four flat quadrants: red, green over blue, white."""
    frame = np.zeros((56, 112, 3), np.uint8)
    frame[:28, :56], frame[:28, 56:] = QUADRANTS["red"], QUADRANTS["green"]
    frame[28:, :56], frame[28:, 56:] = QUADRANTS["blue"], QUADRANTS["white"]
    return write_video(path, np.stack([frame] * 4), codec="libx264", **kwargs)


def corners(frame) -> list[str]:
    """Names of the colours top left, top right, bottom left, bottom right."""
    height, width = frame.shape[:2]
    seen = frame[
        [height // 4, height // 4, -height // 4, -height // 4], [width // 4, -width // 4] * 2
    ]
    distance = np.abs(seen[:, None].astype(int) - np.array(list(QUADRANTS.values()))[None]).sum(-1)
    assert np.all(distance.min(axis=1) < 60)
    return [list(QUADRANTS)[i] for i in distance.argmin(axis=1)]


def test_rotation_in_the_track_header_is_honoured(tmp_path):
    path = quadrant_clip(tmp_path / "clip.mp4")
    assert corners(video.sample(path).frames[0]) == ["red", "green", "blue", "white"]
    # x' = -y, y' = x turns clockwise, as a phone held upright writes it: red moves to top right.
    turn_by_header(path, (0, 1, -1, 0))
    clip = video.sample(path)
    assert clip.frames.shape == (4, 112, 56, 3)
    assert (clip.source_height, clip.source_width) == (112, 56)
    assert all(corners(f) == ["blue", "red", "white", "green"] for f in clip.frames)


def test_mirroring_in_the_track_header_is_honoured(tmp_path):
    path = quadrant_clip(tmp_path / "clip.mp4")
    turn_by_header(path, (-1, 0, 0, 1))
    assert corners(video.sample(path).frames[-1]) == ["green", "red", "white", "blue"]


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        (90, ["green", "white", "red", "blue"]),  # anticlockwise: red moves to the bottom left
        (180, ["white", "blue", "green", "red"]),
        (-90, ["blue", "red", "white", "green"]),
    ],
)
def test_rotation_written_by_ffmpeg_is_honoured(tmp_path, degrees, expected):
    path = quadrant_clip(tmp_path / "clip.mkv", rotation=degrees)
    assert corners(video.sample(path).frames[0]) == expected


# --- size ---------------------------------------------------------------------------------------


def test_frames_have_the_size_of_the_backbones_preprocessing(tmp_path):
    path = write_video(tmp_path / "clip.mkv", flat_frames(2, height=100, width=130))
    # 100 / 28 = 3.57 and 130 / 28 = 4.64 round to 4 and 5.
    clip = video.sample(path)
    assert clip.frames.shape == (2, 112, 140, 3)
    assert frame_numbers(clip) == [0, 1]
    assert (clip.source_height, clip.source_width) == (100, 130)
    # 112 · 140 > 10000: β = √1.3; ⌊100/β/28⌋ = ⌊3.13⌋ = 3 and ⌊130/β/28⌋ = ⌊4.07⌋ = 4.
    clip = video.sample(path, limits=SizeLimits(max_pixels=10000))
    assert clip.frames.shape == (2, 84, 112, 3)


def test_shrinking_antialiases(tmp_path):
    stripes = np.zeros((1, 112, 224, 3), np.uint8)
    stripes[:, :, ::2] = 255
    path = write_video(tmp_path / "clip.mkv", stripes)
    clip = video.sample(path, limits=SizeLimits(max_pixels=3136))
    assert clip.frames.shape[1] < 56
    inside = clip.frames[0, 4:-4, 4:-4].astype(int)
    # Stripes one pixel wide average to mid grey; picking pixels would leave 0 and 255.
    assert np.all(np.abs(inside - 127.5) < 8)
