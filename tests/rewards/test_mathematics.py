"""Mathematics: numbers, and expressions by a checker."""

import pytest
from reward_tables import HOSTILE, rows

from resadapt_jax.rewards import RewardConfig, mathematics, score
from resadapt_jax.rewards.mathematics import refusal, to_latex


@pytest.mark.parametrize(
    ("answer", "truth", "score"),
    rows(
        ("7", "7", 1, "the number"),
        ("7.05", "7", 1, "within .07 of it"),
        ("7.08", "7", 0, "beyond"),
        ("-7", "7", 0, "the wrong sign"),
        ("−7", "-7", 1, "the minus sign of Unicode"),
        ("1/2", "0.5", 1, "a fraction of a decimal"),
        (r"\frac{1}{2}", "1/2", 1, "a fraction in LaTeX"),
        (r"\dfrac12", "0.5", 1, "a fraction without braces"),
        ("½", "0.5", 1, "a fraction in one character"),
        ("2½", "5/2", 1, "a mixed number"),
        ("50%", "0.5", 1, "per cent"),
        ("12 km", "12", 1, "a unit the truth leaves out"),
        ("12 km", r"12\text{ m}", 0, "another unit than the truth's"),
        (r"90^\circ", "90", 1, "degrees"),
        ("1,234", "1234", 1, "a thousands separator"),
        ("1{,}234", "1234", 1, "a thousands separator in LaTeX"),
        ("x = 5", "5", 1, "the value of a name"),
        ("y = 5", "x = 5", 0, "of another name"),
        ("5x", "5", 0, "a product, not a unit"),
        ("4m", "4", 0, "a product by a letter that may be a unit"),
        ("4", "4s", 0, "on the other side"),
        ("2h", "2g", 0, "on both"),
        ("x + 4m", "x + 4", 0, "at the end of a sum"),
        ("x + m", "m + x", 1, "a letter that may be a unit as a term"),
        (r"\frac{1}{2}h", r"\frac{1}{2}", 0, "as a factor of a fraction"),
        ("1.5 million", "1500000", 1, "a million"),
        ("1.5 million", "1.5", 0, "which is no unit"),
        ("2g", "g + g", 1, "a product by a letter"),
        ("4m", "4 m", 1, "a unit that both sides have"),
        ("4m", "4 meters", 1, "in full"),
        (r"\log_2x", r"\log_2 x", 1, "an argument, no factor"),
        ("1e999", "7", 0, "a number that no float holds"),
        ("7", "1e999", 0, "as a truth"),
        (r"5\sqrt{5}", "5", 0, "a number and more"),
        ("√12", "2√3", 1, "roots in Unicode"),
        (r"\frac{\sqrt{3}}{2}", r"\frac{3}{2\sqrt{3}}", 1, "a root in the denominator"),
        ("sqrt(2*(3+1))", r"2\sqrt{2}", 1, "a root in plain text, brackets in brackets"),
        ("1.414", r"\sqrt{2}", 1, "a root, to three places: constants are compared as numbers"),
        ("1.5", r"\sqrt{2}", 0, "not within a hundredth"),
        ("pi/4", r"\frac{\pi}{4}", 1, "a Greek letter by its name"),
        ("6.02×10²³", "6.02e23", 1, "a power of ten"),
        ("2^{10}", "1024", 1, "a power"),
        ("5!", "120", 1, "a factorial"),
        (r"\log_2 8", "3", 1, "a logarithm"),
        (r"\binom{5}{2}", "10", 1, "a binomial"),
        ("x²+2x+1", "(x+1)^2", 1, "a square multiplied out"),
        ("x**2 + 1", "1+x^2", 1, "Python's power"),
        (r"\frac{a^2-b^2}{a-b}", "a+b", 1, "a fraction that cancels"),
        (r"\sin^2 x + \cos^2 x", "1", 1, "an identity"),
        ("x^2", "2x", 0, "another expression"),
        ("x2", "x^2", 0, "a power whose sign is lost"),
        ("(1, 2)", "(1,2)", 1, "a point"),
        ("(2, 1)", "(1, 2)", 0, "its coordinates swapped"),
        ("[1, 2)", "[1,2)", 1, "a half-open interval"),
        ("(1, 2]", "[1, 2)", 0, "open at the other end"),
        ("1 < x < 2", "(1,2)", 1, "an interval as an inequality"),
        (r"\{3, 1, 2\}", r"\{1,2,3\}", 1, "a set in another order"),
        ("1, 2", "2 and 1", 1, "two solutions in another order"),
        (r"x = 1 \text{ or } x = 2", "1, 2", 1, "two solutions with a word in LaTeX between"),
        ("1, 2, 3", "1, 2", 0, "a solution too many"),
        ("3+4i", "4i+3", 1, "a complex number"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}", 1, "a vector"),
        ("y=2x+1", "y - 2x = 1", 1, "an equation solved for another side"),
        (
            r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
            r"\begin{pmatrix}1\\2\end{pmatrix}",
            1,
            "a vector with spaces after its rows",
        ),
        (
            r"\begin{pmatrix}2\\1\end{pmatrix}",
            r"\begin{pmatrix}1\\2\end{pmatrix}",
            0,
            "another vector",
        ),
        (r"\$7", "7", 1, "a dollar sign that is meant"),
        (r"\text{yes}", "yes", 1, "a word in LaTeX text"),
        ("An even number.", "an even number", 1, "words are compared as text"),
        ("dog", "god", 0, "words are no products"),
        ("cat 1", "act 1", 0, "nor next to numbers"),
        ("CD", "DC", 0, "nor are two letters alone"),
        ("CD", "DC + 0", 0, "not even where the other side is an expression"),
        ("ba + 1", "ab + 1", 1, "in an expression they are"),
        ("1_00", "1", 0, "digits grouped by an underscore are no index"),
        ("101_2", "101_2", 1, "but a base may be"),
        (r"\pi", "pi", 1, "a name that is LaTeX's is no code"),
        ("to be", "be to", 0, "nor are small ones"),
        ("", "7", 0, "nothing"),
        ("", "", 0, "nothing and nothing"),
        ("7", "", 0, "an empty truth"),
        ("nan", "nan", 1, "the same letters"),
        (r"\frac{1}{0}", "1", 0, "a division by nothing"),
        (r"\frac{1}{0}", r"\frac{2}{0}", 0, "infinities are not equal"),
        ("9**9**9**9", "1", 0, "a tower is not computed"),
        ("9**9**9**9", "9^{9^{9^{9}}}", 0, "not even against itself otherwise written"),
        ("9**9", "99", 0, "stars of a power are no emphasis"),
        ("2^{9999}", "2^{9998}", 0, "numbers beyond floats are compared exactly"),
        ("100000!", "1", 0, "a factorial too high"),
        ("__import__('os').system('ls')", "0", 0, "code is not run"),
        (r"\frac{a}{b", "a/b", 0, "a brace that is not closed"),
        ("٧", "7", 1, "an Arabic digit"),
        ("\u202e7\u202c", "7", 1, "between marks of direction"),
        ("７", "7", 1, "a full-width digit"),
        ("7 or 8", "7", 0, "hedging"),
        ("ℵ", "ℶ", 0, "characters that no expression has"),
    ),
)
def test_mathematics(answer, truth, score):
    assert mathematics(answer, truth).accuracy == score


def test_it_explains_itself():
    assert mathematics("8", "7").reason == "'8' ≠ '7'"
    assert mathematics("x+1", "1 + x").reason == "'x+1' vs '1 + x': equivalent"
    assert mathematics("x+2", "x+1").reason == "'x+2' vs 'x+1': not equivalent"
    assert mathematics(r"\sqrt{4}", "2").reason == r"'\sqrt{4}' vs '2': 2 ≈ 2"
    assert mathematics("a dog", "x+1").reason.endswith("words, not an expression")


def test_the_released_form_knows_plain_numbers_alone():
    released = RewardConfig(mathematics="released")
    assert score("math", r"\boxed{\sqrt{4}}", "2", released).accuracy == 0.0
    assert score("math", r"\boxed{2.01}", "2", released).accuracy == 1.0
    # out of tolerance goes on to the general matcher, which reads 200 per cent no otherwise
    assert score("math", r"\boxed{2.1}", "2", released).accuracy == 0.0
    assert score("math", r"\boxed{\sqrt{4}}", "2").accuracy == 1.0
    assert score("math", "4m", "4", released).accuracy == 0.0


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_makes_it_raise(text):
    for pair in ((text, "x+1"), ("x+1", text), (text, text)):
        assert mathematics(*pair).accuracy in (0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("√12", r"\sqrt{12}"),
        ("x²³", "x^{23}"),
        ("x₁", "x_{1}"),
        ("2×3", r"2\times 3"),
        ("sqrt(a(b+c))", r"\sqrt{a(b+c)}"),
        ("x^(n+1)", "x^{n+1}"),
        ("x**2", "x^2"),
        ("1.5e-3", r"1.5 \times 10^{-3}"),
        (r"\left( x \right)", "( x )"),
        ("50%", r"50\%"),
        ("x = 1 or x = 2", "x = 1, x = 2"),
        ("$x$.", "x"),
        ("sin(x)", r"\sin(x)"),
        ("basin", "basin"),
    ],
)
def test_to_latex(text, latex):
    assert to_latex(text) == latex


@pytest.mark.parametrize(
    ("latex", "refused"),
    rows(
        (r"\frac{x^2+1}{2}", False, "an expression"),
        ("x" + "+x" * 127, False, "of 255 characters"),
        ("x" + "+x" * 128, True, "of 257"),
        ("(" * 8 + "1" + ")" * 8, False, "brackets eight deep"),
        ("(" * 9 + "1" + ")" * 9, True, "nine deep"),
        ("[1,2)", False, "a half-open interval"),
        ("(1", True, "a bracket not closed"),
        (")1(", True, "brackets the wrong way round"),
        ("9" * 40, False, "forty digits"),
        ("9" * 41, True, "one more"),
        ("2^{9999}", False, "four digits of exponent"),
        ("2^{10000}", True, "five"),
        ("2^99999", True, "five without braces"),
        ("9999!", False, "four digits of factorial"),
        ("10000!", True, "five"),
        ("2^{2^{2}}", True, "a tower of numbers"),
        ("2^2^2", True, "without braces"),
        ("2^{3!}", True, "a factorial in an exponent"),
        ("(3!)!", True, "a factorial of a factorial"),
        ("e^{x^2}", False, "a power of a letter in an exponent"),
        ("x^2 + y^2", False, "powers side by side"),
        ("the sum", True, "words"),
        (r"\text{the sum}", False, "quoted words"),
        ("字", True, "a character that no expression has"),
        ("x#y", True, "another one"),
    ),
)
def test_refusal(latex, refused):
    assert (refusal(latex) is not None) is refused
