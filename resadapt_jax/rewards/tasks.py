"""The kinds of question a reward can grade."""

import enum


class TaskType(enum.StrEnum):
    """Values are the labels used by the data; ``TaskType("Multiple-Choice")`` finds them too.

    Raises:
      ValueError: a label that is none of them.
    """

    MULTIPLE_CHOICE = "multiple choice"
    NUMERICAL = "numerical"
    TEMPORAL_GROUNDING = "temporal grounding"

    @classmethod
    def _missing_(cls, value: object) -> "TaskType":
        label = str(value).strip().lower().replace("-", " ").replace("_", " ")
        for member in cls:
            if member.value == label:
                return member
        known = ", ".join(repr(member.value) for member in cls)
        raise ValueError(f"unknown task type {value!r}; known are {known}")
