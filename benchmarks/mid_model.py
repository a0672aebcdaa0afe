"""The model that the CPU benchmarks time: Qwen2.5-VL's architecture at about 0.1 B parameters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resadapt_jax.generation.answer import Prompts
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig, TextConfig, VisionConfig
from resadapt_jax.typing import Array

IMAGE, VIDEO, START, END = 8000, 8001, 8002, 8003

MID = Qwen2_5VLConfig(
    text=TextConfig(
        vocab_size=8192,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=2,
        mrope_section=(8, 12, 12),
    ),
    vision=VisionConfig(
        depth=8,
        hidden_size=512,
        intermediate_size=1408,
        num_heads=8,
        out_hidden_size=768,
        fullatt_block_indexes=(3, 7),
    ),
    image_token_id=IMAGE,
    video_token_id=VIDEO,
    vision_start_token_id=START,
    vision_end_token_id=END,
    eos_token_id=8191,
)
TEXT_LENGTH = 32  # tokens of the question


class Clip(NamedTuple):
    """One clip of ``K`` temporal pairs, all of one size, and a question about it."""

    frames: np.ndarray  # uint8 [2K, height, width, 3]
    grid_thw: np.ndarray  # int32 [K, 3], patches
    prompts: Prompts  # of one row

    @property
    def num_tokens(self) -> int:
        return int(self.grid_thw.prod(axis=1).sum()) // 4


def make_clip(num_pairs: int, height: int, width: int) -> Clip:
    """A clip of noise at its native size; each pair its own video entry in its own wrappers."""
    rng = np.random.default_rng(0)
    ids: list[int] = []
    entries: list[int] = []
    for pair in range(num_pairs):
        ids += [100 + pair, START, VIDEO, END]
        entries += [-1, -1, pair, -1]
    ids += rng.integers(200, 7000, TEXT_LENGTH).tolist()
    entries += [-1] * TEXT_LENGTH
    return Clip(
        frames=rng.integers(0, 256, (2 * num_pairs, height, width, 3), np.uint8),
        grid_thw=np.tile([1, height // 14, width // 14], (num_pairs, 1)).astype(np.int32),
        prompts=Prompts(
            compact_ids=jnp.array([ids], jnp.int32),
            compact_length=jnp.array([len(ids)], jnp.int32),
            entry_index=jnp.array([entries], jnp.int32),
        ),
    )


def device() -> str:
    return str(jax.devices()[0].device_kind)


def wait(x: Array) -> Array:
    return jax.block_until_ready(x)
