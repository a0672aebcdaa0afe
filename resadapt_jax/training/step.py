"""Training by reward: an allocator with CAPO, the backbone beside it, or the backbone alone.

One step, on a batch of B prompts:

1. the frozen encoder sees each prompt once, the allocator gives a policy per unit;
2. M allocations are drawn, each answered N times by the backbone (``rollout``);
3. strings leave the device and are graded, each host grading its own prompts;
4. advantages weigh accuracy against cost, and the allocator learns from them, then the backbone.
"""

import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from resadapt_jax.advantages import Advantages, Group
from resadapt_jax.allocator import EncoderFeatures
from resadapt_jax.generation.backbone import Backbone
from resadapt_jax.generation.decode import Generation
from resadapt_jax.losses import Sums
from resadapt_jax.models.stacking import unstack_layers
from resadapt_jax.report.samples import Sample
from resadapt_jax.training import allocator_step, backbone_step
from resadapt_jax.training.backbone_step import Graded
from resadapt_jax.training.config import TrainConfig
from resadapt_jax.training.credit import Estimator, credit_answers, judge, keep_informative
from resadapt_jax.training.engine import Engine
from resadapt_jax.training.engine_rollout import answer_by_engine, hand_over
from resadapt_jax.training.grading import Grades, grade, read_texts, reward_per_kind
from resadapt_jax.training.loop.protocols import StepResult
from resadapt_jax.training.loop.skip_log import rows_with
from resadapt_jax.training.measures import mean_of_rows
from resadapt_jax.training.mesh import own_rows, put_batch, sum_over_processes
from resadapt_jax.training.prompt_batch import PromptBatch
from resadapt_jax.training.rollout import Draw, Pass, plan_passes
from resadapt_jax.training.setting import Setting
from resadapt_jax.training.state import TrainState, merge_params
from resadapt_jax.training.step_flops import own_flops
from resadapt_jax.typing import Array, Float, Key, Params, Shaped


class Frozen(NamedTuple):
    """Parameters that steps read and never change; they lie on the mesh."""

    allocator: Params | None  # where it is not trained; None also where there is none
    backbone: Params  # as it computes: all of it, or what of it is not trained
    reference: Params | None  # the backbone before its first update, for a KL penalty


class Trainer(NamedTuple):
    """What is fixed for a run."""

    config: TrainConfig
    mesh: Mesh
    setting: Setting
    backbone: Backbone  # without its parameters, which are in the state or frozen
    allocator_optimizer: optax.GradientTransformation | None
    backbone_optimizer: optax.GradientTransformation | None
    estimator: Estimator
    engine: Engine | None = None  # None: the backbone answers in process

    @property
    def finite(self) -> tuple[str, ...]:
        """Metrics of every step that must be finite."""
        trained = {"": self.allocator_optimizer, "backbone_": self.backbone_optimizer}
        return tuple(
            part + name
            for part, optimizer in trained.items()
            if optimizer is not None
            for name in ("loss", "grad_norm")
        )


class Rolled(NamedTuple):
    """What the rollouts of a step gave."""

    drawn: Draw
    passes: list[Pass]
    answers: Generation  # every field [B, M, N, T]
    texts: Shaped[np.ndarray, "b M N"]  # what is graded, of this process's own prompts


def run_step(
    trainer: Trainer,
    frozen: Frozen,
    state: TrainState,
    features: EncoderFeatures | None,
    batch: PromptBatch,
    records: dict[str, np.ndarray],
) -> StepResult:
    """One step; the state is donated.

    Args:
        features: of the frozen encoder; None without an allocator.
        batch: the batch on the mesh.
        records: this process's own rows of it, on the host.
    """
    rolled, metrics = roll_out(trainer, frozen, state, features, batch)
    grades, seconds = _grade(trainer, rolled, records)
    metrics |= _work(trainer, rolled, records, seconds)
    group, earned, judged = judge(
        put_batch(grades.parts, trainer.mesh),
        rolled.drawn.scales,
        rolled.drawn.unit_mask,
        batch.valid,
        scale_range=trainer.config.scale_range,
        rewards=trainer.config.rewards,
        success_threshold=trainer.config.success_threshold,
        estimator=trainer.estimator,
        decided=put_batch(grades.decided, trainer.mesh),
    )
    state, moved, learnt = learn_allocator(trainer, state, features, rolled.drawn, group, earned)
    if state.backbone is not None:
        state, of_backbone = learn_backbone(
            trainer, frozen, state, batch, rolled, group, earned, moved
        )
        learnt |= of_backbone
    read, accuracy = records["valid"], grades.parts["accuracy"]
    per_kind = reward_per_kind(accuracy[read], grades.decided[read], records["problem_type"][read])
    metrics |= judged | learnt | per_kind
    return StepResult(
        state=state.replace(step=state.step + 1),
        metrics=metrics,
        samples=partial(samples, rolled, accuracy, records, setting=trainer.setting),
        skipped=rows_with(records, "skipped"),
        damaged=rows_with(records, "damage"),
    )


def roll_out(
    trainer: Trainer,
    frozen: Frozen,
    state: TrainState,
    features: EncoderFeatures | None,
    batch: PromptBatch,
) -> tuple[Rolled, dict[str, Any]]:
    """Draws M allocations of every prompt and answers them."""
    config, setting = trainer.config, trainer.setting
    draw_key, answer_key = _keys(state.key, state.step)
    if config.allocator is None:
        drawn, most_tokens, metrics = allocator_step.draw_native(batch, setting=setting)
    else:
        params = frozen.allocator if state.allocator is None else state.allocator.params
        drawn, most_tokens, metrics = allocator_step.draw(
            params, features, batch, draw_key, config=config.allocator, setting=setting
        )
    passes = plan_passes(jax.device_get(most_tokens), setting.rollouts)
    answers, texts = answer(trainer, frozen, state, batch, drawn, passes, answer_key)
    if trainer.engine is None:
        capacity = np.mean([one.capacity for one in passes])
        metrics["padding_share"] = 1.0 - jnp.mean(drawn.tokens) / capacity
    metrics["visual_tokens"] = jnp.sum(drawn.tokens) * setting.rollouts.num_answers
    metrics["answer_tokens"] = jnp.sum(answers.mask)
    return Rolled(drawn, passes, answers, texts), metrics


def answer(
    trainer: Trainer,
    frozen: Frozen,
    state: TrainState,
    batch: PromptBatch,
    drawn: Draw,
    passes: list[Pass],
    key: Key[Array, ""],
) -> tuple[Generation, Shaped[np.ndarray, "b M N"]]:
    """The answers of a step, in process or by the engine, and their texts.

    Every field is [B, M, N, length]; the texts are those of this process's own prompts.
    """
    setting, engine, backbone = trainer.setting, trainer.engine, trainer.backbone
    if engine is None:
        params = rollout_params(trainer, frozen, state)
        answers = backbone_step.answer_all(params, batch, drawn, passes, key, setting)
        return answers, read_texts(*own_rows((answers.token_ids, answers.mask)), backbone.decode)
    if state.backbone is not None:
        hand_over(engine, rollout_params(trainer, frozen, state))
    return answer_by_engine(engine, batch, drawn, key, setting, backbone, trainer.mesh)


def rollout_params(trainer: Trainer, frozen: Frozen, state: TrainState) -> Params:
    """The whole backbone as it answers: in its own dtype, its layers one by one."""
    if state.backbone is None:
        return frozen.backbone
    whole = merge_params(state.backbone.params, frozen.backbone)
    return unstack_layers(backbone_step.cast_all(whole, dtype=trainer.setting.dtype))


def learn_allocator(
    trainer: Trainer,
    state: TrainState,
    features: EncoderFeatures | None,
    drawn: Draw,
    group: Group,
    earned: Advantages,
) -> tuple[TrainState, Float[Array, "B M"] | None, dict[str, Array]]:
    """The allocator's updates of a step, and by what they made each allocation likelier.

    None of it where the allocator is not trained.
    """
    if state.allocator is None:
        return state, None, {}
    config = trainer.config
    part, sums, norm = allocator_step.learn_from(
        state.allocator,
        features,
        drawn,
        earned.per_unit,
        group.mask.any(axis=-1),
        config=config.allocator,
        loss=config.loss,
        scale_range=config.scale_range,
        update=config.update,
        optimizer=trainer.allocator_optimizer,
        mesh=trainer.mesh,
    )
    moved, metrics = allocator_step.compare_with_draw(
        part.params, features, drawn, config=config.allocator
    )
    metrics |= _values(sums) | {"grad_norm": norm}
    return state.replace(allocator=part), moved, metrics


def learn_backbone(
    trainer: Trainer,
    frozen: Frozen,
    state: TrainState,
    batch: PromptBatch,
    rolled: Rolled,
    group: Group,
    earned: Advantages,
    moved: Float[Array, "B M"] | None,
) -> tuple[TrainState, dict[str, Array]]:
    """The backbone's updates of a step.

    Args:
        moved: how much likelier the allocator's updates made each allocation (``ispred``).
    """
    config = trainer.config.backbone_training
    per_answer, counted, differ = credit_answers(
        group,
        earned,
        moved if config.ispred else None,
        plain=config.grpo if config.advantages == "released" else None,
        informative_only=config.informative_prompts_only,
    )
    informative_share = mean_of_rows(differ, batch.valid)
    learnt = batch, rolled.drawn, rolled.answers, per_answer, counted
    if config.oversampling > 1:
        learnt = keep_informative(learnt, differ, batch.valid, oversampling=config.oversampling)
    batch, drawn, answers, per_answer, counted = learnt
    graded = Graded(
        answers=answers,
        advantages=per_answer,
        mask=answers.mask & counted[..., None],
        **_former_log_probs(trainer, frozen, state, batch, drawn, answers, rolled.passes),
    )
    part, sums, norm = backbone_step.learn_from(
        state.backbone,
        frozen.backbone,
        batch,
        drawn,
        graded,
        rolled.passes,
        setting=trainer.setting,
        loss=config.loss,
        update=config.update,
        optimizer=trainer.backbone_optimizer,
        mesh=trainer.mesh,
    )
    metrics = _values(sums) | {"grad_norm": norm, "informative_share": informative_share}
    metrics["counted_share"] = mean_of_rows(counted, batch.valid)
    return state.replace(backbone=part), {f"backbone_{k}": v for k, v in metrics.items()}


def _former_log_probs(
    trainer: Trainer,
    frozen: Frozen,
    state: TrainState,
    batch: PromptBatch,
    drawn: Draw,
    answers: Generation,
    passes: list[Pass],
) -> dict[str, Float[Array, "B M N T"] | None]:
    """Of the answers' tokens: by the backbone that drew them, and by the reference if any."""

    def score(params: Params) -> Float[Array, "B M N T"]:
        return backbone_step.score_all(
            params, batch, drawn, answers, passes, setting=trainer.setting
        )

    old_log_probs = answers.log_probs
    if trainer.config.backbone_training.old_log_probs == "recomputed":
        old_log_probs = score(merge_params(state.backbone.params, frozen.backbone))
    ref_log_probs = None if frozen.reference is None else score(frozen.reference)
    return {"old_log_probs": old_log_probs, "ref_log_probs": ref_log_probs}


@jax.jit
def _keys(key: Key[Array, ""], step: Array) -> tuple[Key[Array, ""], Key[Array, ""]]:
    """For the draws and for the answers of a step."""
    return tuple(jax.random.split(jax.random.fold_in(key, step)))


@jax.jit
def _values(sums: Sums) -> dict[str, Array]:
    """Means, and the smallest and the largest ratio; 1 is always among them."""
    means = {name: value.mean() for name, value in sums.items() if name != "log_ratio"}
    went = sums["log_ratio"]
    return means | {"ratio_min": jnp.exp(went.lowest), "ratio_max": jnp.exp(went.highest)}


def samples(
    rolled: Rolled,
    accuracy: Float[np.ndarray, "B M N"],
    records: dict[str, np.ndarray],
    *,
    setting: Setting,
    count: int = 4,
) -> list[Sample]:
    """The first of this process's prompts, as the sample table shows them."""
    drawn = rolled.drawn
    scales, present, tokens = own_rows((drawn.scales, drawn.unit_mask, drawn.tokens))
    frames_per_unit = -(-records["frames"].shape[1] // present.shape[1])
    native = np.array(setting.geometry.native_sizes)[records["native_index"]]
    pairs = records["frame_mask"].reshape(*native.shape[:2], 2).any(axis=2)
    # of each prompt's pictures, of which others leave a part of empty; 0 x 0 of a text alone
    most = np.where(pairs[..., None], native, 0).max(axis=1)
    return [
        Sample(
            prompt=str(records["question"][b]),
            truth=str(records["answer"][b]),
            pictures=records["frames"][b, ::frames_per_unit, : most[b, 0], : most[b, 1]][
                present[b]
            ],
            scales=scales[b][:, present[b]],
            tokens=tokens[b],
            answers=rolled.texts[b].tolist(),
            scores=accuracy[b],
        )
        for b in range(min(count, len(accuracy)))
    ]


def _grade(
    trainer: Trainer, rolled: Rolled, records: dict[str, np.ndarray]
) -> tuple[Grades, float]:
    """Of this process's own prompts, and the seconds that grading their texts took."""
    mask, truths = own_rows(rolled.answers.mask), (records["problem_type"], records["answer"])
    start = time.perf_counter()
    grades = grade(rolled.texts, mask, *truths, trainer.config.rewards)
    return grades, time.perf_counter() - start


def _work(
    trainer: Trainer, rolled: Rolled, records: dict[str, np.ndarray], seconds: float
) -> dict[str, float]:
    """What the step needs of arithmetic, and how long a process graded on average."""
    joint = trainer.config.backbone_training
    flops = own_flops(
        trainer.setting,
        joint,
        rolled.drawn,
        rolled.answers,
        records,
        in_process=trainer.engine is None,
    )
    totals = sum_over_processes(np.array([flops, seconds]))
    return {
        "flops": totals[0],
        "devices": trainer.mesh.size,
        "reward_seconds": totals[1] / jax.process_count(),
    }
