"""Pre-training of the tiny backbone: what a clip that was cut may teach, which sizes are drawn."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.data.toy_pipeline import dialogue_batches
from resadapt_jax.data.toy_source import ToyDialogues
from resadapt_jax.data.toy_tokenizer import build_toy_tokenizer
from resadapt_jax.data.toy_world import ToyWorldConfig
from resadapt_jax.training import pretrain as pretraining
from resadapt_jax.training.pretrain import (
    Phase,
    PretrainConfig,
    PretrainState,
    draw_levels,
    init_params,
    label_word_ids,
    phase_loss,
    phase_optimizer,
    toy_backbone_config,
    train_step,
)
from resadapt_jax.training.pretrain_losses import DialogueBatch, decoder_of

# Three clips of two pairs of 2x2 tokens, all shown at full size.
PHASE = Phase(
    num_steps=2, batch_size=3, size=56, num_pairs=2, num_signs=1, turns=1,
    learning_rate=1e-3, full_size_clips=0.999999,
)  # fmt: skip
TOKENIZER = build_toy_tokenizer()


@cache
def records():
    world = ToyWorldConfig(seed=4, size=56, num_pairs=2, num_signs=1)
    source = ToyDialogues(world, PHASE.batch_size, PHASE.turns)
    return next(dialogue_batches(source, TOKENIZER, PHASE.batch_size))


def one_step(token_capacity, records, family):
    """State of the optimiser and metrics after a step from the same start."""
    config = PretrainConfig(phases=(PHASE,), token_capacity=token_capacity, family=family)
    backbone = toy_backbone_config(TOKENIZER, family)
    params = init_params(jax.random.key(0), backbone)
    state = PretrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=phase_optimizer(config, PHASE).init(params),
        key=jax.random.key(1),
    )
    state, metrics = train_step(
        state,
        DialogueBatch.from_records(records),
        config=config,
        phase=PHASE,
        backbone_config=backbone,
        word_ids=label_word_ids(TOKENIZER, config.world.clock_seconds),
    )
    return jax.tree.leaves(state.opt_state), metrics  # Adam's moments hold the gradient


def with_other_truth(records, clip):
    """The same records, another truth said about one clip."""
    labels = records["labels"].copy()
    labels[clip] = labels[clip] % 2 + 1
    ids = records["compact_ids"].copy()
    at = records["answer_index"][clip]
    ids[clip, at[at >= 0]] = TOKENIZER.encode(" red")[0]
    return {**records, "labels": labels, "compact_ids": ids}


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


# 24 tokens are asked for; 20 hold two clips and half of the third, 24 hold all.
@pytest.mark.parametrize(
    "token_capacity, cut, family",
    [(20 / 24, 1 / 3, "qwen2_5_vl"), (1.0, 0.0, "qwen2_5_vl"), (20 / 24, 1 / 3, "qwen3_vl")],
)
def test_a_clip_that_was_cut_teaches_nothing(token_capacity, cut, family):
    learnt, metrics = one_step(token_capacity, records(), family)
    assert metrics["clips_cut"] == pytest.approx(cut)
    assert np.isfinite(metrics["answer_loss"]) and np.isfinite(metrics["label_loss"])
    third, _ = one_step(token_capacity, with_other_truth(records(), 2), family)
    second, _ = one_step(token_capacity, with_other_truth(records(), 1), family)
    assert equal(learnt, third) == (cut > 0)
    assert not equal(learnt, second)


def test_the_tokens_of_an_answer_are_predicted_from_those_before():
    """By a decoder that passes its input on, with a head that knows what follows what."""
    config = PretrainConfig(phases=(PHASE,), token_capacity=1.0)
    backbone = toy_backbone_config(TOKENIZER, config.family)
    params = init_params(jax.random.key(0), backbone)
    decoder = decoder_of(params["backbone"])
    for layer in decoder["layers"].values():
        for part in (layer["self_attn"]["o_proj"], layer["mlp"]["down_proj"]):
            part["weight"] = jnp.zeros_like(part["weight"])
    one = {name: value[:1] for name, value in records().items()}
    at = one["answer_index"][0]
    ids, at = one["compact_ids"][0], at[at >= 0]
    before, after = ids[at - 1], ids[at]
    assert len(set(before)) == len(set(after)) == len(at) > 1
    table = decoder["embed_tokens"]["weight"]
    head = jnp.zeros_like(table).at[after].set(1000 * table[before])
    params["backbone"]["lm_head"] = {"weight": head}
    backbone = replace(backbone, tie_word_embeddings=False)
    _, metrics = jax.jit(
        lambda params, batch: phase_loss(
            *(params, batch, jax.random.key(1), config, PHASE, backbone),
            label_word_ids(TOKENIZER, config.world.clock_seconds),
        )
    )(params, DialogueBatch.from_records(one))
    assert metrics["clips_cut"] == 0.0
    assert metrics["answer_accuracy"] == 1.0


def test_a_phase_is_of_another_config_if_one_before_it_was(monkeypatch, tmp_path):
    found = []

    def run(state, batches, step, *, config, **_):
        found.append(config.phases)
        return state

    monkeypatch.setattr(pretraining, "run", run)
    phases = PHASE, replace(PHASE, num_steps=3)
    pretraining.pretrain(PretrainConfig(phases=phases, output_dir=str(tmp_path)))
    assert found == [phases[:1], phases]


def test_levels_are_drawn_as_said():
    levels = draw_levels(jax.random.key(0), (4000, 6), 4, 0.3)
    whole = (levels == 4).all(axis=1)
    # 30 % by choice; of the others P(all six full) = ∫ p⁶ dp = 1/7: 0.3 + 0.7 / 7 = 0.4.
    assert abs(float(whole.mean()) - 0.4) < 0.03
    mixed = levels[~whole]
    below = mixed[mixed < 4]
    assert set(np.unique(below)) == {1, 2, 3}
    assert abs(float((below == 1).mean()) - 0.5) < 0.02
    assert (draw_levels(jax.random.key(0), (5, 2), 2, 1.0) == 2).all()
