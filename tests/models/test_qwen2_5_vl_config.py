"""Reading the published and the transformers 5 forms of ``config.json``; the released sizes."""

import copy
import math

import pytest

from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig
from resadapt_jax.models.qwen2_5_vl.model import param_shapes

# Qwen2.5-VL-3B-Instruct as published: text fields at the top level, mRoPE as rope_scaling.
PUBLISHED = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_token_id": 151654,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 128000,
    "max_window_layers": 70,
    "model_type": "qwen2_5_vl",
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vision_config": {
        "depth": 32,
        "hidden_act": "silu",
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "out_hidden_size": 2048,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vocab_size": 151936,
}


def sized(text, intermediate_size):
    """The published form of a larger size: none of them ties its embeddings."""
    changed = {"out_hidden_size": text["hidden_size"], "intermediate_size": intermediate_size}
    return (
        PUBLISHED
        | {"vocab_size": 152064, "tie_word_embeddings": False}
        | text
        | {"vision_config": PUBLISHED["vision_config"] | changed}
    )


def decoder(hidden_size, intermediate_size, num_hidden_layers, heads, key_value_heads):
    return {
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
    }


SIZES = {
    "3B": PUBLISHED,
    "7B": sized(decoder(3584, 18944, 28, 28, 4), 3420),
    "32B": sized(decoder(5120, 27648, 64, 40, 8), 3456),
    "72B": sized(decoder(8192, 29568, 80, 64, 8), 3456),
}


def test_published_form():
    config = Qwen2_5VLConfig.from_hf(PUBLISHED)
    assert config.text.head_dim == 128 and config.text.mrope_section == (16, 24, 24)
    assert config.text.rms_norm_eps == 1e-6 and config.text.rope_theta == 1e6
    assert config.vision.head_dim == 80 and config.vision.window_patches == 8
    assert config.vision.patch_features == 3 * 2 * 14 * 14
    assert config.vision.tokens_per_second == 2
    assert config.tie_word_embeddings and config.eos_token_id == 151645


# Decoder, with D width, F hidden units, A = 128 · key-value heads, L layers, V tokens:
#   V·D (twice if untied) + L · (D² + D + 2·(D·A + A) + D² + 3·D·F + 2·D) + D
# Tower, with width W = 1280, hidden units H, 32 blocks, M = 4·W:
#   1176·W + 32 · (3·W² + 3·W + W² + W + 3·W·H + 2·H + W + 2·W) + W + M² + M + M·D + D
# Their sum is the number of weights in the released files.
@pytest.mark.parametrize(
    "size, decoder_count, tower_count",
    [
        ("3B", 3_085_938_688, 668_684_288),
        ("7B", 7_615_616_512, 676_550_144),
        ("32B", 32_763_876_352, 688_841_984),
        ("72B", 72_706_203_648, 704_573_696),
    ],
)
def test_released_sizes(size, decoder_count, tower_count):
    config = Qwen2_5VLConfig.from_hf(SIZES[size])
    assert config.text.head_dim == 128 and config.vision.head_dim == 80
    assert config.tie_word_embeddings == (size == "3B")
    shapes = param_shapes(config)
    tower = {key for key in shapes if key.startswith("visual.")}
    assert sum(math.prod(shapes[key]) for key in tower) == tower_count
    assert sum(math.prod(shapes[key]) for key in shapes.keys() - tower) == decoder_count


@pytest.mark.parametrize("size", SIZES)
def test_both_forms_agree(size):
    config = Qwen2_5VLConfig.from_hf(SIZES[size])
    assert Qwen2_5VLConfig.from_hf(config.to_hf()) == config
    assert hash(config) == hash(Qwen2_5VLConfig.from_hf(SIZES[size]))


def test_tied_is_read_wherever_it_is_written():
    config = Qwen2_5VLConfig.from_hf(PUBLISHED).to_hf()
    del config["tie_word_embeddings"]
    assert not Qwen2_5VLConfig.from_hf(config).tie_word_embeddings
    config["text_config"]["tie_word_embeddings"] = True
    assert Qwen2_5VLConfig.from_hf(config).tie_word_embeddings


def test_defaults_are_those_of_transformers():
    sparse = copy.deepcopy(PUBLISHED)
    del sparse["rms_norm_eps"], sparse["rope_theta"], sparse["rope_scaling"]
    del sparse["vision_config"]["tokens_per_second"], sparse["tie_word_embeddings"]
    config = Qwen2_5VLConfig.from_hf(sparse)
    # A checkpoint that says nothing gets transformers' class defaults, not the published values.
    assert config.text.rms_norm_eps == 1e-5 and config.vision.tokens_per_second == 4
    assert config.text.rope_theta == 1e6 and config.text.mrope_section == (16, 24, 24)
    assert not config.tie_word_embeddings


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "qwen3_vl"}, "model_type is 'qwen3_vl'"),
        ({"hidden_size": None}, "no 'hidden_size'"),
        ({"vision_config": None}, "no 'vision_config'"),
        ({"use_sliding_window": True}, "sliding-window"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"rope_scaling": {"type": "yarn"}}, "rope type 'yarn'"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [8, 8, 8]}}, "mrope_section"),
        ({"hidden_size": 4096}, "mrope_section|out_hidden_size"),
        ({"image_token_id": "<pad>"}, "image_token_id must be a token id, got '<pad>'"),
        ({"eos_token_id": [1, "</s>"]}, "eos_token_id must be an id or a list of ids"),
        (
            {"vision_config": PUBLISHED["vision_config"] | {"window_size": 14}},
            "window_size 14 holds no merged token",
        ),
    ],
)
def test_what_the_port_lacks_is_an_error(change, message):
    with pytest.raises(ValueError, match=message):
        Qwen2_5VLConfig.from_hf(PUBLISHED | change)
