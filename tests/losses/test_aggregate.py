"""Reductions: what is divided by what, and when."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.losses import Extremes, WeightedSum, add_sums, aggregate, masked_sum
from resadapt_jax.losses.aggregate import masked_extremes

# Three sequences of 4, 1 and 0 valid tokens.
VALUES = jnp.array(
    [[1.0, 2.0, 3.0, 6.0], [10.0, jnp.nan, jnp.nan, jnp.nan], [jnp.nan] * 4], jnp.float32
)
MASK = jnp.array([[True] * 4, [True] + [False] * 3, [False] * 4])


# token-mean: (1 + 2 + 3 + 6 + 10)/5 = 4.4.
# sequence means 3 and 10; their mean 6.5. Counting the empty sequence would give 4.3333, dividing
# each by the padded length (3 + 2.5)/2 = 2.75.
# sequence sums 12 and 10 over a constant 8: 1.5 and 1.25.
@pytest.mark.parametrize(
    ("mode", "length", "total", "weight", "mean"),
    [
        ("token-mean", None, 22.0, 5.0, 4.4),
        ("sequence-mean-token-mean", None, 13.0, 2.0, 6.5),
        ("sequence-mean-token-sum", 8, 2.75, 2.0, 1.375),
    ],
)
def test_modes(mode, length, total, weight, mean):
    for reduce in (aggregate, jax.jit(aggregate, static_argnames=("mode", "length"))):
        result = reduce(VALUES, MASK, mode=mode, length=length)
        np.testing.assert_allclose(
            [result.total, result.weight, result.mean()], [total, weight, mean], rtol=1e-6
        )


# A mean of means is another number: 3, 10 and 0, or 12/8, 10/8 and 0, divided by three.
@pytest.mark.parametrize(
    ("mode", "length", "mean_of_means"),
    [
        ("token-mean", None, 13 / 3),
        ("sequence-mean-token-mean", None, 13 / 3),
        ("sequence-mean-token-sum", 8, 2.75 / 3),
    ],
)
def test_micro_batches_add_up(mode, length, mean_of_means):
    kinds = {"mode": mode, "length": length}
    parts = [aggregate(VALUES[i : i + 1], MASK[i : i + 1], **kinds) for i in range(3)]
    whole = aggregate(VALUES, MASK, **kinds)
    np.testing.assert_allclose(sum(parts[1:], parts[0]).mean(), whole.mean(), rtol=1e-6)
    np.testing.assert_allclose(np.mean([part.mean() for part in parts]), mean_of_means, rtol=1e-6)


def test_nothing_counted_is_zero_with_a_zero_gradient():
    def mean(x):
        return masked_sum(x, jnp.zeros(3, bool)).mean()

    value, gradient = jax.value_and_grad(mean)(jnp.full(3, jnp.nan))
    assert value == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_no_mask_is_the_plain_mean():
    np.testing.assert_allclose(masked_sum(jnp.array([1.0, 2.0, 6.0])).mean(), 3.0)


def test_weighted_sum_is_a_pytree():
    doubled = jax.tree.map(lambda x: 2 * x, WeightedSum(jnp.array(3.0), jnp.array(2.0)))
    assert doubled.total == 6.0 and doubled.weight == 4.0 and doubled.mean() == 1.5


def test_extremes_of_parts_are_those_of_the_whole():
    values, mask = jnp.array([0.5, -2.0, jnp.nan, 3.0, 1.0]), jnp.array([1, 1, 0, 1, 1], bool)
    whole = masked_extremes(values, mask)
    assert (whole.lowest, whole.highest) == (-2.0, 3.0)
    start = {"ratio": Extremes(jnp.zeros(()), jnp.zeros(()))}
    parts = [{"ratio": masked_extremes(values[i:j], mask[i:j])} for i, j in ((0, 3), (3, 5))]
    assert parts[1]["ratio"].lowest == 0.0  # nothing lies below
    summed = add_sums(add_sums(start, parts[0]), parts[1])["ratio"]
    assert (summed.lowest, summed.highest) == (-2.0, 3.0)
    nothing = masked_extremes(values, jnp.zeros(5, bool))
    assert (nothing.lowest, nothing.highest) == (0.0, 0.0)


def test_errors():
    with pytest.raises(ValueError, match="shape"):
        masked_sum(jnp.ones((2, 3)), jnp.ones((2, 1), bool))
    with pytest.raises(ValueError, match="sum"):
        aggregate(jnp.ones((2, 3)), mode="sum")
    for length in (None, 0):
        with pytest.raises(ValueError, match="positive length"):
            aggregate(jnp.ones((2, 3)), mode="sequence-mean-token-sum", length=length)
