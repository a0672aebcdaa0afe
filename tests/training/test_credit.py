"""Which prompts of a batch are learnt from."""

import jax
import numpy as np
import pytest

from resadapt_jax.training.credit import keep_informative
from resadapt_jax.training.mesh import MeshConfig, batch_sharding, build_mesh, put_batch


@pytest.mark.parametrize("data", [1, 2])
def test_of_each_few_prompts_the_first_informative_one_is_kept(data):
    """Three and three on a mesh, whole or in halves; where none is informative, the first."""
    mesh = build_mesh(MeshConfig(data=data))
    informative = np.array([0, 0, 1, 0, 1, 1, 0, 0, 0, 1, 1, 1], bool)
    rows = {"place": np.arange(12), "pair": np.arange(24).reshape(12, 2)}
    with jax.set_mesh(mesh):
        kept = keep_informative(put_batch(rows, mesh), put_batch(informative, mesh), oversampling=3)
    np.testing.assert_array_equal(kept["place"], [2, 4, 6, 9])
    np.testing.assert_array_equal(kept["pair"], [[4, 5], [8, 9], [12, 13], [18, 19]])
    assert kept["pair"].sharding.is_equivalent_to(batch_sharding(mesh), 2)
