"""Runs every setting on every clip: batches outside, settings inside, so a clip is made once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resadapt_jax.allocator import EncoderFeatures, Pictures
from resadapt_jax.allocator.checkpoint import TrainedAllocator
from resadapt_jax.allocator.feature_cache import FeatureCache
from resadapt_jax.allocator.network import propose_scales
from resadapt_jax.evaluation.clips import Clips, other_colour
from resadapt_jax.evaluation.methods import MethodSetting, Proposals
from resadapt_jax.evaluation.respond import respond, show
from resadapt_jax.generation.answer import Answers
from resadapt_jax.generation.backbone import Backbone
from resadapt_jax.operators import CapacityLadder, native_grids
from resadapt_jax.rewards import RewardConfig
from resadapt_jax.training.config import TrainConfig
from resadapt_jax.training.encoder import encode
from resadapt_jax.training.grading import grade, read_texts
from resadapt_jax.typing import Bool, Float, Int


@dataclass(kw_only=True)
class Tally:
    """What became of the clips under one setting."""

    native: int = 0  # tokens at scale 1
    encoded: list[int] = field(default_factory=list)  # tokens that came out of the tower
    tokens: list[int] = field(default_factory=list)  # tokens that entered the decoder
    cache_bytes: int = 0  # most that a batch's keys and values took
    scores: list[float] = field(default_factory=list)  # NaN where grading gave up
    tasks: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @property
    def graded(self) -> list[float]:
        """The scores that mean something."""
        return [score for score in self.scores if not np.isnan(score)]

    @property
    def accuracy(self) -> float:
        return float(np.mean(self.graded))

    @property
    def stderr(self) -> float:
        """Standard error of the mean, s / √n; 0 for a single clip."""
        n = len(self.graded)
        return float(np.std(self.graded, ddof=1) / n**0.5) if n > 1 else 0.0

    @property
    def retention(self) -> float:
        """ρ = Σ tokens entering the decoder / Σ tokens at scale 1, over all clips."""
        return sum(self.tokens) / self.native

    @property
    def encoded_share(self) -> float:
        """What the tower had to encode; more than ``retention`` where tokens were dropped later."""
        return sum(self.encoded) / self.native

    def of_task(self, task: str) -> list[float]:
        """Of those scores a task's."""
        of = zip(self.scores, self.tasks, strict=True)
        return [score for score, kind in of if kind == task and not np.isnan(score)]


class Evaluation(NamedTuple):
    """What came of an evaluation.

    Attributes:
        tallies: one per setting, in order.
        first, proposals: the first batch, and what the allocator proposed for it.
        scales: what the allocator proposed for each clip that counts.
        evidence: where the answer was to be seen.
    """

    tallies: list[Tally]
    first: Clips
    proposals: Proposals
    scales: Float[np.ndarray, "N K"]
    evidence: Bool[np.ndarray, "N K"]


def propose(
    allocator: TrainedAllocator, clips: Clips, cache: FeatureCache | None = None
) -> Proposals:
    """The scale of each pair by the mean of the policy, for its own query and for another's."""
    config, batch = allocator.config, clips.batch
    pictures = Pictures.of_videos(batch.frames).replace(
        mask=batch.frame_mask, segment_ids=batch.segment_ids
    )
    features = encode(allocator.encoder, pictures, batch.query_ids, batch.query_mask, cache)
    scales = [
        propose_scales(allocator.params, config.network, asked, config.scale_range)
        for asked in (features, _with_other_queries(features, clips.questions))
    ]
    return Proposals(*map(np.asarray, scales))


def _with_other_queries(features: EncoderFeatures, questions: Sequence[str]) -> EncoderFeatures:
    """Each clip's frames beside the query of another, of the batch's `other_colour`."""
    others = other_colour(questions)
    return features.replace(text=features.text[others], text_mask=features.text_mask[others])


def evaluate(
    batches: Iterable[Clips],
    settings: Sequence[MethodSetting],
    backbone: Backbone,
    allocator: TrainedAllocator,
    config: TrainConfig,
    report: Callable[[int, Sequence[Tally]], None],
    cache: FeatureCache | None = None,
) -> Evaluation:
    """Answers every clip under every setting, greedily, else decoded as the rollouts were.

    Args:
        batches: of at least two clips, ``config.evaluation.num_clips`` in all; what they hold
            beyond is not counted.
        report: told after each setting how many have run, over all batches, and the tallies.
        cache: of what the allocator's encoder makes of frames.
    """
    tallies, num_clips = [Tally() for _ in settings], config.evaluation.num_clips
    first, ran = None, 0
    scales, evidence = [], []
    for clips in batches:
        counted = min(len(clips), num_clips - len(tallies[0].scores))
        proposals = propose(allocator, clips, cache)
        first = first or (clips, proposals)
        scales.append(proposals.scales[:counted])
        evidence.append(clips.evidence[:counted])
        answers = _answers(clips, proposals, settings, backbone, config)
        native = clips.num_pairs * int(clips.native(config.limits).tokens)
        for tally, (encoded, answer) in zip(tallies, answers, strict=True):
            tally.native += counted * native
            tally.encoded += encoded[:counted].tolist()
            _count(tally, clips, answer, counted, backbone.decode, config.rewards)
            ran += 1
            report(ran, tallies)
        if len(tallies[0].scores) == num_clips:
            break
    return Evaluation(tallies, *first, np.concatenate(scales), np.concatenate(evidence))


def _answers(
    clips: Clips,
    proposals: Proposals,
    settings: Sequence[MethodSetting],
    backbone: Backbone,
    config: TrainConfig,
) -> Iterator[tuple[Int[np.ndarray, " B"], Answers]]:
    """Tokens encoded and answers under each setting, the next being under way by then."""
    native = clips.num_pairs * int(clips.native(config.limits).tokens)
    ladder = CapacityLadder.of_shares(config.evaluation.capacities, native)
    decoding = replace(config.rollouts.decoding, temperature=0.0, top_k=None, top_p=1.0)
    every_pair = np.ones((len(clips), clips.num_pairs), bool)
    full = np.asarray(native_grids(every_pair, clips.native(config.limits)))
    frames = jnp.asarray(clips.batch.frames)
    grid_thw, shown, waiting = None, None, None
    for setting in settings:
        inputs = setting.build(clips, proposals)
        inputs = inputs.replace(prompts=inputs.prompts.replace(native_thw=full))
        if grid_thw is None or not np.array_equal(inputs.grid_thw, grid_thw):
            grid_thw = inputs.grid_thw
            shown = show(backbone, frames, grid_thw, ladder)
        answers = respond(backbone, shown, inputs, ladder, decoding, config.convention)
        if waiting is not None:
            yield waiting
        waiting = shown.num_tokens, answers
    yield waiting


def _count(
    tally: Tally,
    clips: Clips,
    answers: Answers,
    counted: int,
    decode: Callable[[np.ndarray], str],
    rewards: RewardConfig,
) -> None:
    """Grades the answers to the first ``counted`` clips and adds them up."""
    answers = jax.device_get(answers)
    if answers.overflow.any():
        raise RuntimeError("a plan overflowed the capacity chosen for it")
    kinds, truths = clips.problem_types[:counted], clips.answers[:counted]
    written = answers.generation
    token_ids, mask = written.token_ids[:counted], written.mask[:counted]
    tally.cache_bytes = max(tally.cache_bytes, answers.cache_bytes)
    tally.tokens += answers.num_tokens[:counted].tolist()
    texts = read_texts(token_ids, mask, decode)
    grades = grade(texts, mask, kinds, truths, rewards)
    tally.scores += np.where(grades.decided, grades.parts["accuracy"], np.nan).tolist()
    tally.tasks += clips.tasks[:counted]
    tally.texts += [text.strip() for text in texts]
