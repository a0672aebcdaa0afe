"""From frames and sizes to visual tokens, inside jit: plan, resize and patchify, encode."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kernels.resize_patchify import PatchSpec, patchify, resize_patchify
from resadapt_jax.errors import UserError
from resadapt_jax.models.families import ModelConfig, family_of
from resadapt_jax.models.partition import BATCH
from resadapt_jax.models.vision_plan import VisionPlan, plan_vision
from resadapt_jax.typing import Array, Float, Int, Num, Params


class SourceSizes(NamedTuple):
    """What of each pair's frames is picture, from the top left, in pixels."""

    heights: Int[Array, "*B K"]
    widths: Int[Array, "*B K"]


def plan_pairs(grid_thw: Int[Array, "K 3"], config: ModelConfig, capacity: int) -> VisionPlan:
    """The packed layout of one clip's pairs for a backbone."""
    return plan_vision(
        grid_thw,
        capacity=capacity,
        merge_size=config.vision.spatial_merge_size,
        window_patches=config.vision.window_patches,
    )


def _patch_spec(
    config: ModelConfig, capacity: int, max_height: int, max_width: int, dtype: str
) -> PatchSpec:
    vision = config.vision
    return PatchSpec(
        capacity=capacity,
        max_height=max_height,
        max_width=max_width,
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        mean=vision.image_mean,
        std=vision.image_std,
        dtype=dtype,
    )


def pack_pairs(
    config: ModelConfig,
    frames: Num[Array, "F height width 3"],
    grid_thw: Int[Array, "K 3"],
    *,
    capacity: int,
    max_height: int,
    max_width: int,
    dtype: str = "float32",
    sources: SourceSizes | None = None,
) -> tuple[Float[Array, "P features"], VisionPlan]:
    """Patches of pairs of any legal sizes, as the tower takes them, and their layout.

    Its ``overflow`` also marks sizes beyond the bounds.

    Args:
        grid_thw: (1, rows, cols) in patches per pair; zeros for an absent one.
        capacity: merged tokens that the layout holds.
        max_height, max_width: static bounds of the sizes in pixels.
        dtype: of the patches.
        sources: of frames of differing size on a common canvas; None: each fills it.
    """
    spec = _patch_spec(config, capacity, max_height, max_width, dtype)
    heights, widths = (grid_thw[:, axis] * spec.patch_size for axis in (1, 2))
    source_heights, source_widths = (None, None) if sources is None else sources
    packed = resize_patchify(
        frames,
        heights,
        widths,
        spec,
        source_heights=source_heights,
        source_widths=source_widths,
        batch_axes=BATCH,
    )
    plan = plan_pairs(grid_thw, config, capacity)
    return packed.patches, plan.replace(overflow=plan.overflow | packed.overflow)


def encode_pairs(
    params: Params,
    config: ModelConfig,
    frames: Num[Array, "F height width 3"],
    grid_thw: Int[Array, "K 3"],
    *,
    capacity: int,
    max_height: int,
    max_width: int,
    sources: SourceSizes | None = None,
) -> tuple[Float[Array, "U W"], VisionPlan]:
    """Visual tokens of the pairs that `pack_pairs` lays out; the arguments are the same.

    A row holds all that the decoder takes of a token (``model.encode_visual`` of its family).
    """
    model = family_of(config).model
    patches, plan = pack_pairs(
        config,
        frames,
        grid_thw,
        capacity=capacity,
        max_height=max_height,
        max_width=max_width,
        dtype=model.patch_dtype(params),
        sources=sources,
    )
    return model.encode_visual(params, config, patches, plan), plan


def encode_whole(
    params: Params, config: ModelConfig, frames: Num[Array, "F height width 3"]
) -> Float[Array, "U W"]:
    """Visual tokens of pairs that all keep their own size: as `encode_pairs`, without a resize."""
    vision, model = config.vision, family_of(config).model
    pairs, (height, width) = -(-len(frames) // vision.temporal_patch_size), frames.shape[1:3]
    rows, cols = height // vision.patch_size, width // vision.patch_size
    capacity = pairs * (rows // vision.spatial_merge_size) * (cols // vision.spatial_merge_size)
    spec = _patch_spec(config, capacity, height, width, model.patch_dtype(params))
    grid_thw = jnp.tile(jnp.array([[1, rows, cols]]), (pairs, 1))
    plan = plan_pairs(grid_thw, config, capacity)
    return model.encode_visual(params, config, patchify(frames, spec), plan)


def check_pairs(
    grid_thw: Int[Array, "B K 3"],
    num_frames: int,
    temporal_patch_size: int,
    most: Int[np.ndarray, "2"],
) -> None:
    """Refuses grids that are not one per pair of frames; under a trace, looks at their number only.

    Args:
        most: rows and columns of patches that a grid may have.

    Raises:
        UserError: another number of grids, one of several temporal patches, or one that is larger.
    """
    pairs = grid_thw.shape[1]
    if pairs != -(-num_frames // temporal_patch_size):
        raise UserError(f"there are grids of {pairs} pairs for {num_frames} frames")
    if isinstance(grid_thw, jax.core.Tracer):
        return
    times = np.asarray(grid_thw)[:, :, 0]
    if times.max() > 1:
        row, pair = np.argwhere(times > 1)[0]
        raise UserError(
            f"prompt {row}: entry {pair} has {times[row, pair]} temporal patches, a pair of frames"
            " is one"
        )
    if (np.asarray(grid_thw)[:, :, 1:] > most).any():
        raise UserError(
            f"a grid exceeds {most[0]} x {most[1]} patches, the frames' own size times max_scale"
        )
