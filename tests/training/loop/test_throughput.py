"""Rates of a step, and the share of the devices' arithmetic that they are."""

import jax
import pytest

from resadapt_jax.training.loop import throughput
from resadapt_jax.training.loop.throughput import mfu, rates


def test_utilisation_only_of_a_known_device():
    # 10^15 in two seconds on four chips of 197e12 a second.
    assert mfu(1e15, 2.0, 4, "TPU v5 lite") == pytest.approx(1e15 / (8 * 197e12))
    assert mfu(1e15, 2.0, 4, "cpu") is None


def test_rates_of_what_a_step_counts():
    counted = {"visual_tokens": 10.0, "answer_tokens": 6.0, "flops": 1e9, "devices": 2}
    assert rates({"seconds": 4.0, **counted}) == {
        "visual_tokens_per_second": 2.5,
        "answer_tokens_per_second": 1.5,
    }
    assert rates({"seconds": 4.0, "loss": 1.0}) == rates({"visual_tokens": 10.0}) == {}


def test_utilisation_is_of_the_devices_of_the_mesh(monkeypatch):
    monkeypatch.setitem(throughput.PEAK_FLOPS, jax.devices()[0].device_kind, 1e9)
    # 8e9 in four seconds on two devices of 1e9, whatever else the machine has.
    assert rates({"seconds": 4.0, "flops": 8e9, "devices": 2})["mfu"] == 1.0
