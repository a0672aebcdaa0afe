"""A small run of benchmarks/fuzz_rewards.py, whose own is three hundred times as long."""

import random

import fuzz_rewards
import pytest

from resadapt_jax.rewards import TaskType, check_truth, score


@pytest.fixture(scope="module", autouse=True)
def _warm():
    fuzz_rewards.warm_up()


@pytest.mark.parametrize("task", TaskType)
def test_no_string_raises_or_takes_long(task):
    # the benchmark's limit is 50 ms; machines that test are busy with other things
    result = fuzz_rewards.fuzz(task, count=300, seed=1, limit=0.2)
    assert result["errors"] == [] and result["slow"] == []


@pytest.mark.parametrize("task", TaskType)
def test_scores_stay_in_range_and_truths_are_judged(task):
    pairs = fuzz_rewards.strings(task, random.Random(2))
    for config in fuzz_rewards.CONFIGS:
        for _ in range(100):
            output, truth = next(pairs)
            result = score(task, output, truth, config)
            assert 0.0 <= result.accuracy <= 1.0 + 1e-9
            assert result.format in (-1.0, 0.0, 1.0)
            assert result.reason
            reason = check_truth(task, truth, config)
            assert reason is None or reason


def test_mutations_differ_and_random_texts_do():
    rng = random.Random(3)
    assert len({fuzz_rewards.mutated("the red sign", rng) for _ in range(100)}) > 50
    assert len({fuzz_rewards.random_text(rng) for _ in range(100)}) > 80
