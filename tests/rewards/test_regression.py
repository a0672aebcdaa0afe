"""Regression: one minus the relative error."""

import pytest
from reward_tables import HOSTILE, rows

from resadapt_jax.rewards import regression


# 1 - min(1, |answer - truth| / |truth|)
@pytest.mark.parametrize(
    ("answer", "truth", "score"),
    rows(
        ("100", "100", 1.0, "no error"),
        ("110", "100", 0.9, "10 of 100 above"),
        ("90", "100", 0.9, "10 of 100 below"),
        ("150", "100", 0.5, "50 of 100 above"),
        ("0", "100", 0.0, "all of it"),
        ("200", "100", 0.0, "all of it, above"),
        ("1000", "100", 0.0, "more than all of it"),
        ("-100", "100", 0.0, "the wrong sign: 200 of 100"),
        ("-90", "-100", 0.9, "a negative truth: 10 of 100"),
        ("-110", "-100", 0.9, "a negative truth, beyond it"),
        ("100", "-100", 0.0, "a negative truth with the wrong sign"),
        ("0.75", "0.5", 0.5, "a small truth: .25 of .5"),
        ("0.0015", "0.001", 0.5, "a very small one"),
        ("1e6", "2e6", 0.5, "exponents"),
        ("1,500", "2,000", 0.75, "thousands separators"),
        ("about 80 metres", "100 m", 0.8, "words and units are passed over"),
        ("$75", "$100", 0.75, "so are currencies"),
        ("75%", "100%", 0.75, "and per cent signs"),
        ("x = 75", "100", 0.75, "the value of a name"),
        ("٧٥", "100", 0.75, "Arabic digits"),
        ("−75", "-100", 0.75, "the minus sign of Unicode"),
        ("0", "0", 1.0, "a truth of 0, met"),
        ("0.0", "0", 1.0, "a truth of 0, written otherwise"),
        ("1e-9", "0", 0.0, "a truth of 0, just missed"),
        ("", "100", 0.0, "nothing"),
        ("a hundred", "100", 0.0, "in words"),
        ("90 to 110", "100", 0.0, "a range is two numbers"),
        ("90 or 100", "100", 0.0, "hedging"),
        ("nan", "100", 0.0, "no number"),
        ("inf", "100", 0.0, "no finite number"),
        ("1e999", "100", 0.0, "one that overflows"),
        ("100", "many", 0.0, "a truth that is no number"),
        ("many", "many", 0.0, "not even if the answer is the same"),
        ("__import__('os').cpu_count()", "100", 0.0, "code is not run"),
        ("10**10**10", "10", 0.0, "a power is not its base"),
        ("50+50", "100", 0.0, "nor is arithmetic done"),
    ),
)
def test_regression(answer, truth, score):
    assert regression(answer, truth).accuracy == pytest.approx(score)


def test_it_explains_itself():
    grade = regression("about 110", "100")
    assert (grade.extracted, grade.reason) == ("110", "110 vs 100, off by 0.1 of it")
    assert regression("1", "0").reason == "1 vs 0, of a truth of 0"
    assert regression("many", "100").reason == "no one number in 'many'"
    assert regression("100", "many").reason == "no number in truth 'many'"


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_makes_it_raise(text):
    for pair in ((text, "7"), ("7", text), (text, text)):
        assert 0.0 <= regression(*pair).accuracy <= 1.0
