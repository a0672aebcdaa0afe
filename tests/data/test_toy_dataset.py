"""The embedded world through tensorflow-datasets reads as it does when rendered on the fly."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from resadapt_jax.data.toy_dataset import StoredClips, ToyWorld
from resadapt_jax.data.toy_pipeline import question_batches
from resadapt_jax.data.toy_source import ToyClips
from resadapt_jax.data.toy_tokenizer import build_toy_tokenizer
from resadapt_jax.data.toy_world import ToyWorldConfig

WORLD = ToyWorldConfig(num_pairs=3, num_signs=2)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    ToyWorld(data_dir=directory, config="tiny", file_format="array_record").download_and_prepare()
    return directory


def stored(data_dir, split):
    return StoredClips(tfds.data_source("toy_world/tiny", data_dir=data_dir, split=split), WORLD)


def test_every_rendered_clip_is_stored(data_dir):
    rendered = ToyClips(WORLD, 8)
    for split, indices in (("train", range(6)), ("test", range(6, 8))):
        clips = stored(data_dir, split)
        records = sorted((clips[i] for i in range(len(clips))), key=lambda r: r["index"])
        assert [record["index"] for record in records] == list(indices)
        for record in records:
            for name, value in rendered[record["index"]].items():
                assert np.array_equal(record[name], value), name


def test_the_same_pipeline_reads_it(data_dir):
    tokenizer = build_toy_tokenizer()
    clips = stored(data_dir, "train")
    batch = next(question_batches(clips, tokenizer, 2))
    position = clips[0]["index"]
    expected = next(question_batches(ToyClips(WORLD, 1, first=position), tokenizer, 1))
    for name, value in expected.items():
        assert np.array_equal(batch[name][0], value[0]), name
