"""The contract every backend keeps, and the checks made before any of them runs."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Num

from kernels.resize_patchify import backends, reference
from kernels.resize_patchify.backends import Backend
from kernels.resize_patchify.layout import Layout, lay_out
from kernels.resize_patchify.spec import PatchSpec


class PackedPatches(NamedTuple):
    """Patches of a clip, or under `jax.vmap` of a batch.

    Attributes:
        patches: of the spec's dtype, features in the order (channel, time, y, x) of Qwen2-VL's
            processor, ``P = capacity · merge_size²`` rows.
        overflow: the units asked for more blocks than the capacity, or for a size beyond the
            spec's bounds; the rows of those that did not fit are then 0.
    """

    patches: Float[Array, "P D"]
    overflow: Bool[Array, ""]


def resize_patchify(
    frames: Num[Array, "F H W 3"] | Num[Array, "F 3 H W"],
    heights: Int[Array, "K"],
    widths: Int[Array, "K"],
    spec: PatchSpec,
    *,
    backend: Backend | str | None = None,
) -> PackedPatches:
    """Resizes each unit of a clip to its own size and packs the normalised patches of all.

    out[p] = (resize(unit of p)[:, patch p] / 255 - μ) / σ, units one after the other, their merge
    blocks row by row, the patches of a block row by row: the order of HF's processors.

    A unit is `temporal_patch_size` consecutive frames that share a size; an incomplete last unit
    repeats its last frame. The resize is separable: out = W_y · X · W_xᵀ with the weights of
    `weights.resize_weights`. Same size in and out is the identity.

    Contract of a backend:
      * static: shapes, dtypes and the spec; traced: sizes, so one compilation serves every
        allocation, and `jax.vmap` over clips is one launch;
      * rows beyond the last unit's are exactly 0, whatever the frames hold;
      * pixels of a unit of size 0 never reach the output or a gradient, NaN included;
      * float32 accumulation, at most 0.02 grey level from a float64 evaluation; a kernel at
        precision "normal" 0.3 (root mean square 0.05);
      * differentiable in float pixels only: the adjoint of the linear map, by the reference (zero
        where rounding="final" makes it a staircase). Sizes are integers, without gradient.

    Args:
        frames: uint8, or floating point on the same scale of 0 to 255; never clamped unless
            the spec's `rounding` says so. Channels last, or first if the last axis is not 3 long.
        heights, widths: size of each unit in pixels, multiples of the spec's block; 0 if absent.
        spec: layout, filter, numbers.
        backend: a `Backend` or its value; nothing is `Backend.AUTO`.

    Raises:
        ValueError: shapes, dtypes or sizes that do not fit together; outside jit also sizes that
            exceed the spec's capacity or bounds. Names the argument.
    """
    _check(frames, heights, widths, spec)
    frames = jnp.asarray(frames)
    layout, overflow = lay_out(heights[None], widths[None], spec)
    _check_fits(heights, widths, overflow, spec)
    patches = _op(spec, backends.chosen(backend))(frames[None], layout)
    return PackedPatches(patches[0], overflow[0])


def shard_resize_patchify(
    frames: Num[Array, "B F H W 3"] | Num[Array, "B F 3 H W"],
    heights: Int[Array, "B K"],
    widths: Int[Array, "B K"],
    spec: PatchSpec,
    *,
    mesh: Mesh,
    axis: str = "data",
    backend: Backend | str | None = None,
) -> PackedPatches:
    """`resize_patchify` of a batch of clips that lie along an axis of a mesh; no collective.

    XLA cannot split a kernel by itself: without this every device would gather all clips.

    Args:
        axis: of the mesh; its size divides B.
    """
    clips = PartitionSpec(axis)
    run = jax.vmap(partial(resize_patchify, spec=spec, backend=backend))
    sharded = jax.shard_map(
        run, mesh=mesh, in_specs=(clips, clips, clips), out_specs=clips, check_vma=False
    )
    return sharded(frames, heights, widths)


@lru_cache(maxsize=256)
def _op(spec: PatchSpec, backend: Backend) -> Callable[[Array, Layout], Array]:
    """The backend over a batch of clips, with the reference's adjoint and a rule for `vmap`.

    Cached, so that a call outside jit finds its compilation.
    """

    @custom_vmap
    def launch(frames, layout):
        return backends.run(frames, layout, spec, backend)

    @launch.def_vmap
    def fold(size, batched, *args):
        # Another batch axis makes the batch longer, not the launches more.
        args = jax.tree.map(
            lambda x, is_batched: x if is_batched else jnp.broadcast_to(x[None], (size, *x.shape)),
            args,
            tuple(batched),
        )
        rows = args[0].shape[1]
        patches = launch(*jax.tree.map(lambda x: x.reshape(size * rows, *x.shape[2:]), args))
        return patches.reshape(size, rows, *patches.shape[1:]), True

    @jax.custom_vjp
    def apply(frames, layout):
        return launch(frames, layout)

    def forward(frames, layout):
        # Linear, so that pixels are no residual; an empty array carries their dtype.
        return launch(frames, layout), (jnp.zeros((*frames.shape, 0), frames.dtype), layout)

    def backward(residuals, cotangent):
        empty, layout = residuals
        if not jnp.issubdtype(empty.dtype, jnp.floating):
            return None, None
        frames = jnp.zeros(empty.shape[:-1], empty.dtype)
        _, transpose = jax.vjp(lambda x: reference.resize_patchify(x, layout, spec), frames)
        return *transpose(cotangent), None

    apply.defvjp(forward, backward)
    return jax.jit(apply)


def _check(frames: Array, heights: Array, widths: Array, spec: PatchSpec) -> None:
    """Shapes and dtypes are static, so this works under jit as well; values only outside."""
    if frames.ndim != 4 or 3 not in (frames.shape[1], frames.shape[-1]) or 0 in frames.shape:
        raise ValueError(f"frames must be [F, H, W, 3] or [F, 3, H, W], got {frames.shape}")
    if frames.dtype != jnp.uint8 and not jnp.issubdtype(frames.dtype, jnp.floating):
        raise ValueError(f"frames must be uint8 or floating point, got {frames.dtype}")
    units = -(-frames.shape[0] // spec.temporal_patch_size)
    for name, sizes in (("heights", heights), ("widths", widths)):
        if sizes.ndim != 1 or len(sizes) != units:
            raise ValueError(
                f"{frames.shape[0]} frames make {units} units of {spec.temporal_patch_size}, "
                f"but {name} has shape {sizes.shape}"
            )
        if not jnp.issubdtype(sizes.dtype, jnp.integer):
            raise ValueError(f"{name} must be integer, got {sizes.dtype}")
        if isinstance(sizes, jax.core.Tracer):
            continue
        if (np.asarray(sizes) % spec.block_size).any() or (np.asarray(sizes) < 0).any():
            raise ValueError(f"{name} must be multiples of {spec.block_size}, got {sizes}")


def _check_fits(heights: Array, widths: Array, overflow: Array, spec: PatchSpec) -> None:
    if isinstance(overflow, jax.core.Tracer) or not overflow[0]:
        return
    for name, sizes, most in (
        ("heights", heights, spec.max_height),
        ("widths", widths, spec.max_width),
    ):
        if (np.asarray(sizes) > most).any():
            raise ValueError(f"{name} must not exceed {most}, got {sizes}")
    blocks = np.sum(
        np.asarray(heights) // spec.block_size * (np.asarray(widths) // spec.block_size)
    )
    raise ValueError(f"heights and widths ask for {blocks} blocks, capacity is {spec.capacity}")
