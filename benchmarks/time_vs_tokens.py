"""Does time fall with tokens? Resize, tower and prefill of one clip at falling retention.

    python benchmarks/time_vs_tokens.py

A model of about 0.1 B parameters on the CPU; each retention runs under a capacity of its own, as a
ladder of capacities would give it. Prints medians and writes ``results/time_vs_tokens.json``.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from mid_model import MID, device, make_clip, wait
from timing import interleaved, median, save

from resadapt_jax.generation.prompts import lay_out
from resadapt_jax.generation.visual import encode_pairs
from resadapt_jax.models.qwen2_5_vl import model, text
from resadapt_jax.operators import NativeSizes, SizeLimits, grids, sizes_from_scales

SCALES = (1.0, 0.75, 0.5, 0.35, 0.25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=8, help="temporal pairs of the clip")
    parser.add_argument("--height", type=int, default=336, help="native height, a multiple of 28")
    parser.add_argument("--width", type=int, default=448, help="native width, a multiple of 28")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()

    limits = SizeLimits()
    params = model.init_params(jax.random.key(0), MID)
    clip = make_clip([(args.height // 28, args.width // 28)] * args.pairs)
    noise = np.random.default_rng(0)
    shape = 2 * args.pairs, args.height, args.width, 3
    frames = jnp.asarray(noise.integers(0, 256, shape, np.uint8))

    native = NativeSizes.alike(args.height, args.width, limits)

    @partial(jax.jit, static_argnames=("capacity",))
    def prefill(params, frames, scales, capacity):
        heights, widths = sizes_from_scales(scales, native)
        grid_thw = grids(heights, widths, jnp.ones(args.pairs, bool), limits)
        visual, plan = encode_pairs(
            params,
            MID,
            frames,
            grid_thw,
            capacity=capacity,
            max_height=args.height,
            max_width=args.width,
        )
        layout = lay_out(clip.prompts, grid_thw[None], MID, capacity)
        embeds = model.embed_prompt(params, MID, layout, visual[None])
        hidden, _ = text.forward(params, MID, embeds, layout.position_ids, layout.mask)
        last = hidden[:, layout.length[0] - 1]
        return text.logits(params, MID, last), plan.num_tokens, plan.overflow

    arms, tokens = {}, {}
    for scale in SCALES:
        scales = jnp.full(args.pairs, scale)
        heights, widths = sizes_from_scales(scales, native)
        capacity = int((heights * widths).sum()) // limits.factor**2
        run = partial(prefill, params, frames, scales, capacity)
        _, count, overflow = run()
        assert int(count) == capacity and not overflow
        arms[scale], tokens[scale] = (lambda run=run: wait(run())), capacity
    seconds = interleaved(arms, warmup=1, repeats=args.repeats)

    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(
        f"{count / 1e6:.0f} M parameters, {2 * args.pairs} frames of {args.height} x {args.width}"
    )
    print("scale  tokens  retention  median s  of full time")
    rows = []
    for scale in SCALES:
        row = {
            "scale": scale,
            "tokens": tokens[scale],
            "retention": tokens[scale] / tokens[1.0],
            "median_s": median(seconds[scale]),
            "of_full_time": median(seconds[scale]) / median(seconds[1.0]),
        }
        rows.append(row)
        print(
            f"{scale:5.2f} {row['tokens']:7d} {row['retention']:10.1%} {row['median_s']:9.3f} "
            f"{row['of_full_time']:13.1%}"
        )
    print("wrote", save("time_vs_tokens", {"device": device(), "parameters": count, "rows": rows}))


if __name__ == "__main__":
    main()
