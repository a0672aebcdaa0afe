"""Qwen3-VL against HF transformers on tiny random models in fp32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with HF transformers needs torch")

from hf_qwen3_vl import MIXED, SHORT, TEXT, VIDEOS, inputs_of, random_hf_model  # noqa: E402

from kernels.segment_attention import Backend  # noqa: E402
from resadapt_jax.models import rope  # noqa: E402
from resadapt_jax.models.compute import Compute, with_compute  # noqa: E402
from resadapt_jax.models.qwen3_vl import model, text, vision  # noqa: E402
from resadapt_jax.models.qwen3_vl.checkpoint import load_hf  # noqa: E402

TOLERANCE = 1e-4
# Fills two thirds: the rest is padding.
SIZE = {"capacity": 240, "length": 300}


@pytest.fixture(scope="module")
def hf_model():
    return random_hf_model()


@pytest.fixture(scope="module")
def loaded(hf_model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint")
    hf_model.save_pretrained(directory)
    return load_hf(directory)


def logits_of(params, config, patches, plan, layout):
    hidden = model.forward(params, config, patches, plan, layout)
    return text.logits(params, config, hidden)


run = jax.jit(logits_of, static_argnums=1)


def hf_logits(hf_model, case):
    with torch.no_grad():
        return hf_model(**case.hf_inputs()).logits[0].numpy()


@pytest.fixture(scope="module")
def expected(hf_model):
    """HF's logits of every case."""
    return {id(case): hf_logits(hf_model, case) for case in (VIDEOS, MIXED, SHORT, TEXT)}


def worst(logits, expected):
    pairs = zip(np.asarray(logits), expected, strict=True)
    return max(np.abs(ours[: len(theirs)] - theirs).max() for ours, theirs in pairs)


@pytest.mark.parametrize("case", [VIDEOS, MIXED, SHORT], ids=["videos", "mixed", "short"])
def test_positions_are_those_of_hf(hf_model, case):
    inputs = case.hf_inputs()
    expected, delta = hf_model.model.get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        image_grid_thw=inputs.get("image_grid_thw"),
        video_grid_thw=inputs.get("video_grid_thw"),
    )
    _, _, layout = jax.tree.map(lambda x: x[0], inputs_of([case], **SIZE))
    n = int(layout.length)
    np.testing.assert_array_equal(layout.token_ids[:n], inputs["input_ids"][0].numpy())
    np.testing.assert_array_equal(layout.position_ids[:, :n], expected[:, 0].numpy())
    assert layout.next_position == n + int(delta)


@pytest.mark.parametrize("attention", [Backend.DENSE, Backend.BLOCKWISE])
@pytest.mark.parametrize("case", [VIDEOS, MIXED], ids=["videos", "image and video"])
def test_logits_match(expected, loaded, case, attention):
    config, params = loaded
    config = with_compute(config, Compute(attention=attention))
    logits = run(params, config, *inputs_of([case], **SIZE))
    assert worst(logits, [expected[id(case)]]) <= TOLERANCE


def test_batch_of_different_lengths_matches_and_poisoned_padding_changes_nothing(expected, loaded):
    config, params = loaded
    cases = [VIDEOS, SHORT, TEXT, MIXED]
    logits = run(params, config, *inputs_of(cases, fill=np.nan, **SIZE))
    assert worst(logits, [expected[id(case)] for case in cases]) <= TOLERANCE


SHALLOW = {"depth": 1, "deepstack_visual_indexes": [0]}


def test_tied_embeddings_match(tmp_path):
    hf_model = random_hf_model(seed=3, text={"num_hidden_layers": 1}, vision=SHALLOW)
    hf_model.config.tie_word_embeddings = True
    hf_model.tie_weights()
    hf_model.save_pretrained(tmp_path)
    config, params = load_hf(tmp_path)
    assert config.tie_word_embeddings and "lm_head" not in params
    logits = run(params, config, *inputs_of([SHORT], capacity=16, length=40))
    assert worst(logits, [hf_logits(hf_model, SHORT)]) <= TOLERANCE


def test_faint_inputs_match(tmp_path):
    """Embeddings of about 1e-3, so that the norms' eps is as large as what it is added to."""
    hf_model = random_hf_model(seed=6, text={"num_hidden_layers": 1}, vision=SHALLOW)
    with torch.no_grad():
        for name, parameter in hf_model.named_parameters():
            if any(part in name for part in ("embed_tokens", "patch_embed", "pos_embed")):
                parameter.mul_(1e-3)
    hf_model.save_pretrained(tmp_path)
    config, params = load_hf(tmp_path)
    logits = run(params, config, *inputs_of([SHORT], capacity=16, length=40))
    assert worst(logits, [hf_logits(hf_model, SHORT)]) <= TOLERANCE


@pytest.mark.parametrize("vision_head", [64, 72])
def test_real_head_sizes_match(tmp_path, vision_head):
    """Heads of 64 (2B, 4B) or 72 (8B, 32B) in the tower, 128 with the real sections in the text."""
    hf_model = random_hf_model(
        seed=4,
        text={
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 128,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [24, 20, 20],
            },
        },
        vision=SHALLOW | {"hidden_size": 2 * vision_head, "num_position_embeddings": 48 * 48},
    )
    hf_model.save_pretrained(tmp_path)
    config, params = load_hf(tmp_path)
    assert config.vision.head_dim == vision_head and config.vision.position_side == 48
    logits = run(params, config, *inputs_of([MIXED], **SIZE))
    assert worst(logits, [hf_logits(hf_model, MIXED)]) <= TOLERANCE


def tower_inputs():
    patches, plan, _ = jax.tree.map(lambda x: x[0], inputs_of([VIDEOS], **SIZE))
    return patches, plan


@pytest.fixture(scope="module")
def hf_tower(hf_model):
    """What HF's tower gives for the videos: every block, merged tokens, deepstack features."""
    states = []
    hooks = [
        layer.register_forward_hook(lambda module, inputs, output: states.append(output))
        for layer in hf_model.model.visual.blocks
    ]
    grids = torch.tensor([grid for _, grid in VIDEOS.visuals])
    with torch.no_grad():
        out = hf_model.model.visual(torch.tensor(np.concatenate(VIDEOS.patches)), grids)
    for hook in hooks:
        hook.remove()
    deepstack = [features.numpy() for features in out.deepstack_features]
    return [state.numpy() for state in states], out.pooler_output.numpy(), deepstack


def test_tower_matches_block_by_block(loaded, hf_tower):
    config, params = loaded
    patches, plan = tower_inputs()
    # Tapping every block shows what each of them gives.
    everywhere = tuple(range(config.vision.depth))
    tapped = dataclasses.replace(config.vision, deepstack_visual_indexes=everywhere)
    states_of = jax.jit(vision.hidden_states, static_argnums=1)
    last, taps = states_of(params["model"]["visual"], tapped, patches, plan)
    states, _, _ = hf_tower
    assert len(taps) == len(states) == config.vision.depth
    for mine, expected in zip([*taps, last], [*states, states[-1]], strict=True):
        np.testing.assert_allclose(mine[: len(expected)], expected, atol=TOLERANCE, rtol=0)


def tower_errors(params, config, patches, plan, hf_tower):
    """Largest error of the tokens and of each deepstack feature; padding must be 0."""
    # A function of its own each time: what is patched must not be hidden by an earlier trace.
    encode = jax.jit(lambda params, *inputs: vision.encode(params, config, *inputs))
    features = encode(params, patches, plan)
    _, merged, deepstack = hf_tower
    pairs = zip([features.tokens, *features.deepstack], [merged, *deepstack], strict=True)
    errors = []
    for mine, expected in pairs:
        assert not mine[len(expected) :].any()
        errors.append(float(np.abs(mine[: len(expected)] - expected).max()))
    return errors


def test_visual_tokens_and_every_deepstack_feature_match(loaded, hf_tower):
    config, params = loaded
    errors = tower_errors(params, config, *tower_inputs(), hf_tower)
    assert len(errors) == 1 + 2 and max(errors) <= TOLERANCE


def nearest_positions(monkeypatch):
    def nearest(plan, side):
        taps, weights = TAPS(plan, side)
        return taps, jax.nn.one_hot(jnp.argmax(weights, axis=-1), 4)

    monkeypatch.setattr(vision, "interpolation_taps", nearest)


def positions_without_aligned_corners(monkeypatch):
    def scaled(plan, side):
        # Rows scaled by (side - 1) / h, so that the last one falls short of the table's corner.
        return TAPS(plan.replace(grid_thw=plan.grid_thw + 1), side)

    monkeypatch.setattr(vision, "interpolation_taps", scaled)


def tanh_gelu_in_the_mergers(monkeypatch):
    forward = vision.feed_forward
    monkeypatch.setattr(
        vision,
        "feed_forward",
        lambda params, x, *, approximate: forward(params, x, approximate=True),
    )


def exact_gelu_in_the_blocks(monkeypatch):
    forward = vision.feed_forward
    monkeypatch.setattr(
        vision,
        "feed_forward",
        lambda params, x, *, approximate: forward(params, x, approximate=False),
    )


def half_precision_angles(function):
    """What ports that keep the table of angles in bfloat16 turn by."""
    return lambda *args: function(*args).astype(jnp.bfloat16).astype(jnp.float32)


def half_precision_rope(monkeypatch):
    monkeypatch.setattr(vision, "vision_angles", half_precision_angles(rope.vision_angles))


TAPS = vision.interpolation_taps


@pytest.mark.parametrize(
    "ablate, visible",
    [
        (nearest_positions, 100),
        (positions_without_aligned_corners, 100),
        # Few positions, and heads of 16: real ones turn further.
        (half_precision_rope, 3),
        # The two forms of GELU differ by at most 5e-4 per activation.
        (tanh_gelu_in_the_mergers, 2),
        (exact_gelu_in_the_blocks, 2),
    ],
)
def test_ablation_breaks_parity_of_the_tower(loaded, hf_tower, monkeypatch, ablate, visible):
    config, params = loaded
    ablate(monkeypatch)
    errors = tower_errors(params, config, *tower_inputs(), hf_tower)
    assert min(errors) > visible * TOLERANCE


def without_mrope(params, patches, plan, layout):
    count = jnp.cumsum(layout.mask, axis=-1) - 1
    return params, patches, plan, layout.replace(position_ids=jnp.stack([count] * 3, axis=1))


def without_segments(params, patches, plan, layout):
    return params, patches, plan.replace(segment_ids=jnp.minimum(plan.segment_ids, 1)), layout


def with_subtree(params, path, change):
    """A tree in which ``change`` was applied to the subtree at ``path``."""
    if not path:
        return change(params)
    return params | {path[0]: with_subtree(params[path[0]], path[1:], change)}


def without_deepstack(params, patches, plan, layout):
    zeroed = with_subtree(
        params,
        ("model", "visual", "deepstack_merger_list"),
        lambda tree: jax.tree.map(jnp.zeros_like, tree),
    )
    return zeroed, patches, plan, layout


def with_one_deepstack_feature_only(params, patches, plan, layout):
    zeroed = with_subtree(
        params,
        ("model", "visual", "deepstack_merger_list", "1"),
        lambda tree: jax.tree.map(jnp.zeros_like, tree),
    )
    return zeroed, patches, plan, layout


def with_deepstack_in_another_order(params, patches, plan, layout):
    swapped = with_subtree(
        params,
        ("model", "visual", "deepstack_merger_list"),
        lambda tree: {"0": tree["1"], "1": tree["0"]},
    )
    return swapped, patches, plan, layout


def without_patch_bias(params, patches, plan, layout):
    zeroed = with_subtree(
        params, ("model", "visual", "patch_embed", "proj", "bias"), jnp.zeros_like
    )
    return zeroed, patches, plan, layout


def without_query_and_key_norm(params, patches, plan, layout):
    def drop(layers):
        return {
            index: layer | {"self_attn": _without(layer["self_attn"], "q_norm", "k_norm")}
            for index, layer in layers.items()
        }

    dropped = with_subtree(params, ("model", "language_model", "layers"), drop)
    return dropped, patches, plan, layout


def _without(tree, *names):
    return {name: leaf for name, leaf in tree.items() if name not in names}


@pytest.mark.parametrize(
    "ablate",
    [
        without_mrope,
        without_segments,
        without_deepstack,
        with_one_deepstack_feature_only,
        with_deepstack_in_another_order,
        without_patch_bias,
        without_query_and_key_norm,
    ],
)
def test_ablation_breaks_parity(expected, loaded, ablate):
    """Each feature is visible at 100 times the tolerance, so parity does test it."""
    config, params = loaded
    params, *inputs = ablate(params, *inputs_of([VIDEOS], **SIZE))
    logits = run(params, config, *inputs)
    assert worst(logits, [expected[id(VIDEOS)]]) > 100 * TOLERANCE


@pytest.mark.parametrize(
    "module, name, other",
    [
        (text, "interleaved_mrope_angles", rope.mrope_angles),
        (
            text,
            "interleaved_mrope_angles",
            half_precision_angles(rope.interleaved_mrope_angles),
        ),
        (vision, "rotate", lambda x, cos, sin: x),
    ],
    ids=["chunked mRoPE", "mRoPE in half precision", "no rope in the tower"],
)
def test_replaced_function_breaks_parity(expected, loaded, monkeypatch, module, name, other):
    config, params = loaded
    monkeypatch.setattr(module, name, other)
    # A function of its own: the replacement must not be hidden by an earlier trace.
    fresh = jax.jit(lambda params, *inputs: logits_of(params, config, *inputs))
    logits = fresh(params, *inputs_of([VIDEOS], **SIZE))
    assert worst(logits, [expected[id(VIDEOS)]]) > 100 * TOLERANCE
