"""Rewards: strings in, scores out, on the host; no string makes a grader raise.

One file per kind of answer; ``score`` picks the grader by task type.
"""

from resadapt_jax.rewards.extraction import extract_answer, extract_passage
from resadapt_jax.rewards.formatting import format_reward
from resadapt_jax.rewards.multiple_choice import multiple_choice
from resadapt_jax.rewards.numeric import numeric, parse_number
from resadapt_jax.rewards.overlong import overlong_penalty
from resadapt_jax.rewards.scoring import (
    SUCCESS_THRESHOLD,
    RewardConfig,
    Score,
    accuracy,
    is_success,
    score,
    score_batch,
)
from resadapt_jax.rewards.tasks import TaskType
from resadapt_jax.rewards.temporal import interval_iou, parse_intervals, temporal_iou

__all__ = [
    "SUCCESS_THRESHOLD",
    "RewardConfig",
    "Score",
    "TaskType",
    "accuracy",
    "extract_answer",
    "extract_passage",
    "format_reward",
    "interval_iou",
    "is_success",
    "multiple_choice",
    "numeric",
    "overlong_penalty",
    "parse_intervals",
    "parse_number",
    "score",
    "score_batch",
    "temporal_iou",
]
