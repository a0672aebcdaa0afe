"""What scanning layers buys: compile time, step time and memory, layer by layer against scanned.

    python benchmarks/compile_time.py

Loss and gradients of all parameters of narrow models of both families, with as many blocks in the
tower as layers in the decoder, each computed again in the backward pass. Compilations take turns,
and so do steps. Prints medians, the ratio (above 1: scanning is faster) and XLA's figure for the
memory beyond arguments and results, and writes ``results/compile_time.json``.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from mid_model import MID, MID_QWEN3, device, make_clip, wait
from timing import interleaved, median, save

from resadapt_jax.generation.prompts import lay_out
from resadapt_jax.models.compute import Compute, Remat, with_compute
from resadapt_jax.models.families import ModelConfig, family_of
from resadapt_jax.models.stacking import stack_layers
from resadapt_jax.models.vision_plan import plan_vision
from resadapt_jax.typing import Array, Params

CLIP = make_clip([(4, 6), (3, 2)])
TEXT = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
VISION = {"hidden_size": 96, "intermediate_size": 192, "num_heads": 2, "out_hidden_size": 128}
# Deepstack taps that a tower of four blocks has too.
TAPS = {"deepstack_visual_indexes": (0, 1, 2)}
FAMILIES = {
    "qwen2_5_vl": replace(
        MID, text=replace(MID.text, **TEXT), vision=replace(MID.vision, **VISION)
    ),
    "qwen3_vl": replace(
        MID_QWEN3,
        text=replace(MID_QWEN3.text, **TEXT),
        vision=replace(MID_QWEN3.vision, **VISION, **TAPS),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 12, 24])
    parser.add_argument("--compilations", type=int, default=2)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--remat", type=Remat, default=Remat.LAYERS, help="none, matmuls, layers")
    args = parser.parse_args()
    print("family      layers  of            single   scanned  single / scanned")
    rows = []
    for family in FAMILIES.values():  # the first compilation of a process takes longer
        compare(of_depth(family, 3), compilations=1, steps=1)
    for name, family in FAMILIES.items():
        for layers in args.layers:
            config = with_compute(of_depth(family, layers), Compute(remat=args.remat))
            for row in compare(config, args.compilations, args.steps):
                rows.append({"family": name, "layers": layers, **row})
                print(
                    f"{name:10s} {layers:7d}  {row['of']:9s} {row['single']:10.3f}"
                    f" {row['scanned']:9.3f} {row['ratio']:17.2f}"
                )
    result = {"device": device(), "remat": args.remat.value, "rows": rows}
    print("wrote", save("compile_time", result))


def of_depth(config: ModelConfig, layers: int) -> ModelConfig:
    """The same model with that many blocks and layers."""
    text = replace(config.text, num_hidden_layers=layers)
    return replace(config, text=text, vision=replace(config.vision, depth=layers))


def compare(config: ModelConfig, compilations: int, steps: int) -> list[dict[str, Any]]:
    """A row each for compiling, for a step and for its memory."""
    params = family_of(config).model.init_params(jax.random.key(0), config)
    trees = {"single": params, "scanned": stack_layers(params)}
    compiled = {}

    def compile_for(form: str) -> None:
        compiled[form] = gradient_step(config).lower(trees[form]).compile()

    def run(form: str) -> None:
        wait(compiled[form](trees[form]))

    def in_turns(what: Callable[[str], None], **counts: int) -> dict[str, float]:
        seconds = interleaved({form: partial(what, form) for form in trees}, **counts)
        return {form: median(each) for form, each in seconds.items()}

    measured = {
        "compile s": in_turns(compile_for, warmup=0, repeats=compilations),
        "step s": in_turns(run, warmup=1, repeats=steps),
        "temp MB": {
            form: compiled[form].memory_analysis().temp_size_in_bytes / 1e6 for form in trees
        },
    }
    return [
        {"of": what, **values, "ratio": values["single"] / values["scanned"]}
        for what, values in measured.items()
    ]


def gradient_step(config: ModelConfig) -> Callable[[Params], tuple[Array, Params]]:
    """A function that jax has not seen yet: loss and gradients of a prompt with two videos."""
    family, capacity, windows = family_of(config), CLIP.num_tokens, config.vision.window_patches
    grids = jnp.asarray(CLIP.grid_thw)
    plan = plan_vision(grids, capacity=capacity, window_patches=windows)
    layout = lay_out(CLIP.prompts, grids[None], config, capacity)
    shape = 1, 4 * capacity, config.vision.patch_features
    patches = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)

    def loss(params: Params) -> Array:
        plans = jax.tree.map(lambda x: x[None], plan)
        hidden = family.model.forward(params, config, patches, plans, layout)
        log_probs = jax.nn.log_softmax(family.text.logits(params, config, hidden))
        next_ids = jnp.roll(layout.token_ids, -1, axis=1)[:, :, None]
        chosen = jnp.take_along_axis(log_probs, next_ids, axis=-1)[:, :, 0]
        return -jnp.sum(jnp.where(layout.mask, chosen, 0.0)) / jnp.sum(layout.mask)

    return jax.jit(jax.value_and_grad(loss))


if __name__ == "__main__":
    main()
