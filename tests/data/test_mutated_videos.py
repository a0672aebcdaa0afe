"""Two hundred files that were videos: none crashes, hangs or goes uncounted."""

import time
from collections import Counter

import pytest
from video_factory import mutated_videos

from resadapt_jax.data.frame_sampling import SamplingConfig
from resadapt_jax.data.load import Loading, load_row
from resadapt_jax.data.row import Medium, Row, RowError
from resadapt_jax.data.shapes import BatchShape
from resadapt_jax.data.survey import RowFilter, plan_medium
from resadapt_jax.operators.sizes import SizeLimits

SHAPE = BatchShape(16, 280, 280, 16, 16)
LOADING = Loading(sampling=SamplingConfig(max_frames=16), limits=SizeLimits())
FILTER = RowFilter(sampling=LOADING.sampling, limits=LOADING.limits, max_prompt_tokens=99)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Of each file: its kind, why it was skipped in training and in the survey, and seconds."""
    folder = tmp_path_factory.mktemp("mutated")
    found = []
    for path in mutated_videos(folder):
        start = time.monotonic()
        medium = Medium(kind="video", path=path.name)
        loaded = load_row(Row(messages=(), media=(medium,)), SHAPE, folder, LOADING)
        try:
            plan_medium(medium, folder, FILTER)
            reason = ""
        except RowError as error:
            reason = str(error)
        found.append((path.name, loaded, reason, time.monotonic() - start))
    return found


def test_there_are_two_hundred_and_none_takes_ten_seconds(outcomes):
    assert len(outcomes) == 200
    assert max(seconds for *_, seconds in outcomes) < 10


def test_each_gives_frames_or_a_reason(outcomes):
    for name, loaded, _, _ in outcomes:
        assert loaded.frame_mask.any() == (loaded.skipped == ""), name
        assert (loaded.medium >= 0).any() == (loaded.skipped == ""), name
        assert "\n" not in loaded.skipped
        # A reason that no one foresaw names the Python error; there is none such here.
        assert "Error" not in loaded.skipped, (name, loaded.skipped)


def test_skips_are_counted_by_reason(outcomes):
    reasons = Counter(loaded.skipped.split(":")[0] for _, loaded, _, _ in outcomes)
    assert set(reasons) == {"", "unreadable video", "damaged video"}
    # Of 60 files nothing but the header or the name was changed, and most of them are whole; most
    # other damage to thirty frames costs more than three of them.
    assert 60 < reasons[""] < 120
    assert reasons["damaged video"] > 20
    # Some lack a frame or three, and are used all the same.
    assert 5 < sum(loaded.damage != "" for _, loaded, _, _ in outcomes) < 40
    kinds = Counter(name.split("-")[0] for name, loaded, _, _ in outcomes if loaded.skipped)
    assert kinds["empty"] == 5 and kinds["cut"] > 5


def test_a_wrong_suffix_alone_does_no_harm(outcomes):
    named = [loaded.skipped for name, loaded, _, _ in outcomes if name.startswith("named")]
    assert named == [""] * 10


def test_what_the_survey_refuses_gives_no_frames(outcomes):
    for name, loaded, reason, _ in outcomes:
        if "not a video" in reason or "no video stream" in reason:
            assert loaded.skipped, name
