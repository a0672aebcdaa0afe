"""When does allocating pay? End-to-end time with an allocator against all at full size.

    python benchmarks/break_even.py

The shape of the paper's Table 3 on this machine: a backbone of about 0.1 B parameters answers about
clips of several lengths, from frames to the last token, whole (vanilla) or behind an allocator
whose scales keep a given share of the tokens. The parameters are random, so the scales are set to
keep that share; what the allocator computes is computed all the same:

* ``thumbnails``: the embedded world's encoder and network (`configs/toy.py`);
* ``SmolVLM2``: SigLIP-B/16 on 512 x 512 pixels a frame and the released network, timed alone, as it
  is the larger model here.

Arms take turns; medians. Writes ``results/break_even.json``.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from mid_model import MID, device, make_clip, wait
from timing import interleaved, median, save

from resadapt_jax.allocator import AllocatorConfig, Pictures, ThumbnailConfig, ThumbnailEncoder
from resadapt_jax.allocator.network import init_params, propose_scales
from resadapt_jax.config import load_config
from resadapt_jax.generation.answer import DecodingConfig, Prompts, answer
from resadapt_jax.models.qwen2_5_vl import model
from resadapt_jax.operators import NativeSizes, SizeLimits, grids, sizes_from_scales

ROOT = Path(__file__).resolve().parents[1]
LIMITS = SizeLimits()
HEIGHT, WIDTH = 336, 448
QUERY_TOKENS = 16
DECODING = DecodingConfig(max_new_tokens=8, stop_token_ids=(8191,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--scales", type=float, nargs="+", default=[0.5, 0.35, 0.25])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    params = model.init_params(jax.random.key(0), MID)
    rows = []
    print("frames  retention  allocator s  backbone s  total s  of vanilla")
    for num_frames in args.frames:
        rows += time_frames(params, num_frames, args.scales, args.repeats)
        for row in rows[-1 - len(args.scales) :]:
            print(
                f"{num_frames:6d} {row['retention']:10.1%} {row['allocator_s']:12.3f} "
                f"{row['backbone_s']:11.3f} {row['total_s']:8.3f} {row['of_vanilla']:11.1%}"
            )
    print("wrote", save("break_even", {"device": device(), "rows": rows}))


def time_frames(
    params: Any, num_frames: int, scales: list[float], repeats: int
) -> list[dict[str, float]]:
    """Vanilla and each scale for clips of so many frames."""
    pairs = num_frames // 2
    shape = 1, num_frames, HEIGHT, WIDTH, 3
    frames = jnp.asarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    prompts = make_clip([(HEIGHT // 28, WIDTH // 28)] * pairs).prompts
    arms: dict[Any, Callable[[], Any]] = {"allocator": thumbnail_arm(frames)}
    tokens = {}
    for scale in (1.0, *scales):
        grid_thw, tokens[scale] = grids_at(scale, pairs)
        run = partial(backbone_arm, params, frames, grid_thw, prompts, capacity=tokens[scale])
        arms[scale] = lambda run=run: wait(run())
    seconds = {name: median(s) for name, s in timed(arms, repeats).items()}
    rows = []
    for scale in (1.0, *scales):
        allocator = 0.0 if scale == 1.0 else seconds["allocator"]
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


def thumbnail_arm(frames: jax.Array) -> Callable[[], Any]:
    """The embedded world's allocator: features and the policy's mean."""
    config = load_config(ROOT / "configs/toy.py")
    encoder = ThumbnailEncoder(
        config=ThumbnailConfig(), text_table=jnp.zeros((512, config.allocator.text_width))
    )
    network = AllocatorConfig(
        **vars(config.allocator)
        | {"frame_width": encoder.frame_width, "text_width": encoder.text_width}
    )
    params = jax.jit(init_params, static_argnums=1)(jax.random.key(0), network)
    ids = np.zeros((1, QUERY_TOKENS), np.int32)

    @jax.jit
    def run(frames: jax.Array) -> jax.Array:
        features = encoder.encode(Pictures.of_videos(frames), ids, np.ones(ids.shape, bool))
        return propose_scales(params, network, features, config.scale_range)

    return lambda: wait(run(frames))


if __name__ == "__main__":
    main()
