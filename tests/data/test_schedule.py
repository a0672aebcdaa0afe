"""Which rows make which batch: every epoch whole, shares as weighted, the same everywhere."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resadapt_jax.data.schedule import plan_batches, shuffled


def plan(shapes, weights=None, **options):
    shapes = [np.array(of_corpus) for of_corpus in shapes]
    options = {"batch_size": 2, "num_batches": 4, "seed": 0} | options
    return plan_batches(shapes, weights or [len(s) for s in shapes], **options)


def rows_of(schedule):
    """(corpus, row) of all batches, in order."""
    return list(zip(schedule.corpus.ravel().tolist(), schedule.row.ravel().tolist(), strict=True))


def test_with_one_shape_each_epoch_is_a_permutation():
    schedule = plan([[0] * 6], num_batches=9)
    rows = schedule.row.ravel()
    for epoch in range(3):
        assert sorted(rows[6 * epoch : 6 * epoch + 6]) == list(range(6))
    assert not np.array_equal(rows[:6], rows[6:12])
    assert schedule.epochs.tolist() == [3.0]


def test_a_batch_has_rows_of_one_shape():
    shapes = [0, 1, 0, 1, 1, 0, 0]
    schedule = plan([shapes], num_batches=20)
    assert np.all(np.array(shapes)[schedule.row] == schedule.shape[:, None])
    assert set(schedule.shape.tolist()) == {0, 1}


@settings(deadline=None, max_examples=50)
@given(
    shapes=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=3),
    batch_size=st.integers(1, 5),
    num_batches=st.integers(1, 12),
    seed=st.integers(0, 5),
)
def test_rows_in_batches_are_those_drawn_but_for_the_few_that_wait(
    shapes, batch_size, num_batches, seed
):
    schedule = plan(shapes, batch_size=batch_size, num_batches=num_batches, seed=seed)
    used = Counter(rows_of(schedule))
    waiting = 0
    for corpus, of_corpus in enumerate(shapes):
        drawn = round(schedule.epochs[corpus] * len(of_corpus))
        order = np.concatenate(
            [shuffled(len(of_corpus), seed, corpus, epoch) for epoch in range(drawn + 1)]
        )[:drawn]
        times = Counter((corpus, row) for row in order.tolist())
        mine = Counter({key: n for key, n in used.items() if key[0] == corpus})
        assert mine <= times
        waiting += (times - mine).total()
    assert waiting <= len(set(sum(shapes, []))) * (batch_size - 1)
    assert len(schedule.row) == num_batches


def test_a_row_that_waits_comes_before_the_same_row_of_a_later_epoch():
    # Rows of the lone shape 1 are too few for a batch of three in one epoch: they come in the
    # third, once from each.
    schedule = plan([[0, 0, 0, 1]], batch_size=3, num_batches=4)
    assert schedule.shape[:2].tolist() == [0, 0] and sorted(schedule.shape[2:]) == [0, 1]
    assert schedule.row[schedule.shape == 1].tolist() == [[3, 3, 3]]


def test_corpora_are_mixed_by_weight_all_the_way():
    schedule = plan([[0] * 5, [0] * 50], [3.0, 1.0], batch_size=4, num_batches=50)
    first = np.cumsum(schedule.corpus.ravel() == 0)
    draws = np.arange(1, 201)
    assert np.all(np.abs(first - 0.75 * draws) < 1)
    assert schedule.epochs.tolist() == [150 / 5, 50 / 50]


@settings(deadline=None, max_examples=30)
@given(weights=st.lists(st.floats(0.01, 10), min_size=2, max_size=6))
def test_shares_follow_the_weights_within_a_few_rows(weights):
    schedule = plan([[0] * 4] * len(weights), weights, batch_size=10, num_batches=30)
    shares = np.bincount(schedule.corpus.ravel(), minlength=len(weights))
    assert np.all(np.abs(shares - 300 * np.array(weights) / sum(weights)) < len(weights))


def test_a_corpus_smaller_than_a_batch_repeats():
    schedule = plan([[0]], batch_size=3, num_batches=2)
    assert schedule.row.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert schedule.epochs.tolist() == [6.0]


def test_more_batches_change_none_of_the_first():
    few, many = (plan([[0, 1, 0], [1, 1]], num_batches=n) for n in (3, 30))
    assert rows_of(few) == rows_of(many)[:6]


def test_the_seed_and_nothing_else_decides():
    one, again, other = (plan([[0] * 20], num_batches=10, seed=seed) for seed in (1, 1, 2))
    assert rows_of(one) == rows_of(again)
    assert rows_of(one) != rows_of(other)


def test_a_shuffle_is_fixed_for_all_time():
    # The raw draws of PCG64 seeded with (0, 0, 0), sorted by hand: a run that is resumed with
    # another numpy must go on as it began.
    draws = np.random.PCG64(np.random.SeedSequence((0, 0, 0))).random_raw(5).tolist()
    assert shuffled(5, 0, 0, 0).tolist() == [draws.index(draw) for draw in sorted(draws)]
    counts = Counter(tuple(shuffled(3, seed)) for seed in range(600))
    assert len(counts) == 6 and min(counts.values()) > 60  # 100 expected of each order


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, float("inf")]])
def test_weights_must_be_positive_and_as_many_as_corpora(weights):
    with pytest.raises(ValueError, match="2 corpora need as many positive weights"):
        plan([[0], [0]], weights)


def test_a_corpus_without_rows_is_an_error():
    with pytest.raises(ValueError, match="has no row"):
        plan([[0], []], [1.0, 1.0])
