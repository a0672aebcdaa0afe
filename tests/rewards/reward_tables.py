"""Tables of answers for the graders' tests, and answers that no grader may choke on."""

import pytest


def rows(*table):
    """Cases for ``parametrize`` from rows whose last column says why the score is what it is."""
    return [pytest.param(*row[:-1], id=row[-1]) for row in table]


TOUCHED = "resadapt_was_here"

HOSTILE = rows(
    ("", "nothing at all"),
    (" \t\n ", "only spaces"),
    ("\x00\x01\x7f", "control characters"),
    ("\ud800\udfff", "lone surrogates"),
    ("\u202e\u200f\u200b7", "marks of direction and zero width"),
    ("😀" * 50, "emoji"),
    ("e\u0301" * 2000, "combining marks"),
    ("\u0301\u0323" * 2000, "combining marks that have to be put in order"),
    ("nan", "not a number"),
    ("-inf", "infinity"),
    ("1e400", "a number that overflows"),
    ("9" * 5000, "a number longer than int() takes"),
    ("0." + "0" * 5000 + "1", "a number with many places"),
    ("1/0", "a fraction of nothing"),
    ("٣ ৩ 三 Ⅲ ③ ³", "digits of other scripts"),
    (f"__import__('os').system('touch {TOUCHED}')", "a Python expression"),
    (f"$(touch {TOUCHED})`touch {TOUCHED}`; touch {TOUCHED}", "shell commands"),
    ("lambda: exec('raise SystemExit')", "a Python lambda"),
    ("().__class__.__bases__[0].__subclasses__()", "a way to every class"),
    ("{0.__class__} %s %n {}", "format strings"),
    ("9**9**9**9", "a tower in Python"),
    ("9^{9^{9^{9}}}", "a tower in LaTeX"),
    ("((9!)!)!", "factorials of factorials"),
    ("\\input{/etc/passwd} \\write18{ls}", "LaTeX that reads and runs"),
    ("(" * 3000 + ")" * 3000, "brackets within brackets"),
    ("{" * 3000, "braces that are never closed"),
    ("[" * 3000 + "]" * 3000, "lists within lists"),
    ('{"answer": ' * 400 + "1" + "}" * 400, "objects within objects"),
    ("\\frac{1}{" * 300 + "2" + "}" * 300, "fractions within fractions"),
    ("\\boxed{" * 500, "boxes that are never closed"),
    ("<answer>" * 500, "answers that are never closed"),
    ("</think>" * 500 + "<think>" * 500, "thoughts the wrong way round"),
    ("A " * 5000, "one letter, many times"),
    ("1, " * 5000, "a long list"),
    ("start 1 end ", "half an interval by name"),
    ("0 to 1 " * 3000, "many intervals"),
    ("the answer is " * 2000, "cues without an answer"),
)
