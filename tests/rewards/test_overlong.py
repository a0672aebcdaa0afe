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


# limit 64, buffer 16: nothing up to 48, then a sixteenth per token.
@pytest.mark.parametrize(
    ("length", "sixteenths"),
    [
        *((length, 0) for length in (0, 1, 2, 8, 16, 31, 32, 47, 48)),
        *((48 + extra, extra) for extra in range(1, 17)),
        *((length, 16) for length in (65, 66, 80, 96, 128, 1000, 8192)),
    ],
)
def test_a_sixteenth_per_token(length, sixteenths):
    penalty = overlong_penalty(np.array(length), limit=64, buffer=16)
    assert penalty == -sixteenths / 16


def test_it_never_exceeds_one():
    np.testing.assert_allclose(overlong_penalty(np.array([11, 1000]), limit=10, buffer=10), -1.0)


@pytest.mark.parametrize("buffer", [0, -1, 101])
def test_an_impossible_buffer_is_refused(buffer):
    with pytest.raises(ValueError, match="buffer must be from 1 to limit 100"):
        overlong_penalty(np.array([1]), limit=100, buffer=buffer)
