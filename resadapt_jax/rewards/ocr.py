"""Text read off a picture: how many of its words are right."""

import re

from resadapt_jax.rewards.results import Grade
from resadapt_jax.rewards.text import plain

# Chinese and Japanese are written without spaces: there a character is a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")


def ocr(answer: str, truth: str) -> Grade:
    """1 - word error rate, at least 0: edits over the number of words in ``truth``.

    An edit inserts, deletes or replaces a word. Case and punctuation count, line breaks do not.
    """
    read, written = (_WORD.findall(plain(text)) for text in (answer, truth))
    if not written:
        return Grade(accuracy=0.0, reason="no words in truth", extracted=" ".join(read))
    # So many more words are that many insertions, whatever they are.
    edits = len(written) if len(read) >= 2 * len(written) else _edit_distance(written, read)
    reason = f"{edits} edits to {len(written)} words"
    accuracy = max(0.0, 1.0 - edits / len(written))
    return Grade(accuracy=accuracy, reason=reason, extracted=" ".join(read))


def _edit_distance(first: list[str], second: list[str]) -> int:
    """Levenshtein distance of two sequences of words, ``first`` not empty.

    Hyyrö's form (2003) of Myers' algorithm: a column of the table at a time, as the bits of
    integers that say where it rises and where it falls.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    every, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    rises, falls, distance = every, 0, len(first)
    for word in second:
        same = places.get(word, 0)
        diagonal = (((same & rises) + rises) ^ rises) | same | falls
        right_rises = falls | (every & ~(diagonal | rises))
        right_falls = rises & diagonal
        distance += bool(right_rises & last) - bool(right_falls & last)
        right_rises = right_rises << 1 | 1
        rises = every & (right_falls << 1 | ~(diagonal | right_rises))
        falls = right_rises & diagonal & every
    return distance
