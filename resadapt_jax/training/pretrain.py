"""Pre-training of the tiny backbone on the embedded world, at random mixed resolutions.

In phases of growing clips. In the first the vision tower learns to name what a small crop shows
(through a linear readout that is thrown away afterwards); then tower and decoder learn to answer
several questions per clip, each pair at a size drawn at random, so that an answer is learnt from
whatever resolution its evidence happens to have.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from flax import struct
from transformers import PreTrainedTokenizerBase

from resadapt_jax.data.toy_pipeline import dialogue_batches
from resadapt_jax.data.toy_source import NUM_LABELS, ToyDialogues, label_words
from resadapt_jax.data.toy_tokenizer import build_toy_tokenizer
from resadapt_jax.data.toy_world import ToyWorldConfig
from resadapt_jax.errors import UserError
from resadapt_jax.generation.visual import encode_pairs
from resadapt_jax.models.families import ModelConfig, family_of
from resadapt_jax.models.position_convention import Convention
from resadapt_jax.models.qwen2_5_vl import config as qwen2_5_vl_config
from resadapt_jax.models.qwen3_vl import config as qwen3_vl_config
from resadapt_jax.training.loop.protocols import StepResult
from resadapt_jax.training.loop.run import run
from resadapt_jax.training.loop.run_config import RunConfig
from resadapt_jax.training.optimizer import OptimizerConfig, make_optimizer
from resadapt_jax.training.pretrain_losses import (
    DialogueBatch,
    answer_loss,
    decoder_of,
    label_loss,
    pair_grids,
)
from resadapt_jax.typing import Array, Int, Key, Params

BackboneFamily = Literal["qwen2_5_vl", "qwen3_vl"]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of pre-training on clips of one kind."""

    num_steps: int
    batch_size: int
    """Clips per step."""
    size: int
    """Side of a frame in pixels."""
    num_pairs: int
    num_signs: int
    turns: int
    """Questions per clip; with none only the tower is trained, at full size, on labels."""
    learning_rate: float
    num_pictures: int = 0
    full_size_clips: float = 1.0
    """Fraction of clips shown wholly at full size; the pairs of the others are at mixed sizes."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pre-training of the tiny backbone."""

    output_dir: str = "runs/toy_pretrain"
    """Where checkpoints, logs and the finished Hugging Face directory ``backbone`` go."""
    family: BackboneFamily = "qwen2_5_vl"
    """The backbone's architecture."""
    world: ToyWorldConfig = field(default_factory=lambda: ToyWorldConfig(seed=1))
    """The clips; the seed keeps them apart from those of allocator training and evaluation."""
    phases: tuple[Phase, ...] = ()
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(warmup_steps=50, weight_decay=0.05, beta2=0.98)
    )
    """Of every phase, with the phase's learning rate."""
    label_weight: float = 0.3
    """Weight of the label loss where answers are trained too."""
    token_capacity: float = 0.75
    """Visual tokens of a batch of mixed sizes, as a fraction of all at full size. Clips that reach
    beyond do not count in that step."""
    run: RunConfig = field(
        default_factory=lambda: RunConfig(checkpoint_every=100, best_metric="label_accuracy")
    )
    convention: Convention = Convention.HF_5
    """How positions are numbered."""
    seed: int = 0


@struct.dataclass
class PretrainState:
    """All that a step changes."""

    step: Int[Array, ""]
    params: Params  # {"backbone": ..., "readout": ...}
    opt_state: optax.OptState
    key: Key[Array, ""]


def toy_backbone_config(
    tokenizer: PreTrainedTokenizerBase, family: BackboneFamily = "qwen2_5_vl"
) -> ModelConfig:
    """The tiny backbone: a family's architecture at about a million parameters.

    A tiny Qwen3-VL has patches of 14 pixels too, so that frames have the same legal sizes.
    """
    token_id = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "mrope_section": (4, 6, 6),
        "rope_theta": 10000.0,
        "max_position_embeddings": 4096,
    }
    vision = {
        "depth": 3,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_heads": 2,
        "out_hidden_size": 128,
    }
    tokens = {
        "image_token_id": token_id("<|image_pad|>"),
        "video_token_id": token_id("<|video_pad|>"),
        "vision_start_token_id": token_id("<|vision_start|>"),
        "vision_end_token_id": token_id("<|vision_end|>"),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }
    match family:
        case "qwen2_5_vl":
            return qwen2_5_vl_config.Qwen2_5VLConfig(
                text=qwen2_5_vl_config.TextConfig(**text),
                vision=qwen2_5_vl_config.VisionConfig(**vision, fullatt_block_indexes=(2,)),
                **tokens,
            )
        case "qwen3_vl":
            return qwen3_vl_config.Qwen3VLConfig(
                text=qwen3_vl_config.TextConfig(**text, head_dim=32),
                vision=qwen3_vl_config.VisionConfig(
                    **vision,
                    patch_size=14,
                    num_position_embeddings=64,
                    deepstack_visual_indexes=(0, 1),
                ),
                **tokens,
            )


def pretrain(config: PretrainConfig) -> list[Path]:
    """Runs or resumes every phase and writes the backbone's Hugging Face directory, the result.

    Raises:
        UserError: several processes, or a checkpoint to export: each phase has its own.
    """
    if jax.process_count() > 1 or config.run.export_step:
        raise UserError("pretraining takes one process, and no run.export_step")
    tokenizer = build_toy_tokenizer(config.world)
    backbone_config = toy_backbone_config(tokenizer, config.family)
    word_ids = label_word_ids(tokenizer, config.world.clock_seconds)
    params = init_params(jax.random.key(config.seed), backbone_config)
    for index, phase in enumerate(config.phases):
        world = phase_world(config, phase)
        optimizer = phase_optimizer(config, phase)
        state = run(
            PretrainState(
                step=jnp.zeros((), jnp.int32),
                params=params,
                opt_state=optimizer.init(params),
                key=jax.random.fold_in(jax.random.key(config.seed), index),
            ),
            dialogue_batches(
                ToyDialogues(world, phase.num_steps * phase.batch_size, phase.turns),
                tokenizer,
                phase.batch_size,
                config.convention,
            ),
            lambda state, records, phase=phase: StepResult(
                *train_step(
                    state,
                    DialogueBatch.from_records(records),
                    config=config,
                    phase=phase,
                    backbone_config=backbone_config,
                    word_ids=word_ids,
                )
            ),
            # What came before decides where this one starts; what comes later is no concern of it.
            config=replace(config, phases=config.phases[: index + 1]),
            output_dir=Path(config.output_dir) / f"phase_{index}",
            num_steps=phase.num_steps,
            shown=("label_accuracy", "answer_accuracy") if phase.turns else ("label_accuracy",),
            description=f"phase {index + 1} of {len(config.phases)}",
        )
        params = state.params
    directory = Path(config.output_dir) / "backbone"
    family_of(backbone_config).checkpoint.save_hf(directory, backbone_config, params["backbone"])
    tokenizer.save_pretrained(directory)
    return [directory]


def init_params(key: Key[Array, ""], backbone_config: ModelConfig) -> Params:
    """A random backbone that starts as a content lookup, and an indifferent readout.

    Queries equal keys, so a word first attends to what resembles it; embeddings are not drowned
    by what layers add to them. Without either, the decoder takes ten times longer to learn to look
    a colour up.
    """
    backbone = family_of(backbone_config).model.init_params(key, backbone_config)
    decoder = decoder_of(backbone)
    decoder["embed_tokens"]["weight"] *= 8.0
    heads = backbone_config.text.num_attention_heads, backbone_config.text.head_dim
    for layer in decoder["layers"].values():
        layer["self_attn"]["o_proj"]["weight"] *= 0.3
        layer["mlp"]["down_proj"]["weight"] *= 0.3
        keys = layer["self_attn"]["k_proj"]["weight"]
        keys = keys.reshape(-1, 1, heads[1], keys.shape[-1])
        layer["self_attn"]["q_proj"]["weight"] = jnp.broadcast_to(
            keys, (keys.shape[0], heads[0] // keys.shape[0], *keys.shape[2:])
        ).reshape(-1, keys.shape[-1])
    return {
        "backbone": backbone,
        "readout": {
            "pool": jnp.zeros((backbone_config.text.hidden_size, 1)),
            "nothing": jnp.zeros(NUM_LABELS),
        },
    }


def phase_world(config: PretrainConfig, phase: Phase) -> ToyWorldConfig:
    """The clips of a phase. Their clock is the whole world's."""
    signs = phase.num_signs + phase.num_pictures
    tasks = tuple(task for task in config.world.tasks if task != "both" or signs > 1)
    return replace(
        config.world,
        size=phase.size,
        num_pairs=phase.num_pairs,
        num_signs=phase.num_signs,
        num_pictures=phase.num_pictures,
        least_clock=config.world.clock_seconds,
        tasks=tasks,
    )


def label_word_ids(
    tokenizer: PreTrainedTokenizerBase, clock_seconds: int
) -> tuple[tuple[int, ...], ...]:
    """Token ids of the words that ``label_loss`` scores, one word a token."""
    ids = [[tokenizer.encode(word) for word in words] for words in label_words(clock_seconds)]
    split = [word for part in ids for word in part if len(word) > 1]
    if split:
        raise ValueError(f"the tokenizer splits words that label a sign: {split}")
    return tuple(tuple(word[0] for word in part) for part in ids)


def phase_optimizer(config: PretrainConfig, phase: Phase) -> optax.GradientTransformation:
    return make_optimizer(
        replace(config.optimizer, learning_rate=phase.learning_rate), phase.num_steps
    )


@partial(
    jax.jit,
    static_argnames=("config", "phase", "backbone_config", "word_ids"),
    donate_argnames=("state",),
)
def train_step(
    state: PretrainState,
    batch: DialogueBatch,
    *,
    config: PretrainConfig,
    phase: Phase,
    backbone_config: ModelConfig,
    word_ids: tuple[tuple[int, ...], ...],
) -> tuple[PretrainState, dict[str, Array]]:
    """One update of a phase."""
    objective = partial(
        phase_loss,
        batch=batch,
        key=jax.random.fold_in(state.key, state.step),
        config=config,
        phase=phase,
        backbone_config=backbone_config,
        word_ids=word_ids,
    )
    (loss, metrics), gradients = jax.value_and_grad(objective, has_aux=True)(state.params)
    metrics |= {"loss": loss, "grad_norm": optax.tree.norm(gradients)}
    updates, opt_state = phase_optimizer(config, phase).update(
        gradients, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics


def phase_loss(
    params: Params,
    batch: DialogueBatch,
    key: Key[Array, ""],
    config: PretrainConfig,
    phase: Phase,
    backbone_config: ModelConfig,
    word_ids: tuple[tuple[int, ...], ...],
) -> tuple[Array, dict[str, Array]]:
    """The label loss, and with it, where a phase has turns, the answer loss; and metrics."""
    vision, shape = backbone_config.vision, batch.labels.shape[:2]
    full = phase.size // (vision.patch_size * vision.spatial_merge_size)
    if phase.turns:
        levels = draw_levels(key, shape, full, phase.full_size_clips)
        share = config.token_capacity if phase.full_size_clips < 1.0 else 1.0
    else:
        levels, share = jnp.full(shape, full), 1.0
    capacity = round(share * shape[0] * shape[1] * full**2)
    tokens, plan = encode_pairs(
        params["backbone"],
        backbone_config,
        rearrange(batch.frames, "b f h w c -> (b f) h w c"),
        pair_grids(levels, vision.spatial_merge_size),
        capacity=capacity,
        max_height=phase.size,
        max_width=phase.size,
    )
    # What no longer fits is cut from the end, and a clip that was cut teaches nothing.
    fits = jnp.cumsum(plan.token_count.reshape(shape).sum(axis=1)) <= capacity
    labels = rearrange(batch.labels, "b k part -> (b k) part")
    counted = jnp.repeat(fits, shape[1])
    loss, metrics = label_loss(params, word_ids, tokens, plan, labels, counted)
    metrics |= {"clips_cut": jnp.mean(1.0 - fits), "label_loss": loss}
    if not phase.turns:
        return loss, metrics
    answers, accuracy = answer_loss(
        params["backbone"], backbone_config, tokens, plan, batch, fits, full, config.convention
    )
    metrics |= {"answer_loss": answers, "answer_accuracy": accuracy}
    return answers + config.label_weight * loss, metrics


def draw_levels(
    key: Key[Array, ""], shape: tuple[int, int], full: int, full_size_clips: float
) -> Int[Array, "B K"]:
    """Sides in merged tokens: a clip is wholly at full size, or its pairs are at mixed sizes.

    A mixed clip draws how many of its pairs are at full size; half of the others are at the
    smallest size, where most of an adaptive allocation's pairs end up.
    """
    whole, share, at_full, small, middle = jax.random.split(key, 5)
    probability = jax.random.uniform(share, (shape[0], 1))
    is_full = jax.random.uniform(at_full, shape) < probability
    is_full |= jax.random.bernoulli(whole, full_size_clips, (shape[0], 1))
    is_small = jax.random.bernoulli(small, 0.5, shape)
    other = jax.random.randint(middle, shape, min(2, full - 1), full)
    return jnp.where(is_full, full, jnp.where(is_small, 1, other))
