"""Layers that the ports share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.models.layers import head_logits, linear


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_heads_gradients_are_those_of_a_linear_layer_in_its_dtype(dtype):
    """In float32 its logits are too; in bfloat16 those of a linear layer have been rounded."""
    keys = jax.random.split(jax.random.key(0), 3)
    hidden, weight = (
        jax.random.normal(key, (2, 5, 8)[i:], dtype) for i, key in enumerate(keys[:2])
    )
    along = jax.random.normal(keys[2], (2, 5, 5))

    def objective(function):
        def of(weight, hidden):
            logits = function({"weight": weight}, hidden).astype(jnp.float32)
            return jnp.sum(along * logits), logits

        return jax.jit(jax.grad(of, argnums=(0, 1), has_aux=True))(weight, hidden)

    gradients, logits = objective(head_logits)
    expected, rounded = objective(linear)
    for got, wanted in zip(gradients, expected, strict=True):
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, wanted)
    assert logits.dtype == jnp.float32
    assert (dtype == jnp.float32) == np.array_equal(logits, rounded)
