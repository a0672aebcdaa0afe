"""Weights of the separable resize: what one output pixel takes of each input pixel.

All is elementwise in integer coordinates, so the bodies of kernels compute the weights that they
need where they need them, from `unnormalised`, and divide by their sum.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.resize_patchify.spec import Filter

RADIUS = {"bilinear": 1, "bicubic": 2, "lanczos": 3}
"""Half the width of each kernel, in input pixels before it is stretched."""


def _triangle(x):
    return jnp.maximum(0.0, 1.0 - jnp.abs(x))


def _cubic(x, a):
    x = jnp.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = a * (((x - 5.0) * x + 8.0) * x - 4.0)
    return jnp.where(x < 1.0, near, jnp.where(x < 2.0, far, 0.0))


def _lanczos(x):
    """sinc(x) · sinc(x / 3) for |x| < 3, of functions that every kernel has."""
    t = jnp.pi * jnp.where(x == 0.0, 1.0, x)
    product = 3.0 * jnp.sin(t) * jnp.sin(t / 3.0) / (t * t)
    return jnp.where(jnp.abs(x) < 3.0, jnp.where(x == 0.0, 1.0, product), 0.0)


def unnormalised(
    i: Int[Array, "#Y #X"],
    j: Int[Array, "#Y #X"],
    in_size: Int[Array, ""] | int,
    out_size: Int[Array, ""],
    *,
    filter: Filter,
    antialias: bool,
) -> Float[Array, "Y X"]:
    """k((j - c_i)/f) of output pixel i and input pixel j; 0 from their sizes on.

    c_i = (i + ½) r - ½ with r = in/out, and f = max(r, 1) if antialias, else 1. Antialiased, the
    window is cut at the border (its sum, to be divided by, is then not 1) and the cubic has
    a = -0.5; without, the border pixel is repeated and a = -0.75: PIL and torch do so in each case.
    """
    support = jnp.maximum(out_size, in_size) if antialias else out_size

    def kernel(j):
        # 2 · out · (j - c_i), exact in integers: float32 coordinates alone cost 0.01 grey level.
        offset = (2 * j + 1) * out_size - (2 * i + 1) * in_size
        x = offset.astype(jnp.float32) / (2 * support).astype(jnp.float32)
        if filter == "bilinear":
            return _triangle(x)
        if filter == "lanczos":
            return _lanczos(x)
        return _cubic(x, -0.5 if antialias else -0.75)

    weights = kernel(j)
    if not antialias:
        radius = RADIUS[filter]
        before = sum(kernel(jnp.full_like(j, -n)) for n in range(1, radius + 1))
        after = sum(kernel(jnp.full_like(j, in_size - 1 + n)) for n in range(1, radius + 1))
        weights += jnp.where(j == 0, before, 0.0) + jnp.where(j == in_size - 1, after, 0.0)
    return jnp.where((i < out_size) & (j < in_size), weights, 0.0)


def window(
    first: Int[Array, ""],
    last: Int[Array, ""],
    in_size: Int[Array, ""] | int,
    out_size: Int[Array, ""],
    *,
    filter: Filter,
    antialias: bool,
) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """Input pixels [low, high) outside of which outputs first ... last have no weight."""
    support = jnp.maximum(out_size, in_size) if antialias else out_size
    reach = 2 * RADIUS[filter] * support
    low = jnp.maximum((2 * first + 1) * in_size - reach, 0) // (2 * out_size)
    high = ((2 * last + 1) * in_size + reach) // (2 * out_size) + 1
    return jnp.minimum(low, in_size - 1), jnp.minimum(high, in_size)


def resize_weights(
    in_size: Int[Array, ""] | int,
    out_size: Int[Array, ""],
    max_out_size: int,
    max_in_size: int | None = None,
    *,
    filter: Filter = "bicubic",
    antialias: bool = True,
) -> Float[Array, "max_out_size max_in_size"]:
    """W_ij = k((j - c_i)/f) / Σ_j: `unnormalised` as a matrix whose rows sum to 1.

    Rows from `out_size` and columns from `in_size` on are zero. Without `max_in_size` there are
    `in_size` columns, which then is static.
    """
    columns = in_size if max_in_size is None else max_in_size
    i = jnp.arange(max_out_size, dtype=jnp.int32)[:, None]
    j = jnp.arange(columns, dtype=jnp.int32)[None, :]
    out_size = jnp.maximum(jnp.asarray(out_size, jnp.int32), 1)
    weights = unnormalised(i, j, in_size, out_size, filter=filter, antialias=antialias)
    total = jnp.sum(weights, axis=1, keepdims=True)
    return weights / jnp.where(total == 0.0, 1.0, total)
