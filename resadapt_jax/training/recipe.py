"""A training run from config to exported weights: ``train(config)``.

Checks that the config can work before anything compiles, opens every network on the mesh, and
hands steps to the loop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from transformers import PreTrainedTokenizerBase

from resadapt_jax import advantages
from resadapt_jax.allocator import ThumbnailConfig, ThumbnailEncoder, init_params
from resadapt_jax.allocator.checkpoint import load_network, read_config
from resadapt_jax.allocator.partition import PARTITION as ALLOCATOR_PARTITION
from resadapt_jax.allocator.smolvlm_encoder import SmolVLMEncoder
from resadapt_jax.data.batches import BatchIterator
from resadapt_jax.errors import UserError
from resadapt_jax.generation.backbone import Backbone, load_backbone
from resadapt_jax.models.compute import Remat
from resadapt_jax.models.families import check_convention, family_of
from resadapt_jax.models.partition import tree_shardings
from resadapt_jax.models.stacking import stack_layers
from resadapt_jax.training.backbone_step import cast_all
from resadapt_jax.training.checks import (
    check_batches,
    check_engine,
    check_geometry,
    check_memory,
)
from resadapt_jax.training.config import TrainConfig, resolve
from resadapt_jax.training.credit import Estimator
from resadapt_jax.training.encoder import (
    check_encoder,
    encode_batch,
    open_cache,
    open_encoder,
    open_words,
)
from resadapt_jax.training.engine import Engine
from resadapt_jax.training.export import export
from resadapt_jax.training.loop import resume
from resadapt_jax.training.loop.protocols import Step, StepResult
from resadapt_jax.training.loop.run import run
from resadapt_jax.training.mesh import (
    batch_shares,
    build_mesh,
    is_first_process,
    put_batch,
    put_replicated,
)
from resadapt_jax.training.open_data import open_data
from resadapt_jax.training.optimizer import make_optimizer
from resadapt_jax.training.prompt_batch import PromptBatch
from resadapt_jax.training.setting import Geometry, Setting
from resadapt_jax.training.state import (
    Part,
    TrainState,
    describe_parameters,
    split_params,
    stack_trained,
    start_part,
)
from resadapt_jax.training.step import Frozen, Trainer, run_step
from resadapt_jax.typing import Params


def train(
    config: TrainConfig, estimator: Estimator | None = None, engine: Engine | None = None
) -> list[Path]:
    """Runs or resumes a training and writes what was trained.

    Args:
        estimator: what a group of answers earned; by default the one that ``config.advantage``
            names. A method of one's own is one function.
        engine: what answers in rollouts; by default the backbone in process.

    Returns:
        The folders of what was trained, the allocator's first.

    Raises:
        UserError: the config cannot work, by itself or with the engine; names the field. Or the
            engine does not answer what it is asked.
    """
    opened = open_run(config, estimator, engine)
    with jax.set_mesh(opened.trainer.mesh):
        state = run(
            opened.state,
            opened.batches,
            opened.step,
            config=opened.config,
            output_dir=config.output_dir,
            num_steps=config.num_steps,
            finite=opened.trainer.finite,
            shown=("reward", "retention"),
            description="train",
            dropped=opened.dropped,
        )
        return export(opened.trainer, state, opened.frozen, opened.encoder, opened.query_tokenizer)


def replay(
    config: TrainConfig, estimator: Estimator | None = None, engine: Engine | None = None
) -> StepResult:
    """The step that was not finite and stopped a run, once more; nothing is written.

    The arguments are those that ``train`` was given. What there was before the step is in the
    ``Replayed`` of ``loop.resume.replay``, which this calls.

    Raises:
        UserError: as `loop.resume.replay`.
    """
    opened = open_run(config, estimator, engine)
    with jax.set_mesh(opened.trainer.mesh):
        stopped = resume.replay(
            opened.state,
            opened.batches,
            opened.step,
            config=opened.config,
            output_dir=config.output_dir,
        )
        return opened.step(stopped.state, stopped.batch)


class OpenRun(NamedTuple):
    """A run before its first step, or before it goes on.

    Attributes:
        trainer: has the config, resolved.
        state: before the first step.
        frozen: what no step changes.
        batches: of this process, from the start.
        step: one step of `step.run_step`, from a batch on the host.
        encoder, query_tokenizer: of the allocator.
        dropped: rows of the files that cannot be used.
    """

    trainer: Trainer
    state: TrainState
    frozen: Frozen
    batches: BatchIterator
    step: Step
    encoder: ThumbnailEncoder | SmolVLMEncoder
    query_tokenizer: PreTrainedTokenizerBase
    dropped: Sequence[Mapping[str, Any]]

    @property
    def config(self) -> TrainConfig:
        return self.trainer.config


def open_run(
    config: TrainConfig, estimator: Estimator | None = None, engine: Engine | None = None
) -> OpenRun:
    """Checks that a run can work and opens all that it needs, on its mesh.

    Raises:
        UserError: as `train`.
    """
    config = record_code(config, estimator=estimator, engine=engine)
    mesh = build_mesh(config.mesh)
    check_batches(config, mesh)
    check_engine(engine, config)
    with jax.set_mesh(mesh):
        backbone = open_backbone(config, mesh)
        encoder, query_tokenizer = _open_encoder(config, backbone, mesh)
        config = resolve(config, encoder)
        check_convention(config.convention, backbone.config)
        data = open_data(config, backbone.tokenizer, query_tokenizer)
        if data.report and is_first_process():
            print(data.report)
        trainer = make_trainer(config, mesh, backbone, data.native_sizes, estimator, engine)
        check_geometry(trainer, data.num_pairs)
        check_memory(trainer, data.prompt_tokens)
        state, frozen = start(trainer, backbone.params)
        if is_first_process():
            _print_sizes(state, frozen, encoder)
        cache = open_cache(config.encoder, encoder, data.fps, data.max_frames)

        def step(state: TrainState, records: dict[str, np.ndarray]) -> StepResult:
            local = PromptBatch.from_records(records)
            batch = put_batch(local, mesh)
            features = None
            if config.allocator is not None:
                geometry = trainer.setting.geometry
                features = encode_batch(encoder, local, batch, geometry, mesh, cache)
            return run_step(trainer, frozen, state, features, batch, records)

        return OpenRun(
            trainer=trainer,
            state=state,
            frozen=frozen,
            batches=data.batches,
            step=step,
            encoder=encoder,
            query_tokenizer=query_tokenizer,
            dropped=data.dropped,
        )


def _open_encoder(
    config: TrainConfig, backbone: Backbone, mesh: Mesh
) -> tuple[ThumbnailEncoder | SmolVLMEncoder, PreTrainedTokenizerBase]:
    if config.start_allocator and isinstance(config.encoder, ThumbnailConfig):
        return open_words(config.encoder, config.start_allocator, mesh)
    return open_encoder(config.encoder, backbone)


def _print_sizes(
    state: TrainState, frozen: Frozen, encoder: ThumbnailEncoder | SmolVLMEncoder
) -> None:
    """What is trained, and what is not."""
    if state.allocator is not None:
        print(f"allocator: {describe_parameters(state.allocator.params, encoder)} (its encoder)")
    if state.backbone is not None:
        print(f"backbone: {describe_parameters(state.backbone.params, frozen.backbone)}")


def record_code(config: TrainConfig, **handed: Any) -> TrainConfig:
    """The config with the names of an estimator and an engine that are no part of it.

    Raises:
        UserError: the config, as a run's ``config.json`` has it, names others.
    """
    for field, code in handed.items():
        named = code if hasattr(code, "__qualname__") else type(code)
        name = "" if code is None else f"{named.__module__}.{named.__qualname__}"
        if getattr(config, field) not in ("", name):
            raise UserError(f"{field} is {getattr(config, field)}, but train was given {name!r}")
        config = replace(config, **{field: name})
    return config


def open_backbone(config: TrainConfig, mesh: Mesh) -> Backbone:
    """Reads the backbone onto the mesh; float32 where it is trained."""
    trained = config.backbone_training is not None
    dtype = "float32" if trained else config.backbone_dtype
    return load_backbone(config.backbone, dtype, mesh)


def make_trainer(
    config: TrainConfig,
    mesh: Mesh,
    backbone: Backbone,
    native_sizes: tuple[tuple[int, int], ...],
    estimator: Estimator | None = None,
    engine: Engine | None = None,
) -> Trainer:
    """What is fixed for a run, from a resolved config.

    Args:
        native_sizes: height and width of any frame that comes.
    """
    joint = config.backbone_training
    geometry = Geometry(
        native_sizes=native_sizes,
        scale_range=config.scale_range,
        limits=config.limits,
        convention=config.convention,
        num_shares=batch_shares(mesh),
    )
    optimizer = of_backbone = None
    if config.train_allocator:
        num_updates = config.num_steps * config.update.updates_per_step
        optimizer = make_optimizer(config.optimizer, num_updates)
    if joint is not None:
        num_updates = config.num_steps * joint.update.updates_per_step
        of_backbone = make_optimizer(joint.optimizer, num_updates)
    return Trainer(
        config=config,
        mesh=mesh,
        setting=Setting(
            config=backbone.config,
            dtype=config.backbone_dtype,
            geometry=geometry,
            rollouts=config.rollouts,
            remat=Remat.NONE if joint is None else joint.remat,
        ),
        # A trained backbone's parameters are copied: those that were read need not stay.
        backbone=backbone._replace(params=None),
        allocator_optimizer=optimizer,
        backbone_optimizer=of_backbone,
        estimator=estimator or partial(advantages.estimate, config=config.advantage),
        engine=engine,
    )


def start(trainer: Trainer, backbone: Params) -> tuple[TrainState, Frozen]:
    """The state before the first step, and what no step changes, all of it on the mesh."""
    config, mesh = trainer.config, trainer.mesh
    init_key, key = jax.random.split(jax.random.key(config.seed))
    allocator = _start_allocator(config, mesh, init_key)
    part = None
    if config.train_allocator:
        part = start_part(allocator, ALLOCATOR_PARTITION, trainer.allocator_optimizer, mesh)
    table = family_of(trainer.setting.config).partition
    backbone = jax.device_put(backbone, tree_shardings(backbone, table, mesh))
    of_backbone, rest = _start_backbone(trainer, backbone)
    joint, reference = config.backbone_training, None
    if joint is not None and joint.loss.kl_weight:
        reference = stack_layers(cast_all(backbone, dtype=trainer.setting.dtype))
    state = TrainState(
        step=put_replicated(jnp.zeros((), jnp.int32), mesh),
        allocator=part,
        backbone=of_backbone,
        key=put_replicated(key, mesh),
    )
    return state, Frozen(
        allocator=None if config.train_allocator else allocator,
        backbone=rest,
        reference=reference,
    )


def _start_allocator(config: TrainConfig, mesh: Mesh, key: jax.Array) -> Params | None:
    if config.allocator is None:
        return None
    shapes = jax.eval_shape(lambda: init_params(key, config.allocator))
    places = tree_shardings(shapes, ALLOCATOR_PARTITION, mesh)
    if config.start_allocator:
        return jax.device_put(_saved_allocator(config, config.start_allocator), places)
    return jax.jit(init_params, static_argnums=1, out_shardings=places)(key, config.allocator)


def _saved_allocator(config: TrainConfig, directory: str) -> Params:
    saved = read_config(directory)
    for name, value in {"allocator": saved.network, "scale_range": saved.scale_range}.items():
        if value != getattr(config, name):
            raise UserError(f"{name} is not that of {directory}: it has {value}")
    check_encoder(config.encoder, saved.encoder, directory)
    return load_network(directory)


def _start_backbone(trainer: Trainer, backbone: Params) -> tuple[Part | None, Params]:
    """What of the backbone is trained, its layers stacked, and what is not, as it computes."""
    joint, table = trainer.config.backbone_training, family_of(trainer.setting.config).partition
    if joint is None:
        return None, backbone
    trained, fixed = split_params(backbone, joint.frozen)
    part = start_part(
        stack_trained(trained, fixed), table, trainer.backbone_optimizer, trainer.mesh
    )
    return part, cast_all(fixed, dtype=trainer.setting.dtype)
