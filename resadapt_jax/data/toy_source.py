"""Random-access sources of embedded-world clips, made on the fly, for grain pipelines.

A source is a function of its config and an index: no files, no state, any order.
"""

from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np

from resadapt_jax.data.toy_questions import Question, draw_question, draw_questions
from resadapt_jax.data.toy_signs import COLOURS, DIGITS, LETTERS, MARKS, Sign
from resadapt_jax.data.toy_world import ToyWorldConfig, clip_rng, draw_signs, frame_times, render


def _evidence_mask(question: Question, config: ToyWorldConfig) -> np.ndarray:
    mask = np.zeros(config.num_pairs, bool)
    mask[list(question.evidence)] = True
    return mask


@dataclass(frozen=True)
class ToyClips:
    """``length`` clips from ``first`` on, one question each.

    A record holds ``frames`` uint8 [F, H, W, 3], ``times`` float64 [F] in seconds,
    ``num_pictures``, ``task``, ``question``, ``answer``, ``index`` and ``evidence`` bool [K]. The
    evidence is for oracles and plots: no allocator, reward or loss may read it.
    """

    config: ToyWorldConfig
    length: int
    first: int = 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: SupportsIndex) -> dict[str, Any]:
        index = self.first + range(self.length)[position]
        rng = clip_rng(self.config, index)
        signs = draw_signs(rng, self.config)
        question = draw_question(rng, signs, self.config.tasks)
        return {
            "index": index,
            "frames": render(rng, signs, self.config),
            "times": frame_times(signs, self.config),
            "num_pictures": self.config.num_pictures,
            "task": question.task,
            "question": question.text,
            "answer": question.answer,
            "evidence": _evidence_mask(question, self.config),
        }


@dataclass(frozen=True)
class SampledClips:
    """Clips of which only every ``stride``-th pair of the video was sampled, and all pictures."""

    source: ToyClips
    stride: int

    @property
    def config(self) -> ToyWorldConfig:
        return self.source.config

    def __len__(self) -> int:
        return len(self.source)

    @property
    def kept(self) -> np.ndarray:
        """Indices of the pairs that were sampled."""
        pictures = self.config.num_pictures
        return np.r_[:pictures, pictures : self.config.num_pairs : self.stride]

    def shows_all_evidence(self, position: SupportsIndex) -> bool:
        """Whether every pair that the answer needs was sampled."""
        evidence = self.source[position]["evidence"]
        return bool(evidence[self.kept].sum() == evidence.sum())

    def __getitem__(self, position: SupportsIndex) -> dict[str, Any]:
        record, kept = self.source[position], self.kept
        frames = (2 * kept[:, None] + np.arange(2)).ravel()
        return record | {
            "frames": record["frames"][frames],
            "times": record["times"][frames],
            "evidence": record["evidence"][kept],
        }


NUM_LABELS = 5
"""Colour, letter, points, mark and second of a sign."""


def label_words(clock_seconds: int) -> tuple[tuple[str, ...], ...]:
    """Words for what a pair's sign shows, as the tokenizer has them.

    Label i + 1 is word i, 0 no sign.
    """
    return (
        tuple(f" {colour}" for colour in COLOURS),
        tuple(f" {letter}" for letter in LETTERS),
        tuple(f" {digit}" for digit in DIGITS),
        tuple(MARKS),
        tuple(f" {second}.0" for second in range(clock_seconds)),
    )


def pair_labels(signs: tuple[Sign, ...], config: ToyWorldConfig) -> np.ndarray:
    """Colour, letter, points, mark and second in each pair, int32 ``[K, 5]``; 0 for no sign."""
    labels = np.zeros((config.num_pairs, NUM_LABELS), np.int32)
    for sign in signs:
        for pair, mark in zip(sign.pairs, sign.marks, strict=True):
            labels[pair] = (
                1 + list(COLOURS).index(sign.colour),
                1 + LETTERS.index(sign.letter),
                1 + DIGITS.index(sign.points),
                1 + MARKS.index(mark),
                1 + sign.clock,
            )
    return labels


@dataclass(frozen=True)
class ToyDialogues:
    """Clips with several questions each and per-pair labels, to pre-train a backbone on.

    A record holds ``frames``, ``times``, ``num_pictures``, ``turns`` (a list of question and reply
    pairs) and ``labels`` int32 [K, 5].
    """

    config: ToyWorldConfig
    length: int
    turns: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: SupportsIndex) -> dict[str, Any]:
        rng = clip_rng(self.config, range(self.length)[position])
        signs = draw_signs(rng, self.config)
        questions = draw_questions(rng, signs, self.turns, self.config.tasks)
        return {
            "frames": render(rng, signs, self.config),
            "times": frame_times(signs, self.config),
            "num_pictures": self.config.num_pictures,
            "turns": [(question.text, question.reply) for question in questions],
            "labels": pair_labels(signs, self.config),
        }
