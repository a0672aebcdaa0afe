"""SmolVLM2's encoders against HF transformers on tiny random models in fp32."""

import dataclasses

import einops
import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with HF transformers needs torch")

from hf_smolvlm import random_hf_model  # noqa: E402
from transformers import SmolVLMModel  # noqa: E402
from transformers.models.smolvlm import modeling_smolvlm as hf_smolvlm  # noqa: E402

from kernels.segment_attention import attend_in_places  # noqa: E402
from resadapt_jax.models import decoder, layers  # noqa: E402
from resadapt_jax.models.smolvlm import text, vision  # noqa: E402
from resadapt_jax.models.smolvlm.checkpoint import load_hf, save_hf  # noqa: E402

TOLERANCE = 1e-4
MODELS = {
    "tiny": {},
    # The head sizes of the released checkpoint, and its ratio of query to key-value heads.
    "heads of 64": {
        "scale_factor": 2,
        "vision": {"hidden_size": 128, "num_hidden_layers": 2, "image_size": 64},
        "text": {
            "hidden_size": 192,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "num_hidden_layers": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
        },
    },
}


@pytest.fixture(scope="module", params=MODELS, ids=lambda name: name)
def models(request, tmp_path_factory):
    """HF's model, and ours read from what it saved."""
    hf_model = random_hf_model(**MODELS[request.param])
    directory = tmp_path_factory.mktemp("checkpoint")
    hf_model.save_pretrained(directory)
    return hf_model, *load_hf(directory)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    hf_model = random_hf_model()
    directory = tmp_path_factory.mktemp("tiny")
    hf_model.save_pretrained(directory)
    return hf_model, *load_hf(directory)


def random_pixels(config, *shape):
    side = config.vision.image_size
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (*shape, side, side, 3)).astype(np.float32)


def hf_features(hf_model, pixels, pixel_mask=None):
    """Before and after the connector, of ``[B F height width 3]``; HF drops all-zero frames."""
    pixels = torch.tensor(pixels).permute(0, 1, 4, 2, 3)
    mask = None if pixel_mask is None else torch.tensor(pixel_mask)
    with torch.no_grad():
        out = hf_model.model.get_image_features(pixels, mask)
    rows = [row.numpy() for row in out.pooler_output]
    return out.last_hidden_state.numpy(), rows


def features(params, config, pixels, patch_mask=None):
    """Ours, before and after the connector; parameters are constants, so names can be patched."""
    tower = params["model"]["vision_model"]

    @jax.jit
    def run(patches):
        hidden = vision.hidden_states(tower, config.vision, patches, patch_mask)
        return hidden, vision.encode(params, config, patches, patch_mask)

    size = config.vision.patch_size
    cut = "b (rows y) (cols x) c -> b rows cols (c y x)"
    return [np.asarray(x) for x in run(einops.rearrange(pixels, cut, y=size, x=size))]


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0)


def test_frames_match_before_and_after_the_connector(models):
    hf_model, config, params = models
    pixels = random_pixels(config, 2, 3)
    # The second prompt has one frame less.
    pixels[1, 2] = 0
    expected, rows = hf_features(hf_model, pixels)
    hidden, tokens = features(params, config, pixels.reshape(6, *pixels.shape[2:]))
    assert_close(hidden[:5], expected)
    width = config.text.hidden_size
    assert tokens.shape == (6, config.num_tokens, width)
    assert_close(tokens[:3].reshape(-1, width), rows[0])
    assert_close(tokens[3:5].reshape(-1, width), rows[1])
    assert np.abs(expected).max() > 1


def masks(config, *sizes):
    """A patch mask of a rectangle per frame, and HF's mask of the same pixels."""
    side, patch = config.vision.patches_per_side, config.vision.patch_size
    patch_mask = np.zeros((len(sizes), side, side), bool)
    for frame, (rows, cols) in enumerate(sizes):
        patch_mask[frame, :rows, :cols] = True
    return patch_mask, patch_mask.repeat(patch, axis=1).repeat(patch, axis=2)[None]


def masked_case(hf_model, config):
    """Three frames of differing extent, and HF's hidden states of their valid patches."""
    pixels = random_pixels(config, 3)
    patch_mask, pixel_mask = masks(config, (4, 6), (6, 2), (5, 5))
    expected, rows = hf_features(hf_model, pixels[None], pixel_mask)
    valid = patch_mask.reshape(3, -1)
    return pixels, patch_mask, expected[valid], valid


def test_masked_frames_match(tiny):
    hf_model, config, params = tiny
    pixels, patch_mask, expected, valid = masked_case(hf_model, config)
    hidden, _ = features(params, config, pixels, patch_mask)
    assert_close(hidden[valid], expected)


@pytest.mark.parametrize("side", [2, 3, 6, 7, 13, 24, 26, 27, 32])
def test_positions_are_those_of_hf_for_every_extent(side):
    config = hf_smolvlm.SmolVLMVisionConfig(hidden_size=1, image_size=side, patch_size=1)
    module = hf_smolvlm.SmolVLMVisionEmbeddings(config)
    with torch.no_grad():
        module.patch_embedding.weight.zero_()
        module.patch_embedding.bias.zero_()
        module.position_embedding.weight.copy_(torch.arange(side**2)[:, None])
    extents = np.arange(1, side + 1)
    mask = np.arange(side) < extents[:, None]
    mask = mask[:, :, None] & mask[::-1, None, :]
    with torch.no_grad():
        ids = module(torch.zeros(side, 3, side, side), torch.tensor(mask)).numpy()
    got = jax.jit(vision.position_ids, static_argnums=1)(mask, side)
    np.testing.assert_array_equal(np.asarray(got).reshape(side, -1), ids[:, :, 0])


def text_batch():
    ids = np.random.default_rng(1).integers(1, 120, (3, 9)).astype(np.int32)
    mask = np.arange(9) < np.array([[9], [4], [1]])
    return ids, mask


def hf_text(hf_model, ids, mask):
    with torch.no_grad():
        out = hf_model.model.text_model(
            input_ids=torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long()
        )
    return out.last_hidden_state.numpy()[mask]


def encode_text(params, config, ids, mask):
    hidden = jax.jit(lambda ids, mask: text.forward(params, config, ids, mask))(ids, mask)
    return np.asarray(hidden)[mask]


def test_right_padded_texts_match(models):
    hf_model, config, params = models
    ids, mask = text_batch()
    expected = hf_text(hf_model, ids, mask)
    assert_close(encode_text(params, config, ids, mask), expected)
    # What padding holds is not seen.
    assert_close(encode_text(params, config, np.where(mask, ids, 77), mask), expected)


def test_transformers_reads_what_is_saved(tiny, tmp_path):
    hf_model, config, params = tiny
    save_hf(tmp_path, config, params)
    read = SmolVLMModel.from_pretrained(tmp_path).state_dict()
    state = hf_model.model.state_dict()
    assert read.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(read[name], value), name
    assert load_hf(tmp_path)[0] == config


# --- ablations: each feature is visible at 100 times the tolerance --------------------------------


def worst(ours, theirs):
    return np.abs(ours - theirs).max()


def test_ablation_raster_positions(tiny, monkeypatch):
    hf_model, config, params = tiny
    pixels, patch_mask, expected, valid = masked_case(hf_model, config)

    def raster(patch_mask, side):
        row, col = jnp.indices(patch_mask.shape[1:])
        return jnp.where(patch_mask, (row * side + col)[None], 0)

    monkeypatch.setattr(vision, "position_ids", raster)
    hidden, _ = features(params, config, pixels, patch_mask)
    assert worst(hidden[valid], expected) > 100 * TOLERANCE


def test_ablation_left_closed_buckets(monkeypatch, tiny):
    hf_model, config, params = tiny
    pixels = random_pixels(config, 1)
    expected, _ = hf_features(hf_model, pixels[None])

    def other_side(longest, side):
        exact = np.arange(longest)[None, :] * side / np.arange(longest + 1).clip(1)[:, None]
        return np.clip(np.ceil(exact).astype(np.int32) - 1, 0, side - 1)

    monkeypatch.setattr(vision, "bucket_table", other_side)
    assert worst(features(params, config, pixels)[0], expected) > 100 * TOLERANCE


def test_ablation_unmasked_patches(tiny):
    hf_model, config, params = tiny
    pixels, _, expected, valid = masked_case(hf_model, config)
    hidden, _ = features(params, config, pixels)
    assert worst(hidden[valid], expected) > 100 * TOLERANCE


def test_ablation_pixel_shuffle_order(tiny, monkeypatch):
    hf_model, config, params = tiny
    pixels = random_pixels(config, 2)
    _, (expected,) = hf_features(hf_model, pixels[None])
    right = vision.pixel_shuffle

    def columns_first(x, scale):
        tokens = right(x, scale)
        block = tokens.reshape(*tokens.shape[:2], scale, scale, -1)
        return block.swapaxes(2, 3).reshape(tokens.shape)

    monkeypatch.setattr(vision, "pixel_shuffle", columns_first)
    _, tokens = features(params, config, pixels)
    assert worst(tokens.reshape(expected.shape), expected) > 100 * TOLERANCE


def test_ablation_post_layernorm(tiny, monkeypatch):
    hf_model, config, params = tiny
    pixels = random_pixels(config, 1)
    _, (expected,) = hf_features(hf_model, pixels[None])
    last = params["model"]["vision_model"]["post_layernorm"]

    def without(params, x, eps):
        return x if params is last else layers.layer_norm(params, x, eps)

    monkeypatch.setattr(vision, "layer_norm", without)
    _, tokens = features(params, config, pixels)
    assert worst(tokens[0], expected) > 100 * TOLERANCE


def test_ablation_erf_gelu(tiny, monkeypatch):
    # The two forms differ by 5e-4 at most, so this is visible at once the tolerance, not 100 times.
    hf_model, config, params = tiny
    pixels = random_pixels(config, 1)
    expected, _ = hf_features(hf_model, pixels[None])
    exact = jax.nn.gelu
    monkeypatch.setattr(vision.jax.nn, "gelu", lambda x, approximate: exact(x, approximate=False))
    assert worst(features(params, config, pixels)[0], expected) > 2 * TOLERANCE


def test_ablation_causal_mask(tiny, monkeypatch):
    hf_model, config, params = tiny
    ids, mask = text_batch()
    expected = hf_text(hf_model, ids, mask)

    def both_ways(query, key, value, places, choice, **axes):
        places = places._replace(query_slot=jnp.full_like(places.query_slot, query.shape[2]))
        return attend_in_places(query, key, value, places, choice, **axes)

    monkeypatch.setattr(decoder, "attend_in_places", both_ways)
    assert worst(encode_text(params, config, ids, mask), expected) > 100 * TOLERANCE


def test_ablation_rope(tiny):
    hf_model, config, params = tiny
    ids, mask = text_batch()
    expected = hf_text(hf_model, ids, mask)
    other = dataclasses.replace(config, text=dataclasses.replace(config.text, rope_theta=1e6))
    assert worst(encode_text(params, other, ids, mask), expected) > 100 * TOLERANCE
