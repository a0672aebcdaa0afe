"""Reading the published and the transformers 5 forms of ``config.json``; the released sizes."""

import copy
import math

import pytest
from jax.sharding import PartitionSpec as P

from resadapt_jax.models.partition import partition_specs
from resadapt_jax.models.qwen3_vl.config import Qwen3VLConfig
from resadapt_jax.models.qwen3_vl.model import param_shapes
from resadapt_jax.models.qwen3_vl.partition import PARTITION


def published(text, vision, tied):
    """``config.json`` as released: what the sizes share, and what they do not."""
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "image_token_id": 151655,
        "model_type": "qwen3_vl",
        "text_config": {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 151643,
            "dtype": "bfloat16",
            "eos_token_id": 151645,
            "head_dim": 128,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "max_position_embeddings": 262144,
            "model_type": "qwen3_vl_text",
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-06,
            "rope_scaling": {
                "mrope_interleaved": True,
                "mrope_section": [24, 20, 20],
                "rope_type": "default",
            },
            "rope_theta": 5000000,
            "use_cache": True,
            "vocab_size": 151936,
        }
        | text,
        "tie_word_embeddings": tied,
        "video_token_id": 151656,
        "vision_config": {
            "hidden_act": "gelu_pytorch_tanh",
            "in_channels": 3,
            "initializer_range": 0.02,
            "model_type": "qwen3_vl",
            "num_heads": 16,
            "num_position_embeddings": 2304,
            "out_hidden_size": text["hidden_size"],
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        }
        | vision,
        "vision_end_token_id": 151653,
        "vision_start_token_id": 151652,
    }


def decoder(hidden_size, intermediate_size, num_hidden_layers, num_attention_heads):
    return {
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": num_attention_heads,
    }


SMALL_TOWER = {
    "deepstack_visual_indexes": [5, 11, 17],
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
}
LARGE_TOWER = {
    "deepstack_visual_indexes": [8, 16, 24],
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
}
SIZES = {
    "2B": published(decoder(2048, 6144, 28, 16), SMALL_TOWER, tied=True),
    "4B": published(decoder(2560, 9728, 36, 32), SMALL_TOWER, tied=True),
    "8B": published(decoder(4096, 12288, 36, 32), LARGE_TOWER, tied=False),
    "32B": published(decoder(5120, 25600, 64, 64), LARGE_TOWER, tied=False),
}


def test_published_form():
    config = Qwen3VLConfig.from_hf(SIZES["4B"])
    # Not hidden_size / num_attention_heads, which is 80.
    assert config.text.head_dim == 128 and config.text.mrope_section == (24, 20, 20)
    assert config.text.rms_norm_eps == 1e-6 and config.text.rope_theta == 5e6
    assert config.vision.head_dim == 64 and config.vision.position_side == 48
    assert config.vision.patch_features == 3 * 2 * 16 * 16
    assert config.vision.deepstack_visual_indexes == (5, 11, 17)
    assert config.tie_word_embeddings and config.eos_token_id == 151645
    large = Qwen3VLConfig.from_hf(SIZES["8B"])
    assert large.vision.head_dim == 72 and not large.tie_word_embeddings


# Decoder, with D width, F hidden units, A = 128 · heads, layers L, vocabulary V = 151936:
#   V·D (twice if untied) + L · (D·A + 2·D·1024 + A·D + 3·D·F + 2·D + 2·128) + D
# Tower, with width W, hidden units H, blocks N, D as above and M = 4·W:
#   1536·W + W + 2304·W + N · (3·W² + 3·W + W² + W + 2·W·H + H + W + 4·W)
#   + 4 · (M² + M + M·D + D) + 2·W + 3 · 2·M
@pytest.mark.parametrize(
    "size, decoder_count, tower_count",
    [
        ("2B", 1_720_574_976, 406_957_056),
        ("4B", 4_022_468_096, 415_347_712),
        ("8B", 8_190_735_360, 576_388_336),
        ("32B", 32_762_123_264, 595_266_800),
    ],
)
def test_released_sizes(size, decoder_count, tower_count):
    shapes = param_shapes(Qwen3VLConfig.from_hf(SIZES[size]))
    tower = {key for key in shapes if key.startswith("model.visual.")}
    assert sum(math.prod(shapes[key]) for key in tower) == tower_count
    assert sum(math.prod(shapes[key]) for key in shapes.keys() - tower) == decoder_count


@pytest.mark.parametrize("size", SIZES)
def test_both_forms_agree(size):
    config = Qwen3VLConfig.from_hf(SIZES[size])
    assert Qwen3VLConfig.from_hf(config.to_hf()) == config
    assert hash(config) == hash(Qwen3VLConfig.from_hf(SIZES[size]))


def test_tied_is_read_wherever_it_is_written():
    config = copy.deepcopy(SIZES["2B"])
    del config["tie_word_embeddings"]
    assert not Qwen3VLConfig.from_hf(config).tie_word_embeddings
    config["text_config"]["tie_word_embeddings"] = True
    assert Qwen3VLConfig.from_hf(config).tie_word_embeddings


def test_several_end_tokens():
    several = copy.deepcopy(SIZES["2B"])
    several["text_config"]["eos_token_id"] = [151645, 151643]
    config = Qwen3VLConfig.from_hf(several)
    assert config.eos_token_id == (151645, 151643)
    assert Qwen3VLConfig.from_hf(config.to_hf()) == config


def test_defaults_are_those_of_transformers():
    sparse = copy.deepcopy(SIZES["8B"])
    for name in ("head_dim", "rms_norm_eps", "rope_theta", "rope_scaling"):
        del sparse["text_config"][name]
    for name in ("deepstack_visual_indexes", "num_position_embeddings", "patch_size"):
        del sparse["vision_config"][name]
    config = Qwen3VLConfig.from_hf(sparse)
    # A checkpoint that says nothing gets transformers' class defaults, not the published values.
    assert config.text.head_dim == 128 and config.text.rms_norm_eps == 1e-6
    assert config.text.rope_theta == 5e5 and config.text.mrope_section == (24, 20, 20)
    assert config.vision.deepstack_visual_indexes == (8, 16, 24)
    assert config.vision.position_side == 48 and config.vision.patch_size == 16


@pytest.mark.parametrize(
    "part, change, message",
    [
        (None, {"model_type": "qwen2_5_vl"}, "model_type is 'qwen2_5_vl'"),
        (None, {"vision_config": None}, "no 'vision_config'"),
        (None, {"text_config": None}, "no 'text_config'"),
        (None, {"video_token_id": None}, "no 'video_token_id'"),
        ("text_config", {"hidden_size": None}, "no 'hidden_size'"),
        ("text_config", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ("text_config", {"attention_bias": True}, "biases on the attention"),
        ("text_config", {"head_dim": 64}, "mrope_section"),
        ("text_config", {"rope_scaling": {"rope_type": "yarn"}}, "rope type 'yarn'"),
        ("text_config", {"rope_scaling": {"mrope_interleaved": False}}, "not interleaved"),
        ("vision_config", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ("vision_config", {"out_hidden_size": 3584}, "out_hidden_size 3584"),
        ("vision_config", {"num_position_embeddings": 2300}, "2300 must be a square"),
        ("vision_config", {"deepstack_visual_indexes": [8, 5]}, "must ascend"),
        ("vision_config", {"deepstack_visual_indexes": [8, 27]}, "within 27 blocks"),
        ("text_config", {"num_hidden_layers": 2}, "3 deepstack features cannot enter 2"),
    ],
)
def test_what_the_port_lacks_is_an_error(part, change, message):
    config = copy.deepcopy(SIZES["8B"])
    (config if part is None else config[part]).update(change)
    with pytest.raises(ValueError, match=message):
        Qwen3VLConfig.from_hf(config)


@pytest.mark.parametrize("size", ["4B", "8B"])
def test_every_parameter_has_a_rule_and_every_rule_a_parameter(size):
    shapes = param_shapes(Qwen3VLConfig.from_hf(SIZES[size]))
    specs = partition_specs(shapes, PARTITION)
    assert specs["model.language_model.layers.0.self_attn.o_proj.weight"] == P("fsdp", "tensor")
    assert specs["model.visual.deepstack_merger_list.2.linear_fc1.weight"] == P("tensor", "fsdp")
    without = [PARTITION[:i] + PARTITION[i + 1 :] for i in range(len(PARTITION))]
    idle = [rule[0] for rule, rest in zip(PARTITION, without, strict=True) if covers(rest, shapes)]
    assert idle == (["lm_head.weight"] if size == "4B" else [])


def covers(table, shapes):
    try:
        partition_specs(shapes, table)
    except ValueError:
        return False
    return True
