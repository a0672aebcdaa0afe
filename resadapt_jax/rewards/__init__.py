"""Rewards: strings in, scores out, on the host; no string makes a grader raise.

One file per kind of answer, and `tasks` the table of them; ``score`` picks the grader by task type,
``ScoringPool`` spreads a batch over processes, and ``python -m resadapt_jax.rewards FILE`` scores a
file.
"""

from resadapt_jax.rewards.config import RewardConfig
from resadapt_jax.rewards.extraction import extract_answer, extract_passage
from resadapt_jax.rewards.formatting import format_reward
from resadapt_jax.rewards.general import exact_match, general
from resadapt_jax.rewards.grounding_qa import grounding_qa
from resadapt_jax.rewards.instructions import instruction
from resadapt_jax.rewards.mathematics import mathematics
from resadapt_jax.rewards.multiple_choice import multiple_choice
from resadapt_jax.rewards.numeric import numeric, parse_number
from resadapt_jax.rewards.ocr import ocr
from resadapt_jax.rewards.open_ended import open_ended
from resadapt_jax.rewards.overlong import overlong_penalty
from resadapt_jax.rewards.pool import ScoringPool, shared_pool
from resadapt_jax.rewards.regression import regression
from resadapt_jax.rewards.results import SUCCESS_THRESHOLD, Grade, Score, is_success
from resadapt_jax.rewards.scoring import check_truth, score
from resadapt_jax.rewards.task_type import TaskType
from resadapt_jax.rewards.temporal import interval_iou, parse_intervals, temporal_iou

__all__ = [
    "SUCCESS_THRESHOLD",
    "Grade",
    "RewardConfig",
    "Score",
    "ScoringPool",
    "TaskType",
    "check_truth",
    "exact_match",
    "extract_answer",
    "extract_passage",
    "format_reward",
    "general",
    "grounding_qa",
    "instruction",
    "interval_iou",
    "is_success",
    "mathematics",
    "multiple_choice",
    "numeric",
    "ocr",
    "open_ended",
    "overlong_penalty",
    "parse_intervals",
    "parse_number",
    "regression",
    "score",
    "shared_pool",
    "temporal_iou",
]
