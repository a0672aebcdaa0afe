"""The ladder of capacities: what is chosen, what is refused, what is wasted."""

import numpy as np
import pytest

from resadapt_jax.errors import UserError
from resadapt_jax.operators import CapacityLadder


def test_the_smallest_that_holds_is_chosen():
    ladder = CapacityLadder(steps=(16, 64, 256))
    assert [ladder.choose(n) for n in (0, 1, 16, 17, 64, 65, 256)] == [16, 16, 16, 64, 64, 256, 256]


def test_more_than_the_largest_is_refused():
    with pytest.raises(UserError, match="257 visual tokens exceed the largest capacity, 256"):
        CapacityLadder(steps=(16, 256)).choose(257)


def test_geometric_steps_by_hand():
    # 10, 15, 22.5, 33.75, 40 rounded up to multiples of 8.
    ladder = CapacityLadder.geometric(10, 40, growth=1.5, multiple=8)
    assert ladder.steps == (16, 24, 40)
    assert CapacityLadder.geometric(8, 64, growth=2.0).steps == (8, 16, 32, 64)
    assert CapacityLadder.geometric(7, 7).steps == (7,)


def test_growth_bounds_the_waste():
    ladder = CapacityLadder.geometric(100, 3000, growth=1.2)
    tokens = np.unique(np.geomspace(100, 3000, 500).astype(int))
    waste = np.array([1 - n / ladder.choose(int(n)) for n in tokens])
    # (1 - 1/g) at most, and 1 - (1 - 1/g) / ln g = 8.6 % on average over a logarithmic scale.
    assert waste.max() < 1 - 1 / 1.2 + 0.01
    assert waste.mean() == pytest.approx(0.086, abs=0.01)


def test_shares_of_the_native_tokens():
    # 192 tokens: a sixteenth, a quarter, nine sixteenths, all; a share of 3 tokens is never none.
    ladder = CapacityLadder.of_shares((1.0, 0.25, 0.5625, 0.0625), 192)
    assert ladder.steps == (12, 48, 108, 192) and ladder.largest == 192
    assert ladder.times(4).steps == (48, 192, 432, 768)
    assert CapacityLadder.of_shares((0.1, 0.2, 1.0), 3).steps == (1, 3)


@pytest.mark.parametrize("steps", [(), (0, 1), (4, 4), (8, 4)])
def test_steps_must_rise(steps):
    with pytest.raises(ValueError, match="positive and rising"):
        CapacityLadder(steps=steps)


@pytest.mark.parametrize("smallest, largest, growth", [(0, 8, 1.2), (9, 8, 1.2), (1, 8, 1.0)])
def test_a_ladder_that_is_none_is_refused(smallest, largest, growth):
    with pytest.raises(ValueError, match="growth > 1"):
        CapacityLadder.geometric(smallest, largest, growth=growth)
