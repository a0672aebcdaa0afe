"""Rotary angles by hand."""

import jax.numpy as jnp
import numpy as np

from resadapt_jax.models.rope import (
    interleaved_mrope_angles,
    inverse_frequencies,
    mrope_angles,
    rotate,
    vision_angles,
)


def test_inverse_frequencies_by_hand():
    # 100^(-0/4), 100^(-2/4) = 1, 0.1
    np.testing.assert_allclose(inverse_frequencies(4, 100.0), [1.0, 0.1], rtol=1e-6)


def test_vision_angles_are_rows_then_columns():
    # head_dim 8: 4 features per axis, frequencies 1 and 100^(-1/2) = 0.1.
    angles = vision_angles(jnp.array([3]), jnp.array([5]), 8, 100.0)
    np.testing.assert_allclose(angles, [[3.0, 0.3, 5.0, 0.5]], rtol=1e-6)


def test_mrope_sections_are_chunks():
    # head_dim 8, theta 10000: frequencies 1, 0.1, 0.01, 0.001; sections time 1, row 2, column 1.
    positions = jnp.array([[[2], [30], [400]]])
    angles = mrope_angles(positions, 8, 10000.0, (1, 2, 1))
    # Interleaved sections (Qwen3-VL) would give 2, 3, 4, 0.03.
    np.testing.assert_allclose(angles, [[[2.0, 3.0, 0.3, 0.4]]], rtol=1e-6)


def test_mrope_sections_are_interleaved():
    # Frequencies 10^(-i/2) for i < 6; sections time 3, row 2, column 1: the row takes 1 and 4, the
    # column 2, and the temporal position what is left.
    positions = jnp.array([[[2], [30], [400]]])
    angles = interleaved_mrope_angles(positions, 12, 1e3, (3, 2, 1))
    on_axis = np.array([2, 30, 400, 2, 30, 2])
    np.testing.assert_allclose(angles, [[on_axis * 10.0 ** (-np.arange(6) / 2)]], rtol=1e-6)


def test_real_sections_interleave_up_to_frequency_60():
    positions = jnp.array([[[1], [2], [3]]])
    angles = interleaved_mrope_angles(positions, 128, 1.0, (24, 20, 20))  # all frequencies are 1
    assert angles[0, 0].tolist() == [1.0, 2.0, 3.0] * 20 + [1.0] * 4


def test_rotate_turns_halves():
    x = jnp.array([[[1.0, 0.0, 0.0, 2.0]]])  # pairs (1, 0) and (0, 2)
    angles = jnp.array([[np.pi / 2, np.pi]])
    turned = rotate(x, jnp.cos(angles), jnp.sin(angles))
    # A quarter turn of (1, 0) is (0, 1); a half turn of (0, 2) is (0, -2).
    np.testing.assert_allclose(turned, [[[0.0, 0.0, 1.0, -2.0]]], atol=1e-6)
