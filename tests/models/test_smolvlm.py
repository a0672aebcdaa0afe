"""SmolVLM2's config, weights and preprocessing settings, and what holds for any weights."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import PartitionSpec as P
from smolvlm_factory import CONFIG, random_params

from kernels.segment_attention import Backend
from resadapt_jax.errors import UserError
from resadapt_jax.models.compute import Compute, with_compute
from resadapt_jax.models.partition import partition_specs
from resadapt_jax.models.smolvlm import text, vision
from resadapt_jax.models.smolvlm.checkpoint import load_hf, load_preprocess, save_hf
from resadapt_jax.models.smolvlm.config import SmolVLMConfig
from resadapt_jax.models.smolvlm.model import init_params, param_shapes
from resadapt_jax.models.smolvlm.partition import PARTITION
from resadapt_jax.models.smolvlm.preprocess import PreprocessConfig, preprocess, scaled_size
from resadapt_jax.models.stacking import stack_layers

# The shape of SmolVLM2-256M: its vision_config leaves out what transformers' defaults say.
PUBLISHED = {
    "architectures": ["SmolVLMForConditionalGeneration"],
    "model_type": "smolvlm",
    "image_token_id": 49190,
    "scale_factor": 4,
    "tie_word_embeddings": False,
    "text_config": {
        "model_type": "llama",
        "vocab_size": 49280,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "rms_norm_eps": 1e-05,
        "rope_theta": 100000,
        "rope_scaling": None,
        "max_position_embeddings": 8192,
    },
    "vision_config": {
        "model_type": "smolvlm_vision",
        "hidden_size": 768,
        "image_size": 512,
        "patch_size": 16,
        "num_attention_heads": 12,
        "max_image_size": {"longest_edge": 512},
    },
}


@pytest.fixture(scope="module")
def params():
    return random_params()


# --- config and weights ----------------------------------------------------------------------


def test_published_form():
    config = SmolVLMConfig.from_hf(PUBLISHED)
    assert config.vision.num_hidden_layers == 12 and config.vision.intermediate_size == 3072
    assert config.vision.head_dim == config.text.head_dim == 64
    assert config.text.rope_theta == 1e5 and config.text.rms_norm_eps == 1e-5
    assert config.num_tokens == 64
    assert SmolVLMConfig.from_hf(config.to_hf()) == config
    assert hash(config) == hash(SmolVLMConfig.from_hf(PUBLISHED))


def test_released_shape_has_the_hand_counted_parameters():
    d = 768
    layer = 4 * (d * d + d) + (d * 3072 + 3072) + (3072 * d + d) + 2 * 2 * d
    tower = (3 * 16 * 16 * d + d) + 1024 * d + 12 * layer + 2 * d  # patches, positions, last norm
    connector = 16 * d * 576
    attention = 2 * 576 * 576 + 2 * 576 * 192  # q and o of 9 heads, k and v of 3
    language = 49280 * 576 + 30 * (attention + 3 * 576 * 1536 + 2 * 576) + 576
    counts = {"vision_model": tower, "connector": connector, "text_model": language}
    shapes = param_shapes(SmolVLMConfig.from_hf(PUBLISHED))
    for name, count in counts.items():
        parts = [shape for key, shape in shapes.items() if key.startswith(f"model.{name}.")]
        assert sum(map(math.prod, parts)) == count
    assert list(counts.values()) == [86_433_024, 7_077_888, 134_588_736]  # 86.4, 7.08, 134.6 M


def test_a_frame_of_the_released_shape_is_64_tokens_of_576():
    config = SmolVLMConfig.from_hf(PUBLISHED)
    params = jax.eval_shape(lambda: init_params(jax.random.key(0), config))
    frames = jax.ShapeDtypeStruct((3, 360, 640, 3), jnp.uint8)

    def encode(params, frames):
        index, sizes = jnp.zeros(3, jnp.int32), ((360, 640),)
        patches = preprocess(frames, index, sizes, PreprocessConfig(), 16)
        return vision.encode(params, config, patches)

    assert jax.eval_shape(encode, params, frames).shape == (3, 64, 576)


@pytest.mark.parametrize(
    "part, change, message",
    [
        (None, {"model_type": "idefics3"}, "model_type is 'idefics3'"),
        (None, {"text_config": None}, "no 'text_config'"),
        (None, {"scale_factor": 5}, "do not divide into blocks of scale_factor 5"),
        ("text_config", {"model_type": "qwen2"}, "text tower is 'qwen2'"),
        ("text_config", {"hidden_size": None}, "no 'hidden_size'"),
        ("text_config", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ("text_config", {"attention_bias": True}, "attention_bias is not supported"),
        ("text_config", {"rope_scaling": {"rope_type": "llama3"}}, "rope type 'llama3'"),
        ("text_config", {"num_key_value_heads": 4}, "9 query heads cannot share 4"),
        ("vision_config", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ("vision_config", {"hidden_size": 770}, "does not divide into 12 heads"),
        ("vision_config", {"image_size": [512, 384]}, "not the side of a square"),
    ],
)
def test_what_the_port_lacks_is_an_error(part, change, message):
    changed = PUBLISHED | (change if part is None else {part: PUBLISHED[part] | change})
    with pytest.raises(ValueError, match=message):
        SmolVLMConfig.from_hf(changed)


def assert_same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, tree, other)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_round_trip(tmp_path, dtype):
    params = random_params(dtype=dtype)
    save_hf(tmp_path, CONFIG, params)
    config, loaded = load_hf(tmp_path)
    assert config == CONFIG
    assert_same(loaded, params)


def rewritten(directory, params, rename):
    """A checkpoint whose tensors have other keys, or more of them."""
    flat = traverse_util.flatten_dict(params, sep=".")
    save_hf(directory, CONFIG, {rename(key): value for key, value in flat.items()})
    return directory


def test_headless_keys_are_read_and_a_head_is_not(tmp_path, params):
    headless = rewritten(tmp_path / "a", params, lambda key: key.removeprefix("model."))
    assert_same(load_hf(headless)[1], params)
    head = {"lm_head": {"weight": jnp.ones((512, 12))}}
    save_hf(tmp_path / "b", CONFIG, params | head)
    assert_same(load_hf(tmp_path / "b")[1], params)


def test_all_wrong_tensors_are_listed_at_once(tmp_path, params):
    wrong = {"model.connector.modality_projection.proj.weight": "model.extra"}
    directory = rewritten(tmp_path, params, lambda key: wrong.get(key, key))
    with pytest.raises(UserError) as error:
        load_hf(directory)
    assert str(error.value).splitlines()[1:] == [
        "  missing model.connector.modality_projection.proj.weight (12, 64)",
        "  unexpected model.extra (12, 64)",
    ]


def test_another_architecture_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    with pytest.raises(UserError, match=f"{tmp_path}: model_type is 'qwen2_5_vl'"):
        load_hf(tmp_path)


def test_init_params_has_the_checkpoints_shapes():
    params = jax.eval_shape(lambda: init_params(jax.random.key(0), CONFIG))
    flat = traverse_util.flatten_dict(params, sep=".")
    assert {key: value.shape for key, value in flat.items()} == param_shapes(CONFIG)


def test_every_parameter_has_a_rule_and_every_rule_a_parameter():
    shapes = param_shapes(CONFIG)
    specs = partition_specs(shapes, PARTITION)
    assert specs["model.text_model.layers.1.self_attn.o_proj.weight"] == P("fsdp", "tensor")
    for index in range(len(PARTITION)):
        with pytest.raises(ValueError, match="no rule for"):
            partition_specs(shapes, PARTITION[:index] + PARTITION[index + 1 :])


def test_loading_onto_a_mesh(tmp_path, params):
    save_hf(tmp_path, CONFIG, params)
    mesh = jax.make_mesh((1, 2, 2), ("data", "fsdp", "tensor"), devices=jax.devices()[:4])
    _, loaded = load_hf(tmp_path, mesh=mesh)
    assert_same(loaded, params)
    projection = loaded["model"]["connector"]["modality_projection"]["proj"]["weight"]
    assert projection.sharding.spec == P(None, "fsdp")


# --- towers ----------------------------------------------------------------------------------


@jax.jit
def encode(params, patches, patch_mask):
    return vision.encode(params, CONFIG, patches, patch_mask)


def test_masked_patches_are_not_seen(params):
    patches = jax.random.normal(jax.random.key(0), (2, 4, 4, 192))
    # Whole blocks of the connector: the first rows of patches, and all of them.
    mask = jnp.ones((2, 4, 4), bool).at[0, 2:].set(False)
    tokens = encode(params, patches, mask)
    poisoned = jnp.where(mask[:, :, :, None], patches, jnp.nan)
    again = encode(params, poisoned, mask)
    np.testing.assert_array_equal(again[0, :2], tokens[0, :2])
    np.testing.assert_array_equal(again[1], tokens[1])
    alone = encode(params, patches[:1, :2], mask[:1, :2])
    np.testing.assert_allclose(alone[0], tokens[0, :2], atol=1e-5)


def test_an_extent_by_hand():
    # 3 of at most 4 rows over a table of 4: 0, 1/3, 2/3 lie in quarters 0, 1, 2; 2 columns: 0, 2.
    mask = jnp.zeros((1, 4, 4), bool).at[0, :3, :2].set(True)
    expected = np.zeros((4, 4), int)
    expected[:3, :2] = [[0, 2], [4, 6], [8, 10]]
    np.testing.assert_array_equal(vision.position_ids(mask, 4)[0], expected)
    full = vision.position_ids(jnp.ones((1, 4, 4), bool), 4)
    np.testing.assert_array_equal(full[0], np.arange(16).reshape(4, 4))


def test_pixel_shuffle_by_hand():
    x = jnp.arange(16).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(
        vision.pixel_shuffle(x, 2)[0],
        [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]],
    )


@jax.jit
def encode_text(params, ids, mask):
    return text.forward(params, CONFIG, ids, mask)


def test_texts_are_causal_and_padding_is_not_seen(params):
    ids = jnp.arange(12).reshape(2, 6)
    mask = jnp.ones((2, 6), bool).at[1, 3:].set(False)
    hidden = encode_text(params, ids, mask)
    np.testing.assert_array_equal(encode_text(params, ids + 7 * ~mask, mask)[1, :3], hidden[1, :3])
    alone = encode_text(params, ids[1:, :3], mask[1:, :3])
    np.testing.assert_allclose(alone[0], hidden[1, :3], atol=1e-5)
    later = encode_text(params, ids.at[0, 4].set(99), mask)
    np.testing.assert_allclose(later[0, :4], hidden[0, :4], atol=1e-5)
    assert np.abs(later[0, 4:] - hidden[0, 4:]).min() > 0


def test_blockwise_attention_changes_nothing(params):
    patches = jax.random.normal(jax.random.key(0), (1, 4, 4, 192))
    mask = jnp.ones((1, 4, 4), bool).at[0, 2:].set(False)
    config = with_compute(CONFIG, Compute(attention=Backend.BLOCKWISE))
    blockwise = jax.jit(lambda x: vision.encode(params, config, x, mask))(patches)
    dense = encode(params, patches, mask)
    np.testing.assert_allclose(blockwise[0, :2], dense[0, :2], atol=1e-5)


def test_stacked_layers_change_nothing(params):
    stacked = stack_layers(params)
    assert len(jax.tree.leaves(stacked)) < len(jax.tree.leaves(params))
    frame = jax.random.normal(jax.random.key(0), (1, 4, 4, 192)), jnp.ones((1, 4, 4), bool)
    words = jnp.arange(12).reshape(2, 6), jnp.ones((2, 6), bool)
    for run, batch in ((encode, frame), (encode_text, words)):
        expected = run(params, *batch)
        error = np.abs(run(stacked, *batch) - expected).max()
        assert error <= 1e-5 * np.abs(expected).max()


def test_bfloat16_is_near_float32(params):
    patches = jax.random.normal(jax.random.key(1), (1, 4, 4, 192))
    mask, half = jnp.ones((1, 4, 4), bool), jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    tokens = encode(half, patches, mask)
    assert tokens.dtype == jnp.bfloat16
    exact = encode(params, patches, mask)
    # bfloat16 keeps 8 bits: about 0.4 % a rounding, over some dozens of roundings.
    assert jnp.linalg.norm(tokens.astype(jnp.float32) - exact) / jnp.linalg.norm(exact) < 0.05


# --- preprocessing ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "native, edge, expected",
    [
        ((90, 160), 64, (36, 64)),
        # 64 · 53/90 = 37.69, cut to 37, then made even.
        ((53, 90), 64, (38, 64)),
        ((90, 53), 64, (64, 38)),
        ((50, 50), 64, (64, 64)),
        # An edge never vanishes.
        ((1, 500), 64, (1, 64)),
    ],
)
def test_scaled_size_by_hand(native, edge, expected):
    assert scaled_size(*native, edge) == expected


def test_a_frame_of_one_colour_is_normalised():
    frames = jnp.full((1, 20, 30, 3), jnp.array([0, 51, 255], jnp.uint8))
    config = PreprocessConfig(size=16)
    index, sizes = jnp.zeros(1, jnp.int32), ((20, 30),)
    patches = jax.jit(preprocess, static_argnums=(2, 3, 4))(frames, index, sizes, config, 8)
    # 51 / 255 = 0.2, (0.2 - 0.5) / 0.5 = -0.6; a channel's pixels lie together.
    expected = np.broadcast_to(np.repeat([-1, -0.6, 1], 64), (1, 2, 2, 192))
    np.testing.assert_allclose(patches, expected, atol=1e-6)


SQUARE = {"max_image_size": {"longest_edge": 64}}
MODEL = dataclasses.replace(CONFIG, vision=dataclasses.replace(CONFIG.vision, image_size=128))


@pytest.mark.parametrize(
    "files, expected",
    [
        ({}, (128, 128)),
        # The released layout: the first resize of a video frame is named apart from an image's.
        (
            {
                "preprocessor_config.json": SQUARE
                | {
                    "size": {"longest_edge": 256},
                    "video_sampling": {"video_size": {"longest_edge": 64}},
                }
            },
            (64, 64),
        ),
        ({"preprocessor_config.json": SQUARE | {"size": {"longest_edge": 256}}}, (64, 256)),
        (
            {
                "preprocessor_config.json": SQUARE | {"size": {"longest_edge": 256}},
                "video_preprocessor_config.json": SQUARE | {"size": {"longest_edge": 96}},
            },
            (64, 96),
        ),
        (
            {
                "processor_config.json": {
                    "image_processor": SQUARE | {"size": {"longest_edge": 256}},
                    "video_processor": SQUARE | {"size": {"longest_edge": 96}},
                }
            },
            (64, 96),
        ),
    ],
)
def test_where_the_settings_are_read(tmp_path, files, expected):
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    settings = load_preprocess(tmp_path, MODEL)
    assert (settings.size, settings.longest_edge) == expected
    assert settings.filter == "lanczos" and settings.mean == settings.std == (0.5, 0.5, 0.5)


def test_unusable_settings_are_errors(tmp_path):
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"max_image_size": {"longest_edge": 40}}))
    with pytest.raises(UserError, match="40 pixels do not divide into blocks of 16"):
        load_preprocess(tmp_path, MODEL)
    path.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        load_preprocess(tmp_path, MODEL)
