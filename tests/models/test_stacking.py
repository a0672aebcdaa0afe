"""Stacked layers: the same results and gradients as one by one, in a program of constant size."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kernels.segment_attention import Backend
from resadapt_jax.models.compute import Compute, Remat, with_compute
from resadapt_jax.models.families import family_of, load_hf
from resadapt_jax.models.partition import tree_shardings
from resadapt_jax.models.prompt_layout import expand_prompt
from resadapt_jax.models.qwen2_5_vl.partition import PARTITION as QWEN2_5_TABLE
from resadapt_jax.models.qwen3_vl.partition import PARTITION as QWEN3_TABLE
from resadapt_jax.models.stacking import StackedLayers, stack_layers, unstack_layers
from resadapt_jax.models.vision_plan import plan_vision
from tests.models.test_qwen2_5_vl import CONFIG as SMALL_QWEN2_5
from tests.models.test_qwen3_vl import CONFIG as SMALL_QWEN3

# Windows in blocks 0 and 2, whole frames in block 1.
QWEN2_5 = replace(
    SMALL_QWEN2_5,
    vision=replace(SMALL_QWEN2_5.vision, depth=3, fullatt_block_indexes=(1,)),
    text=replace(SMALL_QWEN2_5.text, num_hidden_layers=3),
)
# Of blocks 0 to 3 the first and the third are tapped, for the first two of three layers.
QWEN3 = replace(SMALL_QWEN3, vision=replace(SMALL_QWEN3.vision, depth=4))
FAMILIES = pytest.mark.parametrize("config", [QWEN2_5, QWEN3], ids=["qwen2_5_vl", "qwen3_vl"])
TABLES = {type(QWEN2_5): QWEN2_5_TABLE, type(QWEN3): QWEN3_TABLE}
# 6 + 6 + 4 tokens; a window is 4 x 4 patches, so 4 x 6 patches leave some over.
GRIDS = np.array([[1, 4, 6], [1, 4, 6], [1, 4, 4]], np.int32)
CAPACITY = 18
# What takes time here is compiling.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@cache
def random_params(config):
    """Every parameter matters: norms and biases are random too, and positions not small."""
    rng, tensors = np.random.default_rng(1), {}
    for key, shape in family_of(config).model.param_shapes(config).items():
        noise = rng.normal(size=shape).astype(np.float32)
        if len(shape) == 1:
            noise = 0.3 * noise + ("norm" in key and key.endswith("weight"))
        elif "embed" not in key or "proj" in key:
            noise = noise * np.float32(np.prod(shape[1:]) ** -0.5)
        tensors[key] = jnp.asarray(noise)
    return traverse_util.unflatten_dict(tensors, sep=".")


def inputs(config):
    """Patches, plan and layout of a batch of one prompt with three entries."""
    return make_inputs(config.vision.patch_features, config.vision.window_patches)


@cache
def make_inputs(patch_features, window_patches):
    plan = plan_vision(jnp.asarray(GRIDS), capacity=CAPACITY, window_patches=window_patches)
    layout = expand_prompt(
        jnp.array([5, 22, 21, 23, 22, 21, 23, 22, 21, 23, 6]),
        jnp.int32(11),
        jnp.array([-1, -1, 0, -1, -1, 1, -1, -1, 2, -1, -1]),
        jnp.asarray(GRIDS),
        jnp.ones(3),
        capacity=CAPACITY + 10,
    )
    rng = np.random.default_rng(0)
    patches = jnp.asarray(rng.normal(size=(4 * CAPACITY, patch_features)), jnp.float32)
    return jax.tree.map(lambda x: x[None], (patches, plan, layout))


def loss(config, params, patches, plan, layout):
    """The mean squared logit, with the visual features and the logits themselves."""
    model, text = family_of(config).model, family_of(config).text
    encode = jax.vmap(partial(model.encode_visual, params, config))
    visual = encode(patches, plan)
    embeds = model.embed_prompt(params, config, layout, visual)
    hidden, _ = model.run_decoder(params, config, embeds, layout.position_ids, layout.mask)
    logits = jnp.where(layout.mask[:, :, None], text.logits(params, config, hidden), 0.0)
    return jnp.mean(jnp.square(logits)), (visual, logits)


def with_remat(config, remat):
    return with_compute(config, Compute(remat=remat))


def differentiate(config, params):
    function = jax.grad(partial(loss, config), has_aux=True)
    return quick_jit(function)(params, *inputs(config))


@cache
def one_by_one(config):
    return differentiate(config, random_params(config))


def assert_close(got, expected, tolerance):
    """To a fraction of each array's largest value."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert np.any(y)
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * float(np.abs(y).max()))


@pytest.mark.parametrize(
    "config, remat",
    [(QWEN2_5, Remat.LAYERS), *((QWEN3, remat) for remat in Remat)],
    ids=["qwen2_5_vl-layers", *(f"qwen3_vl-{remat.value}" for remat in Remat)],
)
def test_scanned_layers_give_the_same(config, remat):
    expected_gradients, expected = one_by_one(config)
    stacked = stack_layers(random_params(config))
    gradients, got = differentiate(with_remat(config, remat), stacked)
    assert_close(got, expected, 1e-5)
    assert_close(unstack_layers(gradients), expected_gradients, 1e-5)


def test_scanned_windows_and_frames_stay_apart():
    """By the attention in blocks, whose blocks are skipped by ids that the scan selects."""
    config = with_compute(QWEN2_5, Compute(attention=Backend.BLOCKWISE))
    patches, plan, _ = jax.tree.map(lambda x: x[0], inputs(config))
    params = stack_layers(random_params(QWEN2_5))

    @quick_jit
    def encode(params, patches):
        return family_of(config).model.encode_visual(params, config, patches, plan)

    # Patches 0-23 are the first frame: its 6 merged tokens.
    before, after = encode(params, patches), encode(params, patches.at[:24].add(1.0))
    assert np.abs(after[:6] - before[:6]).max(axis=1).min() > 1e-3
    np.testing.assert_array_equal(after[6:], before[6:])
    assert_close(before, one_by_one(QWEN2_5)[1][0][0], 1e-5)


@FAMILIES
def test_round_trip_is_bitwise(config):
    params = random_params(config)
    state = {"params": params, "moments": (params, jnp.zeros(()))}
    stacked = stack_layers(state)
    assert len(jax.tree.leaves(stacked)) < len(jax.tree.leaves(state)) / 2
    assert jax.tree.structure(stack_layers(stacked)) == jax.tree.structure(stacked)
    back = unstack_layers(stacked)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, back, state)


def test_only_equal_layers_are_stacked():
    def layers(*shapes, dtype=jnp.float32):
        return {str(i): {"weight": jnp.zeros(shape, dtype)} for i, shape in enumerate(shapes)}

    eleven = stack_layers({"layers": layers(*[(2, 3)] * 11)})["layers"]
    assert isinstance(eleven, StackedLayers) and eleven.tree["weight"].shape == (11, 2, 3)
    others = {
        "shapes": layers((2, 3), (3, 2)),
        "dtypes": layers((2, 3)) | {"1": {"weight": jnp.zeros((2, 3), jnp.bfloat16)}},
        "structures": layers((2, 3)) | {"1": {"bias": jnp.zeros((2, 3))}},
        "gaps": {"0": {"weight": jnp.zeros(3)}, "2": {"weight": jnp.zeros(3)}},
        "arrays": {"0": jnp.zeros(3), "1": jnp.zeros(3)},
    }
    assert jax.tree.structure(stack_layers(others)) == jax.tree.structure(others)


def abstract(config, *, stacked):
    """Parameters without values."""
    shapes = family_of(config).model.param_shapes(config)
    tree = {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in shapes.items()}
    tree = traverse_util.unflatten_dict(tree, sep=".")
    return jax.eval_shape(stack_layers, tree) if stacked else tree


def deep(config, layers):
    """A model with that many blocks and layers."""
    vision, text = (replace(config.vision, depth=layers), config.text)
    return replace(config, vision=vision, text=replace(text, num_hidden_layers=layers))


@FAMILIES
def test_the_program_does_not_grow_with_the_layers(config):
    batch = inputs(config)

    def equations(layers, stacked):
        model = with_remat(deep(config, layers), Remat.LAYERS)
        gradient = jax.grad(lambda params: loss(model, params, *batch)[0])
        return str(jax.make_jaxpr(gradient)(abstract(model, stacked=stacked))).count(" = ")

    assert equations(3, stacked=True) == equations(6, stacked=True)
    assert equations(6, stacked=False) > equations(3, stacked=False) + 300


def kept_bytes(config, *, frozen=""):
    """What the forward pass keeps for the backward pass, the weights that it reads included."""
    params = traverse_util.flatten_dict(abstract(config, stacked=True), sep=".")
    fixed = {key: params.pop(key) for key in list(params) if frozen and frozen in key}
    batch = inputs(config)

    def pull_back(params, fixed):
        def of_trained(params):
            tree = traverse_util.unflatten_dict(params | fixed, sep=".")
            return loss(config, tree, *batch)[0]

        return jax.vjp(of_trained, params)[1]

    kept = jax.eval_shape(pull_back, params, fixed)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


@FAMILIES
def test_what_a_scanned_layer_keeps(config):
    def of_three_layers(remat):
        few, many = (with_remat(deep(config, layers), remat) for layers in (3, 6))
        return kept_bytes(many) - kept_bytes(few)

    def num_weights(layers):
        return sum(x.size for x in jax.tree.leaves(abstract(deep(config, layers), stacked=True)))

    everything, matmuls, inputs_alone = (of_three_layers(remat) for remat in Remat)
    length = inputs(config)[-1].mask.shape[1]
    states = 4 * CAPACITY * config.vision.hidden_size + length * config.text.hidden_size
    # Weights and the layer's input, float32, but for a bias that no derivative reads and some
    # indices. Of the taps that are carried past it, nothing; nor masks, nor ids.
    derived = 4 * (num_weights(6) - num_weights(3) + 3 * states)
    assert abs(inputs_alone - derived) <= 3 * 64
    assert inputs_alone < matmuls < everything


@FAMILIES
@pytest.mark.parametrize("remat", [Remat.NONE, Remat.LAYERS])
def test_a_frozen_scanned_tower_gets_no_gradient_memory(config, remat):
    deeper = replace(config, vision=replace(config.vision, depth=8))
    few, many = (with_remat(each, remat) for each in (config, deeper))
    assert kept_bytes(few, frozen="visual") == kept_bytes(many, frozen="visual")
    assert kept_bytes(few) < kept_bytes(many)


@FAMILIES
def test_on_a_mesh_layers_stay_split_and_checkpoints_are_the_same(config, tmp_path):
    mesh = jax.make_mesh((2, 2), ("fsdp", "tensor"))
    params, table = random_params(config), TABLES[type(config)]
    single = tree_shardings(params, table, mesh)
    params = jax.device_put(params, single)
    stacked = stack_layers(params)
    places = tree_shardings(stacked, table, mesh)

    def assert_placed(array, place):
        assert array.sharding.is_equivalent_to(place, array.ndim), (array.sharding, place)

    jax.tree.map(assert_placed, stacked, places)
    jax.tree.map(assert_placed, unstack_layers(stacked), single)
    decoder = places["model"].get("language_model", places["model"])
    gate = decoder["layers"].tree["mlp"]["gate_proj"]["weight"]
    assert gate == NamedSharding(mesh, P(None, "tensor", "fsdp"))

    family_of(config).checkpoint.save_hf(tmp_path, config, stacked)
    loaded_config, loaded = load_hf(tmp_path)
    assert loaded_config == config
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_a_cache_made_by_scanned_layers_is_continued_by_single_ones():
    text, params = family_of(QWEN3).text, random_params(QWEN3)
    stacked = stack_layers(params)
    rng = np.random.default_rng(3)
    embeds, *taps = jnp.asarray(rng.normal(size=(3, 2, 9, 24)), jnp.float32)
    at = jnp.broadcast_to(jnp.arange(9)[None, None, :], (2, 3, 9))
    mask = jnp.ones((2, 9), bool)

    @partial(quick_jit, static_argnums=(1, 2))
    def run(params, first, last, cache=None):
        part = slice(first, last)
        taps_here = [tap[:, part] for tap in taps]
        return text.forward(
            params, QWEN3, embeds[:, part], at[:, :, part], mask[:, part], cache, taps_here
        )

    whole, _ = run(stacked, 0, 9)
    first, cache = run(stacked, 0, 6)
    second, cache = run(params, 6, 9, cache.extend(3))
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), whole, atol=1e-5)
    with pytest.raises(ValueError, match="without a cache"):
        run(stacked, 6, 9, cache)
