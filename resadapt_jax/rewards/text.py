"""Plain text: what its characters stand for."""

import re
import unicodedata

MAX_MARKS = 30

_SAME_AS_ASCII = str.maketrans(
    {
        **dict.fromkeys("‐‑‒–—―−﹣", "-"),
        **dict.fromkeys("‘’‛′", "'"),
        **dict.fromkeys("“”„″", '"'),
        **dict.fromkeys("，、", ","),
        "。": ".",
    }
)
_TEXT_COMMAND = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname)[ ]?\{([^{}]*)\}"
)

# Two stars before a word or after one, but no power: "**B**", not "x**2".
_EMPHASIS = re.compile(r"(?<![\w)\]}])\*\*(?=\w)|(?<=\w)\*\*(?![\w(])")


class _AsAscii(dict):
    """What each character is written as in ASCII, worked out once; for `str.translate`."""

    def __missing__(self, code: int) -> str:
        self[code] = _as_ascii(chr(code))
        return self[code]


_AS_ASCII = _AsAscii(_SAME_AS_ASCII)


def plain(text: str) -> str:
    """``text`` with digits, signs, quotes and spaces of any script as in ASCII, none invisible.

    Full-width letters become ordinary ones; marks of direction and zero width go; letters with
    accents are composed. Superscripts, fractions and other letters stay what they are.
    """
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", _few_marks(text.translate(_AS_ASCII)))


def unwrap_latex(text: str) -> str:
    """``text`` without dollar signs, emphasis and ``\\text{}`` or the like around words."""
    if "\\" in text:
        text = _TEXT_COMMAND.sub(r"\1", text)
        for command in ("\\(", "\\)", "\\,", "\\!", "\\;", "\\ "):
            text = text.replace(command, " ")
        text = text.replace("\\%", "%").replace("\\$", "")
    return _EMPHASIS.sub("", text.replace("$", "")).strip()


def brief(text: str, limit: int = 40) -> str:
    """``text`` on one line, in quotes and cut, for a reason."""
    line = " ".join(text[: 4 * limit].split())
    line = "".join(char if char.isprintable() else "?" for char in line)
    return f"'{line}'" if len(line) <= limit else f"'{line[: limit - 1]}…'"


def _as_ascii(char: str) -> str:
    category = unicodedata.category(char)
    if category == "Nd":
        return str(unicodedata.decimal(char))
    if category == "Zs":
        return " "
    if category == "Cf":
        return ""
    return chr(ord(char) - 0xFEE0) if "\uff01" <= char <= "\uff5e" else char


def _few_marks(text: str) -> str:
    """No more combining marks on one letter than Unicode's stream-safe format allows.

    To put n of them in order takes n² steps.
    """
    kept, run = [], 0
    for char in text:
        run = run + 1 if unicodedata.combining(char) else 0
        if run <= MAX_MARKS:
            kept.append(char)
    return "".join(kept)
