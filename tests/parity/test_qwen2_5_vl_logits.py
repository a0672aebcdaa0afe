"""Qwen2.5-VL against HF transformers on tiny random models in fp32."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with HF transformers needs torch")

from hf_qwen2_5_vl import MIXED, SHORT, VIDEOS, inputs_of, random_hf_model  # noqa: E402

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


@functools.partial(jax.jit, static_argnums=1)
def run(params, config, patches, plan, layout):
    hidden = model.forward(params, config, patches, plan, layout)
    return text.logits(params, config, hidden)


def hf_logits(hf_model, case):
    with torch.no_grad():
        return hf_model(**case.hf_inputs()).logits[0].numpy()


def worst(logits, expected):
    pairs = zip(np.asarray(logits), expected, strict=True)
    return max(np.abs(ours[: len(theirs)] - theirs).max() for ours, theirs in pairs)


@pytest.mark.parametrize("case", [VIDEOS, MIXED], ids=["videos", "image and video"])
def test_logits_match(hf_model, loaded, case):
    params, config = loaded[1], loaded[0]
    inputs = inputs_of([case], **SIZE)
    logits = run(params, config, *inputs)
    assert worst(logits, [hf_logits(hf_model, case)]) <= TOLERANCE


def test_batch_of_different_lengths_matches(hf_model, loaded):
    config, params = loaded
    cases = [VIDEOS, SHORT, MIXED]
    logits = run(params, config, *inputs_of(cases, **SIZE))
    assert worst(logits, [hf_logits(hf_model, case) for case in cases]) <= TOLERANCE


def test_tied_embeddings_match(tmp_path):
    hf_model = random_hf_model(seed=3)
    hf_model.config.tie_word_embeddings = True
    hf_model.tie_weights()
    hf_model.save_pretrained(tmp_path)
    config, params = load_hf(tmp_path)
    assert config.tie_word_embeddings and "lm_head" not in params
    logits = run(params, config, *inputs_of([SHORT], **SIZE))
    assert worst(logits, [hf_logits(hf_model, SHORT)]) <= TOLERANCE


def test_tower_matches_layer_by_layer(hf_model, loaded):
    config, params = loaded
    patches, plan, _ = jax.tree.map(lambda x: x[0], inputs_of([VIDEOS], **SIZE))
    valid = np.asarray(plan.patch_entry) >= 0
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
    assert len(states) == config.vision.depth
    for depth, expected in enumerate(states, start=1):
        # Both leave the patches in window order until the merger.
        shallow = dataclasses.replace(config.vision, depth=depth)
        mine = vision.hidden_states(params["visual"], shallow, patches, plan)
        np.testing.assert_allclose(
            np.asarray(mine)[valid], expected.numpy(), atol=TOLERANCE, rtol=0
        )
    tokens = np.asarray(vision.encode(params, config, patches, plan))
    count = VIDEOS.num_tokens
    np.testing.assert_allclose(tokens[:count], merged.numpy(), atol=TOLERANCE, rtol=0)
    assert not tokens[count:].any()


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
def test_ablation_breaks_parity(hf_model, loaded, ablate):
    """Each feature is visible at 100 times the tolerance, so parity does test it."""
    config, params = loaded
    logits = run(params, config, *ablate(*inputs_of([VIDEOS], **SIZE)))
    assert worst(logits, [hf_logits(hf_model, VIDEOS)]) > 100 * TOLERANCE
