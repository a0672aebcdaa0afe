"""Evaluates the allocator of a run and leaves ``frontier.json`` and its pictures beside it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resadapt_jax.allocator import ThumbnailConfig, ThumbnailEncoder
from resadapt_jax.allocator.checkpoint import TrainedAllocator, load_allocator, read_config
from resadapt_jax.allocator.feature_cache import FeatureCache
from resadapt_jax.config import differences, to_json
from resadapt_jax.data.toy_pipeline import ClipSource, held_out_batches
from resadapt_jax.data.toy_questions import PROBLEM_TYPES
from resadapt_jax.data.toy_source import ToyClips
from resadapt_jax.data.toy_world import FRAMES_PER_SECOND, ToyWorldConfig
from resadapt_jax.errors import UserError
from resadapt_jax.evaluation.clips import Clips, prompts_showing
from resadapt_jax.evaluation.evaluator import Evaluation, Tally, evaluate
from resadapt_jax.evaluation.frontier import frontier_record
from resadapt_jax.evaluation.methods import (
    MethodSetting,
    control_settings,
    frontier_settings,
    require_capacity,
    require_feasible_shares,
)
from resadapt_jax.files import atomic_write, require_writable
from resadapt_jax.generation.backbone import Backbone, load_backbone
from resadapt_jax.generation.prompts import Prompts
from resadapt_jax.models.families import check_convention
from resadapt_jax.report.frontier import frontier_png
from resadapt_jax.report.scale_traces import ScaleTrace, scale_traces_png
from resadapt_jax.training.config import MAY_DIFFER_ON_RESUME, TrainConfig, check_limits, resolve
from resadapt_jax.training.encoder import check_encoder, open_cache
from resadapt_jax.training.loop.progress import Progress
from resadapt_jax.typing import Bool
from resadapt_jax.versions import versions

NUM_TRACES = 6
_SHOWN = {"scale 1": "vanilla", "free": "resadapt"}
NOT_EVALUATED = ("backbone", "estimator", "engine")
"""Fields of a config whose change since training needs no mention."""


def evaluate_run(config: TrainConfig, train_command: str) -> dict[str, Any]:
    """Evaluates the run's allocator; returns and writes the record of ``frontier.json``.

    Args:
        train_command: named in the error if no allocator has been trained.

    Raises:
        UserError: a directory that cannot be written to, no allocator, one that belongs to another
            encoder or backbone, features cached by other settings, clips it was trained on, or a
            share of the tokens that cannot be kept; all of them before the first clip.
    """
    output_dir = Path(config.output_dir)
    require_writable(output_dir)
    opened = open_evaluation(config, train_command)
    config, allocator = opened.config, opened.allocator
    changed = _changes_since_training(output_dir, config)
    settings = opened.frontier() + opened.controls()
    evaluation = evaluate_opened(opened, settings)
    record = frontier_record(settings, evaluation.tallies, config.data)
    record["config"] = json.loads(to_json(config))
    if changed:
        record["changed_since_training"] = changed
    record["versions"] = versions()
    # What was measured is safe before anything is drawn.
    atomic_write(output_dir / "frontier.json", json.dumps(record, indent=2, allow_nan=False) + "\n")
    free = [setting.name for setting in settings].index("free")
    traces = scale_traces(evaluation, evaluation.tallies[free])
    pictures = {
        "frontier.png": frontier_png(record),
        "scales.png": scale_traces_png(traces, s_max=allocator.config.scale_range.s_max),
    }
    for name, picture in pictures.items():
        atomic_write(output_dir / name, picture)
    return record


class Opened(NamedTuple):
    """All that an evaluation needs, checked.

    Attributes:
        config: resolved.
        cache: of what the allocator's encoder makes of frames.
    """

    config: TrainConfig
    backbone: Backbone
    allocator: TrainedAllocator
    cache: FeatureCache | None

    def frontier(self) -> list[MethodSetting]:
        """Every method at every setting that the config names."""
        return frontier_settings(
            self.config.evaluation,
            limits=self.config.limits,
            s_min=self.allocator.config.scale_range.s_min,
            build_prompts=self._build_prompts,
        )

    def controls(self) -> list[MethodSetting]:
        """What must fail."""
        return control_settings(limits=self.config.limits, build_prompts=self._build_prompts)

    def _build_prompts(self, clips: Clips, shown: Bool[np.ndarray, "B K"]) -> Prompts:
        return prompts_showing(clips, shown, self.backbone.tokenizer, self.config.convention)


def open_evaluation(config: TrainConfig, train_command: str) -> Opened:
    """Reads the run's allocator and its backbone, and checks that they belong together.

    Raises:
        UserError: as `evaluate_run`.
    """
    if not isinstance(config.data, ToyWorldConfig):
        raise UserError(
            "eval.py evaluates runs on the embedded world; this one's data are files, on which "
            "metrics.jsonl has the mean policy's retention and the rewards per task"
        )
    allocator = _trained(config, train_command)
    backbone = load_backbone(config.trained_backbone, config.backbone_dtype)
    config = resolve(config, allocator.encoder)
    _check(config, backbone, allocator)
    cache = open_cache(config.encoder, allocator.encoder, FRAMES_PER_SECOND, config.data.num_frames)
    return Opened(config, backbone, allocator, cache)


def scale_traces(evaluation: Evaluation, free: Tally) -> list[ScaleTrace]:
    """A few clips of the first batch, as many of each task as can be, in the order of the tasks.

    Args:
        free: of ResAdapt without a budget, whose scales are shown.
    """
    clips = evaluation.first
    native = free.native / len(free.tokens)
    return [
        ScaleTrace(
            question=clips.questions[i],
            written=free.texts[i],
            truth=clips.answers[i],
            score=free.scores[i],
            retention=free.tokens[i] / native,
            pictures=np.asarray(clips.batch.frames[i, ::2]),
            seconds=clips.seconds[i],
            scales=evaluation.proposals.scales[i],
            evidence=clips.evidence[i],
        )
        for i in _varied(clips.tasks[: len(free.scores)])
    ]


def _varied(tasks: Sequence[str]) -> list[int]:
    """Up to `NUM_TRACES` positions: the first of every task, then the second of every task, ..."""
    places = {task: [i for i, kind in enumerate(tasks) if kind == task] for task in PROBLEM_TYPES}
    turns = [(turn, task) for turn in range(len(tasks)) for task in PROBLEM_TYPES]
    chosen = [places[task][turn] for turn, task in turns if turn < len(places[task])]
    return chosen[:NUM_TRACES]


def _trained(config: TrainConfig, train_command: str) -> TrainedAllocator:
    """The run's allocator; a SmolVLM2 that it names is looked for where the config says."""
    if config.allocator is None:
        raise UserError("there is no allocator to evaluate: the config trains a backbone alone")
    directory, chosen = Path(config.trained_allocator), config.encoder
    if not directory.is_dir():
        raise UserError(f"no trained allocator at {directory}; make one with: {train_command}")
    check_encoder(chosen, read_config(directory).encoder, directory)
    if isinstance(chosen, ThumbnailConfig):
        return load_allocator(directory)
    allocator = load_allocator(directory, smolvlm_directory=chosen.directory)
    return replace(allocator, encoder=allocator.encoder.replace(chunk_frames=chosen.chunk_frames))


def _check(config: TrainConfig, backbone: Backbone, allocator: TrainedAllocator) -> None:
    known, spoken = allocator.config.vocab_size, backbone.config.text.vocab_size
    if isinstance(allocator.encoder, ThumbnailEncoder) and known != spoken:
        raise UserError(
            f"the allocator reads a vocabulary of {known} tokens and the backbone {spoken}; "
            "it was trained with another backbone"
        )
    if config.evaluation.seed == config.data.seed:
        raise UserError(
            f"evaluation.seed is data.seed, {config.data.seed}: these clips were trained on"
        )
    check_convention(config.convention, backbone.config)
    check_limits(config.limits, backbone.config)
    world = config.data
    s_max = allocator.config.scale_range.s_max
    require_capacity(config.evaluation, s_max, world.size, world.size, config.limits)
    require_feasible_shares(
        config.evaluation, world.num_pairs, world.size, world.size, config.limits
    )


def _changes_since_training(output_dir: Path, config: TrainConfig) -> list[str]:
    """Fields whose value is not the one that the allocator was trained with.

    The backbone may be another one, or the same in another place.
    """
    path = output_dir / "config.json"
    if not path.is_file():
        return []
    try:
        return differences(path.read_text(), config, ignore=(*MAY_DIFFER_ON_RESUME, *NOT_EVALUATED))
    except ValueError as error:  # not a config, or not even text
        raise UserError(f"{path} is damaged: {error}") from error


def evaluate_opened(
    opened: Opened, settings: Sequence[MethodSetting], source: ClipSource | None = None
) -> Evaluation:
    """Answers the held-out clips under each setting, and shows how far it is.

    Args:
        source: of the clips; by default those of the config's world that its seed keeps apart.
    """
    config = opened.config
    shown = {name: i for i, setting in enumerate(settings) if (name := _SHOWN.get(setting.name))}
    # Two at the least: the control asks another clip's question.
    batch_size = max(2, min(config.evaluation.batch_size, config.evaluation.num_clips))
    num_batches = -(-config.evaluation.num_clips // batch_size)
    with Progress(num_batches * len(settings), description="eval") as progress:

        def report(ran: int, tallies: Sequence[Tally]) -> None:
            known = {name: tallies[place] for name, place in shown.items()}
            progress.update(ran, **{name: t.accuracy for name, t in known.items() if t.scores})

        if source is None:
            source = held_out_clips(config, num_batches * batch_size)
        batches = held_out_batches(
            source,
            opened.backbone.tokenizer,
            batch_size,
            config.convention,
            opened.allocator.tokenizer,
        )
        return evaluate(
            map(Clips.from_records, batches),
            settings,
            opened.backbone,
            opened.allocator,
            config,
            report,
            opened.cache,
        )


def held_out_clips(config: TrainConfig, count: int) -> ToyClips:
    """Clips of the config's world that no training has seen."""
    return ToyClips(replace(config.data, seed=config.evaluation.seed), count)
