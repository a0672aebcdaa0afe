"""This port against Hugging Face transformers on the CPU: tower, prefill, decode.

    python benchmarks/compare_hf_cpu.py

The same random weights of about 0.1 B parameters, float32, the same inputs, run in turns in one
process. First the outputs are compared, then the times. Needs torch (see the Makefile's `test`).
Prints medians and the ratio HF / ours (above 1: ours is faster), and writes
``results/compare_hf_cpu.json``.
"""

import argparse
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from mid_model import MID, VIDEO, device, make_clip, wait
from timing import interleaved, median, save

from resadapt_jax.generation.answer import lay_out, plan_pairs
from resadapt_jax.models.qwen2_5_vl import model, text, vision
from resadapt_jax.models.qwen2_5_vl.checkpoint import save_hf

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from transformers import Qwen2_5_VLForConditionalGeneration  # noqa: E402

import tests.parity.cpu_torchvision  # noqa: E402, F401


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=8, help="temporal pairs of the clip")
    parser.add_argument("--height", type=int, default=224, help="a multiple of 28")
    parser.add_argument("--width", type=int, default=308, help="a multiple of 28")
    parser.add_argument("--new-tokens", type=int, default=16, help="decoded tokens that are timed")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)

    clip = make_clip(args.pairs, args.height, args.width)
    params = model.init_params(jax.random.key(0), MID)
    patches = np.random.default_rng(1).normal(size=(4 * clip.num_tokens, 1176)).astype(np.float32)
    ours = our_arms(params, clip, jnp.asarray(patches), args.new_tokens)
    theirs = hf_arms(params, clip, patches, args.new_tokens)
    for name in ours:
        np.testing.assert_allclose(np.asarray(ours[name]()), theirs[name]().numpy(), atol=2e-3)

    arms = {f"{name} {side}": arm for name in ours for side, arm in
            (("ours", ours[name]), ("hf", theirs[name]))}  # fmt: skip
    seconds = interleaved(arms, warmup=2, repeats=args.repeats)
    print(f"{clip.num_tokens} visual tokens, {args.new_tokens} decoded tokens, medians in seconds")
    print("stage        ours        HF   HF / ours")
    rows = []
    for name in ours:
        ours_s, hf_s = median(seconds[f"{name} ours"]), median(seconds[f"{name} hf"])
        rows.append({"stage": name, "ours_s": ours_s, "hf_s": hf_s, "hf_over_ours": hf_s / ours_s})
        print(f"{name:8} {ours_s:9.3f} {hf_s:9.3f} {hf_s / ours_s:11.2f}")
    result = {"device": device(), "torch": torch.__version__, "rows": rows}
    print("wrote", save("compare_hf_cpu", result))


def our_arms(params, clip, patches, new_tokens):
    """Tower -> tokens, prefill -> last logits, decode -> last logits after greedy steps."""
    grid_thw = jnp.asarray(clip.grid_thw)
    layout = lay_out(clip.prompts, grid_thw[None], MID, clip.num_tokens)
    per_pair = clip.num_tokens // len(clip.grid_thw)

    @jax.jit
    def tower(params, patches, grid_thw):  # the plan included, as HF's tower makes its own
        plan = plan_pairs(grid_thw, MID, clip.num_tokens, per_pair)
        return vision.encode(params, MID, patches, plan)

    visual = tower(params, patches, grid_thw)

    @jax.jit
    def prefill(params, visual):
        embeds = model.embed_prompt(params, MID, layout, visual[None])
        hidden, cache = text.forward(params, MID, embeds, layout.position_ids, layout.mask)
        return text.logits(params, MID, hidden[:, -1]), cache

    @jax.jit
    def decode(params, logits, cache):
        def step(i, carry):
            logits, cache = carry
            token = jnp.argmax(logits, axis=-1)
            position = jnp.broadcast_to(layout.next_position[:, None, None] + i, (1, 3, 1))
            embeds = text.embed_tokens(params, token[:, None])
            hidden, cache = text.forward(
                params, MID, embeds, position, jnp.ones((1, 1), bool), cache
            )
            return text.logits(params, MID, hidden[:, 0]), cache

        return jax.lax.fori_loop(0, new_tokens, step, (logits, cache.extend(new_tokens)))[0]

    logits, cache = prefill(params, visual)
    return {
        "tower": lambda: wait(tower(params, patches, grid_thw)),
        "prefill": lambda: wait(prefill(params, visual)[0]),
        "decode": lambda: wait(decode(params, logits, cache)),
    }


def hf_arms(params, clip, patches, new_tokens):
    """The same three with transformers, its own position ids and cache included."""
    with tempfile.TemporaryDirectory() as directory:
        save_hf(directory, MID, params)
        hf = Qwen2_5_VLForConditionalGeneration.from_pretrained(directory, dtype=torch.float32)
    hf = hf.eval()
    layout = lay_out(clip.prompts, jnp.asarray(clip.grid_thw)[None], MID, clip.num_tokens)
    ids = torch.tensor(np.asarray(layout.token_ids)).long()
    grid = torch.tensor(clip.grid_thw).long()
    pixels = torch.tensor(patches)
    inputs = {
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.tensor(np.asarray(layout.position_ids)).long().transpose(0, 1),
    }
    with torch.no_grad():
        visual = hf.model.visual(pixels, grid_thw=grid).pooler_output
        embeds = hf.get_input_embeddings()(ids).clone()
        embeds[ids == VIDEO] = visual
        language = hf.model.language_model

        def prefill():
            out = language(inputs_embeds=embeds, use_cache=True, **inputs)
            return hf.lm_head(out.last_hidden_state[:, -1]), out.past_key_values

        start_position = int(layout.next_position[0])

        def decode(logits, cache):
            for i in range(new_tokens):
                token = logits.argmax(dim=-1, keepdim=True)
                out = language(
                    inputs_embeds=hf.get_input_embeddings()(token),
                    position_ids=torch.full((3, 1, 1), start_position + i),
                    past_key_values=cache,
                    use_cache=True,
                )
                cache = out.past_key_values
                logits = hf.lm_head(out.last_hidden_state[:, -1])
            cache.crop(ids.shape[1])
            return logits

        logits, cache = prefill()
    return {
        "tower": torch.no_grad()(lambda: hf.model.visual(pixels, grid_thw=grid).pooler_output),
        "prefill": torch.no_grad()(lambda: prefill()[0]),
        "decode": torch.no_grad()(partial(decode, logits, cache)),
    }


if __name__ == "__main__":
    main()
