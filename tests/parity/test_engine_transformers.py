"""Rollouts by transformers, as an external engine, are those of the backbone in process."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with HF transformers needs torch")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from resadapt_jax.allocator import pair_mask  # noqa: E402
from resadapt_jax.data.toy_pipeline import question_batches  # noqa: E402
from resadapt_jax.data.toy_source import ToyClips  # noqa: E402
from resadapt_jax.generation.answer import DecodingConfig  # noqa: E402
from resadapt_jax.generation.backbone import load_backbone  # noqa: E402
from resadapt_jax.training import recipe  # noqa: E402
from resadapt_jax.training.config import TrainConfig  # noqa: E402
from resadapt_jax.training.mesh import MeshConfig, build_mesh, put_batch  # noqa: E402
from resadapt_jax.training.prompt_batch import PromptBatch  # noqa: E402
from resadapt_jax.training.recipe import make_trainer  # noqa: E402
from resadapt_jax.training.rollout import (  # noqa: E402
    RolloutConfig,
    fit_allocations,
    plan_passes,
)
from resadapt_jax.training.state import TrainState  # noqa: E402
from resadapt_jax.training.step import Frozen, answer  # noqa: E402
from tests.training.toy_parts import WORLD  # noqa: E402

PROMPTS, ALLOCATIONS, ANSWERS, NEW_TOKENS = 2, 2, 2, 4


GUIDE = (Path(__file__).resolve().parents[2] / "docs/training.md").read_text()
(EXAMPLE,) = (code for code in re.findall(r"```python\n(.*?)```", GUIDE, re.S) if "engine=" in code)


@pytest.fixture
def engine(monkeypatch):
    """The guide's, which also sees that transformers numbers positions as it is told they are."""
    ran = []
    monkeypatch.setattr(recipe, "train", lambda config, engine: ran.append((config, engine)))
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    exec(EXAMPLE, names := {})
    (_, engine), generate = *ran, names["Greedy"].generate

    def watched(requests):
        return generate(engine, map(watch, requests))

    def watch(request):
        positions, _ = engine.model.model.get_rope_index(
            torch.tensor(request.input_ids).long()[None],
            mm_token_type_ids=torch.tensor(request.mm_token_type_ids)[None],
            video_grid_thw=torch.tensor(request.video_grid_thw).long(),
        )
        np.testing.assert_array_equal(request.position_ids, positions[:, 0])
        engine.num_patches.append(len(request.pixel_values_videos))
        return request

    engine.num_patches, engine.generate = [], watched
    return engine


def test_transformers_and_the_backbone_in_process_answer_alike(engine):
    config = TrainConfig(
        data=replace(WORLD, num_pairs=2),
        rollouts=RolloutConfig(
            num_allocations=ALLOCATIONS,
            num_answers=ANSWERS,
            token_capacity=24,
            decoding=DecodingConfig(max_new_tokens=NEW_TOKENS),
        ),
    )
    mesh, backbone = build_mesh(MeshConfig(data=1)), load_backbone()
    source = ToyClips(config.data, PROMPTS)
    records = next(question_batches(source, backbone.tokenizer, PROMPTS))
    batch = put_batch(PromptBatch.from_records(records), mesh)
    trainer = make_trainer(config, mesh, backbone, config.data.native_sizes)
    # As a policy would draw: a pair of 112 px gets 1, 4, 9 or 16 tokens.
    scales = jnp.array([[[0.3, 0.6], [0.8, 0.9]], [[0.2, 0.2], [0.3, 0.8]]])
    actions = (scales - 0.2) / 0.8
    drawn = jax.jit(fit_allocations, static_argnums=4)(
        actions, actions, pair_mask(batch.frame_mask), batch, trainer.setting
    )
    passes = plan_passes(drawn.tokens.max(axis=0), trainer.setting.rollouts)
    rest = Frozen(None, backbone.params, None), TrainState(0, None, None, None)

    def answers(trainer):
        return answer(trainer, *rest, batch, drawn, passes, jax.random.key(0))

    (ours, texts), (theirs, said) = answers(trainer), answers(trainer._replace(engine=engine))
    assert texts.tolist() == said.tolist()
    # Four patches a token, of every prompt's allocations in turn; they differ in size.
    assert engine.num_patches == (4 * drawn.tokens).ravel().tolist()
    assert len(set(engine.num_patches)) == PROMPTS * ALLOCATIONS
    np.testing.assert_array_equal(ours.mask, theirs.mask)
    np.testing.assert_array_equal(ours.token_ids, theirs.token_ids)
    np.testing.assert_allclose(ours.log_probs, theirs.log_probs, atol=1e-4)
    assert ours.token_ids.shape == (PROMPTS, ALLOCATIONS, ANSWERS, NEW_TOKENS)
    # It would show if one request were answered for another.
    said = ours.log_probs[:, :, 0].sum(axis=-1)
    assert np.diff(np.sort(said, axis=None)).min() > 1e-2
