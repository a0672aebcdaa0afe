"""Training an allocator with CAPO against a frozen backbone: rollout, reward, advantage, update.

One step, on a batch of B prompts:

1. the frozen encoder sees each prompt once, the allocator gives a policy per unit;
2. M allocations are drawn, each answered N times by the backbone (``rollout``);
3. strings leave the device and are graded;
4. advantages weigh accuracy against cost, and the clipped surrogate updates the allocator.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from resadapt_jax import advantages, losses
from resadapt_jax.allocator import (
    EncoderFeatures,
    ThumbnailEncoder,
    allocate,
    count_params,
    init_params,
    mean_pair_scales,
    pair_mask,
    policy,
)
from resadapt_jax.allocator.checkpoint import (
    TrainedAllocator,
    TrainedAllocatorConfig,
    save_allocator,
)
from resadapt_jax.data.toy_pipeline import question_batches
from resadapt_jax.data.toy_source import ToyClips
from resadapt_jax.errors import UserError
from resadapt_jax.generation.backbone import load_backbone
from resadapt_jax.models.families import ModelConfig, check_convention
from resadapt_jax.operators import native_tokens, sizes_from_scales, token_counts
from resadapt_jax.report.samples import Sample
from resadapt_jax.training.config import TrainConfig, check_limits, resolve
from resadapt_jax.training.encoder import (
    Encoded,
    describe_parameters,
    encode_ahead,
    open_cache,
    open_encoder,
    source_of,
)
from resadapt_jax.training.grading import TASK_TYPES, grade
from resadapt_jax.training.loop import run
from resadapt_jax.training.optimizer import make_optimizer
from resadapt_jax.training.prompt_batch import PromptBatch
from resadapt_jax.training.rollout import Rollout, rollout, size_levels
from resadapt_jax.training.step import StepResult
from resadapt_jax.typing import Array, Float, Int, Key, Params


@struct.dataclass
class TrainState:
    """All that a step changes."""

    step: Int[Array, ""]
    params: Params  # of the allocator
    opt_state: optax.OptState
    key: Key[Array, ""]  # never changes; a step's randomness is folded in from its number


def init_state(config: TrainConfig) -> TrainState:
    """A fresh allocator and optimiser."""
    init_key, key = jax.random.split(jax.random.key(config.seed))
    params = init_params(init_key, config.allocator)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer(config).init(params),
        key=key,
    )


def optimizer(config: TrainConfig) -> optax.GradientTransformation:
    return make_optimizer(config.optimizer, config.num_steps * config.updates_per_step)


@partial(jax.jit, static_argnames=("config", "backbone_config"))
def roll_out(
    state: TrainState,
    encoder: ThumbnailEncoder | Encoded,
    backbone: Params,
    batch: PromptBatch,
    *,
    config: TrainConfig,
    backbone_config: ModelConfig,
) -> tuple[EncoderFeatures, Rollout, dict[str, Array]]:
    """Encodes each prompt once, draws M allocations and answers them; also the policy's metrics."""
    frame_mask = jnp.ones(batch.frames.shape[:2], bool)
    features = encoder.encode(batch.frames, frame_mask, batch.query_ids, batch.query_mask)
    allocation = allocate(state.params, config.allocator, features)
    drawn = rollout(
        backbone,
        backbone_config,
        batch.frames,
        frame_mask,
        batch.prompts,
        allocation,
        jax.random.fold_in(state.key, state.step),
        rollouts=config.rollouts,
        scale_range=config.scale_range,
        limits=config.limits,
        convention=config.convention,
    )
    height, width = batch.frames.shape[2:4]
    mean_scales = mean_pair_scales(allocation, frame_mask, config.scale_range)
    shown = pair_mask(frame_mask)
    native = native_tokens(height, width, config.limits) * shown.shape[1]
    mean_sizes = sizes_from_scales(mean_scales, height, width, config.limits)
    mean_tokens = token_counts(*mean_sizes, shown, config.limits)
    metrics = {
        "retention": jnp.mean(drawn.tokens) / native,
        "retention_of_mean_policy": jnp.mean(mean_tokens.sum(axis=-1)) / native,
        "scale_mean": jnp.mean(drawn.scales),
        "scale_spread_of_mean_policy": jnp.mean(jnp.std(mean_scales, axis=-1)),
        "entropy": jnp.mean(allocation.policy.entropy()),
        "concentration_max": jnp.max(allocation.policy.concentration()),
        "padding_share": 1.0 - jnp.mean(drawn.tokens) / config.rollouts.token_capacity,
        "fitted_share": jnp.mean(drawn.fitted),
    }
    return features, drawn, metrics


@partial(jax.jit, static_argnames=("config",), donate_argnames=("state",))
def update(
    state: TrainState,
    features: EncoderFeatures,
    drawn: Rollout,
    accuracy: Float[Array, "B M N"],
    *,
    config: TrainConfig,
) -> tuple[TrainState, dict[str, Array]]:
    """Advantages from the graded answers, then ``updates_per_step`` updates of the allocator.

    The metrics of the loss are those of the last of these updates.
    """
    group = advantages.make_group(
        {"accuracy": accuracy},
        drawn.scales,
        drawn.unit_mask,
        s_min=config.scale_range.s_min,
        s_max=config.scale_range.s_max,
    )
    advantage = advantages.estimate(group, config.advantage)

    def objective(params: Params) -> tuple[Array, dict[str, Array]]:
        new = allocate(params, config.allocator, features)
        loss, parts = losses.allocator_loss(
            new.policy.log_prob(drawn.actions),
            drawn.log_probs,
            advantage.values,
            policy.to_scale(new.policy.mean(), config.scale_range),
            new.policy.concentration(),
            new.unit_features,
            new.unit_mask,
            config.loss,
        )
        return loss.mean(), {name: part.mean() for name, part in parts.items()}

    def descend(carry: tuple[Params, optax.OptState], _: None) -> tuple[Any, dict[str, Array]]:
        params, opt_state = carry
        gradients, parts = jax.grad(objective, has_aux=True)(params)
        updates, opt_state = optimizer(config).update(gradients, opt_state, params)
        parts["grad_norm"] = optax.tree.norm(gradients)
        return (optax.apply_updates(params, updates), opt_state), parts

    # A loop, so that more updates compile no longer.
    start = state.params, state.opt_state
    (params, opt_state), parts = jax.lax.scan(descend, start, length=config.updates_per_step)
    metrics = {name: part[-1] for name, part in parts.items()}
    metrics |= {
        "reward": jnp.mean(accuracy),
        "reward_spread": jnp.mean(jnp.std(accuracy.reshape(len(accuracy), -1), axis=1)),
        "cost": jnp.mean(group.cost),
        "advantage_max": jnp.max(jnp.abs(advantage.values)),
    }
    if "shaping" in advantage.terms:
        metrics["shaping"] = jnp.mean(advantage.terms["shaping"])
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics


def samples(
    records: dict[str, np.ndarray],
    drawn: Rollout,
    accuracy: Float[np.ndarray, "B M N"],
    decode: Callable[[Any], str],
    count: int = 4,
) -> list[Sample]:
    """The first prompts of a batch as the sample table shows them."""
    shown = (drawn.scales, drawn.unit_mask, drawn.tokens)
    scales, present, tokens = jax.device_get(shown)
    token_ids, mask = jax.device_get((drawn.answers.token_ids, drawn.answers.mask))

    def texts(*place: int) -> list[str]:
        return [decode(ids[kept]) for ids, kept in zip(token_ids[place], mask[place], strict=True)]

    return [
        Sample(
            prompt=str(records["question"][b]),
            truth=str(records["answer"][b]),
            pictures=records["frames"][b, ::2][present[b]],
            scales=scales[b][:, present[b]],
            tokens=tokens[b],
            answers=[texts(b, m) for m in range(len(tokens[b]))],
            scores=accuracy[b],
        )
        for b in range(min(count, len(accuracy)))
    ]


def check_geometry(config: TrainConfig, backbone: ModelConfig) -> None:
    """Refuses sizes that are not the backbone's, and a capacity that not even the smallest fit.

    Raises:
        UserError: names both values.
    """
    check_limits(config.limits, backbone)
    world = config.world
    levels = size_levels(world.size, world.size, config.scale_range, config.limits)
    least = world.num_pairs * int(levels.tokens[0])
    if config.rollouts.token_capacity < least:
        raise UserError(
            f"rollouts.token_capacity is {config.rollouts.token_capacity}, but "
            f"{world.num_pairs} pairs of the smallest size need {least}"
        )


def train(config: TrainConfig) -> Path:
    """Runs or resumes a training and writes the trained allocator's directory."""
    backbone = load_backbone(config.backbone)
    encoder, query_tokenizer = open_encoder(config.encoder, backbone)
    config = resolve(config, encoder)
    check_convention(config.convention, backbone.config)
    check_geometry(config, backbone.config)
    cache = open_cache(config.encoder, encoder, config.world)
    print(describe_parameters(count_params(config.allocator), encoder))

    def step(state: TrainState, records: dict[str, np.ndarray]) -> StepResult:
        batch = PromptBatch.from_records(records)
        seen = encode_ahead(encoder, batch.frames, batch.query_ids, batch.query_mask, cache)
        features, drawn, metrics = roll_out(
            state, seen, backbone.params, batch, config=config, backbone_config=backbone.config
        )
        token_ids, mask = jax.device_get((drawn.answers.token_ids, drawn.answers.mask))
        tasks = records["task"]
        accuracy = grade(token_ids, mask, tasks, records["answer"], backbone.decode)
        state, learnt = update(state, features, drawn, accuracy, config=config)
        per_task = {
            f"reward_{task}": accuracy[tasks == task].mean() for task in TASK_TYPES if task in tasks
        }
        return StepResult(
            state=state,
            metrics={**metrics, **learnt, **per_task},
            samples=lambda: samples(records, drawn, accuracy, backbone.decode),
        )

    clips = ToyClips(config.world, config.num_steps * config.batch_size)
    state = run(
        init_state(config),
        question_batches(
            clips, backbone.tokenizer, config.batch_size, config.convention, query_tokenizer
        ),
        step,
        config=config,
        output_dir=config.output_dir,
        num_steps=config.num_steps,
        shown=("reward", "retention"),
        description="train",
    )
    directory = Path(config.output_dir) / "allocator"
    trained = TrainedAllocator(
        config=TrainedAllocatorConfig(
            network=config.allocator,
            encoder=source_of(config.encoder, encoder),
            vocab_size=encoder.vocab_size,
            scale_range=config.scale_range,
        ),
        params=state.params,
        encoder=encoder,
        tokenizer=query_tokenizer,
    )
    save_allocator(directory, trained)
    return directory
