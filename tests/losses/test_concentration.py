"""The concentration penalty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.losses import ConcentrationConfig, concentration, masked_sum

ALPHA, BETA = jnp.array([1.0, 5.0, 20.0]), jnp.array([1.0, 5.0, 4.0])
PAPER = ConcentrationConfig(form="paper", kappa_max=10.0)
RELEASED = ConcentrationConfig(form="released")


# α + β = 2, 10, 24. Mean 12. Above 10: 0, 0, 14, mean 4.6667.
@pytest.mark.parametrize(
    ("config", "per_unit", "mean"),
    [(RELEASED, [2.0, 10.0, 24.0], 12.0), (PAPER, [0.0, 0.0, 14.0], 14.0 / 3.0)],
)
def test_worked_example(config, per_unit, mean):
    penalty = concentration(ALPHA, BETA, None, config)
    np.testing.assert_array_equal(penalty, per_unit)
    np.testing.assert_allclose(masked_sum(penalty).mean(), mean, rtol=1e-6)
    jitted = jax.jit(concentration, static_argnames="config")(ALPHA, BETA, config=config)
    np.testing.assert_array_equal(jitted, per_unit)


@pytest.mark.parametrize(
    ("config", "gradient"), [(RELEASED, [1.0, 1.0, 1.0]), (PAPER, [0.0, 0.0, 1.0])]
)
def test_gradient_reaches_both_parameters(config, gradient):
    # The second unit sits exactly on κ_max and is still free.
    gradients = jax.grad(lambda a, b: concentration(a, b, None, config).sum(), argnums=(0, 1))(
        ALPHA, BETA
    )
    for one in gradients:
        np.testing.assert_array_equal(one, gradient)


@pytest.mark.parametrize("config", [RELEASED, ConcentrationConfig(kappa_max=-5.0)])
def test_padding_holds_anything(config):
    mask = jnp.array([True, True, False])
    alpha, beta = ALPHA.at[2].set(jnp.nan), BETA.at[2].set(jnp.inf)

    def total(a, b):
        return concentration(a, b, mask, config).sum()

    np.testing.assert_array_equal(
        total(alpha, beta), concentration(ALPHA[:2], BETA[:2], None, config).sum()
    )
    for one in jax.grad(total, argnums=(0, 1))(alpha, beta):
        np.testing.assert_array_equal(one, [1.0, 1.0, 0.0])


def test_unknown_form_is_an_error():
    with pytest.raises(ValueError, match="form"):
        ConcentrationConfig(form="hinge")
