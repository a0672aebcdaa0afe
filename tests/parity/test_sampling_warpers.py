"""Top-k and top-p against transformers' logits warpers."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with HF transformers needs torch")

import jax  # noqa: E402
from transformers.generation.logits_process import (  # noqa: E402
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from resadapt_jax.generation.sampling import keep_likeliest  # noqa: E402

VOCABULARY = 200


def random_logits():
    return np.random.default_rng(0).normal(size=(64, VOCABULARY)).astype(np.float32) * 3


def tied_logits():
    """Whole numbers: dozens of tokens share a logit, also the one at which the cut falls."""
    return np.round(random_logits())


def warped(logits, temperature, top_k, top_p):
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k is not None:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    return warpers(None, torch.tensor(logits)).numpy()


@pytest.mark.parametrize("logits", [random_logits(), tied_logits()], ids=["random", "tied"])
@pytest.mark.parametrize(
    ("top_k", "top_p"),
    [(1, 1.0), (20, 1.0), (500, 1.0), (None, 0.9), (None, 0.3), (None, 1e-6), (20, 0.7)],
)
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_what_is_kept_is_what_transformers_keeps(logits, top_k, top_p, temperature):
    keep = jax.jit(keep_likeliest, static_argnums=(1, 2))
    ours = np.asarray(keep(logits / np.float32(temperature), top_k, top_p))
    theirs = warped(logits, temperature, top_k, top_p)
    # Which of several equal logits top-p keeps is left to torch's sort, which is not stable.
    np.testing.assert_allclose(np.sort(ours), np.sort(theirs), rtol=1e-6)
    tied = len(np.unique(logits)) < 50
    kept = np.isfinite(ours)
    if top_p == 1 or not tied:
        np.testing.assert_array_equal(kept, np.isfinite(theirs))
    assert kept.any(axis=1).all() and (top_k == 500 or not kept.all())
    if top_k == 20 and top_p == 1:
        assert (kept.sum(axis=1) > 20).any() == tied
