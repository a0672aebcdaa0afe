"""How the allocator's network is split over a mesh: the table for `models.partition`.

Kernels are stored [in, out]. Hidden units of the feed-forwards are split over ``tensor``; attention
is not, as queries, keys and values share kernels whose parts would not meet the devices' own. One
dimension of every kernel is split over ``fsdp``.
"""

from jax.sharding import PartitionSpec as P

from resadapt_jax.models.partition import PartitionTable

PARTITION: PartitionTable = (
    ("*.feed_forward.up.kernel", P("fsdp", "tensor")),
    ("*.feed_forward.down.kernel", P("tensor", "fsdp")),
    ("*_projection.kernel", P(None, "fsdp")),
    ("*.qkv.kernel", P("fsdp")),
    ("*.attention.q.kernel", P("fsdp")),
    ("*.attention.kv.kernel", P("fsdp")),
    ("*_layer_*.out.kernel", P(None, "fsdp")),
    ("pool.*.kernel", P("fsdp")),
    ("unit.*.kernel", P(None, "fsdp")),
    ("head.*.kernel", P("fsdp")),
    ("*.bias", P()),
    ("*norm.scale", P()),
    ("*_gate", P()),
)
