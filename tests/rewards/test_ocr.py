"""OCR: word error rate."""

import random

import pytest
from nltk.metrics.distance import edit_distance
from reward_tables import HOSTILE, rows

from resadapt_jax.rewards import ocr


# 1 - edits / words of the truth, at least 0
@pytest.mark.parametrize(
    ("answer", "truth", "score"),
    rows(
        ("STOP", "STOP", 1.0, "the word"),
        ("GO", "STOP", 0.0, "another word"),
        ("", "STOP", 0.0, "nothing"),
        ("a b c d", "a b c d", 1.0, "all words"),
        ("a b x d", "a b c d", 3 / 4, "one replaced"),
        ("a b d", "a b c d", 3 / 4, "one missing"),
        ("a b c x d", "a b c d", 3 / 4, "one too many"),
        ("a b", "a b c d", 2 / 4, "two missing"),
        ("d c b a", "a b c d", 0 / 4, "reversed: four replaced, or one kept and six edits"),
        ("b a", "a b", 0.0, "swapped: two edits of two"),
        ("a c b d", "a b c d", 2 / 4, "two in the middle swapped"),
        ("x y", "a b c d", 0.0, "two replaced, two missing"),
        ("a b c d e f g h", "a b c d", 0.0, "four too many: all of it"),
        ("a b c d e f g h i j", "a b c d", 0.0, "more than all of it"),
        ("a b c d e f g", "a b c d", 1 / 4, "three too many"),
        ("a a a", "a", 0.0, "said three times"),
        ("a  b\n c\td", "a b c d", 1.0, "spacing does not count"),
        ("a\u00a0b", "a b", 1.0, "nor does the kind of space"),
        ("A b", "a b", 1 / 2, "case counts"),
        ("a, b", "a b", 1 / 2, "punctuation counts"),
        ("“a” b", '"a" b', 1.0, "the shape of quotes does not"),
        ("ＡＢ c", "AB c", 1.0, "full-width letters are letters"),
        ("cafe\u0301", "caf\u00e9", 1.0, "an accent composed or not"),
        ("cafe", "café", 0.0, "an accent that is missing"),
        ("出口在左", "出口在右", 3 / 4, "a Chinese character is a word"),
        ("出 口", "出口", 1.0, "spaces between them do not count"),
        ("出口 EXIT", "出口 EXIT", 1.0, "two scripts"),
        ("出口 EXI", "出口 EXIT", 2 / 3, "two scripts, the second word wrong"),
        ("\u200bSTOP\u200b", "STOP", 1.0, "characters of zero width do not count"),
        ("12:30", "12:30", 1.0, "a clock time is a word"),
        ("12.30", "12:30", 0.0, "and another one is not"),
        ("touch STOP", "STOP", 0.0, "one too many of one"),
        ("STOP", "", 0.0, "a truth without words"),
        ("", "", 0.0, "nor are two of them the same"),
        ("😀 b", "😀 b", 1.0, "emoji are words"),
        ("x " * 3000, "a b", 0.0, "far too many"),
        ("字" * 1500, "字" * 1500, 1.0, "a long text, word for word"),
        ("字" * 1200, "字" * 1500, 1200 / 1500, "of which the end is missing"),
        ("口" + "字" * 4094, "字" * 4095, 4094 / 4095, "as long as texts can be"),
    ),
)
def test_ocr(answer, truth, score):
    assert ocr(answer, truth).accuracy == pytest.approx(score)


def test_it_explains_itself():
    grade = ocr("a  b x", "a b c d")
    assert (grade.extracted, grade.reason) == ("a b x", "2 edits to 4 words")


def test_edits_are_those_of_an_independent_implementation():
    rng = random.Random(0)
    for _ in range(200):
        read, written = (rng.choices("abcd", k=rng.randrange(1, 12)) for _ in range(2))
        edits = edit_distance(read, written)
        expected = max(0.0, 1 - edits / len(written))
        assert ocr(" ".join(read), " ".join(written)).accuracy == pytest.approx(expected)


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_makes_it_raise(text):
    for pair in ((text, "STOP"), ("STOP", text), (text, text)):
        assert 0.0 <= ocr(*pair).accuracy <= 1.0
