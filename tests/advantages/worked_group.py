"""One prompt, four allocations with known costs, as most tests of estimators use it."""

import jax.numpy as jnp

from resadapt_jax.advantages import make_group

# Scales in [.2, 1.8] whose means are .4, .6, 1.2 and 1.6, so c = (mean - .2)/1.6.
COSTS = [0.125, 0.25, 0.625, 0.875]
SCALES = jnp.array(
    [[0.2, 0.4, 0.6], [0.6, 0.6, 0.6], [1.8, 1.2, 0.6], [1.8, 1.4, 1.6]], jnp.float32
)
UNIT_MASK = jnp.ones(3, bool)
MIXED, ALL_RIGHT, ALL_WRONG = [1.0, 0.0, 1.0, 0.0], [1.0] * 4, [0.0] * 4


def group_of(accuracy, scales=SCALES, unit_mask=UNIT_MASK, s_min=0.2, s_max=1.8, **kwargs):
    """A group with accuracy as its only reward; a flat list is one answer per allocation."""
    accuracy = jnp.asarray(accuracy)
    accuracy = accuracy[:, None] if accuracy.ndim == 1 else accuracy
    return make_group({"accuracy": accuracy}, scales, unit_mask, s_min=s_min, s_max=s_max, **kwargs)
