"""A 7B backbone without values, laid out on a mesh."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import Mesh
from meshes import placed

from resadapt_jax.models.families import ModelConfig, family_of
from resadapt_jax.models.partition import tree_shardings
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig, TextConfig, VisionConfig
from resadapt_jax.models.stacking import stack_layers

# config.json of Qwen/Qwen2.5-VL-7B-Instruct.
QWEN2_5_VL_7B = Qwen2_5VLConfig(
    text=TextConfig(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        mrope_section=(16, 24, 24),
    ),
    vision=VisionConfig(
        depth=32,
        hidden_size=1280,
        intermediate_size=3420,
        num_heads=16,
        out_hidden_size=3584,
        fullatt_block_indexes=(7, 15, 23, 31),
    ),
    image_token_id=151655,
    video_token_id=151656,
    vision_start_token_id=151652,
    vision_end_token_id=151653,
    eos_token_id=(151643, 151645),
)


def abstract_params(config: ModelConfig, mesh: Mesh, dtype: Any = jnp.bfloat16) -> Any:
    """Stacked parameters by the table of the family."""
    shapes = family_of(config).model.param_shapes(config)
    flat = {key: jax.ShapeDtypeStruct(shape, dtype) for key, shape in shapes.items()}
    tree = jax.eval_shape(stack_layers, traverse_util.unflatten_dict(flat, sep="."))
    return placed(tree, tree_shardings(tree, family_of(config).partition, mesh))
