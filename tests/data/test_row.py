"""Records of the release's schema, and what is no such record."""

import pickle

import numpy as np
import pytest

from resadapt_jax.data.row import Medium, RowError, parse_row
from resadapt_jax.models.prompt_builder import Turn


def record(**columns):
    """A text-only row, with columns replaced or added."""
    return {
        "prompt": [{"role": "user", "content": "How many?"}],
        "reward_model": {"style": "rule", "ground_truth": "3"},
    } | columns


def asking(content, **columns):
    return record(prompt=[{"role": "user", "content": content}], **columns)


def test_a_text_only_row_needs_two_columns():
    row = parse_row(record())
    assert row.messages == (Turn(role="user", content="How many?"),)
    assert row.media == () and row.truth == "3"
    assert (row.problem_type, row.index, row.data_source, row.ability) == ("", "", "", "")
    assert row.cached_lengths == {}


def test_every_column_is_read():
    row = parse_row(
        asking(
            "<video>When?",
            videos=[{"video": "a.mp4", "min_frames": 8, "max_frames": 16, "start": 1, "end": 2.5}],
            data_source="charades",
            ability="grounding",
            extra_info={"problem_type": "temporal-grounding", "index": 7, "doc_id": "x"},
            len_frames_32=900,
            len_frames_64=None,
        )
    )
    assert row.media == (
        Medium(kind="video", path="a.mp4", min_frames=8, max_frames=16, start=1.0, end=2.5),
    )
    assert (row.data_source, row.ability) == ("charades", "grounding")
    assert (row.problem_type, row.index) == ("temporal-grounding", "7")
    assert row.cached_lengths == {32: 900}


def test_media_come_in_the_order_of_their_markers():
    row = parse_row(
        record(
            prompt=[
                {"role": "system", "content": "Compare <image> with"},
                {"role": "user", "content": "<video> and <image> and <video>."},
            ],
            images=["1.png", {"image": "2.png"}],
            videos=[{"video": "1.mp4"}, "2.mp4"],
        )
    )
    assert [medium.path for medium in row.media] == ["1.png", "1.mp4", "2.png", "2.mp4"]


@pytest.mark.parametrize(
    "value", [b"\xffpixels", {"bytes": b"\xffpixels", "path": "name"}, {"image": b"\xffpixels"}]
)
def test_a_medium_may_be_bytes(value):
    (medium,) = parse_row(asking("<image>?", images=[value])).media
    assert medium == Medium(kind="image", data=b"\xffpixels")
    assert "pixels" not in repr(medium)  # which may be megabytes


def test_the_other_names_of_start_and_end():
    videos = [{"video": "a.mp4", "video_start": 2, "video_end": 3}]
    (medium,) = parse_row(asking("<video>?", videos=videos)).media
    assert (medium.start, medium.end) == (2.0, 3.0)


def test_what_tensorflow_datasets_hands_out_is_read_too():
    row = parse_row(
        {
            "prompt": {"role": np.array([b"user"], object), "content": [b"<video>H\xc3\xa9?"]},
            "videos": {"video": np.array([b"clips/a.mp4"], object), "end": [2.5]},
            "reward_model": {"ground_truth": b"3"},
            "extra_info": {"index": np.int64(4)},
        }
    )
    assert row.messages[0].content == "<video>Hé?" and row.index == "4" and row.truth == "3"
    assert row.media == (Medium(kind="video", path="clips/a.mp4", end=2.5),)


def test_bytes_that_are_text_are_paths():
    """As tensorflow-datasets' lists of texts come."""
    images = np.array([b"a/\xc3\xa9.png"], object)
    (medium,) = parse_row(asking("<image>?", images=images)).media
    assert medium == Medium(kind="image", path="a/é.png")


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 4, 6, 3), np.uint8),
        [np.zeros((4, 6, 3), np.uint8)],
        {"image": [np.zeros((4, 6, 3), np.uint8)]},
        {"image": np.zeros((1, 4, 6, 3), np.uint8)},
    ],
)
def test_pixels_are_refused_by_name(images):
    with pytest.raises(RowError, match=r"images.* is an array \[.*4, 6, 3\], not a file"):
        parse_row(asking("<image>?", images=images))


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"prompt": None}, "missing column: 'prompt'"),
        ({"reward_model": None}, "missing column: 'reward_model'"),
        ({"reward_model": {"style": "rule"}}, "missing column: 'ground_truth' of 'reward_model'"),
        ({"prompt": []}, "empty prompt: the list 'prompt' has no message"),
        ({"prompt": [{"role": "user", "content": " "}]}, "prompt: no turn of the user says"),
        ({"prompt": "Why?"}, "wrong type: prompt is str, not a list"),
        ({"prompt": [{"role": "user"}]}, r"wrong type: prompt\[0\] needs a text 'content'"),
        ({"images": ["a.png"]}, "markers: 0 <image> in the prompt for 1 in 'images'"),
        ({"videos": [3]}, r"wrong type: videos\[0\] is int, not a record"),
        ({"videos": [{"min_frames": 3}]}, r"wrong type: videos\[0\] has neither a path"),
        ({"videos": [""]}, r"wrong type: videos\[0\] is '', no path"),
        ({"videos": ["a\0b"]}, "no path"),
        ({"videos": ["a\ud83d"]}, "no path"),
        ({"prompt": [{"role": "user", "content": "nice \ud83d"}]}, "content is not Unicode text"),
        ({"reward_model": {"ground_truth": "\udc00"}}, "ground_truth is not Unicode text"),
        ({"prompt": [{"role": "user", "content": "<video> "}]}, "no turn of the user says"),
        (
            {
                "prompt": [
                    {"role": "system", "content": "Think."},
                    {"role": "assistant", "content": "So?"},
                ]
            },
            "prompt: no turn of the user says anything",
        ),
        (
            {"prompt": [*record()["prompt"], {"role": "alien", "content": "?"}]},
            r"prompt\[1\] has the unknown role 'alien'",
        ),
        ({"videos": [{"video": "a", "max_frames": 2.5}]}, "max_frames of videos.0. is 2.5"),
        ({"videos": [{"video": "a", "max_frames": 0}]}, "asks for 0 frames"),
        ({"videos": [{"video": "a", "min_frames": 9, "max_frames": 8}]}, "9 to 8 frames"),
        ({"videos": [{"video": "a", "start": float("nan")}]}, "start of videos.0. is nan"),
        ({"videos": [{"video": "a", "start": -1.0}]}, "from -1.0 s to None s"),
        ({"videos": [{"video": "a", "start": 4, "end": 4}]}, "from 4.0 s to 4.0 s"),
        ({"images": [{"image": "a", "end": 0}]}, r"images\[0\] is an image and has 'end'"),
        ({"extra_info": "x"}, "wrong type: extra_info is str"),
        ({"data_source": ["x"]}, "wrong type: data_source is list, not text"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(columns, reason):
    with pytest.raises(RowError, match=reason) as caught:
        parse_row(record(**columns))
    assert "\n" not in str(caught.value)


def test_the_counts_of_markers_and_media_are_named():
    with pytest.raises(RowError, match="2 <video> in the prompt for 1 in 'videos'"):
        parse_row(asking("<video> and <video>", videos=["a.mp4"]))


def test_a_reason_survives_the_way_from_another_process():
    error = pickle.loads(pickle.dumps(RowError("markers", "one\nmore")))
    assert (error.kind, error.detail, str(error)) == ("markers", "one more", "markers: one more")
