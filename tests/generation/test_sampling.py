"""Drawing tokens: the distribution, its log-probs, the greedy limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.generation.sampling import choose, keep_likeliest

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
    [
        ("max_new_tokens", (0, -3), 1),
        ("temperature", (-0.1, float("nan")), 0.7),
        ("top_k", (0, -1), 1),
        ("top_p", (0.0, -0.5, 1.1, float("nan")), 0.5),
        ("prefill_chunk", (0,), 1),
        ("stop_token_ids", ((-1,), (3, -2)), (0, 7)),
        ("cache_dtype", ("int8", "half"), "bfloat16"),
    ],
)
def test_decoding_that_makes_no_sense_is_refused(name, bad, good):
    for value in bad:
        with pytest.raises(ValueError, match=f"^{name} must .*, got "):
            DecodingConfig(**{"temperature": 1.0, name: value})
    assert getattr(DecodingConfig(**{"temperature": 1.0, name: good}), name) == good


@pytest.mark.parametrize("filter_", [{"top_k": 3}, {"top_p": 0.9}])
def test_a_filter_of_what_is_not_drawn_is_refused(filter_):
    with pytest.raises(ValueError, match="^top_k and top_p need a temperature above 0"):
        DecodingConfig(**filter_)


def kept(probs, **options):
    return np.isfinite(keep_likeliest(jnp.log(jnp.array([probs])), **options))[0].tolist()


def test_top_k_and_top_p_by_hand():
    assert kept([0.1, 0.4, 0.2, 0.3], top_k=2) == [False, True, False, True]
    # Ascending masses 0.125, 0.375, 1: at most 1 - 0.7 = 0.3 together drops the first alone.
    assert kept([0.625, 0.125, 0.25], top_p=0.7) == [True, False, True]
    assert kept([0.625, 0.125, 0.25], top_p=0.6) == [True, False, False]
    assert kept([0.625, 0.125, 0.25], top_p=1e-3) == [True, False, False]
    # The second of three equal ones is as likely as the last that top-k keeps.
    assert kept([0.25, 0.25, 0.25, 0.25], top_k=2) == [True] * 4
    # Of equal tokens top-p drops the lower ids first.
    assert kept([0.25, 0.25, 0.25, 0.25], top_p=0.5) == [False, False, True, True]
    # Top-p measures what top-k left: 0.54 and 0.46 of it, of which 0.46 may go at 1 - 0.5.
    assert kept([0.3, 0.2, 0.15, 0.35], top_k=2, top_p=0.5) == [False, False, False, True]


def test_draws_follow_the_filtered_distribution():
    n = 20000
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(PROBS))[None, :], (n, 4))
    token, log_prob = choose(jax.random.key(2), logits, 1.0, 3, 0.8)
    # Of 0.5, 0.3, 0.15 the last is 0.158 of what top-k left, so 1 - 0.8 of it may go.
    expected = np.array([0.625, 0.375])
    frequency = np.bincount(token, minlength=4) / n
    assert np.abs(frequency[:2] - expected).max() < 5 * np.sqrt(0.625 * 0.375 / n)
    assert not frequency[2:].any()
    np.testing.assert_allclose(log_prob, np.log(expected)[token], rtol=1e-5)
