"""The contract every backend keeps, and the checks made before any of them runs."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Num

from kernels.arguments import as_array
from kernels.batching import along, can_lie_along, lengthening, on_one_device
from kernels.resize_patchify import backends, reference
from kernels.resize_patchify.backends import Backend
from kernels.resize_patchify.layout import Layout, canvas_of, lay_out
from kernels.resize_patchify.spec import PatchSpec


class PackedPatches(NamedTuple):
    """Patches of a clip, or under `jax.vmap` of a batch.

    Attributes:
        patches: of the spec's dtype, features in the order (channel, time, y, x) of Qwen2-VL's
            processor, ``P = capacity · merge_size²`` rows.
        overflow: the units asked for more blocks than the capacity, or one for a size that is
            negative, no multiple of the spec's block or beyond its bounds, or its source is empty
            or beyond the canvas. Such a unit is left out, as are all from the first on for which
            there is no room.
    """

    patches: Float[Array, "P D"]
    overflow: Bool[Array, ""]


def resize_patchify(
    frames: Num[Array, "F H W 3"] | Num[Array, "F 3 H W"],
    heights: Int[Array, "K"],
    widths: Int[Array, "K"],
    spec: PatchSpec,
    *,
    source_heights: Int[Array, "K"] | None = None,
    source_widths: Int[Array, "K"] | None = None,
    backend: Backend | str | None = None,
    batch_axes: tuple[str, ...] = (),
) -> PackedPatches:
    """Resizes each unit of a clip to its own size and packs the normalised patches of all.

    out[p] = (resize(unit of p)[:, patch p] / 255 - μ) / σ, units one after the other, their merge
    blocks row by row, the patches of a block row by row: the order of HF's processors.

    A unit is `temporal_patch_size` consecutive frames that share a size; an incomplete last unit
    repeats its last frame. The resize is separable: out = W_y · X · W_xᵀ with the weights of
    `weights.resize_weights`. Same size in and out is the identity.

    Frames of several native sizes lie in one canvas of H x W, each in its top left corner. The
    output is that of the frames cropped to their source, whose border is the one that counts.

    Contract of a backend:
      * static: shapes, dtypes and the spec; traced: sizes and sources, so one compilation serves
        every allocation of every mix of frames, and `jax.vmap` over clips is one launch;
      * rows beyond the last unit's are exactly 0, whatever the frames hold;
      * pixels beyond a unit's source, and of a unit of size 0, never reach the output or a
        gradient, NaN included;
      * float32 accumulation, at most 0.02 grey level from a float64 evaluation; a kernel at
        precision "normal" 0.3 (root mean square 0.05);
      * differentiable in float pixels only, once and in reverse mode: the adjoint of the linear
        map, by the reference (zero where rounding="final" makes it a staircase). Sizes are
        integers, without gradient.

    Args:
        frames: uint8, or floating point on the same scale of 0 to 255; never clamped unless
            the spec's `rounding` says so. Channels last, or first if the last axis is not 3 long.
        heights, widths: size of each unit in pixels, multiples of the spec's block; 0 if absent.
        spec: layout, filter, numbers.
        source_heights, source_widths: native size of each unit's frames in pixels, from 1 to the
            canvas's where a unit is present; None: the whole canvas.
        backend: a `Backend` or its value; nothing is `Backend.AUTO`.
        batch_axes: of the mesh of ``jax.set_mesh``, along which the clips of a ``vmap`` lie. Each
            device then takes its own; XLA cannot split a kernel by itself.

    Raises:
        ValueError: shapes or dtypes that do not fit together; one of the two source sizes alone;
            sizes known when called (outside jit all are) that are not legal or exceed the spec's
            capacity. Names the argument.
        BackendError: no such backend, or it cannot serve the call.
    """
    clip = _checked(frames, heights, widths, source_heights, source_widths, spec)
    frames, sizes, sources = jax.tree.map(lambda x: jnp.asarray(x)[None], clip)
    layout, overflow = lay_out(sizes, sources, canvas_of(frames.shape), spec)
    patches = _op(spec, backends.chosen(backend), batch_axes)(frames, layout)
    return PackedPatches(patches[0], overflow[0])


def patchify(
    frames: Num[Array, "F H W 3"] | Num[Array, "F 3 H W"], spec: PatchSpec
) -> Float[Array, "P D"]:
    """Packs the normalised patches of a clip whose units all keep their size.

    What `resize_patchify` gives of them, where the same size in and out is the identity, without
    its products: reshapes in every backend. Under `jax.vmap`, of a batch. Differentiable.

    Raises:
        ValueError: as `resize_patchify`; or the units do not fill the capacity.
    """
    frames = _checked_frames(frames, spec)
    canvas, units = canvas_of(frames.shape), -(-len(frames) // spec.temporal_patch_size)
    sizes = {name: np.full(units, n) for name, n in zip(("heights", "widths"), canvas, strict=True)}
    _check_sizes(sizes, canvas, spec)
    height, width = canvas
    blocks = units * (height // spec.block_size) * (width // spec.block_size)
    if blocks != spec.capacity:
        raise ValueError(f"the units are {blocks} blocks, capacity is {spec.capacity}")
    return reference.patchify(frames, spec)


def shard_resize_patchify(
    frames: Num[Array, "B F H W 3"] | Num[Array, "B F 3 H W"],
    heights: Int[Array, "B K"],
    widths: Int[Array, "B K"],
    spec: PatchSpec,
    *,
    mesh: Mesh,
    axis: str = "data",
    source_heights: Int[Array, "B K"] | None = None,
    source_widths: Int[Array, "B K"] | None = None,
    backend: Backend | str | None = None,
) -> PackedPatches:
    """`resize_patchify` of a batch of clips that lie along an axis of a mesh; no collective.

    XLA cannot split a kernel by itself: without this every device would gather all clips. Arrays
    that do not lie along the axis yet are moved there.

    Args:
        mesh: of automatic or of explicit axes.
        axis: of the mesh; its size divides B.

    Raises:
        ValueError: as `resize_patchify`, and for a batch that the axis does not divide or a mesh
            without it.
        BackendError: as `resize_patchify`.
    """
    if not isinstance(mesh, Mesh):
        raise ValueError(f"mesh must be a jax.sharding.Mesh, got {type(mesh).__name__}")
    if axis not in mesh.axis_names:
        raise ValueError(f"axis {axis!r} is none of the mesh's: {', '.join(mesh.axis_names)}")
    sizes = heights, widths, source_heights, source_widths
    arrays = _checked(frames, *sizes, spec, batched=True)
    if (batch := len(arrays[0])) % mesh.shape[axis]:
        raise ValueError(
            f"frames: axis {axis!r} of {mesh.shape[axis]} devices does not divide {batch} clips"
        )
    # shard_map itself moves nothing where axes are explicit.
    arrays = jax.device_put(arrays, NamedSharding(mesh, PartitionSpec(axis)))
    return _sharded(spec, backends.chosen(backend), mesh, axis)(*arrays)


@lru_cache(maxsize=256)
def _op(
    spec: PatchSpec, backend: Backend, batch_axes: tuple[str, ...]
) -> Callable[[Array, Layout], Array]:
    """The backend over a batch of clips, with the reference's adjoint and a rule for `vmap`.

    Cached, so that a call outside jit finds its compilation.
    """

    def run(frames, layout):
        if on_one_device():
            return backends.run(frames, layout, spec, backend)
        if can_lie_along(batch_axes, len(frames)):
            part = partial(backends.run, spec=spec, backend=backend)
            return along(batch_axes, part)(frames, layout)
        known = Backend.REFERENCE if backend is Backend.AUTO else backend
        return backends.run(frames, layout, spec, known)

    # Another batch axis makes the batch longer, not the launches more.
    longer = lengthening(lambda clips, _: run(*clips))

    def launch(frames, layout):
        return longer((frames, layout), ())

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


@lru_cache(maxsize=256)
def _sharded(spec: PatchSpec, backend: Backend, mesh: Mesh, axis: str) -> Callable:
    """`resize_patchify` of the clips of each device; cached like `_op`."""
    clips = PartitionSpec(axis)

    @jax.vmap
    def run(frames, sizes, sources):
        source_heights, source_widths = sources or (None, None)
        sources = {"source_heights": source_heights, "source_widths": source_widths}
        return resize_patchify(frames, *sizes, spec, backend=backend, **sources)

    return jax.jit(jax.shard_map(run, mesh=mesh, in_specs=clips, out_specs=clips, check_vma=False))


def _checked(
    frames: Array,
    heights: Array,
    widths: Array,
    source_heights: Array | None,
    source_widths: Array | None,
    spec: PatchSpec,
    *,
    batched: bool = False,
) -> tuple[Array, tuple[Array, ...], tuple[Array, ...] | None]:
    """Frames, sizes and, where given, sources, once they fit together and with the spec."""
    frames = _checked_frames(frames, spec, batched)
    sizes = {"heights": heights, "widths": widths}
    sources = {"source_heights": source_heights, "source_widths": source_widths}
    missing = [name for name, size in sources.items() if size is None]
    if len(missing) == 1:
        raise ValueError(f"{missing[0]} must be given, or neither source size")
    if not missing:
        sizes |= sources
    sizes = {name: as_array(name, size) for name, size in sizes.items()}
    _check_shapes(frames, sizes, spec, batched)
    _check_sizes(sizes, canvas_of(frames.shape), spec)
    heights, widths, *sources = sizes.values()
    return frames, (heights, widths), tuple(sources) or None


def _checked_frames(frames: Array, spec: PatchSpec, batched: bool = False) -> Array:
    """Frames as an array, once their shape and dtype are legal, and the spec is one."""
    if not isinstance(spec, PatchSpec):
        raise ValueError(f"spec must be a PatchSpec, got {type(spec).__name__}")
    frames = as_array("frames", frames)
    shape = frames.shape[batched:]
    if len(shape) != 4 or 3 not in (shape[1], shape[-1]):
        lead = "B, " if batched else ""
        raise ValueError(
            f"frames must be [{lead}F, H, W, 3] or [{lead}F, 3, H, W], got {frames.shape}"
        )
    if 0 in frames.shape:
        raise ValueError(f"frames is empty, its shape is {frames.shape}")
    if frames.dtype != jnp.uint8 and not jnp.issubdtype(frames.dtype, jnp.floating):
        raise ValueError(f"frames must be uint8 or floating point, got {frames.dtype}")
    return frames


def _check_shapes(frames: Array, sizes: dict[str, Array], spec: PatchSpec, batched: bool) -> None:
    """Shapes and dtypes are static, so this works under jit as well."""
    batch, shape = frames.shape[:batched], frames.shape[batched:]
    units = -(-shape[0] // spec.temporal_patch_size)
    for name, array in sizes.items():
        if array.shape != (*batch, units):
            clips = f"{batch[0]} clips of " if batched else ""
            raise ValueError(
                f"{clips}{shape[0]} frames make {units} units of {spec.temporal_patch_size}, "
                f"but {name} has shape {array.shape}"
            )
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise ValueError(f"{name} must be integer, got {array.dtype}")


def _check_sizes(sizes: dict[str, Array], canvas: tuple[int, int], spec: PatchSpec) -> None:
    """Values, where they are known; `lay_out` flags the others."""
    known = {
        name: np.asarray(array).astype(np.int64)
        for name, array in sizes.items()
        if not isinstance(array, jax.core.Tracer)
    }
    for name, most in (("heights", spec.max_height), ("widths", spec.max_width)):
        array = known.get(name, np.array(0))
        for wrong, rule in (
            (array < 0, "must not be negative"),
            (array % spec.block_size != 0, f"must be multiples of {spec.block_size}"),
            (array > most, f"must not exceed {most}"),
        ):
            if wrong.any():
                raise ValueError(f"{name} {rule}, got {array[wrong][0]}")
    if not {"heights", "widths"} <= known.keys():
        return
    blocks = (known["heights"] // spec.block_size) * (known["widths"] // spec.block_size)
    if (most := blocks.sum(axis=-1).max()) > spec.capacity:
        raise ValueError(f"heights and widths ask for {most} blocks, capacity is {spec.capacity}")
    for name, most in zip(("source_heights", "source_widths"), canvas, strict=True):
        array = known.get(name, np.array(1))
        if (wrong := (blocks > 0) & ((array < 1) | (array > most))).any():
            raise ValueError(f"{name} must be from 1 to {most}, got {array[wrong][0]}")
