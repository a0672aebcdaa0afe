"""Log-probs and their gradients on meshes of eight devices: those of one device."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from resadapt_jax.allocator import AllocatorConfig, EncoderFeatures, allocate, init_params
from resadapt_jax.allocator.partition import PARTITION as ALLOCATOR
from resadapt_jax.generation.teacher_forcing import answer_log_probs
from resadapt_jax.models.families import family_of
from resadapt_jax.models.partition import BATCH, map_rows, partition_specs, tree_shardings
from resadapt_jax.models.prompt_layout import expand_prompt
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig
from resadapt_jax.models.qwen2_5_vl.config import TextConfig as Qwen2_5Text
from resadapt_jax.models.qwen2_5_vl.config import VisionConfig as Qwen2_5Vision
from resadapt_jax.models.qwen2_5_vl.partition import PARTITION as QWEN2_5
from resadapt_jax.models.qwen3_vl.config import Qwen3VLConfig
from resadapt_jax.models.qwen3_vl.config import TextConfig as Qwen3Text
from resadapt_jax.models.qwen3_vl.config import VisionConfig as Qwen3Vision
from resadapt_jax.models.qwen3_vl.partition import PARTITION as QWEN3
from resadapt_jax.models.stacking import stack_layers
from resadapt_jax.models.vision_plan import plan_vision

MESHES = (8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)
BATCH_SIZE, CAPACITY, NUM_TOKENS, VIDEO = 8, 6, 3, 21
TOKENS = {
    "image_token_id": 20,
    "video_token_id": VIDEO,
    "vision_start_token_id": 22,
    "vision_end_token_id": 23,
}
# Eight divides heads, widths and the vocabulary, so that every rule of the tables splits something.
TEXT = {
    "vocab_size": 24,
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}
VISION = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_heads": 8,
    "out_hidden_size": 64,
    "patch_size": 4,
}
BACKBONES = {
    "qwen2_5_vl": (
        Qwen2_5VLConfig(
            text=Qwen2_5Text(**TEXT, mrope_section=(2, 1, 1)),
            vision=Qwen2_5Vision(**VISION, window_size=8, fullatt_block_indexes=(1,)),
            **TOKENS,
        ),
        QWEN2_5,
    ),
    "qwen3_vl": (
        Qwen3VLConfig(
            text=Qwen3Text(**TEXT, head_dim=8, mrope_section=(2, 1, 1)),
            vision=Qwen3Vision(**VISION, deepstack_visual_indexes=(0,), num_position_embeddings=16),
            **TOKENS,
        ),
        QWEN3,
    ),
}
NETWORK = AllocatorConfig(
    frame_width=16,
    text_width=16,
    width=32,
    num_heads=4,
    head_dim=8,
    num_space_time_layers=1,
    pool_width=16,
    head_width=16,
    text_gate="paper",
    start="released",
)


def make_mesh(shape):
    return jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def randomised(params):
    """Every parameter matters: none is 0, and no norm is 1."""
    rng = np.random.default_rng(0)

    def noise(x):
        scale = np.prod(x.shape[1:]) ** -0.5 if x.ndim > 1 else 0.3
        return jnp.asarray(x + scale * rng.normal(size=x.shape), jnp.float32)

    return jax.tree.map(noise, params)


@cache
def backbone_case(name):
    """A loss that returns what it sums, and its parameters, batch and table."""
    config, table = BACKBONES[name]
    shapes = family_of(config).model.param_shapes(config)
    ones = {key: np.full(shape, len(shape) == 1) for key, shape in shapes.items()}
    params = stack_layers(traverse_util.unflatten_dict(randomised(ones), sep="."))
    rng = np.random.default_rng(1)
    # 2 + 4, 4, 2 and no visual tokens.
    grids = np.array([[[1, 2, 4], [1, 4, 4]], [[0, 0, 0], [1, 4, 4]]] * 2, np.int32).repeat(2, 0)
    grids[4:6, 1] = grids[6:, 1] = 0
    windows = config.vision.window_patches
    plans = [plan_vision(grid, capacity=CAPACITY, window_patches=windows) for grid in grids]
    compact, entry = np.array([3, VIDEO, 5, VIDEO, 4]), np.array([-1, 0, -1, 1, -1])
    layouts = [
        expand_prompt(compact, np.int32(5), entry, grid, np.ones(2), capacity=CAPACITY + 5)
        for grid in grids
    ]
    batch = {
        "patches": rng.normal(size=(BATCH_SIZE, 4 * CAPACITY, config.vision.patch_features)),
        "plan": jax.tree.map(lambda *rows: np.stack(rows), *plans),
        "layout": jax.tree.map(lambda *rows: np.stack(rows), *layouts),
        "token_ids": rng.integers(0, 20, (BATCH_SIZE, NUM_TOKENS)),
        "mask": np.arange(NUM_TOKENS)[None, :] < 1 + np.arange(BATCH_SIZE)[:, None] % 3,
        "weights": rng.normal(size=(BATCH_SIZE, NUM_TOKENS)),
    }
    batch["patches"], batch["weights"] = (
        batch[name].astype(np.float32) for name in ("patches", "weights")
    )

    def loss(params, batch):
        encode = partial(family_of(config).model.encode_visual, params, config)
        visual = map_rows(encode)(batch["patches"], batch["plan"])
        log_probs = answer_log_probs(
            params, config, batch["layout"], visual, batch["token_ids"], batch["mask"], head_chunk=2
        )
        return jnp.sum(batch["weights"] * log_probs), log_probs

    return loss, params, batch, table


@cache
def allocator_case():
    params = randomised(init_params(jax.random.key(0), NETWORK))
    rng = np.random.default_rng(7)  # with few of which gradients are sums that cancel
    frames, tokens = (rng.normal(size=(BATCH_SIZE, *n, 16)) for n in ((4, 3), (5,)))
    features = EncoderFeatures(
        frames=frames.astype(np.float32),
        frame_mask=np.arange(4)[None, :] < 1 + np.arange(BATCH_SIZE)[:, None] % 4,
        segment_ids=np.tile(np.arange(4) // 2, (BATCH_SIZE, 1)),
        text=tokens.astype(np.float32),
        text_mask=np.arange(5)[None, :] < np.arange(BATCH_SIZE)[:, None] % 6,
    )
    batch = {
        "features": features,
        "actions": rng.uniform(0.1, 0.9, (BATCH_SIZE, 3, 2)).astype(np.float32),
        "weights": rng.normal(size=(BATCH_SIZE, 3, 2)).astype(np.float32),
    }

    def loss(params, batch):
        out = allocate(params, NETWORK, batch["features"])
        log_probs = out.policy.log_prob(batch["actions"])
        log_probs = jnp.where(out.unit_mask[:, None, :], log_probs, 0.0)
        return jnp.sum(batch["weights"] * log_probs), log_probs

    return loss, params, batch, ALLOCATOR


@cache
def on_one_device(case, *name):
    loss, params, batch, _ = case(*name)
    return jax.jit(jax.grad(loss, has_aux=True))(params, batch)


def assert_same_on(shape, case, *name):
    """To 1e-5 of each array's largest value."""
    loss, params, batch, table = case(*name)
    expected = on_one_device(case, *name)
    mesh = make_mesh(shape)
    places = tree_shardings(params, table, mesh)
    rows = NamedSharding(mesh, P(BATCH))
    with jax.set_mesh(mesh):
        differentiate = jax.jit(jax.grad(loss, has_aux=True), out_shardings=(places, rows))
        got = differentiate(jax.device_put(params, places), jax.device_put(batch, rows))
    for x, y in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
        largest = float(np.abs(y).max())
        assert largest > 1e-4
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize(
    "name, shape",
    [*(("qwen2_5_vl", shape) for shape in MESHES), ("qwen3_vl", MESHES[-1])],
)
def test_answers_on_a_mesh(name, shape):
    assert_same_on(shape, backbone_case, name)


@pytest.mark.parametrize("shape", MESHES[2:])
def test_allocations_on_a_mesh(shape):
    assert_same_on(shape, allocator_case)


def test_every_parameter_of_the_allocator_has_a_rule_and_every_rule_a_parameter():
    params = traverse_util.flatten_dict(allocator_case()[1], sep=".")
    shapes = {key: x.shape for key, x in params.items()}
    specs = partition_specs(shapes, ALLOCATOR)
    for index in range(len(ALLOCATOR)):
        rules = ALLOCATOR[:index] + ALLOCATOR[index + 1 :]
        try:
            assert partition_specs(shapes, rules) != specs
        except ValueError as error:
            assert "no rule for" in str(error)
