"""Clips of the embedded world as files: what is written reads back as what was drawn."""

import numpy as np
import pytest
from PIL import Image

from resadapt_jax.data import convert, toy_clips
from resadapt_jax.data.container import read_index
from resadapt_jax.data.row import parse_row
from resadapt_jax.data.sources import open_rows
from resadapt_jax.data.toy_source import ToyClips
from resadapt_jax.data.toy_world import ToyWorldConfig
from resadapt_jax.data.video import read_clip

WORLD = ToyWorldConfig(seed=7)  # the command's


def test_the_command_writes_a_corpus(tmp_path):
    assert toy_clips.main([str(tmp_path), "--count", "5"]) == 0
    convert.main([str(tmp_path / "questions.csv"), str(tmp_path / "questions.parquet")])
    rows = [parse_row(record) for record in open_rows(tmp_path / "questions.parquet")]
    assert [row.media[0].kind for row in rows] == ["video"] * 4 + ["image"]
    for row in rows:
        drawn = ToyClips(WORLD, 1, first=int(row.index))[0]
        assert row.truth == drawn["answer"] and drawn["task"] != "when"
        assert row.messages[0].content == f"<{row.media[0].kind}>{drawn['question']}"
        path = tmp_path / row.media[0].path
        if row.media[0].kind == "image":
            shown = drawn["frames"][2 * np.flatnonzero(drawn["evidence"])[0]]
            np.testing.assert_array_equal(np.asarray(Image.open(path)), shown)
        else:
            frames = read_clip(path, read_index(path), WORLD.num_frames).frames
            assert frames.shape == drawn["frames"].shape
            error = np.abs(frames.astype(int) - drawn["frames"])
            assert error.max() <= 6 and error.mean() < 1  # greys are rounded, strokes are not


def test_what_cannot_be_written_is_refused(tmp_path, capsys):
    assert toy_clips.main([str(tmp_path), "--seed", "-1"]) == 2
    assert "--seed must not be negative" in capsys.readouterr().err
    with pytest.raises(ValueError, match="times alone"):
        toy_clips.write_clips(tmp_path, ToyWorldConfig(tasks=("when",)), 1)
