"""Ways to compute a model: the same results and gradients, less memory, none for frozen parts."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.segment_attention import Backend
from resadapt_jax.models.compute import Compute, Remat, with_compute
from resadapt_jax.models.prompt_layout import expand_prompt
from resadapt_jax.models.qwen2_5_vl import model, text
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig, TextConfig, VisionConfig
from resadapt_jax.models.vision_plan import plan_vision

CONFIG = Qwen2_5VLConfig(
    text=TextConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        mrope_section=(1, 1, 2),
    ),
    vision=VisionConfig(
        depth=3,
        hidden_size=24,
        intermediate_size=32,
        num_heads=2,
        out_hidden_size=32,
        fullatt_block_indexes=(1,),
    ),
    image_token_id=30,
    video_token_id=31,
    vision_start_token_id=28,
    vision_end_token_id=29,
)
# Attention of a kind of its own; test_segment_attention_backends.py has the other backends.
WAYS = [Compute(attention=Backend.BLOCKWISE), *(Compute(remat=x) for x in Remat if x != Remat.NONE)]


def inputs(grid=((1, 4, 6), (2, 6, 4))):
    grids = jnp.array(grid)
    tokens = int(sum(t * h * w for t, h, w in grid)) // 4
    plan = plan_vision(grids, capacity=tokens + 4)
    rng = np.random.default_rng(0)
    patches = jnp.asarray(rng.normal(size=(4 * (tokens + 4), 1176)), jnp.float32)
    layout = expand_prompt(
        jnp.array([1, 28, 31, 29, 28, 31, 29, 2, 3]),
        jnp.int32(9),
        jnp.array([-1, -1, 0, -1, -1, 1, -1, -1, -1]),
        grids,
        jnp.ones(len(grid)),
        capacity=tokens + 12,
    )
    return jax.tree.map(lambda x: x[None], (patches, plan, layout))


def loss(config, params, patches, plan, layout):
    hidden = model.forward(params, config, patches, plan, layout)
    logits = text.logits(params, config, hidden)
    return jnp.sum(jnp.where(layout.mask[:, :, None], jnp.square(logits), 0.0))


def value_and_gradients(compute):
    config = with_compute(CONFIG, compute)
    params = model.init_params(jax.random.key(0), CONFIG)
    return jax.jit(jax.value_and_grad(lambda p: loss(config, p, *inputs())))(params)


@pytest.fixture(scope="module")
def reference():
    return value_and_gradients(Compute(attention=Backend.DENSE))


@pytest.mark.parametrize("compute", WAYS, ids=str)
def test_however_computed_values_and_gradients_are_the_same(compute, reference):
    got = value_and_gradients(compute)
    for x, y in zip(*map(jax.tree.leaves, (got, reference)), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-4 * float(np.abs(y).max()))


def kept_bytes(function, params):
    """What the forward pass keeps for the backward pass, the parameters themselves included."""
    kept = jax.eval_shape(lambda p: jax.vjp(function, p)[1], params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


def test_recomputing_layers_keeps_less():
    text_config = replace(CONFIG.text, num_hidden_layers=12, intermediate_size=2048)
    params = model.init_params(jax.random.key(0), replace(CONFIG, text=text_config))
    batch = inputs(((1, 16, 16),) * 2)
    length = batch[-1].mask.shape[1]

    def needed(remat):
        config = with_compute(replace(CONFIG, text=text_config), Compute(remat=remat))
        return kept_bytes(lambda p: loss(config, p, *batch), params)

    everything, matmuls, inputs_alone = (needed(remat) for remat in Remat)
    # A decoder layer's feed-forward alone has three arrays of length x 2048; two are products.
    hidden = 12 * length * 2048 * 4
    assert inputs_alone < matmuls - 2 * hidden
    assert matmuls < everything - hidden


@pytest.mark.parametrize("remat", [Remat.NONE, Remat.LAYERS])
def test_a_frozen_tower_gets_no_gradient_memory(remat):
    batch = inputs()

    def needed(depth, freeze):
        config = replace(CONFIG, vision=replace(CONFIG.vision, depth=depth))
        config = with_compute(config, Compute(remat=remat))
        params = model.init_params(jax.random.key(0), config)
        fixed = {"visual": params.pop("visual")} if freeze else {}
        return kept_bytes(lambda p: loss(config, p | fixed, *batch), params)

    assert needed(8, freeze=True) == needed(2, freeze=True)
    assert needed(8, freeze=False) > needed(2, freeze=False)
