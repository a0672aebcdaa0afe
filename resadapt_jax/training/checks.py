"""What is refused before anything compiles: batches, sizes and memory that cannot work."""

import math

import jax
from jax.sharding import Mesh

from resadapt_jax.errors import UserError
from resadapt_jax.generation.prefill import cache_slots
from resadapt_jax.training.config import TrainConfig, check_limits
from resadapt_jax.training.engine import Engine
from resadapt_jax.training.memory import (
    Load,
    MemoryEstimate,
    estimate_memory,
    require_memory,
)
from resadapt_jax.training.mesh import batch_shares
from resadapt_jax.training.step import Trainer


def check_batches(config: TrainConfig, mesh: Mesh) -> None:
    """Refuses a batch that cannot be dealt out to devices, mini-batches and micro-batches.

    Raises:
        UserError: names the field.
    """
    joint, dealt = config.backbone_training, {}
    if config.train_allocator:
        dealt["update"] = {}, config.update
    if joint is not None:
        drawn = {"backbone_training.oversampling": joint.oversampling}
        dealt["backbone_training.update"] = drawn, joint.update
    for name, (factors, update) in dealt.items():
        for field in ("mini_batches", "micro_batches"):
            factors |= {f"{name}.{field}": getattr(update, field)}
        factors["mesh.data x mesh.fsdp"] = batch_shares(mesh)
        if config.batch_size % math.prod(factors.values()):
            said = ", ".join(f"{field} {value}" for field, value in factors.items())
            raise UserError(
                f"batch_size {config.batch_size} must be a multiple of the product of {said}"
            )


def check_engine(engine: Engine | None, config: TrainConfig) -> None:
    """Refuses an engine that is none, or that a backbone in training cannot learn from.

    Raises:
        UserError: names what it lacks.
    """
    if engine is None:
        return
    joint = config.backbone_training
    members = ["gives_token_ids", "gives_log_probs", "generate"]
    members += [] if joint is None else ["load_weights"]
    if absent := [name for name in members if not hasattr(engine, name)]:
        raise UserError(f"the engine lacks {', '.join(absent)}; training.engine.Engine says more")
    if joint is not None and not engine.gives_token_ids:
        raise UserError("the engine gives texts alone, a backbone in training learns from tokens")
    if joint is not None and not engine.gives_log_probs and joint.old_log_probs == "rollout":
        raise UserError(
            "the engine gives no log-probs: set backbone_training.old_log_probs to recomputed"
        )


def check_geometry(trainer: Trainer, num_pairs: int) -> None:
    """Refuses sizes that are not the backbone's, and a capacity that not even the smallest fit.

    Args:
        num_pairs: of the longest prompt.

    Raises:
        UserError: names both values.
    """
    config, geometry = trainer.config, trainer.setting.geometry
    check_limits(config.limits, trainer.setting.config)
    least = num_pairs * geometry.least_tokens
    if config.rollouts.token_capacity < least:
        raise UserError(
            f"rollouts.token_capacity is {config.rollouts.token_capacity}, but "
            f"{num_pairs} pairs of the smallest size need {least}"
        )


def check_memory(trainer: Trainer, prompt_tokens: int) -> None:
    """Refuses a backbone's part of a step that the devices cannot hold, by an estimate.

    Where a device does not say how much memory it has, as a CPU does not, nothing is refused.

    Args:
        prompt_tokens: of the longest prompt, before its visual tokens.

    Raises:
        UserError: says what each part takes.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        require_memory(memory_of(trainer, prompt_tokens), stats["bytes_limit"])


def memory_of(trainer: Trainer, prompt_tokens: int) -> MemoryEstimate:
    """What the backbone's part of a step takes of a device (`memory.estimate_memory`)."""
    config, setting = trainer.config, trainer.setting
    rollouts, joint = config.rollouts, config.backbone_training
    new_tokens = rollouts.decoding.max_new_tokens
    length = prompt_tokens + rollouts.token_capacity
    rows = config.batch_size * rollouts.pass_size * rollouts.num_answers
    load = Load(
        rows=rows if joint is None else rows // joint.parts,
        positions=length + new_tokens,
        visual_tokens=rollouts.token_capacity,
        rollout_rows=rows if trainer.engine is None else 0,
        cache_slots=cache_slots(
            length, new_tokens, rollouts.decoding.prefill_chunk, rollouts.shared_prefix(length)
        ),
        rollout_clips=config.batch_size,
        prefilled=min(length, rollouts.decoding.prefill_chunk or length),
    )
    return estimate_memory(
        setting.of_updates().config,
        trainer.mesh.shape,
        load,
        trained=joint is not None,
        reference=joint is not None and joint.loss.kl_weight > 0,
        dtype=setting.dtype,
        cache_dtype=rollouts.decoding.cache_dtype,
    )
