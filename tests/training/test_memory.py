"""The estimate of memory, against sums made by hand; tests/aot holds it against XLA's own."""

from dataclasses import replace

import pytest

from resadapt_jax.errors import UserError
from resadapt_jax.models.compute import Compute, Remat, with_compute
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig, TextConfig, VisionConfig
from resadapt_jax.training.memory import Load, estimate_memory, require_memory

CONFIG = with_compute(
    Qwen2_5VLConfig(
        text=TextConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            mrope_section=(1, 1, 0),
        ),
        vision=VisionConfig(
            depth=2,
            hidden_size=8,
            intermediate_size=16,
            num_heads=2,
            out_hidden_size=16,
            fullatt_block_indexes=(1,),
        ),
        image_token_id=1,
        video_token_id=2,
        vision_start_token_id=3,
        vision_end_token_id=4,
        tie_word_embeddings=True,
    ),
    Compute(remat=Remat.LAYERS),
)
MESH = {"data": 2, "fsdp": 4, "tensor": 2}
LOAD = Load(
    rows=16,
    positions=10,
    visual_tokens=6,
    head_chunk=4,
    rollout_rows=24,
    cache_slots=12,
    rollout_clips=8,
    prefilled=2,
)


def test_every_part_by_hand():
    got = estimate_memory(CONFIG, MESH, LOAD)
    # Of the decoder's layer: q and o 16 x 16, k and v 8 x 16, gate, up and down 16 x 32, in eight
    # parts; biases of q, k, v (32) in two; two norms of 16.
    layer = (2 * 256 + 2 * 128 + 3 * 512) // 8 + 32 // 2 + 2 * 16
    # Of the tower's block: qkv 24 x 8, proj 8 x 8, gate, up and down 8 x 16; biases of qkv (24),
    # gate and up (32) in two, of proj and down (16) whole; two norms of 8.
    block = (192 + 64 + 3 * 128) // 8 + (24 + 32) // 2 + 16 + 2 * 8
    # Patches 8 x 1176 in four; merger 32 x 32 and 16 x 32, biases 32 in two and 16, a norm of 8.
    around = 8 * 1176 // 4 + (1024 + 512) // 8 + 32 // 2 + 16 + 8
    table = 64 * 16 // 8 + 16  # and the last norm
    params = 3 * layer + 2 * block + around + table
    assert got.params == 4 * params and got.answering == 2 * params
    assert got.moments == got.gradients == 8 * params
    # Two rows a device: 10 positions of 16, 24 patches of 8, in 2 bytes.
    assert got.kept == 2 * (3 * 2 * 10 * 16 + 2 * 2 * 24 * 8)
    # Three rows a device, keys and values of 12 slots in one head of 4.
    assert got.cache == 2 * (2 * 3 * 3 * 12 * 1 * 4)
    # A position of a layer: 6 x 32 / 2 features, 4 x (6 x 16 / 2 + 4 x 16) bytes of float32; a
    # layer's weights and gradients: q, o 16 x 16, k, v 16 x 8, three of 16 x 32, in two parts.
    decoder = 2 * 10 * (2 * 96 + 4 * (48 + 64)) + 2 * 2 * (2 * 256 + 2 * 128 + 3 * 512) // 2
    tower = 2 * 24 * (2 * 48 + 4 * (24 + 32)) + 2 * 2 * (4 * 64 + 3 * 128) // 2
    head = 2 * 4 * (64 // 2) * 10 + 2 * 2 * 64 * 16 // 2
    assert got.working == decoder == max(decoder, tower, head)
    # A clip a device, 24 patches in the tower; three rows of which 2 positions run at a time.
    tower, decoder = 24 * (2 * 48 + 4 * (24 + 32)), 3 * 2 * (2 * 96 + 4 * (48 + 64))
    assert got.showing == tower / 2 == max(tower, decoder) / 2
    update, rollout = got.gradients + got.kept + got.working, got.cache + got.showing
    assert got.total == got.params + got.moments + got.answering + max(update, rollout)


def test_a_frozen_backbone_only_answers():
    got = estimate_memory(CONFIG, MESH, LOAD, trained=False)
    assert (got.moments, got.gradients, got.answering, got.kept, got.working) == (0,) * 5
    assert got.params == estimate_memory(CONFIG, MESH, LOAD).answering
    assert got.total == got.params + got.cache + got.showing


def test_a_reference_is_held_and_a_cache_may_have_its_own_type():
    got = estimate_memory(CONFIG, MESH, LOAD)
    more = estimate_memory(CONFIG, MESH, LOAD, reference=True, cache_dtype="float32")
    # A copy in bfloat16, as the one that answers; keys and values twice as wide.
    assert (more.reference, more.cache) == (got.answering, 2 * got.cache)
    assert more.total == got.total + got.answering  # the update is what takes most here
    assert got.reference == 0


def test_more_is_kept_the_less_is_remade():
    kept = [
        estimate_memory(with_compute(CONFIG, Compute(remat=remat)), MESH, LOAD).kept
        for remat in (Remat.LAYERS, Remat.MATMULS, Remat.NONE)
    ]
    assert kept == sorted(kept) and len(set(kept)) == 3


def test_what_cannot_fit_is_refused_by_parts():
    estimate = estimate_memory(CONFIG, MESH, replace(LOAD, positions=10**9))
    require_memory(estimate, estimate.total)
    with pytest.raises(UserError, match=r"would need about .* GB, it has 80.0: params 0.0, .*kept"):
        require_memory(estimate, int(80e9))
