"""The programs of a training step as the trainer runs them, compiled from shapes alone."""

import math
import re
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import meshes
from backbones import abstract_params
from jax.sharding import Mesh
from whole_weights import most_at_once, shapes_of_split_weights

from resadapt_jax.allocator import EncoderFeatures
from resadapt_jax.allocator.partition import PARTITION as ALLOCATOR_PARTITION
from resadapt_jax.generation.backbone import Backbone
from resadapt_jax.generation.prompts import Prompts
from resadapt_jax.models.families import ModelConfig, family_of
from resadapt_jax.models.partition import PartitionTable, tree_shardings
from resadapt_jax.models.stacking import unstack_layers
from resadapt_jax.training import allocator_step, backbone_step
from resadapt_jax.training.backbone_step import Graded
from resadapt_jax.training.checks import check_batches, check_geometry
from resadapt_jax.training.config import TrainConfig
from resadapt_jax.training.credit import judge
from resadapt_jax.training.mesh import batch_sharding, replicated
from resadapt_jax.training.prompt_batch import PromptBatch
from resadapt_jax.training.recipe import make_trainer, start
from resadapt_jax.training.rollout import Pass, plan_passes
from resadapt_jax.training.state import Part, TrainState, merge_params, part_shardings
from resadapt_jax.training.step import Frozen, Trainer

# Pictures of several sizes on one canvas, as corpora have them.
SIZES, CANVAS = ((308, 308), (280, 336), (336, 252)), (336, 336)
# Positions of the longest prompt before its visual tokens, and of a question for the encoder.
PROMPT, QUERY = 256, 64
# What SmolVLM2 gives of a frame.
FRAME_TOKENS = 64
# A kernel by Mosaic or Triton in a compiled program.
KERNEL_CALL = r'custom_call_target="(?:tpu_custom_call|__gpu\$xla\.gpu\.triton)"'


@dataclass(frozen=True)
class Program:
    """What a compilation took, and what its program takes.

    Attributes:
        seconds: to trace and compile it.
        held: bytes of a device of all that a run holds while it runs, its arguments included.
        added: bytes of a device that it needs beside them.
        whole: bytes of split weights, or of their gradients, that it has as wholes at once.
        kernels: calls of `kernels/`'s own, as its text has them.
    """

    seconds: float
    held: int
    added: int
    whole: int
    kernels: int

    @property
    def total(self) -> int:
        return self.held + self.added

    def __str__(self) -> str:
        return (
            f"{self.seconds:4.0f} s {self.total / 1e9:5.1f} GB a device "
            f"({self.held / 1e9:.1f} held, {self.whole / 1e9:.1f} whole weights, "
            f"{self.kernels} kernels)"
        )


@dataclass
class Compiler:
    """Compiles one program after another for a mesh, and keeps account of them.

    Attributes:
        mesh: of `meshes`.
        only: programs by name; the results of others are taken to be split as a batch is.
    """

    mesh: Mesh
    only: tuple[str, ...] = ()
    programs: dict[str, Program] = field(default_factory=dict)

    def run(self, name: str, function: Any, *arguments: Any, held: Any, **options: Any) -> Any:
        """What a jitted function gives: shapes, and where they lie.

        Args:
            name: for the account.
            arguments: trees of placed shapes.
            held: all that a run holds at the time.
            options: the function's keyword arguments.
        """
        if self.only and name not in self.only:
            with meshes.of(self.mesh):
                return self._rows(jax.eval_shape(partial(function, **options), *arguments))
        started = time.monotonic()
        program, results = meshes.compile_jitted(self.mesh, function, arguments, options)
        memory = program.memory_analysis()
        added = memory.output_size_in_bytes + memory.temp_size_in_bytes
        text = program.as_text()
        account = Program(
            seconds=time.monotonic() - started,
            held=local_bytes(held),
            added=added - memory.alias_size_in_bytes,
            whole=most_at_once(text, shapes_of_split_weights(arguments)),
            kernels=len(re.findall(KERNEL_CALL, text)),
        )
        print(f"{name:29}", account, flush=True)
        self.programs[name] = account
        return results

    def _rows(self, tree: Any) -> Any:
        return jax.tree.map(
            lambda x: x.update(sharding=(batch_sharding if x.ndim else replicated)(self.mesh)), tree
        )


def local_bytes(tree: Any) -> int:
    """Bytes of a device, of a tree of placed shapes; what stands in it twice is there once."""
    leaves = {id(leaf): leaf for leaf in jax.tree.leaves(tree)}
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in leaves.values()
    )


@dataclass(frozen=True)
class Run:
    """A trainer, and what it holds from step to step, without values."""

    trainer: Trainer
    state: TrainState
    frozen: Frozen
    batch: PromptBatch
    features: EncoderFeatures

    @property
    def held(self) -> Any:
        return self.state, self.frozen, self.batch, self.features


def open_run(config: TrainConfig, backbone: ModelConfig, mesh: Mesh) -> Run:
    """As `recipe.train` does, with nothing read."""
    check_batches(config, mesh)
    trained = config.backbone_training is not None
    dtype = "float32" if trained else config.backbone_dtype
    params = unstacked(abstract_params(backbone, mesh, dtype), backbone, mesh)
    trainer = make_trainer(config, mesh, Backbone(backbone, params, None), SIZES)
    check_geometry(trainer, config.data.num_pairs)
    state, frozen = jax.eval_shape(lambda params: start(trainer, params), params)
    state, frozen = _place_state(trainer, state, frozen)
    return Run(trainer, state, frozen, *_inputs(trainer))


def unstacked(params: Any, config: ModelConfig, mesh: Mesh) -> Any:
    """Parameters as a checkpoint has them and as rollouts take them."""
    layers = jax.eval_shape(unstack_layers, params)
    return meshes.placed(layers, tree_shardings(layers, family_of(config).partition, mesh))


def compile_step(run: Run, only: tuple[str, ...] = ()) -> dict[str, Program]:
    """Every program of a step in turn, or some by name; each pass at the full capacity."""
    compiler = Compiler(run.trainer.mesh, only)
    trainer, state = run.trainer, run.state
    config, setting = trainer.config, trainer.setting
    drawn, _, _ = compiler.run(
        "allocator_step.draw",
        allocator_step.draw,
        state.allocator.params,
        run.features,
        run.batch,
        state.key,
        config=config.allocator,
        held=run.held,
        setting=setting,
    )
    answers = _answer(compiler, run, drawn)
    # In passes, whose answers the host joins.
    answers = _widened(answers, config.rollouts.num_allocations)
    group, earned, _ = compiler.run(
        "credit.judge",
        judge,
        {"accuracy": answers.log_probs.update(shape=answers.log_probs.shape[:3])},
        drawn.scales,
        drawn.unit_mask,
        run.batch.valid,
        held=(run.held, drawn, answers),
        scale_range=config.scale_range,
        rewards=config.rewards,
        success_threshold=config.success_threshold,
        estimator=trainer.estimator,
    )
    compiler.run(
        "allocator_step.learn_from",
        allocator_step.learn_from,
        state.allocator,
        run.features,
        drawn,
        earned.per_unit,
        group.mask.update(shape=group.mask.shape[:2]),
        held=(run.held, drawn, answers, group, earned),
        config=config.allocator,
        loss=config.loss,
        scale_range=config.scale_range,
        update=config.update,
        optimizer=trainer.allocator_optimizer,
        mesh=trainer.mesh,
    )
    if state.backbone is not None:
        graded = Graded(
            answers=answers,
            old_log_probs=answers.log_probs,
            advantages=earned.per_answer,
            mask=answers.mask,
            ref_log_probs=None,
        )
        _learn_backbone(compiler, run, drawn, graded)
    return compiler.programs


def _answer(compiler: Compiler, run: Run, drawn: Any) -> Any:
    """The rollouts' programs; what one pass gives."""
    trainer, setting = run.trainer, run.trainer.setting
    params, held = run.frozen.backbone, (run.held, drawn)
    if run.state.backbone is not None:
        stacked = compiler.run(
            "backbone_step.cast_all",
            backbone_step.cast_all,
            merge_params(run.state.backbone.params, run.frozen.backbone),
            held=held,
            dtype=setting.dtype,
        )
        params = unstacked(stacked, setting.config, trainer.mesh)
    encoded = None
    if setting.levels(run.batch.num_pairs) is not None:
        encoded = compiler.run(
            "backbone_step.encode",
            backbone_step.encode,
            params,
            run.batch,
            held=(held, params),
            setting=setting,
        )
    number = jax.ShapeDtypeStruct((), jnp.int32)
    return compiler.run(
        "backbone_step.answer",
        backbone_step.answer,
        params,
        encoded,
        run.batch,
        drawn,
        number,
        run.state.key,
        held=(held, params, encoded),
        setting=setting,
        capacity=_largest(trainer).capacity,
    )


def _learn_backbone(compiler: Compiler, run: Run, drawn: Any, graded: Graded) -> None:
    trainer, joint = run.trainer, run.trainer.config.backbone_training
    part, table = run.state.backbone, family_of(trainer.setting.config).partition
    number = jax.ShapeDtypeStruct((), jnp.int32)
    held = run.held, drawn, graded
    options = {
        "setting": trainer.setting,
        "loss": joint.loss,
        "update": joint.update,
        "capacity": _largest(trainer).capacity,
        "mesh": trainer.mesh,
    }
    inputs = part.params, run.frozen.backbone, run.batch, drawn, graded, number, number
    with meshes.of(trainer.mesh):
        before = jax.eval_shape(partial(backbone_step.gradients_of_pass, **options), *inputs)
    gradients = meshes.placed(before[0], tree_shardings(before[0], table, trainer.mesh))
    rest = jax.tree.map(lambda x: x.update(sharding=replicated(trainer.mesh)), before[1:])
    before = gradients, *rest  # of the passes before, which the last one is added to
    of_pass = compiler.run(
        "backbone_step.gradients_of_pass",
        backbone_step.gradients_of_pass,
        *inputs,
        held=(held, before),
        **options,
    )
    total = compiler.run(
        "backbone_step.add_passes",
        backbone_step.add_passes,
        before,
        of_pass,
        held=(held, before, of_pass),
    )
    compiler.run(
        "backbone_step.apply_gradients",
        backbone_step.apply_gradients,
        part,
        *total[:2],
        held=(held, total),
        table=table,
        optimizer=trainer.backbone_optimizer,
        mesh=trainer.mesh,
    )


def _largest(trainer: Trainer) -> Pass:
    """A pass over allocations that fill the capacity."""
    rollouts = trainer.config.rollouts
    return plan_passes([rollouts.token_capacity] * rollouts.num_allocations, rollouts)[0]


def _widened(tree: Any, count: int) -> Any:
    """Of one pass, with as many allocations as a step has."""
    return jax.tree.map(lambda x: x.update(shape=(x.shape[0], count, *x.shape[2:])), tree)


def _place_state(trainer: Trainer, state: TrainState, frozen: Frozen) -> tuple[TrainState, Frozen]:
    mesh, table = trainer.mesh, family_of(trainer.setting.config).partition
    single = replicated(mesh)

    def part(shapes: Part | None, table: PartitionTable, optimizer: Any) -> Part | None:
        if shapes is None:
            return None
        return meshes.placed(shapes, part_shardings(shapes.params, table, optimizer, mesh))

    state = TrainState(
        step=state.step.update(sharding=single),
        allocator=part(state.allocator, ALLOCATOR_PARTITION, trainer.allocator_optimizer),
        backbone=part(state.backbone, table, trainer.backbone_optimizer),
        key=state.key.update(sharding=single),
    )
    backbone = meshes.placed(frozen.backbone, tree_shardings(frozen.backbone, table, mesh))
    return state, frozen._replace(backbone=backbone)


def _inputs(trainer: Trainer) -> tuple[PromptBatch, EncoderFeatures]:
    """A batch and the encoder's features of it, split over the mesh."""
    config, split = trainer.config, batch_sharding(trainer.mesh)

    def array(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((config.batch_size, *shape), dtype, sharding=split)

    world, network = config.data, config.allocator
    batch = PromptBatch(
        frames=array(world.num_frames, *CANVAS, 3, dtype=jnp.uint8),
        frame_mask=array(world.num_frames, dtype=bool),
        native_index=array(world.num_pairs),
        segment_ids=array(world.num_frames),
        valid=array(dtype=bool),
        prompts=Prompts(
            compact_ids=array(PROMPT),
            compact_length=array(),
            entry_index=array(PROMPT),
            pair_milliseconds=array(world.num_pairs),
        ),
        query_ids=array(QUERY),
        query_mask=array(QUERY, dtype=bool),
    )
    dtype = config.encoder.dtype
    features = EncoderFeatures(
        frames=array(world.num_frames, FRAME_TOKENS, network.frame_width, dtype=dtype),
        frame_mask=batch.frame_mask,
        segment_ids=batch.segment_ids,
        text=array(QUERY, network.text_width, dtype=dtype),
        text_mask=batch.query_mask,
    )
    return batch, features
