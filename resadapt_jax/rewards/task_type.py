"""The types of question that a reward can grade, and the labels by which data names them."""

import enum

from resadapt_jax.errors import UserError


class TaskType(enum.StrEnum):
    """Values are labels used by the data; ``TaskType("Multiple-Choice")`` finds them too.

    Case does not matter, nor whether words are joined by spaces, "-" or "_". No label, None
    included, is `GENERAL`.

    Raises:
      UserError: a label that is none of them.
    """

    MULTIPLE_CHOICE = "multiple choice"
    NUMERICAL = "numerical"
    MATHEMATICS = "math"
    OCR = "ocr"
    OPEN_ENDED = "open ended"
    FREE_FORM = "free form"
    REGRESSION = "regression"
    TEMPORAL_GROUNDING = "temporal grounding"
    GROUNDING_QA = "grounding qa"
    EXACT_MATCH = "exact match"
    GENERAL = "general"

    @classmethod
    def _missing_(cls, value: object) -> "TaskType":
        words = "" if value is None else str(value).lower().replace("-", " ").replace("_", " ")
        label = " ".join(words.split())
        for member in cls:
            if member.value == label:
                return member
        if label in _OTHER_LABELS:
            return _OTHER_LABELS[label]
        known = ", ".join(repr(member.value) for member in cls)
        raise UserError(f"unknown task type {value!r}; known are {known}")


_OTHER_LABELS = {
    "": TaskType.GENERAL,
    "none": TaskType.GENERAL,
    "mathematics": TaskType.MATHEMATICS,
    "maths": TaskType.MATHEMATICS,
    "iou": TaskType.TEMPORAL_GROUNDING,
    "gqa": TaskType.GROUNDING_QA,
}
