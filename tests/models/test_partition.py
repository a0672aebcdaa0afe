"""Partition tables: every parameter has a rule, and a mesh takes what it can of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from resadapt_jax.models.partition import (
    BATCH,
    OPEN,
    constrain,
    map_rows,
    partition_specs,
    shardings,
)
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig
from resadapt_jax.models.qwen2_5_vl.model import param_shapes
from resadapt_jax.models.qwen2_5_vl.partition import PARTITION
from tests.models.test_hf_weights import CONFIG

TABLE = (("a.*.weight", P("tensor", "fsdp")), ("a.norm", P()), ("*.bias", P("tensor")))


def test_the_first_pattern_decides():
    shapes = {"a.0.weight": (8, 6), "a.norm": (6,), "b.c.bias": (8,)}
    specs = partition_specs(shapes, TABLE)
    assert specs == {"a.0.weight": P("tensor", "fsdp"), "a.norm": P(), "b.c.bias": P("tensor")}


def test_what_has_no_rule_or_too_long_a_rule_is_listed():
    with pytest.raises(ValueError) as error:
        partition_specs({"b.weight": (2, 2), "a.0.weight": (4,), "a.norm": (6,)}, TABLE)
    assert "no rule for b.weight" in str(error.value)
    assert "a.0.weight has shape (4,)" in str(error.value)
    assert "a.norm" not in str(error.value)


def test_a_mesh_takes_what_it_can():
    shapes = {"a.0.weight": (8, 6), "a.1.weight": (7, 6)}
    both = shardings(shapes, TABLE, jax.make_mesh((2, 4), ("fsdp", "tensor")))
    assert both["a.0.weight"].spec == P("tensor", "fsdp")
    assert both["a.1.weight"].spec == P(None, "fsdp")  # 4 does not divide 7
    one = shardings(shapes, TABLE, jax.make_mesh((8,), ("data",)))
    assert one["a.0.weight"].is_fully_replicated


def test_an_intermediate_array_is_split_where_there_is_a_mesh():
    x, mesh = (
        jnp.ones((8, 6)),
        jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2),
    )
    rows = jax.device_put(x, NamedSharding(mesh, P("data")))

    def split(x, *axes):
        return jax.jit(lambda x: constrain(x, *axes))(x).sharding.spec

    assert constrain(x, BATCH, "tensor") is x
    with jax.set_mesh(mesh):
        assert split(x, BATCH, "tensor") == P(("data", "fsdp"))  # the mesh has no such axis
        assert split(x[:6], BATCH, "data") == P(None, "data")  # 8 does not divide 6
        assert split(rows, OPEN, None) == P("data")
        assert split(rows, None, None) == P()


def test_mapped_rows_stay_split_whatever_is_open():
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    x = jnp.ones((8, 6, 4))

    def row(x):
        return constrain(2 * x, OPEN, None)

    np.testing.assert_array_equal(map_rows(row)(x), 2 * x)  # without a mesh
    with jax.set_mesh(mesh):
        assert jax.jit(map_rows(row))(x).sharding.spec == P(BATCH)
        np.testing.assert_array_equal(map_rows(row)(x[:6]), 2 * x[:6])  # 8 does not divide 6
        assert jax.jit(jax.vmap(row))(x).sharding.spec != P(BATCH)


@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_has_a_rule_and_every_rule_a_parameter(tied):
    import dataclasses

    config: Qwen2_5VLConfig = dataclasses.replace(CONFIG, tie_word_embeddings=tied)
    shapes = param_shapes(config)
    partition_specs(shapes, PARTITION)
    idle = [
        pattern
        for i, (pattern, _) in enumerate(PARTITION)
        if partition_specs(shapes, PARTITION) == _without(shapes, i)
    ]
    assert idle == (["lm_head.weight"] if tied else [])


def _without(shapes, index):
    """The specs without one rule; None if a parameter is then left without any."""
    try:
        return partition_specs(shapes, PARTITION[:index] + PARTITION[index + 1 :])
    except ValueError:
        return None
