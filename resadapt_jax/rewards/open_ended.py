"""Open-ended answers: overlap with a reference, by ROUGE."""

import functools
import re
from typing import TYPE_CHECKING, Literal

from resadapt_jax.rewards.results import Grade
from resadapt_jax.rewards.text import plain

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

MAX_WORDS = 300
"""The first so many words of a text count: the longest common subsequence takes quadratic time."""

# Chinese and Japanese are written without spaces: there a character is a word.
_WORDS = {
    "paper": re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+"),
    "released": re.compile(r"[a-z0-9]+"),
}
_MEASURES = {"paper": ("rougeL",), "released": ("rouge1", "rouge2", "rougeL")}


def open_ended(answer: str, truth: str, form: Literal["paper", "released"] = "paper") -> Grade:
    """ROUGE F1 of the words' stems; 0 if either side has no words.

    paper: ROUGE-L, words in any script; released: the mean of ROUGE-1, ROUGE-2 and ROUGE-L, of
    which only ASCII words count.
    """
    scores = _scorer(form).score(plain(truth), plain(answer))
    values = {name.replace("rouge", "ROUGE-"): score.fmeasure for name, score in scores.items()}
    reason = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
    mean = sum(values.values()) / len(values)
    parts = values if len(values) > 1 else {}
    return Grade(accuracy=mean, reason=reason, extracted=answer, parts=parts)


def has_words(text: str, form: Literal["paper", "released"] = "paper") -> bool:
    """Whether there is anything in ``text`` that ROUGE counts."""
    return _WORDS[form].search(plain(text).lower()) is not None


class _Words:
    """Splits a text as ROUGE's own tokenizer does, which knows no letters but ASCII's."""

    def __init__(self, word: re.Pattern[str]) -> None:
        from nltk.stem.porter import PorterStemmer

        self._word = word
        self._stem = functools.lru_cache(maxsize=1 << 14)(PorterStemmer().stem)

    def tokenize(self, text: str) -> list[str]:
        words = self._word.findall(text.lower())[:MAX_WORDS]
        return [self._stem(word) if len(word) > 3 and word.isascii() else word for word in words]


@functools.cache
def _scorer(form: str) -> "RougeScorer":
    # it takes a second to import
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(_MEASURES[form]), tokenizer=_Words(_WORDS[form]))
