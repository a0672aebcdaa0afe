"""One compilation per capacity: 200 random allocations from scales to visual tokens.

    python benchmarks/compile_count.py

scales -> sizes -> plan -> resize -> tower is one jitted function of a static capacity, taken from
a ladder. Counts compilations and capacities used, which must be equal, and the mean share of
padding. Prints them and writes ``results/compile_count.json``.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from mid_model import device
from timing import save

from resadapt_jax.generation.backbone import load_backbone
from resadapt_jax.generation.visual import encode_pairs
from resadapt_jax.operators import (
    CapacityLadder,
    NativeSizes,
    SizeLimits,
    grids,
    sizes_from_scales,
    token_counts,
)

HEIGHT, WIDTH, PAIRS = 168, 252, 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--allocations", type=int, default=200)
    parser.add_argument("--growth", type=float, default=1.2, help="between steps of the ladder")
    args = parser.parse_args()
    backbone, limits = load_backbone(), SizeLimits(min_pixels=28 * 28)
    most = PAIRS * int(NativeSizes.alike(HEIGHT, WIDTH, limits).tokens)
    ladder = CapacityLadder.geometric(PAIRS, most, growth=args.growth)
    rng = np.random.default_rng(0)
    frames = jnp.asarray(rng.integers(0, 256, (2 * PAIRS, HEIGHT, WIDTH, 3), np.uint8))
    shown = jnp.ones(PAIRS, bool)

    @partial(jax.jit, static_argnames="capacity")
    def encode(params, frames, scales, capacity):
        heights, widths = sizes_from_scales(scales, NativeSizes.alike(HEIGHT, WIDTH, limits))
        tokens, plan = encode_pairs(
            params,
            backbone.config,
            frames,
            grids(heights, widths, shown, limits),
            capacity=capacity,
            max_height=HEIGHT,
            max_width=WIDTH,
        )
        return tokens, plan.num_tokens, plan.overflow

    used, padding = set(), []
    for _ in range(args.allocations):
        # From nearly nothing to all at full size, so that every capacity has its turn.
        scales = jnp.asarray(rng.beta(0.8, 0.8, PAIRS) ** rng.uniform(0.2, 3), jnp.float32)
        sizes = sizes_from_scales(scales, NativeSizes.alike(HEIGHT, WIDTH, limits))
        needed = int(token_counts(*sizes, shown, limits).sum())
        capacity = ladder.choose(needed)
        _, count, overflow = encode(backbone.params, frames, scales, capacity)
        assert int(count) == needed and not overflow
        used.add(capacity)
        padding.append(1 - needed / capacity)
    compilations = encode._cache_size()
    print(f"{args.allocations} allocations, {len(used)} of {len(ladder.steps)} capacities used")
    print(f"{compilations} compilations, mean padding {np.mean(padding):.1%}")
    if compilations != len(used):
        raise SystemExit("an allocation was compiled for by itself")
    result = {
        "allocations": args.allocations,
        "capacities": sorted(used),
        "compilations": compilations,
        "mean_padding": float(np.mean(padding)),
    }
    print("wrote", save("compile_count", {"device": device(), **result}))


if __name__ == "__main__":
    main()
