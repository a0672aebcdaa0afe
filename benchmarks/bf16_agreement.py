"""How often bfloat16 chooses another token than float32: these ports beside HF transformers.

    python benchmarks/bf16_agreement.py

Both families at about 0.1 B parameters, the same weights on both sides, prompts of 16 temporal
pairs of mixed sizes and a question. At every position of every prompt, is the likeliest next token
of the bfloat16 model that of the same library's float32 model? Prints the share of positions where
it is and the error of the logits, for ours and for HF, and writes ``results/bf16_agreement.json``.
Needs torch (see the Makefile's `test`).

The weights are those of `init_params`: normal with variance 1 / fan-in, so activations and logits
have a spread of about 1 and the likeliest of 8192 tokens leads the next by about 0.2 on average.
That is some times the error of bfloat16: enough agreement to be no noise, and not all of it. As
the choice compares logits with each other, a scale of the head would change nothing.
"""

import argparse
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from hf_model import hf_inputs, hf_model
from mid_model import MID, MID_QWEN3, Clip, device, lay_out_tightly, make_clip
from timing import save

from resadapt_jax.generation.visual import plan_pairs
from resadapt_jax.models.families import ModelConfig, family_of
from resadapt_jax.typing import Params

# Rows and columns of merged tokens; every prompt has them in an order of its own.
SIZES = ((8, 11), (2, 3), (6, 4), (1, 2)) * 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    rows = []
    print("family     side  positions  same token  error of the logits")
    for name, config in (("qwen2_5_vl", MID), ("qwen3_vl", MID_QWEN3)):
        rows += compare(name, config, args.prompts)
    print(
        "wrote",
        save("bf16_agreement", {"device": device(), "torch": torch.__version__, "rows": rows}),
    )


def compare(name: str, config: ModelConfig, prompts: int) -> list[dict[str, Any]]:
    """One family: a row for our port and a row for HF's model."""
    params = family_of(config).model.init_params(jax.random.key(0), config)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    sides = {
        "ours": (our_logits(params, config), our_logits(half, config)),
        "hf": (hf_logits(params, config, torch.float32), hf_logits(params, config, torch.bfloat16)),
    }
    chosen, same, errors = ({side: [] for side in sides} for _ in range(3))
    for seed in range(prompts):
        clip, patches = make_prompt(config, seed)
        exact = {}
        for side, (full, halved) in sides.items():
            exact[side], rounded = full(clip, patches), halved(clip, patches)
            chosen[side].append(exact[side].argmax(axis=-1))
            same[side].append(chosen[side][-1] == rounded.argmax(axis=-1))
            errors[side].append(np.square(rounded - exact[side]).mean() / exact[side].var())
        np.testing.assert_allclose(exact["ours"], exact["hf"], atol=2e-3)
    rows = []
    for side in sides:
        agreement = np.concatenate(same[side])
        row = {
            "family": name,
            "side": side,
            "positions": agreement.size,
            "different_tokens": len(set(np.concatenate(chosen[side]).tolist())),
            "argmax_agreement": float(agreement.mean()),
            "relative_rms_error": float(np.sqrt(np.mean(errors[side]))),
        }
        rows.append(row)
        print(
            f"{name:10} {side:5} {agreement.size:9d} {row['argmax_agreement']:11.2%} "
            f"{row['relative_rms_error']:20.2%}",
            flush=True,
        )
    return rows


def make_prompt(config: ModelConfig, seed: int) -> tuple[Clip, np.ndarray]:
    """A clip with its pairs in a random order, and random patches of it."""
    rng = np.random.default_rng(seed)
    clip = make_clip([SIZES[i] for i in rng.permutation(len(SIZES))], seed)
    shape = 4 * clip.num_tokens, config.vision.patch_features
    return clip, rng.normal(size=shape).astype(np.float32)


def our_logits(params: Params, config: ModelConfig):
    """Clip, patches -> logits at every position [T, V], float32."""
    family = family_of(config)

    @jax.jit
    def run(params, patches, grid_thw, prompts):
        capacity = len(patches) // 4
        plan = plan_pairs(grid_thw, config, capacity)
        layout = lay_out_tightly(prompts, grid_thw, config, capacity)
        plans, patches = jax.tree.map(lambda x: x[None], (plan, patches))
        hidden = family.model.forward(params, config, patches, plans, layout)
        return family.text.logits(params, config, hidden[0])

    return lambda clip, patches: np.asarray(run(params, patches, clip.grid_thw, clip.prompts))


def hf_logits(params: Params, config: ModelConfig, dtype: torch.dtype):
    """The same from HF's model in ``dtype``."""
    hf = hf_model(params, config, dtype)

    @torch.no_grad()
    def run(clip: Clip, patches: np.ndarray) -> np.ndarray:
        grid_thw = jnp.asarray(clip.grid_thw)
        layout = lay_out_tightly(clip.prompts, grid_thw, config, clip.num_tokens)
        _, inputs = hf_inputs(hf, clip, layout, patches)
        out = hf.model.language_model(**inputs)
        return hf.lm_head(out.last_hidden_state)[0].float().numpy()

    return run


if __name__ == "__main__":
    main()
