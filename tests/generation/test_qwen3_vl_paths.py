"""Evaluation and rollouts serve Qwen3-VL: rows of visual tokens keep their deepstack features."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from resadapt_jax.allocator import ScaleRange
from resadapt_jax.evaluation import respond
from resadapt_jax.evaluation.methods import Inputs
from resadapt_jax.generation.answer import DecodingConfig, answer
from resadapt_jax.generation.backbone import Backbone
from resadapt_jax.generation.prompts import Prompts, lay_out
from resadapt_jax.generation.visual import encode_pairs
from resadapt_jax.models.qwen3_vl import model
from resadapt_jax.models.qwen3_vl.config import Qwen3VLConfig, TextConfig, VisionConfig
from resadapt_jax.operators import CapacityLadder, SizeLimits
from resadapt_jax.training.size_levels import encode_levels, gather_levels, level_grids, size_levels

CONFIG = Qwen3VLConfig(
    text=TextConfig(
        vocab_size=24,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=10,
        mrope_section=(3, 1, 1),
    ),
    vision=VisionConfig(
        depth=2,
        hidden_size=8,
        intermediate_size=12,
        num_heads=1,
        out_hidden_size=16,
        deepstack_visual_indexes=(0,),
        num_position_embeddings=9,
    ),
    image_token_id=20,
    video_token_id=21,
    vision_start_token_id=22,
    vision_end_token_id=23,
    eos_token_id=2,
)
# Two pairs of 64 x 96 are 2 · 2 · 3 merged tokens of 32 pixels at scale 1.
NATIVE = 12
LADDER = CapacityLadder(steps=(6, NATIVE))
IDS = np.array([[5, 22, 21, 23, 22, 21, 23, 6], [7, 22, 21, 23, 22, 21, 23, 8]])
ENTRIES = np.array([[-1, -1, 0, -1, -1, 1, -1, -1]] * 2)


@pytest.fixture(scope="module")
def params():
    rng, tensors = np.random.default_rng(0), {}
    for key, shape in model.param_shapes(CONFIG).items():
        noise = rng.normal(size=shape).astype(np.float32)
        # Twice the usual scale: the answers must depend on what is shown.
        scale = 0.1 if len(shape) == 1 else 2 * np.prod(shape[1:]) ** -0.5
        tensors[key] = jnp.asarray(noise * np.float32(scale) + ("norm" in key))
    return traverse_util.unflatten_dict(tensors, sep=".")


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (2, 4, 8, 12, 3)).astype(np.uint8)
    return jnp.asarray(coarse.repeat(8, axis=2).repeat(8, axis=3))


@pytest.fixture(scope="module")
def prompts():
    return Prompts(
        compact_ids=jnp.asarray(IDS),
        compact_length=jnp.array([8, 8]),
        entry_index=jnp.asarray(ENTRIES),
    )


def test_evaluations_packed_batch_answers_as_clip_by_clip(params, frames, prompts):
    backbone = Backbone(CONFIG, params, None)
    decoding = DecodingConfig(max_new_tokens=3)
    # 6 + 1 tokens of the first clip, 2 + 4 of the second.
    grid_thw = np.array([[[1, 4, 6], [1, 2, 2]], [[1, 2, 4], [1, 4, 4]]], np.int32)
    shown = respond.show(backbone, frames, grid_thw, LADDER)
    packed = respond.respond(backbone, shown, Inputs(grid_thw, prompts), LADDER, decoding)
    run = functools.partial(
        answer,
        config=CONFIG,
        capacity=NATIVE,
        decoding=decoding,
        key=jax.random.key(0),
    )
    planned = jax.jit(run)(params, frames=frames, grid_thw=grid_thw, prompts=prompts)
    assert packed.num_tokens.tolist() == planned.num_tokens.tolist() == [7, 6]
    ours, expected = packed.generation, planned.generation
    np.testing.assert_array_equal(ours.token_ids, expected.token_ids)
    np.testing.assert_allclose(ours.log_probs, expected.log_probs, atol=2e-5)
    other = respond.show(backbone, frames[::-1], grid_thw, LADDER)
    other = respond.respond(backbone, other, Inputs(grid_thw, prompts), LADDER, decoding)
    assert np.abs(other.generation.log_probs - expected.log_probs).max() > 1e-3


def test_rollouts_cached_levels_are_the_planned_tokens(params, frames, prompts):
    limits = SizeLimits(patch_size=16, min_pixels=32 * 32)
    frames = frames[:, :, :32, :64]  # 1 x 2 merged tokens, or a single one
    levels = size_levels(32, 64, ScaleRange(s_min=0.2, s_max=1.0), limits)
    assert levels.tokens.tolist() == [1, 2]
    level = jnp.array([[1, 0], [0, 1]])

    @jax.jit
    def both_ways(params):
        grids = level_grids(level, levels, 2)
        layout = lay_out(prompts, grids, CONFIG, NATIVE)
        tokens = encode_levels(params, CONFIG, frames, levels)
        tokens = gather_levels(tokens, level[:, None], levels, NATIVE)[:, 0]
        bounds = {"max_height": 32, "max_width": 64}
        encode = functools.partial(encode_pairs, params, CONFIG, capacity=NATIVE, **bounds)
        planned, _ = jax.vmap(encode)(frames, grids)
        return (
            model.embed_prompt(params, CONFIG, layout, tokens),
            model.embed_prompt(params, CONFIG, layout, planned),
        )

    cached, planned = both_ways(params)
    assert len(planned.deepstack) == 1 and jnp.abs(planned.deepstack[0]).max() > 0.1
    for ours, expected in zip(jax.tree.leaves(cached), jax.tree.leaves(planned), strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-5)
