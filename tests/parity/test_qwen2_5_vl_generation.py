"""Greedy generation with a KV cache, from pixels and from text, against HF's ``generate``."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with HF transformers needs torch")

import jax  # noqa: E402
from hf_qwen2_5_vl import MIXED, SHORT, TEXT, VIDEOS, inputs_of, random_hf_model  # noqa: E402

from resadapt_jax.generation.decode import generate  # noqa: E402
from resadapt_jax.models.qwen2_5_vl import model, vision  # noqa: E402
from resadapt_jax.models.qwen2_5_vl.checkpoint import load_hf  # noqa: E402

CASES = [SHORT, VIDEOS, TEXT, MIXED]
NEW_TOKENS = 10


@pytest.fixture(scope="module")
def hf_answers():
    """HF's model, one prompt at a time: ids, and the log-prob of each chosen token."""
    hf_model = random_hf_model(seed=7)
    hf_model.generation_config.eos_token_id = None
    answers = []
    for case in CASES:
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
        answers.append((ids.numpy(), log_probs[torch.arange(len(ids)), ids].numpy()))
    return hf_model, answers


@pytest.fixture(scope="module")
def answer(hf_answers, tmp_path_factory):
    """Our answers to all prompts in one right-padded batch, given end-of-sequence ids."""
    directory = tmp_path_factory.mktemp("checkpoint")
    hf_answers[0].save_pretrained(directory)
    config, params = load_hf(directory)
    patches, plan, layout = inputs_of(CASES, capacity=300, length=360)

    def run(eos_token_ids):
        encode = jax.vmap(lambda rows, tables: vision.encode(params, config, rows, tables))
        return generate(
            params,
            config,
            model.embed_prompt(params, config, layout, encode(patches, plan)),
            layout,
            max_new_tokens=NEW_TOKENS,
            temperature=0.0,
            key=jax.random.key(0),
            eos_token_ids=eos_token_ids,
        )

    return jax.jit(run, static_argnums=0)


def test_greedy_ids_and_log_probs_match(hf_answers, answer):
    out = answer(())
    assert len({tuple(ids.tolist()) for ids, _ in hf_answers[1]}) == len(CASES)
    for row, (ids, log_probs) in enumerate(hf_answers[1]):
        np.testing.assert_array_equal(out.token_ids[row], ids)
        np.testing.assert_allclose(out.log_probs[row], log_probs, atol=1e-4, rtol=0)
    assert out.mask.all()


def test_a_row_stops_after_its_end_token(hf_answers, answer):
    ids, log_probs = hf_answers[1][0]
    stop = int(ids[3])
    out = answer((stop, 127))
    for row, (ids, log_probs) in enumerate(hf_answers[1]):
        ends = np.flatnonzero((ids == stop) | (ids == 127))
        length = ends[0] + 1 if len(ends) else NEW_TOKENS
        np.testing.assert_array_equal(out.mask[row], np.arange(NEW_TOKENS) < length)
        np.testing.assert_array_equal(out.token_ids[row, :length], ids[:length])
        np.testing.assert_allclose(out.log_probs[row, :length], log_probs[:length], atol=1e-4)
        assert not out.token_ids[row, length:].any() and not out.log_probs[row, length:].any()
    assert 0 < out.mask.sum() < out.mask.size
