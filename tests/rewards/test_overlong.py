"""The penalty of answers near their limit."""

import numpy as np
import pytest

from resadapt_jax.rewards import overlong_penalty


def test_it_falls_over_the_buffer():
    # limit 100, buffer 40: free up to 60; 70 is a quarter of the way, 80 half, 100 all of it.
    lengths = np.array([[0, 59, 60], [70, 80, 100]])
    penalty = overlong_penalty(lengths, limit=100, buffer=40)
    np.testing.assert_allclose(penalty, [[0.0, 0.0, 0.0], [-0.25, -0.5, -1.0]])
    assert penalty.dtype == np.float32
    # The released code's: 8192 and 4096.
    np.testing.assert_allclose(overlong_penalty(np.array([4096, 6144]), 8192, 4096), [0.0, -0.5])


def test_it_never_exceeds_one():
    np.testing.assert_allclose(overlong_penalty(np.array([11, 1000]), limit=10, buffer=10), -1.0)


@pytest.mark.parametrize("buffer", [0, -1, 101])
def test_an_impossible_buffer_is_refused(buffer):
    with pytest.raises(ValueError, match="buffer must be from 1 to limit 100"):
        overlong_penalty(np.array([1]), limit=100, buffer=buffer)
