"""In bfloat16 these ports stay as near to float32 as HF's models do (benchmarks/bf16_agreement.py).

Not the same in every bit: the two round at other places. So both are held against float32.
"""

import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with HF transformers needs torch")

import hf_qwen2_5_vl  # noqa: E402
import hf_qwen3_vl  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from transformers import AutoModelForImageTextToText  # noqa: E402

from resadapt_jax.models import families  # noqa: E402
from resadapt_jax.models.families import family_of  # noqa: E402

# Prompts of several videos and frames of several sizes; about 1300 positions in all.
SEEDS = range(6)


@functools.cache
def measured(hf, directory):
    """Float32 logits of every prompt, HF's bfloat16 logits, and what ours are computed from."""
    hf.random_hf_model(seed=9).save_pretrained(directory)
    exact = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
    half = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.bfloat16).eval()
    cases = [hf.Case(hf.VIDEOS.parts, seed=seed) for seed in SEEDS]
    with torch.no_grad():
        outputs = [
            [model(**case.hf_inputs()).logits[0].float().numpy() for case in cases]
            for model in (exact, half)
        ]
    inputs = [hf.inputs_of([case], capacity=300, length=360) for case in cases]
    return *map(np.concatenate, outputs), *families.load_hf(directory, jnp.bfloat16), inputs


def our_logits(config, params, inputs):
    family = family_of(config)

    @jax.jit
    def run(params, patches, plan, layout):
        hidden = family.model.forward(params, config, patches, plan, layout)
        return family.text.logits(params, config, hidden[0])

    return np.concatenate([run(params, *one)[: int(one[2].length[0])] for one in inputs])


def agreement(logits, exact):
    """Share of positions with the same likeliest token."""
    return (logits.argmax(axis=-1) == exact.argmax(axis=-1)).mean()


def error(logits, exact):
    """Root of the mean squared error, in units of the logits' deviation."""
    return np.sqrt(np.square(logits - exact).mean() / exact.var())


@pytest.fixture(scope="module", params=[hf_qwen2_5_vl, hf_qwen3_vl], ids=["2.5", "3"])
def model(request, tmp_path_factory):
    return measured(request.param, tmp_path_factory.mktemp("checkpoint"))


def test_bfloat16_agrees_with_float32_as_hfs_does(model):
    exact, theirs, config, params, inputs = model
    ours = our_logits(config, params, inputs)
    print(
        "agree",
        agreement(ours, exact),
        agreement(theirs, exact),
        error(ours, exact),
        error(theirs, exact),
    )
    assert 0.5 < agreement(theirs, exact) < 1.0
    assert agreement(ours, exact) >= agreement(theirs, exact) - 0.01
    # Far sharper than a count of tokens: one more rounding a layer would show.
    assert error(ours, exact) <= 1.1 * error(theirs, exact)
