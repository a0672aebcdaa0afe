"""Drawing tokens: the distribution, its log-probs, the greedy limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.generation.sampling import choose

PROBS = np.array([0.5, 0.3, 0.15, 0.05])


def test_greedy_takes_the_likeliest_under_the_untempered_distribution():
    logits = jnp.log(jnp.asarray(np.stack([PROBS, PROBS[::-1]]))) + 3.0
    token, log_prob = choose(jax.random.key(0), logits, 0.0)
    assert token.tolist() == [0, 3]
    np.testing.assert_allclose(log_prob, np.log([0.5, 0.5]), rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_draws_follow_the_tempered_distribution(temperature):
    n = 20000
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(PROBS))[None, :], (n, 4))
    token, log_prob = choose(jax.random.key(1), logits, temperature)
    expected = PROBS ** (1 / temperature)
    expected /= expected.sum()
    frequency = np.bincount(token, minlength=4) / n
    # Five standard errors of each frequency.
    bound = 5 * np.sqrt(expected * (1 - expected) / n)
    assert (np.abs(frequency - expected) < bound).all()
    np.testing.assert_allclose(log_prob, np.log(expected)[token], rtol=1e-5)
    assert log_prob.dtype == jnp.float32


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [("max_new_tokens", (0, -3), 1), ("temperature", (-0.1, float("nan")), 0.0)],
)
def test_decoding_that_makes_no_sense_is_refused(name, bad, good):
    for value in bad:
        with pytest.raises(ValueError, match=f"^{name} must .*, got "):
            DecodingConfig(**{name: value})
    assert getattr(DecodingConfig(**{name: good}), name) == good
