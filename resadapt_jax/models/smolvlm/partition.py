"""How SmolVLM2's encoders are split over a mesh, by the rule of `qwen2_5_vl.partition`.

The position table is looked up by all.
"""

from jax.sharding import PartitionSpec as P

from resadapt_jax.models.partition import INTO_HEADS, OUT_OF_HEADS, PartitionTable

PARTITION: PartitionTable = (
    ("model.text_model.layers.*.self_attn.[qkv]_proj.weight", INTO_HEADS),
    ("model.text_model.layers.*.self_attn.o_proj.weight", OUT_OF_HEADS),
    ("model.text_model.layers.*.mlp.gate_proj.weight", INTO_HEADS),
    ("model.text_model.layers.*.mlp.up_proj.weight", INTO_HEADS),
    ("model.text_model.layers.*.mlp.down_proj.weight", OUT_OF_HEADS),
    ("model.text_model.embed_tokens.weight", P("tensor", "fsdp")),
    ("model.connector.modality_projection.proj.weight", P(None, "fsdp")),
    ("model.vision_model.embeddings.patch_embedding.weight", P("fsdp")),
    ("model.vision_model.embeddings.patch_embedding.bias", P()),
    ("model.vision_model.embeddings.position_embedding.weight", P(None, "fsdp")),
    ("model.vision_model.encoder.layers.*.self_attn.[qkv]_proj.weight", INTO_HEADS),
    ("model.vision_model.encoder.layers.*.self_attn.[qkv]_proj.bias", P("tensor")),
    ("model.vision_model.encoder.layers.*.self_attn.out_proj.weight", OUT_OF_HEADS),
    ("model.vision_model.encoder.layers.*.self_attn.out_proj.bias", P()),
    ("model.vision_model.encoder.layers.*.mlp.fc1.weight", INTO_HEADS),
    ("model.vision_model.encoder.layers.*.mlp.fc1.bias", P("tensor")),
    ("model.vision_model.encoder.layers.*.mlp.fc2.weight", OUT_OF_HEADS),
    ("model.vision_model.encoder.layers.*.mlp.fc2.bias", P()),
    ("*norm*.weight", P()),
    ("*norm*.bias", P()),
)
