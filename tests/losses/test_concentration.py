"""The concentration penalty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.losses import ConcentrationConfig, concentration_penalty, masked_sum

KAPPA = jnp.array([2.0, 10.0, 24.0])
PAPER = ConcentrationConfig(form="paper", kappa_max=10.0)
RELEASED = ConcentrationConfig(form="released")


# Mean 12. Above 10: 0, 0, 14, mean 4.6667.
@pytest.mark.parametrize(
    ("config", "per_unit", "mean"),
    [(RELEASED, [2.0, 10.0, 24.0], 12.0), (PAPER, [0.0, 0.0, 14.0], 14.0 / 3.0)],
)
def test_worked_example(config, per_unit, mean):
    penalty = concentration_penalty(KAPPA, None, config)
    np.testing.assert_array_equal(penalty, per_unit)
    np.testing.assert_allclose(masked_sum(penalty).mean(), mean, rtol=1e-6)
    jitted = jax.jit(concentration_penalty, static_argnames="config")(KAPPA, config=config)
    np.testing.assert_array_equal(jitted, per_unit)


@pytest.mark.parametrize(
    ("config", "gradient"), [(RELEASED, [1.0, 1.0, 1.0]), (PAPER, [0.0, 0.0, 1.0])]
)
def test_gradient(config, gradient):
    # The second unit sits exactly on κ_max and is still free.
    got = jax.grad(lambda kappa: concentration_penalty(kappa, None, config).sum())(KAPPA)
    np.testing.assert_array_equal(got, gradient)


@pytest.mark.parametrize("config", [RELEASED, ConcentrationConfig(kappa_max=-5.0)])
def test_padding_holds_anything(config):
    mask = jnp.array([True, True, False, False])
    padded = jnp.append(KAPPA[:2], jnp.array([jnp.nan, jnp.inf]))

    def total(kappa):
        return concentration_penalty(kappa, mask, config).sum()

    expected = concentration_penalty(KAPPA[:2], None, config).sum()
    np.testing.assert_array_equal(total(padded), expected)
    np.testing.assert_array_equal(jax.grad(total)(padded), [1.0, 1.0, 0.0, 0.0])


def test_unknown_form_is_an_error():
    with pytest.raises(ValueError, match="form"):
        ConcentrationConfig(form="hinge")
