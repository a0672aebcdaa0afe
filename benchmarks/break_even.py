"""When does allocating pay? End-to-end time with an allocator against all at full size.

    python benchmarks/break_even.py

The shape of the paper's Table 3 on this machine: a backbone of about 0.1 B parameters answers about
clips of several lengths, from frames to the last token, whole (vanilla) or behind an allocator
whose scales keep a given share of the tokens. The parameters are random, so the scales are set to
keep that share; what the allocator computes is computed all the same. Two allocators:

* ``thumbnails``: the embedded world's encoder and network (`configs/toy.py`), part of every total;
* ``SmolVLM2``: SmolVLM2-256M on 512 x 512 pixels a frame and the released network, timed alone on
  ``--released-frames`` frames, as it is the larger model here.

Arms take turns; medians. Writes ``results/break_even.json``; `evidence_jobs` measures it for
docs/evidence.md.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from mid_model import MID, device, make_clip, wait
from timing import interleaved, median, save

from resadapt_jax.allocator import (
    AllocatorConfig,
    FrozenEncoder,
    Pictures,
    ThumbnailConfig,
    ThumbnailEncoder,
)
from resadapt_jax.allocator.network import init_params, propose_scales
from resadapt_jax.allocator.policy import ScaleRange
from resadapt_jax.allocator.smolvlm_encoder import SmolVLMEncoder
from resadapt_jax.config import load_config
from resadapt_jax.generation.answer import DecodingConfig, answer
from resadapt_jax.generation.prompts import Prompts
from resadapt_jax.models.qwen2_5_vl import model
from resadapt_jax.models.smolvlm import model as smolvlm_model
from resadapt_jax.models.smolvlm.config import SmolVLMConfig, TextConfig, VisionConfig
from resadapt_jax.models.smolvlm.preprocess import PreprocessConfig
from resadapt_jax.operators import NativeSizes, SizeLimits, grids, sizes_from_scales

ROOT = Path(__file__).resolve().parents[1]
LIMITS = SizeLimits()
HEIGHT, WIDTH = 336, 448
QUERY_TOKENS = 16
DECODING = DecodingConfig(max_new_tokens=8, stop_token_ids=(8191,))
SMOLVLM2_256M = SmolVLMConfig(
    text=TextConfig(
        vocab_size=49280,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        rope_theta=100000.0,
    ),
    vision=VisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=512,
        patch_size=16,
    ),
    scale_factor=4,
    image_token_id=49190,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--scales", type=float, nargs="+", default=[0.5, 0.35, 0.25])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--released-frames", type=int, default=8)
    args = parser.parse_args()
    figures = measure(args.frames, args.scales, args.repeats, args.released_frames)
    print("wrote", save("break_even", figures))


def measure(
    frames: Sequence[int], scales: Sequence[float], repeats: int, released_frames: int
) -> dict[str, Any]:
    """All of it; a row is printed as soon as it is known."""
    params = model.init_params(jax.random.key(0), MID)
    rows = []
    print("frames  retention  allocator s  backbone s  total s  of vanilla")
    for num_frames in frames:
        found = time_frames(params, num_frames, scales, repeats)
        for row in found:
            print(
                f"{num_frames:6d} {row['retention']:10.1%} {row['allocator_s']:12.3f} "
                f"{row['backbone_s']:11.3f} {row['total_s']:8.3f} {row['of_vanilla']:11.1%}"
            )
        rows += found
    released = time_released(released_frames, repeats)
    print(
        f"SmolVLM2 and the released network: {released['encode_s']:.1f} s and "
        f"{released['predict_s']:.2f} s for {released_frames} frames"
    )
    return {"device": device(), "rows": rows, "released_allocator": released}


def time_frames(
    params: Any, num_frames: int, scales: Sequence[float], repeats: int
) -> list[dict[str, float]]:
    """Vanilla and each scale for clips of so many frames."""
    pairs = num_frames // 2
    shape = 1, num_frames, HEIGHT, WIDTH, 3
    frames = jnp.asarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    prompts = make_clip([(HEIGHT // 28, WIDTH // 28)] * pairs).prompts
    config = load_config(ROOT / "configs/toy.py")
    encoder = ThumbnailEncoder(
        config=ThumbnailConfig(), text_table=jnp.zeros((512, config.allocator.text_width))
    )
    arms: dict[Any, Callable[[], Any]] = allocator_arms(
        encoder, config.allocator, config.scale_range, frames
    )
    tokens = {}
    for scale in (1.0, *scales):
        grid_thw, tokens[scale] = grids_at(scale, pairs)
        run = partial(backbone_arm, params, frames, grid_thw, prompts, capacity=tokens[scale])
        arms[scale] = lambda run=run: wait(run())
    seconds = {name: median(s) for name, s in timed(arms, repeats).items()}
    rows = []
    for scale in (1.0, *scales):
        allocator = 0.0 if scale == 1.0 else seconds["encode"] + seconds["predict"]
        total = allocator + seconds[scale]
        rows.append(
            {
                "frames": num_frames,
                "retention": tokens[scale] / tokens[1.0],
                "allocator_s": allocator,
                "backbone_s": seconds[scale],
                "total_s": total,
                "of_vanilla": total / seconds[1.0],
            }
        )
    return rows


def timed(arms: dict[Any, Callable[[], Any]], repeats: int) -> dict[Any, list[float]]:
    return interleaved(arms, warmup=1, repeats=repeats)


def grids_at(scale: float, pairs: int) -> tuple[np.ndarray, int]:
    """Grids of all pairs at a scale, and their tokens."""
    native = NativeSizes.alike(HEIGHT, WIDTH, LIMITS)
    heights, widths = sizes_from_scales(jnp.full(pairs, scale), native)
    grid_thw = grids(heights, widths, jnp.ones(pairs, bool), LIMITS)[None]
    return np.asarray(grid_thw), int((heights * widths).sum()) // LIMITS.factor**2


@partial(jax.jit, static_argnames=("capacity",))
def backbone_arm(
    params: Any, frames: jax.Array, grid_thw: jax.Array, prompts: Prompts, *, capacity: int
) -> jax.Array:
    """Resize, tower, prefill and decoding."""
    answers = answer(
        params,
        MID,
        frames,
        grid_thw,
        prompts,
        capacity=capacity,
        decoding=DECODING,
        key=jax.random.key(0),
    )
    return answers.generation.token_ids


def allocator_arms(
    encoder: FrozenEncoder, network: AllocatorConfig, scale_range: ScaleRange, frames: jax.Array
) -> dict[str, Callable[[], Any]]:
    """The frozen encoder's features, and the scales that a random network makes of them."""
    widths = {"frame_width": encoder.frame_width, "text_width": encoder.text_width}
    network = replace(network, **widths)
    params = jax.jit(init_params, static_argnums=1)(jax.random.key(0), network)
    ids = np.zeros((1, QUERY_TOKENS), np.int32)
    mask = np.ones(ids.shape, bool)
    encode = jax.jit(lambda encoder, frames: encoder.encode(Pictures.of_videos(frames), ids, mask))
    predict = jax.jit(propose_scales, static_argnums=(1, 3))
    features = encode(encoder, frames)
    return {
        "encode": lambda: jax.block_until_ready(encode(encoder, frames)),
        "predict": lambda: wait(predict(params, network, features, scale_range)),
    }


def time_released(num_frames: int, repeats: int) -> dict[str, float]:
    """SmolVLM2 and the released network on so many frames."""
    shape = 1, num_frames, HEIGHT, WIDTH, 3
    frames = jnp.asarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    encoder = SmolVLMEncoder(
        params=smolvlm_model.init_params(jax.random.key(0), SMOLVLM2_256M),
        config=SMOLVLM2_256M,
        preprocess=PreprocessConfig(),
    )
    arms = allocator_arms(encoder, AllocatorConfig(), ScaleRange(), frames)
    seconds = timed(arms, repeats)
    medians = {f"{name}_s": median(some) for name, some in seconds.items()}
    return {"frames": num_frames, **medians}


if __name__ == "__main__":
    main()
