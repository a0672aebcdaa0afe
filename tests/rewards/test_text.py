"""What characters stand for, and when texts are the same."""

import time
import unicodedata

import pytest
from reward_tables import HOSTILE, rows

from resadapt_jax.rewards.text import brief, plain, unwrap_latex


@pytest.mark.parametrize(
    ("text", "ascii_text"),
    rows(
        ("x = 7", "x = 7", "ASCII stays"),
        ("−7 ‐ ‑ – — ―", "-7 - - - - -", "dashes"),
        ("‘a’ “b”", "'a' \"b\"", "quotes"),
        ("７ｋｍ：", "7km:", "full width"),
        ("٣४七", "34七", "digits of other scripts, but no Chinese numerals"),
        ("𝟕", "7", "a digit in bold"),
        ("a\u00a0b\u3000c", "a b c", "spaces"),
        ("\u202ea\u200bb\u00ad\ufeff", "ab", "invisible characters"),
        ("cafe\u0301", "caf\u00e9", "an accent composed"),
        ("x²½√", "x²½√", "what would change its meaning stays"),
        ("是。", "是.", "a Chinese full stop"),
        ("\ud800", "\ud800", "a lone surrogate"),
    ),
)
def test_plain(text, ascii_text):
    assert plain(text) == ascii_text
    assert plain(ascii_text) == ascii_text


def test_marks_on_one_letter_are_limited():
    # in an order that takes n² steps to put right
    text = "a" + "\u0301\u0323" * 20_000
    start = time.process_time()
    assert len(plain(text)) <= 31
    assert time.process_time() - start < 0.5
    few = "a" + "\u0301\u0323" * 5
    assert plain(few) == unicodedata.normalize("NFC", few)


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("$x$", "x"),
        ("\\text{red sign}", "red sign"),
        ("12\\,\\mathrm{km}", "12 km"),
        ("\\( x \\)", "x"),
        ("50\\%", "50%"),
        ("\\$7", "7"),
        ("**B**", "B"),
        ("the **red** sign", "the red sign"),
        ("x**2", "x**2"),
        ("9**9**9", "9**9**9"),
        ("\\text{a {b} c}", "\\text{a {b} c}"),
        ("", ""),
    ],
)
def test_unwrap_latex(text, inside):
    assert unwrap_latex(text) == inside


@pytest.mark.parametrize("text", HOSTILE)
def test_a_reason_is_short_and_printable(text):
    shown = brief(text)
    assert len(shown) <= 42 and shown.isprintable()
    assert brief("a  b\nc") == "'a b c'"
    assert brief("x" * 100, 10) == "'" + "x" * 9 + "…'"
