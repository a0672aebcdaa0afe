"""Qwen2.5-VL against HF transformers on tiny random models in fp32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with HF transformers needs torch")

from hf_qwen2_5_vl import MIXED, SHORT, TEXT, VIDEOS, inputs_of, random_hf_model  # noqa: E402

from kernels.segment_attention import Backend  # noqa: E402
from resadapt_jax.models import rope  # noqa: E402
from resadapt_jax.models.compute import Compute, with_compute  # noqa: E402
from resadapt_jax.models.qwen2_5_vl import model, text, vision  # noqa: E402
from resadapt_jax.models.qwen2_5_vl.checkpoint import load_hf  # noqa: E402

TOLERANCE = 1e-4
# Fills two thirds: the rest is padding.
SIZE = {"capacity": 300, "length": 360}


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


def test_tied_embeddings_match(tmp_path):
    hf_model = random_hf_model(seed=3)
    hf_model.config.tie_word_embeddings = True
    hf_model.tie_weights()
    hf_model.save_pretrained(tmp_path)
    config, params = load_hf(tmp_path)
    assert config.tie_word_embeddings and "lm_head" not in params
    logits = run(params, config, *inputs_of([SHORT], capacity=16, length=40))
    assert worst(logits, [hf_logits(hf_model, SHORT)]) <= TOLERANCE


def test_faint_inputs_match(tmp_path):
    """Embeddings of about 1e-3, so that the norms' eps is as large as what it is added to."""
    hf_model = random_hf_model(seed=6)
    with torch.no_grad():
        for name, parameter in hf_model.named_parameters():
            if any(part in name for part in ("embed_tokens", "patch_embed")):
                parameter.mul_(1e-3)
    hf_model.save_pretrained(tmp_path)
    config, params = load_hf(tmp_path)
    logits = run(params, config, *inputs_of([SHORT], capacity=16, length=40))
    assert worst(logits, [hf_logits(hf_model, SHORT)]) <= TOLERANCE


def test_real_head_sizes_match(tmp_path):
    """Heads of 80 in the tower, 128 with the real sections in the text, seven queries to a key."""
    hf_model = random_hf_model(
        seed=4,
        text={
            "num_hidden_layers": 2,
            "hidden_size": 7 * 128,
            "num_attention_heads": 7,
            "num_key_value_heads": 1,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [16, 24, 24],
            },
        },
        vision={"depth": 2, "hidden_size": 160, "out_hidden_size": 7 * 128},
    )
    hf_model.save_pretrained(tmp_path)
    config, params = load_hf(tmp_path)
    assert (config.vision.head_dim, config.text.head_dim) == (80, 128)
    logits = run(params, config, *inputs_of([MIXED], **SIZE))
    assert worst(logits, [hf_logits(hf_model, MIXED)]) <= TOLERANCE


def tower_inputs():
    patches, plan, _ = jax.tree.map(lambda x: x[0], inputs_of([VIDEOS], **SIZE))
    return patches, plan


@pytest.fixture(scope="module")
def hf_tower(hf_model):
    """What HF's tower gives for the videos: every block, then the merged tokens."""
    states = []
    hooks = [
        layer.register_forward_hook(lambda module, inputs, output: states.append(output))
        for layer in hf_model.model.visual.blocks
    ]
    with torch.no_grad():
        merged = hf_model.model.visual(
            torch.tensor(np.concatenate(VIDEOS.patches)), torch.tensor(VIDEOS.grids).long()
        ).pooler_output
    for hook in hooks:
        hook.remove()
    return [state.numpy() for state in states], merged.numpy()


def test_tower_matches_layer_by_layer(loaded, hf_tower):
    config, params = loaded
    patches, plan = tower_inputs()
    valid = np.asarray(plan.patch_entry) >= 0
    states_of = jax.jit(vision.hidden_states, static_argnums=1)
    states, _ = hf_tower
    assert len(states) == config.vision.depth
    # Behind a block with windows, and one without.
    for depth, expected in enumerate(states[:2], start=1):
        # Both leave the patches in window order until the merger.
        shallow = dataclasses.replace(config.vision, depth=depth)
        mine = states_of(params["visual"], shallow, patches, plan)
        np.testing.assert_allclose(np.asarray(mine)[valid], expected, atol=TOLERANCE, rtol=0)


def tower_error(params, config, hf_tower):
    """Largest error of the merged tokens; padding must be 0."""
    # A function of its own each time: what is patched must not be hidden by an earlier trace.
    encode = jax.jit(lambda params, *inputs: vision.encode(params, config, *inputs))
    tokens, (_, merged) = encode(params, *tower_inputs()), hf_tower
    assert not tokens[len(merged) :].any()
    return float(np.abs(tokens[: len(merged)] - merged).max())


def test_visual_tokens_match(loaded, hf_tower):
    config, params = loaded
    assert tower_error(params, config, hf_tower) <= TOLERANCE


def half_precision_angles(function):
    """What ports that keep the table of angles in bfloat16 turn by."""
    return lambda *args: function(*args).astype(jnp.bfloat16).astype(jnp.float32)


def tanh_gelu(x, approximate):
    return GELU(x, approximate=True)


GELU = jax.nn.gelu


@pytest.mark.parametrize(
    "module, name, other, visible",
    [
        # The two forms of GELU differ by at most 5e-4 per activation.
        (jax.nn, "gelu", tanh_gelu, 2),
        # Few positions, and heads of 16: real ones turn further.
        (vision, "vision_angles", half_precision_angles(rope.vision_angles), 3),
        (vision, "rotate", lambda x, cos, sin: x, 100),
    ],
    ids=["tanh GELU in the merger", "rope in half precision", "no rope"],
)
def test_ablation_breaks_parity_of_the_tower(
    loaded, hf_tower, monkeypatch, module, name, other, visible
):
    config, params = loaded
    monkeypatch.setattr(module, name, other)
    assert tower_error(params, config, hf_tower) > visible * TOLERANCE


@pytest.mark.parametrize(
    "other, visible",
    [
        (rope.interleaved_mrope_angles, 100),
        # Positions are below 64 here; real prompts turn a thousand times further.
        (half_precision_angles(rope.mrope_angles), 20),
    ],
    ids=["interleaved mRoPE", "mRoPE in half precision"],
)
def test_other_angles_break_parity(expected, loaded, monkeypatch, other, visible):
    config, params = loaded
    monkeypatch.setattr(text, "mrope_angles", other)
    fresh = jax.jit(lambda params, *inputs: logits_of(params, config, *inputs))
    logits = fresh(params, *inputs_of([VIDEOS], **SIZE))
    assert worst(logits, [expected[id(VIDEOS)]]) > visible * TOLERANCE


def without_mrope(patches, plan, layout):
    count = jnp.cumsum(layout.mask, axis=-1) - 1
    return patches, plan, layout.replace(position_ids=jnp.stack([count] * 3, axis=1))


def without_windows(patches, plan, layout):
    return patches, plan.replace(window_ids=plan.segment_ids), layout


def without_segments(patches, plan, layout):
    return patches, plan.replace(segment_ids=jnp.minimum(plan.segment_ids, 1)), layout


def with_frames_of_an_entry_joined(patches, plan, layout):
    return patches, plan.replace(segment_ids=plan.patch_entry + 1), layout


def without_vision_rope(patches, plan, layout):
    return patches, plan.replace(patch_row=0 * plan.patch_row), layout


@pytest.mark.parametrize(
    "ablate",
    [
        without_mrope,
        without_windows,
        without_segments,
        with_frames_of_an_entry_joined,
        without_vision_rope,
    ],
)
def test_ablation_breaks_parity(expected, loaded, ablate):
    """Each feature is visible at 100 times the tolerance, so parity does test it."""
    config, params = loaded
    logits = run(params, config, *ablate(*inputs_of([VIDEOS], **SIZE)))
    assert worst(logits, [expected[id(VIDEOS)]]) > 100 * TOLERANCE
