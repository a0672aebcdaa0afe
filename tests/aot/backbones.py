"""A 7B backbone and a batch for it, without values, laid out on a mesh."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import placed

from kernels.segment_attention import Backend
from resadapt_jax.models.compute import Compute, Remat, with_compute
from resadapt_jax.models.families import ModelConfig, family_of
from resadapt_jax.models.partition import BATCH, tree_shardings
from resadapt_jax.models.prompt_layout import PromptLayout, expand_prompt
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig, TextConfig, VisionConfig
from resadapt_jax.models.stacking import stack_layers
from resadapt_jax.models.vision_plan import VisionPlan, plan_vision

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
)


class Batch(NamedTuple):
    """Prompts with their patches, and answers with a weight for each token."""

    patches: Any
    plan: VisionPlan
    layout: PromptLayout
    token_ids: Any
    mask: Any
    weights: Any


def for_training(config: ModelConfig) -> ModelConfig:
    """Remade layers, attention in blocks: what a mesh can split, on any device."""
    return with_compute(config, Compute(attention=Backend.BLOCKWISE, remat=Remat.LAYERS))


def abstract_params(config: ModelConfig, mesh: Mesh, dtype: Any = jnp.bfloat16) -> Any:
    """Stacked parameters by the table of the family."""
    shapes = family_of(config).model.param_shapes(config)
    flat = {key: jax.ShapeDtypeStruct(shape, dtype) for key, shape in shapes.items()}
    tree = jax.eval_shape(stack_layers, traverse_util.unflatten_dict(flat, sep="."))
    return placed(tree, tree_shardings(tree, family_of(config).partition, mesh))


def abstract_batch(
    config: ModelConfig, mesh: Mesh, *, rows: int, text: int, visual: int, answer: int
) -> Batch:
    """So many prompts, each of so many positions, the batch split over the mesh.

    Args:
        rows: prompts.
        text: positions of text.
        visual: merged tokens, of 64 entries.
        answer: tokens.
    """
    vision, entries = config.vision, 64
    array = jax.ShapeDtypeStruct

    def lay_out(ids, index, grid):
        plan = plan_vision(grid, capacity=visual, window_patches=vision.window_patches)
        layout = expand_prompt(
            ids, jnp.int32(text), index, grid, jnp.ones(entries), capacity=visual + text
        )
        return plan, layout

    ids, grids = array((rows, text), jnp.int32), array((rows, entries, 3), jnp.int32)
    plan, layout = jax.eval_shape(jax.vmap(lay_out), ids, ids, grids)
    patches = (rows, visual * vision.spatial_merge_size**2, vision.patch_features)
    batch = Batch(
        patches=array(patches, jnp.bfloat16),
        plan=plan,
        layout=layout,
        token_ids=array((rows, answer), jnp.int32),
        mask=array((rows, answer), bool),
        weights=array((rows, answer), jnp.float32),
    )
    split = NamedSharding(mesh, P(BATCH))
    return placed(batch, jax.tree.map(lambda _: split, batch))
