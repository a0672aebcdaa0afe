"""Greedy generation from Qwen3-VL with a KV cache against HF's ``generate``."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with HF transformers needs torch")

import jax  # noqa: E402
from hf_qwen3_vl import MIXED, SHORT, TEXT, VIDEOS, inputs_of, random_hf_model  # noqa: E402

from resadapt_jax.generation.decode import generate  # noqa: E402
from resadapt_jax.models.qwen3_vl import model  # noqa: E402
from resadapt_jax.models.qwen3_vl.checkpoint import load_hf  # noqa: E402

CASES = [SHORT, VIDEOS, TEXT, MIXED]
NEW_TOKENS = 10
SEED = 14  # one whose answers do not repeat a single token


def hf_answer(hf_model, case):
    """HF's ids, and the log-prob of each of them."""
    inputs = case.hf_inputs()
    out = hf_model.generate(
        **inputs,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    ids = out.sequences[0, inputs["input_ids"].shape[1] :]
    log_probs = torch.log_softmax(torch.stack(out.logits)[:, 0].float(), dim=-1)
    return ids.numpy(), log_probs[torch.arange(len(ids)), ids].numpy()


def test_greedy_ids_and_log_probs_match(tmp_path):
    """All prompts in one right-padded batch; only the prefill has deepstack features."""
    hf_model = random_hf_model(seed=SEED)
    hf_model.generation_config.eos_token_id = None
    hf_model.save_pretrained(tmp_path)
    config, params = load_hf(tmp_path)

    @jax.jit
    def run(params, patches, plan, layout):
        encode = jax.vmap(lambda rows, tables: model.encode_visual(params, config, rows, tables))
        return generate(
            params,
            config,
            model.embed_prompt(params, config, layout, encode(patches, plan)),
            layout,
            max_new_tokens=NEW_TOKENS,
            temperature=0.0,
            key=jax.random.key(0),
            eos_token_ids=(),
        )

    out = run(params, *inputs_of(CASES, capacity=240, length=300))
    answers = [hf_answer(hf_model, case) for case in CASES]
    assert len({tuple(ids.tolist()) for ids, _ in answers}) == len(CASES)
    assert all(len(set(ids.tolist())) > 2 for ids, _ in answers)
    for row, (ids, log_probs) in enumerate(answers):
        np.testing.assert_array_equal(out.token_ids[row], ids)
        np.testing.assert_allclose(out.log_probs[row], log_probs, atol=1e-4, rtol=0)
    assert out.mask.all()
