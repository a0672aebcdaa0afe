"""How Qwen2.5-VL is split over a mesh.

Weights are stored [out, in]. What makes heads or hidden units is split over ``tensor`` by its
outputs and what takes them by its inputs, so that a layer needs one all-reduce after attention and
one after the feed-forward; the other dimension is split over ``fsdp``.
"""

from jax.sharding import PartitionSpec as P

from resadapt_jax.models.partition import INTO_HEADS, OUT_OF_HEADS, PartitionTable

PARTITION: PartitionTable = (
    ("model.layers.*.self_attn.[qkv]_proj.weight", INTO_HEADS),
    ("model.layers.*.self_attn.[qkv]_proj.bias", P("tensor")),
    ("model.layers.*.self_attn.o_proj.weight", OUT_OF_HEADS),
    ("*.mlp.gate_proj.weight", INTO_HEADS),
    ("*.mlp.up_proj.weight", INTO_HEADS),
    ("*.mlp.gate_proj.bias", P("tensor")),
    ("*.mlp.up_proj.bias", P("tensor")),
    ("*.mlp.down_proj.weight", OUT_OF_HEADS),
    ("*.mlp.down_proj.bias", P()),
    ("model.embed_tokens.weight", P("tensor", "fsdp")),
    ("lm_head.weight", P("tensor", "fsdp")),
    ("visual.patch_embed.proj.weight", P("fsdp")),
    ("visual.blocks.*.attn.qkv.weight", INTO_HEADS),
    ("visual.blocks.*.attn.qkv.bias", P("tensor")),
    ("visual.blocks.*.attn.proj.weight", OUT_OF_HEADS),
    ("visual.blocks.*.attn.proj.bias", P()),
    ("visual.merger.mlp.0.weight", INTO_HEADS),
    ("visual.merger.mlp.0.bias", P("tensor")),
    ("visual.merger.mlp.2.weight", OUT_OF_HEADS),
    ("visual.merger.mlp.2.bias", P()),
    ("*norm*.weight", P()),
    ("visual.merger.ln_q.weight", P()),
)
