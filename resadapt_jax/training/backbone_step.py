"""What a step does with the backbone: it answers, and learns from the advantages of its answers."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from resadapt_jax.generation.decode import Generation
from resadapt_jax.losses import (
    BackboneLossConfig,
    Sums,
    WeightedSum,
    add_sums,
    backbone_loss,
)
from resadapt_jax.models.families import family_of
from resadapt_jax.models.partition import PartitionTable, tree_shardings
from resadapt_jax.training.mesh import keep_rows
from resadapt_jax.training.prompt_batch import PromptBatch
from resadapt_jax.training.rollout import (
    Draw,
    Pass,
    answer_allocations,
    encode_all_levels,
    score_allocations,
    show,
    some_allocations,
)
from resadapt_jax.training.setting import Setting
from resadapt_jax.training.state import Part, keep_in_place, merge_params
from resadapt_jax.training.update import (
    UpdateConfig,
    add_parts,
    deal,
    sum_gradients,
    update_part,
)
from resadapt_jax.typing import Array, Bool, Float, Int, Key, Params


def cast(params: Params, dtype: str) -> Params:
    """The parameters as the network computes with them."""
    return jax.tree.map(lambda x: x.astype(dtype), params)


cast_all = jax.jit(cast, static_argnames="dtype")


@partial(jax.jit, static_argnames=("setting",))
def encode(
    params: Params, batch: PromptBatch, *, setting: Setting
) -> Float[Array, "B KU W"] | None:
    """What every pass of a step gathers its tokens from, if that is how it gets them."""
    return encode_all_levels(params, batch, setting)


@partial(jax.jit, static_argnames=("setting", "capacity"))
def answer(
    params: Params,
    encoded: Float[Array, "B KU W"] | None,
    batch: PromptBatch,
    drawn: Draw,
    start: Int[Array, ""],
    key: Key[Array, ""],
    *,
    setting: Setting,
    capacity: int,
) -> Generation:
    """The answers of one pass; every field [B, G, N, length]."""
    some = drawn.some(start, setting.rollouts.pass_size)
    visual = show(params, batch, encoded, some, capacity, setting)
    answers = answer_allocations(
        params, visual, some, batch, jax.random.fold_in(key, start), setting
    )
    return keep_rows(answers)


def answer_all(
    params: Params,
    batch: PromptBatch,
    drawn: Draw,
    passes: list[Pass],
    key: Key[Array, ""],
    setting: Setting,
) -> Generation:
    """The answers of all passes of a step; every field [B, M, N, length]."""
    encoded = encode(params, batch, setting=setting)
    parts = [
        answer(
            params,
            encoded,
            batch,
            drawn,
            jnp.int32(one.start),
            key,
            setting=setting,
            capacity=one.capacity,
        )
        for one in passes
    ]
    return jax.tree.map(lambda *some: jnp.concatenate(some, axis=1), *parts)


def score(
    params: Params,
    batch: PromptBatch,
    drawn: Draw,
    answers: Generation,
    capacity: int,
    setting: Setting,
) -> Float[Array, "B M N T"]:
    """Log-probs of given answers to given allocations; differentiable."""
    params, setting = cast(params, setting.dtype), setting.of_updates()
    # A pass is differentiated by itself, so others cannot share what it encodes.
    encoded = encode_all_levels(params, batch, setting, setting.rollouts.pass_size)
    visual = show(params, batch, encoded, drawn, capacity, setting)
    return score_allocations(params, visual, drawn, batch, answers, setting)


@partial(jax.jit, static_argnames=("setting", "capacity"))
def score_pass(
    params: Params,
    batch: PromptBatch,
    drawn: Draw,
    answers: Generation,
    start: Int[Array, ""],
    *,
    setting: Setting,
    capacity: int,
) -> Float[Array, "B G N T"]:
    """`score` of the allocations of one pass."""
    drawn = drawn.some(start, setting.rollouts.pass_size)
    answers = some_allocations(answers, start, setting.rollouts.pass_size)
    return score(params, batch, drawn, answers, capacity, setting)


def score_all(
    params: Params,
    batch: PromptBatch,
    drawn: Draw,
    answers: Generation,
    passes: list[Pass],
    setting: Setting,
) -> Float[Array, "B M N T"]:
    """`score` of all answers of a step, pass by pass."""
    parts = [
        score_pass(
            params,
            batch,
            drawn,
            answers,
            jnp.int32(one.start),
            setting=setting,
            capacity=one.capacity,
        )
        for one in passes
    ]
    return jnp.concatenate(parts, axis=1)


class Graded(NamedTuple):
    """Answers and what was made of them."""

    answers: Generation  # every field [B, M, N, T]
    old_log_probs: Float[Array, "B M N T"]
    advantages: Float[Array, "B M N"]
    mask: Bool[Array, "B M N T"]  # tokens that are learnt from
    ref_log_probs: Float[Array, "B M N T"] | None


@partial(jax.jit, static_argnames=("setting", "loss", "update", "capacity", "mesh"))
def gradients_of_pass(
    params: Params,
    fixed: Params,
    batch: PromptBatch,
    drawn: Draw,
    graded: Graded,
    mini_batch: Int[Array, ""],
    start: Int[Array, ""],
    *,
    setting: Setting,
    loss: BackboneLossConfig,
    update: UpdateConfig,
    capacity: int,
    mesh: Mesh,
) -> tuple[Params, Float[Array, ""], Sums]:
    """The gradients of one pass over a mini-batch (`update.sum_gradients`), eq. (24).

    Args:
        params: what is trained.
        fixed: the rest of the parameters.
    """

    def objective(
        params: Params, batch: tuple[PromptBatch, Draw, Graded]
    ) -> tuple[WeightedSum, Sums]:
        batch, drawn, graded = batch
        whole = merge_params(params, fixed)
        log_probs = score(whole, batch, drawn, graded.answers, capacity, setting)
        return backbone_loss(
            log_probs,
            graded.old_log_probs,
            graded.advantages,
            graded.mask,
            loss,
            ref_log_probs=graded.ref_log_probs,
        )

    count = setting.rollouts.pass_size
    batch = batch, drawn.some(start, count), some_allocations(graded, start, count)
    batch = jax.tree.map(lambda x: x[mini_batch], deal(batch, update.mini_batches))
    gradients, weight, sums = sum_gradients(objective, params, batch, update.micro_batches)
    places = tree_shardings(params, family_of(setting.config).partition, mesh)
    return jax.lax.with_sharding_constraint(gradients, places), weight, sums


# By itself, so that the gradients of a capacity are one program, whichever pass comes first.
add_passes = jax.jit(add_parts, donate_argnums=0)


@partial(jax.jit, static_argnames=("table", "optimizer", "mesh"), donate_argnames=("part",))
def apply_gradients(
    part: Part,
    gradients: Params,
    weight: Float[Array, ""],
    *,
    table: PartitionTable,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
) -> tuple[Part, Float[Array, ""]]:
    """`update.update_part`, kept where it lies."""
    part, norm = update_part(part, gradients, weight, optimizer)
    return keep_in_place(part, table, optimizer, mesh), norm


def learn_from(
    part: Part,
    fixed: Params,
    batch: PromptBatch,
    drawn: Draw,
    graded: Graded,
    passes: list[Pass],
    *,
    setting: Setting,
    loss: BackboneLossConfig,
    update: UpdateConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
) -> tuple[Part, Sums, Float[Array, ""]]:
    """The backbone's updates of a step; what is returned is as by `update.learn`."""
    table = family_of(setting.config).partition
    for _ in range(update.epochs):
        of_epoch = None
        for mini_batch in range(update.mini_batches):
            total = None
            for one in passes:
                of_pass = gradients_of_pass(
                    part.params,
                    fixed,
                    batch,
                    drawn,
                    graded,
                    jnp.int32(mini_batch),
                    jnp.int32(one.start),
                    setting=setting,
                    loss=loss,
                    update=update,
                    capacity=one.capacity,
                    mesh=mesh,
                )
                total = of_pass if total is None else add_passes(total, of_pass)
                del of_pass  # or the last gradients would outlive their sum
            # No other name for the gradients, or they would outlive the next mini-batch's start.
            part, norm = apply_gradients(
                part, *total[:2], table=table, optimizer=optimizer, mesh=mesh
            )
            sums = total[2]
            of_epoch = sums if of_epoch is None else add_sums(of_epoch, sums)
    return part, of_epoch, norm
