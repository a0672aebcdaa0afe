"""A tiny SmolVLM2 with random weights, in memory and as an HF directory, for tests."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from resadapt_jax.allocator import AllocatorConfig, init_params
from resadapt_jax.data.toy_questions import TASKS, question_text
from resadapt_jax.data.toy_signs import COLOURS
from resadapt_jax.data.toy_tokenizer import build_toy_tokenizer
from resadapt_jax.models.smolvlm.checkpoint import save_hf
from resadapt_jax.models.smolvlm.config import SmolVLMConfig, TextConfig, VisionConfig
from resadapt_jax.models.smolvlm.model import param_shapes
from resadapt_jax.typing import Params

CONFIG = SmolVLMConfig(
    vision=VisionConfig(
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    ),
    text=TextConfig(
        vocab_size=512,
        hidden_size=12,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=6,
    ),
    scale_factor=2,
    image_token_id=500,
)
NETWORK = AllocatorConfig(
    frame_width=CONFIG.text.hidden_size,
    text_width=CONFIG.text.hidden_size,
    width=8,
    num_heads=2,
    head_dim=8,
    ff_mult=1,
    num_space_time_layers=1,
    pool_width=8,
    head_width=8,
)


def random_params(seed: int = 0, dtype=jnp.float32) -> Params:
    """Weights in which biases and norms matter too."""
    rng = np.random.default_rng(seed)
    params = {}
    for name, shape in param_shapes(CONFIG).items():
        scale = 0.3 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5
        one = len(shape) == 1 and name.endswith("weight")
        params[name] = jnp.asarray(one + scale * rng.normal(size=shape), dtype)
    return traverse_util.unflatten_dict(params, sep=".")


def network_params():
    """Of an allocator on it, random: drawing the allocator's own start would take a compilation."""
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), NETWORK))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), shapes)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A word of the embedded world's questions is a token, as in no backbone of the tests."""
    words = sorted({word for t in TASKS for c in COLOURS for word in question_text(t, c).split()})
    tokenizer = Tokenizer(models.WordLevel({word: 2 * i + 7 for i, word in enumerate(words)}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def write_smolvlm(
    directory: Path, seed: int = 0, tokenizer: PreTrainedTokenizerFast | None = None
) -> Path:
    """What HF publishes of a checkpoint, as far as an encoder is concerned."""
    save_hf(directory, CONFIG, random_params(seed))
    (tokenizer or build_toy_tokenizer()).save_pretrained(directory)
    settings = {"max_image_size": {"longest_edge": 32}, "size": {"longest_edge": 48}, "resample": 1}
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))
    return directory
