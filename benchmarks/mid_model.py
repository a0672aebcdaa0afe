"""The models that the CPU benchmarks time: both families at about 0.1 B parameters."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resadapt_jax.generation.prompts import Prompts, lay_out
from resadapt_jax.models.families import ModelConfig
from resadapt_jax.models.prompt_layout import PromptLayout
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig
from resadapt_jax.models.qwen2_5_vl.config import TextConfig as Qwen2_5TextConfig
from resadapt_jax.models.qwen2_5_vl.config import VisionConfig as Qwen2_5VisionConfig
from resadapt_jax.models.qwen3_vl.config import Qwen3VLConfig
from resadapt_jax.models.qwen3_vl.config import TextConfig as Qwen3TextConfig
from resadapt_jax.models.qwen3_vl.config import VisionConfig as Qwen3VisionConfig
from resadapt_jax.typing import Array

IMAGE, VIDEO, START, END = 8000, 8001, 8002, 8003
TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
    "eos_token_id": 8191,
}
DECODER = {
    "vocab_size": 8192,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
}
TOWER = {
    "depth": 8,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_heads": 8,
    "out_hidden_size": 768,
}

MID = Qwen2_5VLConfig(
    text=Qwen2_5TextConfig(**DECODER, mrope_section=(8, 12, 12)),
    vision=Qwen2_5VisionConfig(**TOWER, fullatt_block_indexes=(3, 7)),
    **TOKENS,
)
MID_QWEN3 = Qwen3VLConfig(
    text=Qwen3TextConfig(**DECODER, head_dim=64, mrope_section=(12, 10, 10)),
    vision=Qwen3VisionConfig(**TOWER, deepstack_visual_indexes=(2, 4, 6)),
    **TOKENS,
)
TEXT_LENGTH = 32  # tokens of the question


class Clip(NamedTuple):
    """Temporal pairs of given sizes, each a video entry of its own, and a question about them."""

    grid_thw: np.ndarray  # int32 [K, 3], patches
    prompts: Prompts  # of one row

    @property
    def num_tokens(self) -> int:
        return int(self.grid_thw.prod(axis=1).sum()) // 4


def make_clip(sizes: Sequence[tuple[int, int]], seed: int = 0) -> Clip:
    """A clip whose pairs have these rows and columns of merged tokens, and a random question."""
    rng = np.random.default_rng(seed)
    ids: list[int] = []
    entries: list[int] = []
    for pair in range(len(sizes)):
        ids += [100 + pair, START, VIDEO, END]
        entries += [-1, -1, pair, -1]
    ids += rng.integers(200, 7000, TEXT_LENGTH).tolist()
    entries += [-1] * TEXT_LENGTH
    return Clip(
        grid_thw=np.array([(1, 2 * rows, 2 * cols) for rows, cols in sizes], np.int32),
        prompts=Prompts(
            compact_ids=jnp.array([ids], jnp.int32),
            compact_length=jnp.array([len(ids)], jnp.int32),
            entry_index=jnp.array([entries], jnp.int32),
        ),
    )


def lay_out_tightly(
    prompts: Prompts, grid_thw: Array, config: ModelConfig, capacity: int
) -> PromptLayout:
    """`lay_out` of one clip less the room that its placeholders no longer take."""
    layout = lay_out(prompts, grid_thw[None], config, capacity)
    room = layout.token_ids.shape[-1]
    length = room - len(grid_thw)
    return jax.tree.map(lambda x: x[..., :length] if x.shape[-1] == room else x, layout)


def device() -> str:
    return str(jax.devices()[0].device_kind)


def wait(x: Array) -> Array:
    return jax.block_until_ready(x)
