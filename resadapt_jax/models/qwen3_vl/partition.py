"""How Qwen3-VL is split over a mesh, by the rule of `qwen2_5_vl.partition`.

The norms of queries and keys act inside one head, and the position table is looked up by all.
"""

from jax.sharding import PartitionSpec as P

from resadapt_jax.models.partition import INTO_HEADS, OUT_OF_HEADS, PartitionTable

PARTITION: PartitionTable = (
    ("model.language_model.layers.*.self_attn.[qkv]_proj.weight", INTO_HEADS),
    ("model.language_model.layers.*.self_attn.o_proj.weight", OUT_OF_HEADS),
    ("model.language_model.layers.*.mlp.gate_proj.weight", INTO_HEADS),
    ("model.language_model.layers.*.mlp.up_proj.weight", INTO_HEADS),
    ("model.language_model.layers.*.mlp.down_proj.weight", OUT_OF_HEADS),
    ("model.language_model.embed_tokens.weight", P("tensor", "fsdp")),
    ("lm_head.weight", P("tensor", "fsdp")),
    ("model.visual.patch_embed.proj.weight", P("fsdp")),
    ("model.visual.patch_embed.proj.bias", P()),
    ("model.visual.pos_embed.weight", P(None, "fsdp")),
    ("model.visual.blocks.*.attn.qkv.weight", INTO_HEADS),
    ("model.visual.blocks.*.attn.qkv.bias", P("tensor")),
    ("model.visual.blocks.*.attn.proj.weight", OUT_OF_HEADS),
    ("model.visual.blocks.*.attn.proj.bias", P()),
    # Of the blocks and of the mergers alike.
    ("model.visual.*.linear_fc1.weight", INTO_HEADS),
    ("model.visual.*.linear_fc1.bias", P("tensor")),
    ("model.visual.*.linear_fc2.weight", OUT_OF_HEADS),
    ("model.visual.*.linear_fc2.bias", P()),
    ("*norm*.weight", P()),
    ("*norm*.bias", P()),
)
