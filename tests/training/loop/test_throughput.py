"""Rates of a step, and the share of the devices' arithmetic that they are."""

import pytest

from resadapt_jax.training.loop.throughput import mfu, rates


def test_utilisation_only_of_a_known_device():
    # 10^15 in two seconds on four chips of 197e12 a second.
    assert mfu(1e15, 2.0, 4, "TPU v5 lite") == pytest.approx(1e15 / (8 * 197e12))
    assert mfu(1e15, 2.0, 4, "cpu") is None


def test_rates_of_what_a_step_counts():
    assert rates({"seconds": 4.0, "tokens": 10.0, "flops": 1e9}) == {"tokens_per_second": 2.5}
    assert rates({"seconds": 4.0, "loss": 1.0}) == rates({"tokens": 10.0}) == {}
