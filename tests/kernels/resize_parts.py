"""Frames for the tests of the resize, the oracle's answer, and every backend by one call."""

from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import resize_oracle as oracle
from jax.experimental.pallas import tpu as pltpu

from kernels.resize_patchify import PatchSpec, pallas_gpu, pallas_tpu, reference
from kernels.resize_patchify.layout import lay_out

# With these, outputs are grey levels.
LEVELS = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}

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
    def run(frames, heights, widths):
        layout, _ = lay_out(heights, widths, spec)
        return IMPLEMENTATIONS[implementation](frames, layout, spec)

    # An interpreted kernel is thousands of small operations: their compilation is what takes time.
    quick = {"xla_backend_optimization_level": 0}
    if jax.__version_info__ < (0, 11):  # later ones have no such option
        quick["xla_cpu_use_fusion_emitters"] = False
    return jax.jit(run, compiler_options=None if implementation == "reference" else quick)


def run(implementation, frames, heights, widths, spec):
    """One clip through a backend, without what the api puts around it."""
    sizes = (jnp.asarray(x, jnp.int32)[None] for x in (heights, widths))
    return np.asarray(_compiled(implementation, spec)(jnp.asarray(frames)[None], *sizes)[0])


def expected(frames, heights, widths, spec):
    """The oracle's output for the same spec, zeros up to the capacity included."""
    table = oracle.tables(heights, widths, spec.patch_size, spec.merge_size)
    rows = spec.capacity * spec.merge_size**2
    table = np.concatenate([table, np.full((rows - len(table), 3), -1, np.int32)])
    names = ("patch_size", "temporal_patch_size", "filter", "antialias", "rounding", "mean", "std")
    how = {name: getattr(spec, name) for name in names}
    if frames.shape[-1] != 3:
        frames = frames.transpose(0, 2, 3, 1)
    return oracle.resize_patchify(frames, heights, widths, table, **how)


def spec_for(heights, widths, *, padding=0, **kwargs):
    """The tightest spec of these sizes, with so many blocks of padding."""
    spec = partial(PatchSpec, max_height=int(max(heights)), max_width=int(max(widths)), **kwargs)
    side = spec(capacity=1).block_size
    blocks = sum(h // side * (w // side) for h, w in zip(heights, widths, strict=True))
    return spec(capacity=blocks + padding)
