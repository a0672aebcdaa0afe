"""A tiny allocator, with any weights, and the interface of a tiny backbone, for tests."""

from pathlib import Path

import jax

from resadapt_jax.allocator import (
    AllocatorConfig,
    ProjectedBounds,
    ScaleRange,
    ThumbnailConfig,
    ThumbnailEncoder,
    init_params,
)
from resadapt_jax.allocator.bounds import Bounds
from resadapt_jax.allocator.checkpoint import TrainedAllocator, TrainedAllocatorConfig
from resadapt_jax.data.toy_tokenizer import build_toy_tokenizer
from resadapt_jax.models import hf
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig, TextConfig, VisionConfig

TEXT_WIDTH = 8


def make_allocator(
    *, noise: float = 0.0, unit: str = "pair", bounds: Bounds | None = None
) -> TrainedAllocator:
    """A fresh allocator, its weights disturbed by Gaussian noise; by default a uniform Beta."""
    tokenizer = build_toy_tokenizer()
    thumbnail = ThumbnailConfig()
    config = TrainedAllocatorConfig(
        network=AllocatorConfig(
            frame_width=thumbnail.width,
            text_width=TEXT_WIDTH,
            width=8,
            num_heads=2,
            head_dim=8,
            ff_mult=1,
            num_space_time_layers=1,
            pool_width=8,
            head_width=8,
            unit=unit,
            bounds=bounds or ProjectedBounds(),
        ),
        encoder=thumbnail,
        vocab_size=len(tokenizer),
        scale_range=ScaleRange(s_min=0.2, s_max=1.8),
    )
    params = jax.jit(init_params, static_argnums=1)(jax.random.key(0), config.network)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [
        leaf + noise * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    table = jax.random.normal(jax.random.key(2), (len(tokenizer), TEXT_WIDTH))
    return TrainedAllocator(
        config=config,
        params=jax.tree.unflatten(structure, leaves),
        encoder=ThumbnailEncoder(text_table=table, config=thumbnail),
        tokenizer=tokenizer,
    )


def backbone_config(tokenizer, patch_size: int = 14) -> Qwen2_5VLConfig:
    """Qwen2.5-VL's architecture at a size that is never run."""
    token_id = tokenizer.convert_tokens_to_ids
    return Qwen2_5VLConfig(
        text=TextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            mrope_section=(2, 3, 3),
        ),
        vision=VisionConfig(
            depth=1,
            hidden_size=16,
            intermediate_size=16,
            num_heads=1,
            out_hidden_size=16,
            fullatt_block_indexes=(0,),
            patch_size=patch_size,
        ),
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def write_interface(directory: Path, tokenizer, patch_size: int = 14) -> None:
    """A backbone's directory without weights."""
    hf.save(directory, backbone_config(tokenizer, patch_size).to_hf(), {})
    (directory / "model.safetensors").unlink()
    tokenizer.save_pretrained(directory)
