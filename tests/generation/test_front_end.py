"""From bytes to visual tokens in one program: encoder, allocator, sizes, patches and tower."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generation_parts import CONFIGS, params_of
from smolvlm_factory import CONFIG as ENCODER
from smolvlm_factory import NETWORK, network_params, random_params

from resadapt_jax.allocator import Pictures, ScaleRange
from resadapt_jax.allocator.network import propose_scales
from resadapt_jax.allocator.smolvlm_encoder import SmolVLMEncoder
from resadapt_jax.generation.visual import encode_pairs
from resadapt_jax.models.smolvlm.preprocess import PreprocessConfig
from resadapt_jax.operators import NativeSizes, SizeLimits, fit_clips

HEIGHT, WIDTH, PAIRS, BUDGET = 90, 130, 2, 12


def propose(encoder, network, frames, text_ids):
    words = jnp.ones(text_ids.shape, bool)
    features = encoder.encode(Pictures.of_videos(frames), text_ids, words)
    return propose_scales(network, NETWORK, features, ScaleRange(s_min=0.2, s_max=1.8))


def allocate(scales, limits):
    present = jnp.ones(scales.shape, bool)
    return fit_clips(scales, present, NativeSizes.alike(HEIGHT, WIDTH, limits), BUDGET)[0]


def look(params, frames, grid_thw, *, config):
    side = config.vision.patch_size * config.vision.spatial_merge_size
    encode = partial(encode_pairs, capacity=BUDGET, max_height=12 * side, max_width=12 * side)
    return jax.vmap(lambda clip, grids: encode(params, config, clip, grids)[0])(frames, grid_thw)


@pytest.fixture(scope="module")
def inputs():
    encoder = SmolVLMEncoder(
        params=random_params(),
        config=ENCODER,
        preprocess=PreprocessConfig(size=32, longest_edge=48),
    )
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 2 * PAIRS, HEIGHT, WIDTH, 3), np.uint8)
    return encoder, network_params(), frames, rng.integers(0, 400, (2, 5)).astype(np.int32)


def test_it_is_one_program_and_the_same_as_its_parts(inputs):
    config, params = CONFIGS["qwen2_5_vl"], params_of("qwen2_5_vl")
    limits = SizeLimits.of_tower(config.vision.patch_size, config.vision.spatial_merge_size)

    @jax.jit
    def front_end(params, encoder, network, frames, text_ids):
        grid_thw = allocate(propose(encoder, network, frames, text_ids), limits)
        return look(params, frames, grid_thw, config=config), grid_thw

    assert "callback" not in str(front_end.trace(params, *inputs).jaxpr)
    visual, grid_thw = front_end(params, *inputs)
    scales = np.asarray(jax.jit(propose)(*inputs))
    parts = jax.jit(partial(allocate, limits=limits))(scales)
    np.testing.assert_array_equal(grid_thw, parts)
    want = jax.jit(partial(look, config=config))(params, inputs[2], parts)
    np.testing.assert_allclose(visual, want, atol=1e-4 * np.abs(want).max())
    used = np.prod(np.asarray(grid_thw), axis=-1).sum(axis=-1) // 4
    assert (used >= 0.9 * BUDGET).all() and (used <= BUDGET).all()
