"""These ports against Hugging Face transformers on the CPU: tower, prefill, decode, both families.

    python benchmarks/compare_hf_cpu.py

The same random weights of about 0.1 B parameters, float32, the same inputs (16 temporal pairs of
mixed sizes), run in turns in one process. First the outputs are compared, then the times. Needs
torch (see the Makefile's `test`). Prints medians and the ratio HF / ours (above 1: ours is
faster), and writes ``results/compare_hf_cpu.json``.
"""

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from hf_model import hf_inputs, hf_model
from mid_model import MID, MID_QWEN3, Clip, device, lay_out_tightly, make_clip, wait
from timing import interleaved, median, save

from resadapt_jax.generation import prefill as prefilling
from resadapt_jax.generation.visual import plan_pairs
from resadapt_jax.models.families import ModelConfig, family_of

# Rows and columns of merged tokens, in turns: what an allocation may look like.
SIZES = ((8, 11), (2, 3), (6, 4), (1, 2))
Arms = dict[str, Callable[[], Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=16, help="temporal pairs of the clip")
    parser.add_argument("--new-tokens", type=int, default=16, help="decoded tokens that are timed")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    clip = make_clip([SIZES[pair % len(SIZES)] for pair in range(args.pairs)])
    print(f"{clip.num_tokens} visual tokens, {args.new_tokens} decoded tokens, medians in seconds")
    print("family       stage        ours        HF   HF / ours")
    rows = []
    for name, config in (("qwen2_5_vl", MID), ("qwen3_vl", MID_QWEN3)):
        rows += compare(name, config, clip, args.new_tokens, args.repeats)
    result = {"device": device(), "torch": torch.__version__, "rows": rows}
    print("wrote", save("compare_hf_cpu", result))


def compare(
    name: str, config: ModelConfig, clip: Clip, new_tokens: int, repeats: int
) -> list[dict[str, Any]]:
    """One family: the outputs held against each other, then one row of times per stage."""
    params = family_of(config).model.init_params(jax.random.key(0), config)
    shape = 4 * clip.num_tokens, config.vision.patch_features
    patches = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    ours = our_arms(params, config, clip, jnp.asarray(patches), new_tokens)
    theirs = hf_arms(params, config, clip, patches, new_tokens)
    for stage in ours:
        np.testing.assert_allclose(np.asarray(ours[stage]()), theirs[stage]().numpy(), atol=2e-3)
    arms = {f"{stage} {side}": arms[stage] for stage in ours
            for side, arms in (("ours", ours), ("hf", theirs))}  # fmt: skip
    seconds = interleaved(arms, warmup=2, repeats=repeats)
    rows = []
    for stage in ours:
        ours_s, hf_s = median(seconds[f"{stage} ours"]), median(seconds[f"{stage} hf"])
        row = {"family": name, "stage": stage, "ours_s": ours_s, "hf_s": hf_s}
        rows.append(row | {"hf_over_ours": hf_s / ours_s})
        print(f"{name:12} {stage:8} {ours_s:8.3f} {hf_s:9.3f} {hf_s / ours_s:11.2f}", flush=True)
    return rows


def our_arms(params, config, clip, patches, new_tokens) -> Arms:
    """Tower -> tokens, prefill -> last logits, decode -> last logits after greedy steps."""
    family = family_of(config)
    grid_thw = jnp.asarray(clip.grid_thw)
    layout = lay_out_tightly(clip.prompts, grid_thw, config, clip.num_tokens)

    @jax.jit
    def tower(params, patches, grid_thw):  # the plan included, as HF's tower makes its own
        plan = plan_pairs(grid_thw, config, clip.num_tokens)
        return family.model.encode_visual(params, config, patches, plan)

    visual = tower(params, patches, grid_thw)

    @jax.jit
    def prefill(params, visual):
        embeds = family.model.embed_prompt(params, config, layout, visual[None])
        last, cache = prefilling.prefill(params, config, embeds, layout, new_tokens=new_tokens + 1)
        return family.text.logits(params, config, last), cache

    @jax.jit
    def decode(params, logits, cache):
        def step(i, carry):
            logits, cache = carry
            token = jnp.argmax(logits, axis=-1)
            position = jnp.broadcast_to(layout.next_position[:, None, None] + i, (1, 3, 1))
            embeds = family.text.embed_tokens(params, token[:, None])
            hidden, cache = family.text.forward(
                params, config, embeds, position, jnp.ones((1, 1), bool), cache
            )
            return family.text.logits(params, config, hidden[:, 0]), cache

        return jax.lax.fori_loop(0, new_tokens, step, (logits, cache))[0]

    logits, cache = prefill(params, visual)
    return {
        "tower": lambda: wait(tower(params, patches, grid_thw))[:, : config.text.hidden_size],
        "prefill": lambda: wait(prefill(params, visual)[0]),
        "decode": lambda: wait(decode(params, logits, cache)),
    }


def hf_arms(params, config, clip, patches, new_tokens) -> Arms:
    """The same three with transformers, its own cache included."""
    hf = hf_model(params, config)
    grid_thw = jnp.asarray(clip.grid_thw)
    layout = lay_out_tightly(clip.prompts, grid_thw, config, clip.num_tokens)
    tower, inputs = hf_inputs(hf, clip, layout, patches)
    start_position = int(layout.next_position[0])
    language = hf.model.language_model

    def prefill():
        out = language(**inputs, use_cache=True)
        return hf.lm_head(out.last_hidden_state[:, -1]), out.past_key_values

    def decode(logits, cache):
        for i in range(new_tokens):
            out = language(
                inputs_embeds=hf.get_input_embeddings()(logits.argmax(dim=-1, keepdim=True)),
                position_ids=torch.full((3, 1, 1), start_position + i),
                past_key_values=cache,
                use_cache=True,
            )
            cache = out.past_key_values
            logits = hf.lm_head(out.last_hidden_state[:, -1])
        cache.crop(-new_tokens)
        return logits

    no_grad = torch.no_grad()
    logits, cache = no_grad(prefill)()
    return {
        "tower": no_grad(lambda: tower().pooler_output),
        "prefill": no_grad(lambda: prefill()[0]),
        "decode": no_grad(partial(decode, logits, cache)),
    }


if __name__ == "__main__":
    main()
