"""What rows will need, by their headers, and why some cannot be used."""

import errno
import json
import os

import numpy as np
import pytest
from PIL import Image
from video_factory import block_frames, flat_frames, turn_by_header, write_video

from resadapt_jax.data import survey as survey_file
from resadapt_jax.data.frame_sampling import SamplingConfig
from resadapt_jax.data.load import Loading, load_row
from resadapt_jax.data.row import RowError, UnknownTask, parse_row
from resadapt_jax.data.shapes import BatchShape
from resadapt_jax.data.sources import open_rows
from resadapt_jax.data.survey import RowFilter, cached_survey, filter_row, survey
from resadapt_jax.errors import UserError
from resadapt_jax.operators.sizes import SizeLimits

FILTER = RowFilter(
    sampling=SamplingConfig(fps=2.0, min_frames=4, max_frames=8),
    limits=SizeLimits(),
    max_prompt_tokens=40,
)


def row(content="Why?", **columns):
    return {
        "prompt": [{"role": "user", "content": content}],
        "reward_model": {"ground_truth": "A"},
    } | columns


def count_tokens(row, seconds):
    """A token a word, and one a pair; two of the query."""
    words = sum(len(message.content.split()) for message in row.messages)
    return words + sum(map(len, seconds)), 2


def needs(folder, record, row_filter=FILTER, count_tokens=count_tokens, check=None):
    return filter_row(parse_row(record), folder, row_filter, count_tokens, check)[0]


def test_a_videos_needs_are_by_its_header(tmp_path):
    write_video(tmp_path / "a.mkv", flat_frames(40))  # 4 s, 56 x 84
    found = needs(tmp_path, row("<video> Why?", videos=["a.mkv"]))
    # Eight frames at two a second; four pairs of 2 x 3 tokens; two words and four pairs.
    assert found == (8, 56, 84, 6, 2, 4 * 6)


def test_every_medium_counts_and_the_largest_decides_the_canvas(tmp_path):
    write_video(tmp_path / "a.mkv", flat_frames(5))  # four frames
    write_video(tmp_path / "b.mkv", flat_frames(3))  # three, so two pairs
    Image.fromarray(np.zeros((140, 28, 3), np.uint8)).save(tmp_path / "a.png")
    record = row("<image><video><video> Why?", images=["a.png"], videos=["a.mkv", "b.mkv"])
    assert needs(tmp_path, record) == (10, 140, 84, 2 + 5, 2, 5 + 4 * 6)


def test_text_alone_needs_a_pair_that_is_masked(tmp_path):
    assert needs(tmp_path, row()) == (2, 28, 28, 1, 2, 0)


def test_pairs_are_expected_when_they_will_be(tmp_path):
    write_video(tmp_path / "a.mkv", flat_frames(40))
    seen = []

    def count_tokens(row, seconds):
        seen.extend(seconds)
        return 1, 1

    record = row(
        "<video><video> Why?", videos=["a.mkv", {"video": "a.mkv", "start": 1.0, "end": 3.0}]
    )
    needs(tmp_path, record, count_tokens=count_tokens)
    loading = Loading(sampling=FILTER.sampling, limits=FILTER.limits)
    loaded = load_row(parse_row(record), BatchShape(12, 56, 84, 9, 9), tmp_path, loading)
    for expected, real in zip(seen, loaded.seconds_per_medium, strict=True):
        np.testing.assert_allclose(expected, real, atol=0.05 + 1e-9)  # half a frame's time


def test_a_turned_video_is_planned_upright(tmp_path):
    path = write_video(tmp_path / "a.mp4", flat_frames(4), codec="libx264")
    turn_by_header(path, (0, 1, -1, 0))
    found = needs(tmp_path, row("<video> Why?", videos=["a.mp4"]))
    assert (found.height, found.width) == (84, 56)


def corpus(folder):
    write_video(folder / "a.mp4", block_frames(10), codec="libx264")
    (folder / "b.mp4").write_text("hello")
    records = [
        row("<video> Why?", videos=["a.mp4"]),
        row("<video>?"),
        row("<video>?", videos=["c.mp4"]),
        row(" ".join(["word"] * 41), extra_info={"problem_type": "open"}),
        row("<video>?", videos=["../a.mp4"]),
        row("<video>?", videos=["b.mp4"]),
        row("<video>?", videos=["file:///etc/passwd"]),
        row("<video>?", videos=["d.mp4"]),
        row("Text?", extra_info={"problem_type": "choice"}),
        {"prompt": [], "reward_model": {"ground_truth": "A"}},
    ]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, records)) + "\n{oops\n")
    return path


def surveyed(folder, **options):
    return survey(open_rows(corpus(folder)), folder, FILTER, count_tokens, **options)


def test_rows_that_cannot_be_used_are_counted_with_their_reasons(tmp_path):
    found = surveyed(tmp_path)
    assert found.positions.tolist() == [0, 8]
    assert found.tasks == ("", "choice")
    assert found.row_sizes.shape == (2, 6)
    assert {at: kind for at, kind, _ in found.dropped} == {
        1: "markers",
        2: "no such file",
        3: "prompt too long",
        4: "outside the media root",
        5: "unreadable video",
        6: "a URL",
        7: "no such file",
        9: "empty prompt",
        10: "unreadable row",
    }
    lines = found.report("rows").splitlines()
    assert lines[0] == "rows: 11 rows, 2 kept, 9 dropped"
    assert lines[1].split() == ["2", "no", "such", "file"]  # the commonest first
    assert lines[2].strip() == f"row 2: {tmp_path}/c.mp4"
    assert "row 3: 41 tokens of 40" in found.report("rows")


def test_the_number_of_threads_changes_nothing(tmp_path):
    one, many = surveyed(tmp_path, threads=1), surveyed(tmp_path, threads=8)
    np.testing.assert_array_equal(one.row_sizes, many.row_sizes)
    assert one.dropped == many.dropped


def test_answers_are_checked(tmp_path):
    def check(problem_type, truth):
        return f"no grader for {problem_type!r}" if problem_type != "choice" else None

    assert needs(tmp_path, row(extra_info={"problem_type": "choice"}), check=check)
    with pytest.raises(RowError, match="answer: no grader for ''"):
        needs(tmp_path, row(), check=check)


def test_length_with_visual_tokens_is_limited_by_the_files_own_count_if_it_has_one(tmp_path):
    write_video(tmp_path / "a.mkv", flat_frames(40))
    row_filter = RowFilter(**(vars(FILTER) | {"max_length": 26}))
    record = row("<video> Why?", videos=["a.mkv"])
    # Two words and 24 visual tokens: the four that stood for the pairs are among them.
    assert needs(tmp_path, record, row_filter).native_tokens == 24
    with pytest.raises(RowError, match="too long with its media: 26 tokens of 25"):
        needs(tmp_path, record, RowFilter(**(vars(FILTER) | {"max_length": 25})))
    with pytest.raises(RowError, match="900 tokens of 26"):
        needs(tmp_path, record | {"len_frames_8": 900}, row_filter)
    needs(tmp_path, record | {"len_frames_32": 900}, row_filter)  # of other numbers of frames


def test_an_error_in_measuring_is_not_a_bad_row(tmp_path):
    def count_tokens(row, seconds):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        needs(tmp_path, row(), count_tokens=count_tokens)


def test_an_error_that_no_one_foresaw_says_where(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([json.dumps(row("One")), json.dumps(row("Two"))]))

    def fail(row, seconds):
        if row.messages[0].content == "Two":
            raise error
        return 1, 1

    error = KeyError("a bug")
    with pytest.raises(KeyError) as caught:
        survey(open_rows(path), tmp_path, FILTER, fail, name="rows.jsonl")
    assert caught.value.__notes__ == ["at row 1 of rows.jsonl"]
    error = UserError("a wrong setting")
    with pytest.raises(UserError, match="row 1 of rows.jsonl: a wrong setting"):
        survey(open_rows(path), tmp_path, FILTER, fail, name="rows.jsonl")


def test_types_that_nobody_knows_are_listed_with_their_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([json.dumps(row(word)) for word in ("a", "b", "c")]))
    found = []

    def check(problem_type, truth):
        found.append(1)
        raise UnknownTask("riddle", "known are others")

    made = survey(open_rows(path), tmp_path, FILTER, count_tokens, check, threads=1)
    assert made.unknown_tasks == (("riddle", (0, 1, 2)),)
    assert made.dropped[1] == (1, "unknown problem type", "known are others")
    kept = [cached_survey(tmp_path / "kept", path, FILTER, "", lambda: made) for _ in range(2)]
    assert kept[1].unknown_tasks == made.unknown_tasks and kept[1].digest == made.digest


def test_a_kept_survey_is_not_made_again(tmp_path):
    path = corpus(tmp_path)
    made = []

    def make():
        made.append(1)
        return survey(open_rows(path), tmp_path, FILTER, count_tokens)

    def again(row_filter=FILTER, settings="tokenizer"):
        return cached_survey(tmp_path / "cache", path, row_filter, settings, make)

    first, second = again(), again()
    assert len(made) == 1
    np.testing.assert_array_equal(first.positions, second.positions)
    np.testing.assert_array_equal(first.row_sizes, second.row_sizes)
    assert (first.tasks, first.dropped) == (second.tasks, second.dropped)
    again(settings="another tokenizer")
    again(RowFilter(**(vars(FILTER) | {"max_prompt_tokens": 50})))
    os.utime(path, (0, 0))
    again()
    assert len(made) == 4
    for file in (tmp_path / "cache").iterdir():
        file.write_text('{"positions": [')
    again()
    assert len(made) == 5


def test_a_survey_that_cannot_be_kept_is_used_all_the_same(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(survey_file, "atomic_write", full)
    path = corpus(tmp_path)
    made = survey(open_rows(path), tmp_path, FILTER, count_tokens)
    assert cached_survey(tmp_path / "cache", path, FILTER, "", lambda: made) is made
    assert "No space left" in caplog.text


def test_no_more_than_a_videos_first_frame_is_decoded(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mkv", flat_frames(40))
    shown = []
    first_frame = survey_file.read_header.__globals__["first_frame"]
    monkeypatch.setitem(
        survey_file.read_header.__globals__,
        "first_frame",
        lambda *args: shown.append(first_frame(*args)) or shown[-1],
    )
    needs(tmp_path, row("<video> Why?", videos=["a.mkv"]))
    assert [frame.pts for frame in shown] == [0]
