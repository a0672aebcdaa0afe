"""Training by reward: an allocator with CAPO, the backbone beside it, or the backbone alone.

One step, on a batch of B prompts:

1. the frozen encoder sees each prompt once, the allocator gives a policy per unit;
2. M allocations are drawn, each answered N times by the backbone (``rollout``);
3. strings leave the device and are graded, each host grading its own prompts;
4. advantages weigh accuracy against cost, and the allocator learns from them, then the backbone.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from resadapt_jax.advantages import Advantages, Group, GrpoConfig, grpo, informative, make_group
from resadapt_jax.allocator import EncoderFeatures
from resadapt_jax.generation.decode import Generation
from resadapt_jax.losses import Sums
from resadapt_jax.models.stacking import unstack_layers
from resadapt_jax.report.samples import Sample
from resadapt_jax.training import allocator_step, backbone_step
from resadapt_jax.training.backbone_step import Graded, Setting
from resadapt_jax.training.config import TrainConfig
from resadapt_jax.training.engine import Engine
from resadapt_jax.training.engine_rollout import answer_by_engine, hand_over
from resadapt_jax.training.grading import grade, reward_per_task
from resadapt_jax.training.loop.protocols import StepResult
from resadapt_jax.training.mesh import own_rows, put_batch, sum_over_processes
from resadapt_jax.training.prompt_batch import PromptBatch
from resadapt_jax.training.rollout import Draw, Pass, plan_passes
from resadapt_jax.training.state import TrainState, merge_params
from resadapt_jax.training.step_flops import own_flops
from resadapt_jax.typing import Array, Bool, Float, Key, Params

Estimator = Callable[[Group], Advantages]
"""What a group earned; `advantages.estimate` with a config, or a user's own function."""


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
    allocator_optimizer: optax.GradientTransformation | None
    backbone_optimizer: optax.GradientTransformation | None
    decode: Callable[[Any], str]
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
    parts, seconds = _grade(trainer, rolled.answers, records)
    metrics |= _work(trainer, rolled, records, seconds)
    group, earned, judged = judge(
        put_batch(parts, trainer.mesh),
        rolled.drawn.scales,
        rolled.drawn.unit_mask,
        s_min=trainer.config.scale_range.s_min,
        s_max=trainer.config.scale_range.s_max,
        format_weight=trainer.config.rewards.format_weight,
        success_threshold=trainer.config.success_threshold,
        estimator=trainer.estimator,
    )
    state, moved, learnt = learn_allocator(trainer, state, features, rolled.drawn, group, earned)
    if state.backbone is not None:
        state, of_backbone = learn_backbone(
            trainer, frozen, state, batch, rolled, group, earned, moved
        )
        learnt |= of_backbone
    metrics |= judged | learnt | reward_per_task(parts["accuracy"], records["task"])
    return StepResult(
        state=state.replace(step=state.step + 1),
        metrics=metrics,
        samples=partial(samples, trainer, rolled, parts["accuracy"], records),
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
    static = {"geometry": setting.geometry, "rollouts": setting.rollouts}
    draw_key, answer_key = _keys(state.key, state.step)
    if config.allocator is None:
        drawn, most_tokens, metrics = allocator_step.draw_native(batch.frame_mask, **static)
    else:
        params = frozen.allocator if state.allocator is None else state.allocator.params
        drawn, most_tokens, metrics = allocator_step.draw(
            params, features, batch.frame_mask, draw_key, config=config.allocator, **static
        )
    passes = plan_passes(jax.device_get(most_tokens), setting.rollouts)
    answers = answer(trainer, frozen, state, batch, drawn, passes, answer_key)
    if trainer.engine is None:
        capacity = np.mean([one.capacity for one in passes])
        metrics["padding_share"] = 1.0 - jnp.mean(drawn.tokens) / capacity
    metrics["visual_tokens"] = jnp.sum(drawn.tokens) * setting.rollouts.num_answers
    metrics["answer_tokens"] = jnp.sum(answers.mask)
    return Rolled(drawn, passes, answers), metrics


def answer(
    trainer: Trainer,
    frozen: Frozen,
    state: TrainState,
    batch: PromptBatch,
    drawn: Draw,
    passes: list[Pass],
    key: Key[Array, ""],
) -> Generation:
    """The answers of a step, in process or by the engine; every field [B, M, N, length]."""
    setting, engine = trainer.setting, trainer.engine
    if engine is None:
        params = rollout_params(trainer, frozen, state)
        return backbone_step.answer_all(params, batch, drawn, passes, key, setting)
    if state.backbone is not None:
        hand_over(engine, rollout_params(trainer, frozen, state))
    return answer_by_engine(engine, batch, drawn, key, setting, trainer.mesh)


def rollout_params(trainer: Trainer, frozen: Frozen, state: TrainState) -> Params:
    """The whole backbone as it answers: in its own dtype, its layers one by one."""
    if state.backbone is None:
        return frozen.backbone
    whole = merge_params(state.backbone.params, frozen.backbone)
    return unstack_layers(backbone_step.cast_all(whole, dtype=trainer.setting.dtype))


@partial(
    jax.jit,
    static_argnames=("s_min", "s_max", "format_weight", "success_threshold", "estimator"),
)
def judge(
    reward_parts: dict[str, Float[Array, "B M N"]],
    scales: Float[Array, "B M K"],
    unit_mask: Bool[Array, "B K"],
    *,
    s_min: float,
    s_max: float,
    format_weight: float,
    success_threshold: float,
    estimator: Estimator,
) -> tuple[Group, Advantages, dict[str, Array]]:
    """What the answers earned their allocations, and metrics."""
    group = make_group(
        reward_parts,
        scales,
        unit_mask,
        s_min=s_min,
        s_max=s_max,
        reward_weights={"format": format_weight} if "format" in reward_parts else None,
        success_threshold=success_threshold,
    )
    earned = estimator(group)
    rewards = group.rewards.reshape(len(group.rewards), -1)
    metrics = {f"reward_{name}": jnp.mean(part) for name, part in group.reward_parts.items()}
    metrics |= {name: jnp.mean(term) for name, term in earned.terms.items()}
    metrics |= {
        "reward": jnp.mean(rewards),
        "reward_spread": jnp.mean(jnp.std(rewards, axis=1)),
        "cost": jnp.mean(group.cost),
        "advantage_max": jnp.max(jnp.abs(earned.values)),
    }
    return group, earned, metrics


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
        earned.values,
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
    config, (drawn, passes, answers) = trainer.config.backbone_training, rolled
    scored = partial(
        backbone_step.score_all,
        batch=batch,
        drawn=drawn,
        answers=answers,
        passes=passes,
        setting=trainer.setting,
    )
    old_log_probs = answers.log_probs
    if config.old_log_probs == "recomputed":
        old_log_probs = scored(merge_params(state.backbone.params, frozen.backbone))
    per_answer, counted = _backbone_advantages(
        group,
        earned,
        moved if config.ispred else None,
        released=config.released if config.advantages == "released" else None,
        informative_only=config.informative_prompts_only,
    )
    graded = Graded(
        answers=answers,
        old_log_probs=old_log_probs,
        advantages=per_answer,
        mask=answers.mask & counted,
        ref_log_probs=None if frozen.reference is None else scored(frozen.reference),
    )
    part, sums, norm = backbone_step.learn_from(
        state.backbone,
        frozen.backbone,
        batch,
        drawn,
        graded,
        passes,
        setting=trainer.setting,
        loss=config.loss,
        update=config.update,
        optimizer=trainer.backbone_optimizer,
        mesh=trainer.mesh,
    )
    metrics = _values(sums) | {"grad_norm": norm, "informative_share": jnp.mean(counted)}
    return state.replace(backbone=part), {f"backbone_{k}": v for k, v in metrics.items()}


@partial(jax.jit, static_argnames=("released", "informative_only"))
def _backbone_advantages(
    group: Group,
    earned: Advantages,
    weights: Float[Array, "B M"] | None,
    *,
    released: GrpoConfig | None,
    informative_only: bool,
) -> tuple[Float[Array, "B M N"], Bool[Array, "B M N 1"]]:
    """The advantage of every answer, and which answers are learnt from."""
    values = earned.per_answer if released is None else grpo(group, released).per_answer
    if weights is not None:
        values = values * weights[:, :, None]
    counted = group.mask
    if informative_only:
        counted = counted & informative(group.rewards, group.mask)[:, None, None]
    return values, counted[..., None]


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
    trainer: Trainer,
    rolled: Rolled,
    accuracy: Float[np.ndarray, "B M N"],
    records: dict[str, np.ndarray],
    count: int = 4,
) -> list[Sample]:
    """The first of this process's prompts, as the sample table shows them."""
    drawn, answers = rolled.drawn, rolled.answers
    scales, present, tokens = own_rows((drawn.scales, drawn.unit_mask, drawn.tokens))
    token_ids, mask = own_rows((answers.token_ids, answers.mask))
    frames_per_unit = -(-records["frames"].shape[1] // present.shape[1])

    def texts(*place: int) -> list[str]:
        pairs = zip(token_ids[place], mask[place], strict=True)
        return [trainer.decode(ids[kept]) for ids, kept in pairs]

    return [
        Sample(
            prompt=str(records["question"][b]),
            truth=str(records["answer"][b]),
            pictures=records["frames"][b, ::frames_per_unit][present[b]],
            scales=scales[b][:, present[b]],
            tokens=tokens[b],
            answers=[texts(b, m) for m in range(len(tokens[b]))],
            scores=accuracy[b],
        )
        for b in range(min(count, len(accuracy)))
    ]


def _grade(
    trainer: Trainer, answers: Generation, records: dict[str, np.ndarray]
) -> tuple[dict[str, Float[np.ndarray, "B M N"]], float]:
    """Reward parts of this process's own prompts, and the seconds that they took on the host."""
    token_ids, mask = own_rows((answers.token_ids, answers.mask))
    start = time.perf_counter()  # the answers are there
    truths = records["task"], records["answer"]
    parts = grade(token_ids, mask, *truths, trainer.decode, trainer.config.rewards)
    return parts, time.perf_counter() - start


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
