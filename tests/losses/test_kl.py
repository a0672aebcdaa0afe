"""Three estimators of a divergence: their averages, and what their gradients are gradients of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.losses import kl_penalty

# A policy over three tokens, and a reference. Averages over tokens weighted by the policy are exact
# expectations.
LOGITS = jnp.array([0.3, -0.8, 1.1])
REF = jnp.log(jnp.array([0.5, 0.3, 0.2]))


def _expected(logits, estimator):
    """E[estimate], with the tokens' own probabilities held constant, as a loss on samples has."""
    log_probs = jax.nn.log_softmax(logits)
    drawn = jax.lax.stop_gradient(jnp.exp(log_probs))
    return drawn @ kl_penalty(log_probs, REF, estimator=estimator)


def _reverse(logits):
    log_probs = jax.nn.log_softmax(logits)
    return jnp.exp(log_probs) @ (log_probs - REF)  # KL(π || π_ref)


def _forward(logits):
    return jnp.exp(REF) @ (REF - jax.nn.log_softmax(logits))  # KL(π_ref || π)


def test_values():
    # π = π_ref·2: r = log 2 = .693147; k2 = .240227; k3 = 1/2 - 1 + .693147 = .193147
    for estimator, value in (("k1", 0.693147), ("k2", 0.240227), ("k3", 0.193147)):
        result = kl_penalty(jnp.log(0.8), jnp.log(0.4), estimator=estimator)
        np.testing.assert_allclose(result, value, atol=1e-6)


def test_k1_and_k3_are_unbiased():
    for estimator in ("k1", "k3"):
        np.testing.assert_allclose(_expected(LOGITS, estimator), _reverse(LOGITS), rtol=1e-5)
    assert abs(_expected(LOGITS, "k2") - _reverse(LOGITS)) > 1e-2
    assert np.all(kl_penalty(jax.nn.log_softmax(LOGITS), REF, estimator="k3") >= 0.0)


def test_whose_gradient_is_whose():
    def gradient(function, *args):
        return np.asarray(jax.grad(function)(LOGITS, *args))

    np.testing.assert_allclose(gradient(_expected, "k1"), 0.0, atol=1e-6)
    np.testing.assert_allclose(gradient(_expected, "k2"), gradient(_reverse), atol=1e-6)
    np.testing.assert_allclose(gradient(_expected, "k3"), gradient(_forward), atol=1e-6)
    assert np.abs(gradient(_reverse) - gradient(_forward)).max() > 0.05  # they are not the same


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_padding_bounds_and_constants(estimator):
    mask = jnp.array([True, False, True])
    log_probs = jnp.array([-1.0, jnp.nan, -300.0])
    ref = jnp.array([-1.0, jnp.inf, -1.0])

    def total(log_probs, ref):
        return kl_penalty(log_probs, ref, mask, estimator=estimator).sum()

    values = kl_penalty(log_probs, ref, mask, estimator=estimator)
    np.testing.assert_array_equal(values[:2], 0.0)  # equal policies; padding
    # r is bounded to -20: -20, 200, e^20 - 21
    bound = {"k1": -20.0, "k2": 200.0, "k3": np.exp(20.0) - 21.0}[estimator]
    np.testing.assert_allclose(values[2], bound, rtol=1e-5)
    # and to 20: 20, 200, e^-20 + 19
    (above,) = kl_penalty(ref[2:], log_probs[2:], estimator=estimator)
    bound = {"k1": 20.0, "k2": 200.0, "k3": np.exp(-20.0) + 19.0}[estimator]
    np.testing.assert_allclose(above, bound, rtol=1e-5)
    gradients = jax.grad(total, argnums=(0, 1))(log_probs, ref)
    assert np.all(np.isfinite(gradients[0]))
    np.testing.assert_array_equal(gradients[1], 0.0)


def test_errors():
    with pytest.raises(ValueError, match="k4"):
        kl_penalty(jnp.zeros(2), jnp.zeros(2), estimator="k4")
    with pytest.raises(ValueError, match="shape"):
        kl_penalty(jnp.zeros((2, 3)), jnp.zeros((2, 1)))
