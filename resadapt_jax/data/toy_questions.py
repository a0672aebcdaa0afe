"""What the embedded world asks about its signs, in which words, and what is right."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from resadapt_jax.data.toy_signs import COLOURS, Sign

TASKS = ("which", "how_many", "when")  # of the default world
PROBLEM_TYPES = {
    "which": "multiple choice",
    "how_many": "numerical",
    "when": "temporal grounding",
    "both": "exact match",
}
"""How an answer to a question of a task is graded (`rewards.TaskType`)."""


@dataclass(frozen=True)
class Question:
    """A question, its reference answer, and the pairs that show it (for plots and oracles)."""

    task: str
    text: str
    answer: str
    reply: str  # what a backbone is taught to say: it names the sign, then answers
    evidence: tuple[int, ...]


def question_text(task: str, *colours: str) -> str:
    """How the embedded world words a task about the sign of a colour, ``both`` about two."""
    match task, colours:
        case "which", (colour,):
            return f"Which letter is on the {colour} sign?"
        case "how_many", (colour,):
            return f"How many points is the {colour} sign worth?"
        case "when", (colour,):
            return f"When did the {colour} sign go up?"
        case "both", (first, second):
            return f"Which letters are on the {first} and the {second} sign?"
    raise ValueError(
        f"unknown task {task!r} about {len(colours)} signs; the embedded world has "
        f"{', '.join(PROBLEM_TYPES)}"
    )


def question_texts(tasks: Sequence[str]) -> list[str]:
    """Every question that tasks may lead to."""
    return [
        question_text(task, *colours)
        for task in tasks
        for colours in permutations(COLOURS, 2 if task == "both" else 1)
    ]


def ask(task: str, sign: Sign) -> Question:
    """The question of a task about one sign; the answer to ``when`` is its first pair."""
    answers = {
        "which": sign.letter,
        "how_many": sign.points,
        "when": f"{sign.clock:.1f} to {sign.clock + 1:.1f}",
    }
    answer = answers[task]
    return Question(
        task=task,
        text=question_text(task, sign.colour),
        answer=answer,
        reply=f" {sign.colour} {answer}",
        evidence=tuple(sign.pairs),
    )


def ask_both(first: Sign, second: Sign) -> Question:
    """The question with two pieces of evidence."""
    answer = f"{first.colour} {first.letter} {second.colour} {second.letter}"
    return Question(
        task="both",
        text=question_text("both", first.colour, second.colour),
        answer=answer,
        reply=f" {answer}",
        evidence=(*first.pairs, *second.pairs),
    )


def possible_questions(signs: Sequence[Sign], tasks: Sequence[str] = TASKS) -> list[Question]:
    """Every question of these tasks that the signs answer."""
    of_one = [
        ask(task, sign)
        for sign in signs
        for task in tasks
        if task != "both" and not (task == "when" and sign.still)
    ]
    return of_one + [ask_both(*two) for two in permutations(signs, 2) if "both" in tasks]


def draw_questions(
    rng: np.random.Generator, signs: Sequence[Sign], count: int, tasks: Sequence[str] = TASKS
) -> list[Question]:
    """Different questions, as far as there are; each time a task is drawn first, then a sign."""
    left = possible_questions(signs, tasks)
    drawn: list[Question] = []
    while left and len(drawn) < count:
        possible = sorted({question.task for question in left})
        task = possible[rng.integers(len(possible))]
        eligible = [question for question in left if question.task == task]
        drawn.append(eligible[rng.integers(len(eligible))])
        left.remove(drawn[-1])
    return drawn


def draw_question(
    rng: np.random.Generator, signs: Sequence[Sign], tasks: Sequence[str] = TASKS
) -> Question:
    """One question, each task and each sign equally likely."""
    return draw_questions(rng, signs, 1, tasks)[0]
