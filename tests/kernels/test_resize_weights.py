"""The weights of the resize, by hand and against the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import resize_oracle as oracle

from kernels.resize_patchify import weights
from kernels.resize_patchify.weights import window

resize_weights = jax.jit(
    weights.resize_weights, static_argnums=(0, 2), static_argnames=("filter", "antialias")
)


@pytest.mark.parametrize(
    "in_size, out_size, filter, antialias, row, expected",
    [
        # r = f = 2, c₀ = ½: k(¼), k(¼), k(¾), k(1¼) = .75, .75, .25, 0; sum 1.75.
        (4, 2, "bilinear", True, 0, [3 / 7, 3 / 7, 1 / 7, 0]),
        # c₀ = -¼, clamped: .75 on pixel 0 and .25 on its copy.
        (2, 4, "bilinear", False, 0, [1, 0]),
        # c₀ = -¼, a = -½: k(¼) = .8671875, k(1¼) = -.0703125, the outside is dropped.
        (2, 4, "bicubic", True, 0, [0.8671875 / 0.796875, -0.0703125 / 0.796875]),
        # a = -¾: k(1¾) = -.03515625 and k(¾) = .26171875 fall on copies of pixel 0.
        (2, 4, "bicubic", False, 0, [0.87890625 + 0.26171875 - 0.03515625, -0.10546875]),
        # c₀ = -¼: k(x) = 3 sin(πx) sin(πx/3) / (πx)² at ¼ and 1¼, the outside dropped.
        (2, 4, "lanczos", True, 0, [0.8900671 / 0.7571960, -0.1328710 / 0.7571960]),
        # One pixel can only be repeated.
        (1, 3, "bicubic", True, 1, [1]),
        (1, 3, "bicubic", False, 2, [1]),
    ],
)
def test_weights_by_hand(in_size, out_size, filter, antialias, row, expected):
    matrix = resize_weights(
        in_size, jnp.int32(out_size), out_size + 2, filter=filter, antialias=antialias
    )
    np.testing.assert_allclose(matrix[row], expected, atol=1e-6)
    np.testing.assert_array_equal(matrix[out_size:], 0)


@pytest.mark.parametrize(
    "filter, antialias",
    [
        ("bicubic", True),
        ("bicubic", False),
        ("bilinear", True),
        ("bilinear", False),
        ("lanczos", True),
    ],
)
def test_weights_equal_the_oracle(filter, antialias):
    for in_size, out_sizes in [(180, (14, 140)), (45, (28, 84)), (28, (28,)), (13, (56,))]:
        for out_size in out_sizes:
            got = resize_weights(
                in_size, jnp.int32(out_size), max(out_sizes), filter=filter, antialias=antialias
            )
            want = oracle.weights(in_size, out_size, filter, antialias)
            # Two matrices in a row over 255 levels: 1e-6 here is well below 0.001 level.
            np.testing.assert_allclose(got[:out_size], want, atol=1e-6)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("filter", ["bicubic", "bilinear"])
def test_nothing_outside_a_window_has_weight(filter, antialias):
    for in_size, out_size in [(180, 28), (45, 84), (28, 28), (13, 56), (97, 70)]:
        matrix = oracle.weights(in_size, out_size, filter, antialias)
        for first in range(0, out_size, 14):
            last = first + 13
            low, high = window(
                first, last, in_size, jnp.int32(out_size), filter=filter, antialias=antialias
            )
            used = np.flatnonzero(matrix[first : last + 1].any(axis=0))
            assert 0 <= low <= used[0] and used[-1] < high <= in_size
            assert used[0] - low <= 2 and high - used[-1] <= 4  # and little else is in it
