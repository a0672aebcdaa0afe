"""Where the pixels went, and what it did."""

import numpy as np
import pytest

from resadapt_jax.evaluation.selectivity import changes, hit_rate


def test_hits_are_counted_among_as_many_scales_as_there_is_evidence():
    scales = np.array(
        [
            [0.9, 0.1, 0.8, 0.2],  # the two largest are both evidence
            [0.9, 0.1, 0.8, 0.2],  # one of them
            [0.9, 0.5, 0.5, 0.5],  # one for sure, and a third of the other place
            [0.3, 0.3, 0.3, 0.3],  # equal scales: 1 of 4
        ]
    )
    evidence = np.array([[1, 0, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]], bool)
    np.testing.assert_allclose(hit_rate(scales, evidence), [1, 1 / 2, (1 + 1 / 3) / 2, 1 / 4])
    with pytest.raises(ValueError, match="evidence in every clip"):
        hit_rate(scales, np.zeros_like(evidence))


def test_answers_kept_lost_and_gained():
    full, allocated = np.array([1.0, 1.0, 0.2, 0.0, 0.4]), np.array([0.5, 0.35, 0.9, 0.1, 1.0])
    assert changes(full, allocated) == (2, 1, 1, 1)
