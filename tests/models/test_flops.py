"""FLOPs counted by hand on models of a few numbers."""

from dataclasses import replace

from resadapt_jax.models.flops import decoder_flops, vision_flops
from resadapt_jax.models.qwen2_5_vl import config as qwen2_5
from resadapt_jax.models.qwen3_vl import config as qwen3

IDS = {
    "image_token_id": 1,
    "video_token_id": 2,
    "vision_start_token_id": 3,
    "vision_end_token_id": 4,
}
QWEN2_5 = qwen2_5.Qwen2_5VLConfig(
    text=qwen2_5.TextConfig(
        vocab_size=10,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        mrope_section=(1, 1, 0),
    ),
    vision=qwen2_5.VisionConfig(
        depth=2,
        hidden_size=4,
        intermediate_size=6,
        num_heads=1,
        out_hidden_size=8,
        fullatt_block_indexes=(1,),
        patch_size=2,
        window_size=8,  # 4 patches
    ),
    **IDS,
)
QWEN3 = qwen3.Qwen3VLConfig(
    text=qwen3.TextConfig(
        vocab_size=10,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=6,  # not hidden_size / heads
        mrope_section=(1, 1, 1),
    ),
    vision=qwen3.VisionConfig(
        depth=2,
        hidden_size=4,
        intermediate_size=6,
        num_heads=1,
        out_hidden_size=8,
        deepstack_visual_indexes=(0,),
        num_position_embeddings=4,
        patch_size=2,
    ),
    **IDS,
)


def test_decoder():
    # Heads of 4: q 8x8, k and v 8x4 each, o 8x8; gate, up and down 8x12 each.
    layer = 64 + 2 * 32 + 64 + 3 * 96
    # Three positions see 1 + 2 + 3 keys; a pair costs 2 * 4 for the score and as much for the sum.
    expected = 2 * (2 * layer) * 3 + 2 * 2 * (4 * 4) * 6 + 2 * 10 * 8
    assert decoder_flops(QWEN2_5, 3) == expected
    tied = replace(QWEN2_5, tie_word_embeddings=True)
    assert decoder_flops(tied, 3) == expected
    # q 8x12, k and v 8x6, o 12x8.
    layer = 96 + 2 * 48 + 96 + 3 * 96
    assert decoder_flops(QWEN3, 1) == 2 * (2 * layer) + 2 * 2 * (4 * 6) + 2 * 10 * 8


def test_decoding_goes_on_where_the_prefill_ended():
    whole = decoder_flops(QWEN2_5, 7, logits=3)
    assert decoder_flops(QWEN2_5, 5) + decoder_flops(QWEN2_5, 2, past=5, logits=2) == whole


def test_vision_with_windows():
    # 6 x 4 patches: windows of 4 x 4 and 2 x 4 in the first block, all 24 in the second.
    patch = 4 * (3 * 2 * 2 * 2)  # in_channels * temporal * patch²
    block = 4 * 12 + 4 * 4 + 3 * 4 * 6
    attention = 4 * 4 * (16**2 + 8**2 + 24**2)
    merger = 16 * 16 + 16 * 8
    expected = 2 * (patch + 2 * block) * 24 + attention + 2 * merger * 6
    assert vision_flops(QWEN2_5, [(6, 4)]) == expected
    assert vision_flops(QWEN2_5, [(6, 4), (6, 4)]) == 2 * expected
    assert vision_flops(QWEN2_5, []) == 0


def test_vision_with_deepstack():
    # The two linear layers of a block are plain; the merger is there once more for the tap.
    patch = 4 * (3 * 2 * 2 * 2)
    block = 4 * 12 + 4 * 4 + 2 * 4 * 6
    merger = 16 * 16 + 16 * 8
    expected = 2 * (patch + 2 * block) * 24 + 2 * 4 * 4 * 24**2 + 2 * 2 * merger * 6
    assert vision_flops(QWEN3, [(6, 4)]) == expected
