"""The embedded world as a tensorflow-datasets builder, read through `tfds.data_source`.

    ToyWorld(data_dir="data", file_format="array_record").download_and_prepare()
    source = tfds.data_source("toy_world", data_dir="data", split="train")
    batches = question_batches(StoredClips(source, ToyWorldConfig()), tokenizer, batch_size)

Nothing is downloaded: the clips are rendered. TensorFlow itself is not needed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import tensorflow_datasets as tfds

from resadapt_jax.data.toy_questions import PROBLEM_TYPES
from resadapt_jax.data.toy_source import ToyClips
from resadapt_jax.data.toy_world import ToyWorldConfig


class ToyWorldBuilderConfig(tfds.core.BuilderConfig):
    """A world and how many clips of it are written."""

    def __init__(self, *, world: ToyWorldConfig, num_train: int, num_test: int, **kwargs: Any):
        super().__init__(version=tfds.core.Version("1.0.0"), **kwargs)
        self.world, self.num_train, self.num_test = world, num_train, num_test


class ToyWorld(tfds.core.GeneratorBasedBuilder):
    """Clips of the embedded world with one question each; train and test share no clip."""

    name = "toy_world"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        ToyWorldBuilderConfig(
            name="default",
            description="The world of configs/toy.py.",
            world=ToyWorldConfig(),
            num_train=256,
            num_test=64,
        ),
        ToyWorldBuilderConfig(
            name="tiny",
            description="Three pairs and a handful of clips, for tests.",
            world=ToyWorldConfig(num_pairs=3, num_signs=2),
            num_train=6,
            num_test=2,
        ),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        world = self.builder_config.world
        features = {
            "index": tfds.features.Scalar(np.int64),
            "frames": tfds.features.Tensor(
                shape=(world.num_frames, world.size, world.size, 3),
                dtype=np.uint8,
                encoding="zlib",
            ),
            "times": tfds.features.Tensor(shape=(world.num_frames,), dtype=np.float64),
            "num_pictures": tfds.features.Scalar(np.int64),
            "task": tfds.features.ClassLabel(names=list(PROBLEM_TYPES)),
            "question": tfds.features.Text(),
            "answer": tfds.features.Text(),
            "evidence": tfds.features.Tensor(shape=(world.num_pairs,), dtype=np.bool_),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        config = self.builder_config
        return {
            "train": self._generate_examples(ToyClips(config.world, config.num_train)),
            "test": self._generate_examples(
                ToyClips(config.world, config.num_test, first=config.num_train)
            ),
        }

    def _generate_examples(self, clips: ToyClips) -> Iterator[tuple[int, dict[str, Any]]]:
        for record in clips:
            yield record["index"], record


@dataclass(frozen=True)
class StoredClips:
    """A ``tfds.data_source`` of this builder, with records just like those of ``ToyClips``."""

    source: Sequence[dict[str, Any]]
    config: ToyWorldConfig

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, position: SupportsIndex) -> dict[str, Any]:
        record = self.source[position]
        texts = {name: record[name].decode() for name in ("question", "answer")}
        return {**record, **texts, "task": list(PROBLEM_TYPES)[record["task"]]}
