"""Plain text: equality up to case, punctuation and spacing."""

import unicodedata


def same_text(first: str, second: str) -> bool:
    """Whether two strings have the same letters and digits, word by word."""
    return _words(first) == _words(second)


def _words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char if char.isalnum() else " " for char in folded).split()
