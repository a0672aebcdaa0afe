"""Open-ended answers: ROUGE."""

import random

import pytest
from reward_tables import HOSTILE, rows
from rouge_score.rouge_scorer import RougeScorer

from resadapt_jax.rewards import open_ended

CAT = "the cat sat on the mat"


# ROUGE-L: F1 = 2·LCS / (words of the answer + words of the truth). ROUGE-1 and ROUGE-2: the same
# with common words and common pairs of neighbours. The released form is the mean of the three.
@pytest.mark.parametrize(
    ("answer", "truth", "paper", "released"),
    rows(
        (CAT, CAT, 1.0, 1.0, "the same sentence"),
        ("a dog", CAT, 0.0, 0.0, "no word in common"),
        ("", CAT, 0.0, 0.0, "nothing"),
        ("The CAT sat, on the mat!", CAT, 1.0, 1.0, "case and punctuation do not count"),
        ("the cats sitting on the mats", CAT, 10 / 12, (10 / 12 + 6 / 10 + 10 / 12) / 3,
         "stems do: five of six words, three of five pairs"),
        ("the cat", CAT, 4 / 8, (4 / 8 + 2 / 6 + 4 / 8) / 3, "two of six words, one of five pairs"),
        ("mat the on sat cat the", CAT, 6 / 12, (1 + 0 + 6 / 12) / 3,
         "reversed: the, on, the are in order"),
        ("cat", CAT, 2 / 7, (2 / 7 + 0 + 2 / 7) / 3, "one word"),
        ("cat cat cat cat", CAT, 2 / 10, (2 / 10 + 0 + 2 / 10) / 3, "a word counts once"),
        ("the mat", CAT, 4 / 8, (4 / 8 + 2 / 6 + 4 / 8) / 3, "the end"),
        ("cat mat", CAT, 4 / 8, (4 / 8 + 0 + 4 / 8) / 3, "a subsequence with gaps"),
        ("mat cat", CAT, 2 / 8, (4 / 8 + 0 + 2 / 8) / 3, "swapped, so only one of them"),
        (CAT + " " + CAT, CAT, 12 / 18, (12 / 18 + 10 / 16 + 12 / 18) / 3, "said twice"),
        ("dog", "dog", 1.0, 2 / 3, "one word has no pairs, so ROUGE-2 is 0"),
        ("dogs", "dog", 1.0, 2 / 3, "a plural has the same stem"),
        ("bus", "bu", 0.0, 0.0, "words of three letters are not stemmed"),
        ("running", "runs", 1.0, 2 / 3, "both stem to run"),
        ("red-green", "red green", 1.0, 1.0, "a hyphen parts words"),
        ("red_green", "red green", 1.0, 1.0, "so does an underscore"),
        ("redgreen", "red green", 0.0, 0.0, "run together they are another word"),
        ("3 dogs", "3 cats", 1 / 2, (1 / 2 + 0 + 1 / 2) / 3, "numbers are words"),
        ("3.5", "3 5", 1.0, 1.0, "a point parts them"),
        ("ｄｏｇ", "dog", 1.0, 2 / 3, "full-width letters are letters"),
        ("\u200bdog\u200b", "dog", 1.0, 2 / 3, "characters of zero width do not count"),
        ("狗在跑", "狗在跑", 1.0, 0.0, "Chinese: the released code knows ASCII alone"),
        ("狗在跑", "狗跑了", 4 / 6, 0.0, "two characters of three in order"),
        ("собака бежит", "собака спит", 2 / 4, 0.0, "Russian: one of two words"),
        ("café noir", "café noir", 1.0, 1.0, "the released code sees 'caf noir'"),
        ("cafe\u0301", "caf\u00e9", 1.0, 2 / 3, "an accent composed or not"),
        ("!!!", "!!!", 0.0, 0.0, "no words"),
        ("😀", "😀", 0.0, 0.0, "emoji are no words"),
        ("", "", 0.0, 0.0, "nothing and nothing"),
        ("dog", "", 0.0, 0.0, "an empty truth"),
        ("a\n\nb\tc", "a b c", 1.0, 1.0, "line breaks do not count"),
        ("__import__('os').system('ls')", "import os", 4 / 6, (4 / 6 + 2 / 4 + 4 / 6) / 3,
         "code is four words"),
        ("dog " * 5000, "dog", 2 / 301, (2 / 301 + 0 + 2 / 301) / 3, "300 words count"),
    ),
)  # fmt: skip
def test_open_ended(answer, truth, paper, released):
    assert open_ended(answer, truth).accuracy == pytest.approx(paper)
    assert open_ended(answer, truth, "released").accuracy == pytest.approx(released)


def test_it_explains_itself():
    grade = open_ended("the cat", CAT)
    assert (grade.extracted, grade.reason, grade.parts) == ("the cat", "ROUGE-L 0.5", {})
    parts = open_ended("the cat", CAT, "released").parts
    assert parts == pytest.approx({"ROUGE-1": 1 / 2, "ROUGE-2": 1 / 3, "ROUGE-L": 1 / 2})


def test_english_is_scored_as_by_rouges_own_tokenizer():
    names = ["rouge1", "rouge2", "rougeL"]
    own = RougeScorer(names, use_stemmer=True)
    words = "Running runners ran, nationally! the_ 3.5 dogs' it-is flies generously A".split()
    rng = random.Random(0)
    for _ in range(100):
        answer, truth = (" ".join(rng.choices(words, k=rng.randrange(1, 12))) for _ in range(2))
        expected = {name: score.fmeasure for name, score in own.score(truth, answer).items()}
        assert open_ended(answer, truth).accuracy == pytest.approx(expected["rougeL"])
        mean = sum(expected.values()) / 3
        assert open_ended(answer, truth, "released").accuracy == pytest.approx(mean)


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_makes_it_raise(text):
    for pair in ((text, CAT), (CAT, text), (text, text)):
        assert 0.0 <= open_ended(*pair).accuracy <= 1.0 + 1e-12
