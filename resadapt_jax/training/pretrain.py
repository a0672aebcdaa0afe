"""Pre-training of the tiny backbone on the embedded world, at random mixed resolutions.

Two phases on clips made on the fly. First the vision tower learns to name what each pair shows
(a linear readout that is thrown away afterwards); then tower and decoder learn to answer several
questions per clip, each pair at a size drawn at random, so that an answer is learnt from whatever
resolution its evidence happens to have.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from transformers import PreTrainedTokenizerBase

from kernels.resize_patchify import resize_patchify
from resadapt_jax.data.toy_source import LABEL_CLASSES
from resadapt_jax.data.toy_world import ToyWorldConfig
from resadapt_jax.models.prompt import PromptLayout, expand_prompt
from resadapt_jax.models.qwen2_5_vl import model, text, vision
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig, TextConfig, VisionConfig
from resadapt_jax.models.vision_plan import plan_vision
from resadapt_jax.typing import Array, Bool, Float, Int, Key, Params, UInt8


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pre-training of the tiny backbone."""

    world: ToyWorldConfig = field(default_factory=lambda: ToyWorldConfig(seed=1))
    """The clips to train on; its seed keeps them apart from those of allocator training and evaluation."""
    output_dir: str = "runs/toy_pretrain"
    """Where checkpoints, logs and the finished Hugging Face directory ``backbone`` go."""
    batch_size: int = 32
    """Clips per step."""
    turns: int = 5
    """Questions per clip."""
    tower_steps: int = 400
    """Steps of the first phase, which trains the tower on per-pair labels."""
    joint_steps: int = 1600
    """Steps of the second phase, which trains tower and decoder on the answers."""
    learning_rate: float = 2e-3
    """Peak AdamW learning rate of each phase; linear warm-up over 50 steps, cosine to zero."""
    weight_decay: float = 0.05
    label_weight: float = 0.3
    """Weight of the per-pair label loss in the second phase."""
    full_size_clips: float = 0.3
    """Fraction of clips shown wholly at full size."""
    token_capacity: float = 0.7
    """Visual tokens a batch may need, as a fraction of every pair at full size; the rest is refused."""
    seed: int = 0


@struct.dataclass
class DialogueBatch:
    """Clips with questions and answers; ``C`` compact positions, ``A`` answer tokens."""

    frames: UInt8[Array, "B F height width 3"]
    labels: Int[Array, "B K 4"]
    compact_ids: Int[Array, "B C"]
    compact_length: Int[Array, " B"]
    entry_index: Int[Array, "B C"]
    answer_index: Int[Array, "B A"]  # compact position of each answer token, -1 padding


def draw_levels(
    key: Key[Array, ""], batch: int, num_pairs: int, levels: int, full_size_clips: float
) -> Int[Array, "B K"]:
    """Sides in merged tokens: a clip is wholly at full size, or its pairs are at mixed sizes.

    A mixed clip draws how many of its pairs are at full size; half of the others are at the
    smallest size, where most of an adaptive allocation's pairs end up.
    """
    whole, share, full, small, middle = jax.random.split(key, 5)
    probability = jax.random.uniform(share, (batch, 1))
    is_whole = jax.random.bernoulli(whole, full_size_clips, (batch, 1))
    is_full = jax.random.uniform(full, (batch, num_pairs)) < probability
    is_small = jax.random.bernoulli(small, 0.5, (batch, num_pairs))
    other = jax.random.randint(middle, (batch, num_pairs), 2, levels)
    level = jnp.where(is_full, levels, jnp.where(is_small, 1, other))
    return jnp.where(is_whole, levels, level)


def encode_pairs(
    params: Params,
    config: Qwen2_5VLConfig,
    frames: UInt8[Array, "B F height width 3"],
    levels: Int[Array, "B K"],
    capacity: int,
) -> tuple[Float[Array, "U D"], Any]:
    """All pairs of a batch through the tower in one packed layout; returns tokens and plan."""
    size = frames.shape[2]
    token_side = config.vision.patch_size * config.vision.spatial_merge_size
    sides = levels.reshape(-1)
    grid_thw = jnp.stack([jnp.ones_like(sides), 2 * sides, 2 * sides], axis=-1)
    max_frame_tokens = (size // token_side) ** 2
    plan = plan_vision(grid_thw, capacity=capacity, max_frame_tokens=max_frame_tokens)
    patches = resize_patchify(
        frames.reshape(-1, *frames.shape[2:]),
        token_side * sides,
        token_side * sides,
        plan.patch_entry,
        plan.patch_row,
        plan.patch_col,
        max_height=size,
        max_width=size,
    )
    return vision.encode(params, config, patches, plan), plan


def readout_loss(
    readout: dict[str, Array], tokens: Float[Array, "U D"], plan: Any, labels: Int[Array, "E 4"]
) -> tuple[Array, Array]:
    """Cross-entropy of the labels read from a pooled pair, and accuracy on sign-bearing pairs."""
    entry = jnp.where(plan.token_entry >= 0, plan.token_entry, labels.shape[0])
    weight = jax.nn.sigmoid(tokens @ readout["pool"]) + 1e-3
    pooled = jax.ops.segment_sum(weight * tokens, entry, labels.shape[0] + 1)
    total = jax.ops.segment_sum(weight, entry, labels.shape[0] + 1)
    pooled = (pooled / jnp.maximum(total, 1e-6))[:-1]
    logits = pooled @ readout["classes"] + readout["bias"][None, :]
    bounds = np.cumsum(LABEL_CLASSES)[:-1].tolist()
    seen = labels[:, 0] > 0
    losses, correct = [], []
    for part, part_logits in enumerate(jnp.split(logits, bounds, axis=-1)):
        target = labels[:, part]
        losses.append(optax.softmax_cross_entropy_with_integer_labels(part_logits, target))
        hit = jnp.argmax(part_logits, axis=-1) == target
        correct.append(jnp.sum(hit & seen) / jnp.maximum(jnp.sum(seen), 1))
    return jnp.mean(sum(losses)), jnp.stack(correct)


def answer_loss(
    params: Params,
    config: Qwen2_5VLConfig,
    tokens: Float[Array, "U D"],
    plan: Any,
    batch: DialogueBatch,
    prompt_capacity: int,
) -> tuple[Array, Array]:
    """Cross-entropy of the answer tokens, and the fraction predicted right."""
    num_clips, num_pairs = batch.labels.shape[:2]
    grids = plan.grid_thw.reshape(num_clips, num_pairs, 3)
    layout: PromptLayout = jax.vmap(
        lambda ids, length, entry, grid: expand_prompt(
            ids, length, entry, grid, jnp.ones(num_pairs), capacity=prompt_capacity
        )
    )(batch.compact_ids, batch.compact_length, batch.entry_index, grids)
    counts = plan.token_count.reshape(num_clips, num_pairs).sum(axis=1)
    first = jnp.cumsum(counts) - counts
    most = num_pairs * plan.max_frame_tokens
    rows = jnp.minimum(first[:, None] + jnp.arange(most)[None, :], len(tokens) - 1)
    embeds = model.embed_prompt(params, config, layout, tokens[rows])
    hidden, _ = text.forward(params, config, embeds, layout.position_ids, layout.mask)
    # Every answer stands behind all visual entries, so expansion shifts it by a constant per clip.
    shift = (counts - num_pairs)[:, None]
    valid = batch.answer_index >= 0
    before = jnp.where(valid, batch.answer_index + shift - 1, 0)
    targets = jnp.take_along_axis(batch.compact_ids, jnp.maximum(batch.answer_index, 0), axis=1)
    at_answer = jnp.take_along_axis(hidden, before[..., None], axis=1)
    logits = text.logits(params, config, at_answer)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), targets)
    hit = (jnp.argmax(logits, axis=-1) == targets) & valid
    return jnp.sum(loss * valid) / jnp.sum(valid), jnp.sum(hit) / jnp.sum(valid)


def toy_backbone_config(tokenizer: PreTrainedTokenizerBase) -> Qwen2_5VLConfig:
    """The tiny backbone: Qwen2.5-VL's architecture at about 1.5 M parameters."""
    token_id = tokenizer.convert_tokens_to_ids
    return Qwen2_5VLConfig(
        text=TextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            mrope_section=(4, 6, 6),
            rope_theta=10000.0,
            max_position_embeddings=4096,
        ),
        vision=VisionConfig(
            depth=3,
            hidden_size=96,
            intermediate_size=192,
            num_heads=2,
            out_hidden_size=128,
            fullatt_block_indexes=(2,),
        ),
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
