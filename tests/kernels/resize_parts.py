"""Frames for the tests of the resize, the oracle's answer, and every backend by one call."""

from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import resize_oracle as oracle
from jax.experimental.pallas import tpu as pltpu

from kernels.resize_patchify import (
    PatchSpec,
    pallas_gpu,
    pallas_tpu,
    reference,
    resize_patchify,
)
from kernels.resize_patchify.layout import canvas_of, lay_out

# With these, outputs are grey levels.
LEVELS = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}

# Portrait, landscape, less than a block, and with the last frame alone the whole canvas: 75 rows
# are two reads of a TPU kernel, 133 columns two tiles of it and three of a GPU kernel.
CANVAS = 7, 75, 133, 3
SOURCES = [75, 33, 9, 75], [41, 133, 13, 133]
CANVAS_SIZES = [56, 28, 28, 28], [28, 56, 28, 28]

IMPLEMENTATIONS: dict[str, Callable] = {
    "reference": reference.resize_patchify,
    "pallas_tpu": partial(pallas_tpu.resize_patchify, interpret=pltpu.InterpretParams()),
    "pallas_gpu": partial(pallas_gpu.resize_patchify, interpret=True),
}
"""Functions of (frames, layout, spec) over a batch; kernels run in their interpreters."""


def picture(rng, *shape):
    """Noise over gradients: full range, hard edges."""
    *lead, height, width, channels = shape
    ramp = np.linspace(0, 180, height)[:, None, None] + np.linspace(0, 75, width)[None, :, None]
    noise = rng.uniform(-120, 120, shape) * (rng.uniform(size=shape) < 0.3)
    return np.clip(ramp + noise, 0, 255).astype(np.uint8)


@cache
def _compiled(implementation, spec):
    def run(frames, sizes, sources):
        layout, _ = lay_out(sizes, sources, canvas_of(frames.shape), spec)
        return IMPLEMENTATIONS[implementation](frames, layout, spec)

    # An interpreted kernel is thousands of small operations: their compilation is what takes time.
    quick = {"xla_backend_optimization_level": 0}
    if jax.__version_info__ < (0, 11):  # later ones have no such option
        quick["xla_cpu_use_fusion_emitters"] = False
    return jax.jit(run, compiler_options=None if implementation == "reference" else quick)


def run(implementation, frames, heights, widths, spec, sources=None):
    """One clip through a backend, without what the api puts around it.

    Sources are heights and widths of the units' frames, or nothing.
    """
    sizes = tuple(jnp.asarray(side, jnp.int32)[None] for side in (heights, widths))
    sources = sources and tuple(jnp.asarray(side, jnp.int32)[None] for side in sources)
    return np.asarray(_compiled(implementation, spec)(jnp.asarray(frames)[None], sizes, sources)[0])


def op(frames, heights, widths, source_heights=None, source_widths=None, **how):
    """`resize_patchify` with the sources in their place among the arrays."""
    sources = {"source_heights": source_heights, "source_widths": source_widths}
    return resize_patchify(frames, heights, widths, **sources, **how)


def cropped(frames, sources, spec):
    """The frames of each unit, [F h w 3], without what lies beyond its source."""
    per_unit = spec.temporal_patch_size
    return [
        frames[unit * per_unit :][:per_unit, :height, :width]
        for unit, (height, width) in enumerate(zip(*sources, strict=True))
    ]


def poisoned(frames, sources, spec, value=np.nan):
    """The frames with this value beyond their sources."""
    out = np.full(frames.shape, value, np.float32)
    for own, unit in zip(cropped(out, sources, spec), cropped(frames, sources, spec), strict=True):
        own[...] = unit
    return out


def expected(frames, heights, widths, spec, sources=None):
    """The oracle's output for the same spec, zeros up to the capacity included."""
    table = oracle.tables(heights, widths, spec.patch_size, spec.merge_size)
    rows = spec.capacity * spec.merge_size**2
    table = np.concatenate([table, np.full((rows - len(table), 3), -1, np.int32)])
    names = ("patch_size", "temporal_patch_size", "filter", "antialias", "rounding", "mean", "std")
    how = {name: getattr(spec, name) for name in names}
    if frames.shape[-1] != 3:
        frames = frames.transpose(0, 2, 3, 1)
    if sources is not None:
        frames = [frame for unit in cropped(frames, sources, spec) for frame in unit]
    return oracle.resize_patchify(frames, heights, widths, table, **how)


def spec_for(heights, widths, *, padding=0, **kwargs):
    """The tightest spec of these sizes, with so many blocks of padding."""
    spec = partial(PatchSpec, max_height=int(max(heights)), max_width=int(max(widths)), **kwargs)
    side = spec(capacity=1).block_size
    blocks = sum(h // side * (w // side) for h, w in zip(heights, widths, strict=True))
    return spec(capacity=blocks + padding)
