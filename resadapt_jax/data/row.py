"""A row of a corpus: its prompt, its media and its answer, read from the release's schema.

=============  =================================================================================
column         content
=============  =================================================================================
prompt         list of {role, content}; the role is system, user or assistant; ``<image>`` and
               ``<video>`` mark the places of the media
images         list of paths, of bytes, or of {image: path} or {bytes}
videos         list of the same with ``video``, and beside it, if wanted, min_frames, max_frames,
               start and end in seconds (or video_start and video_end)
reward_model   {ground_truth}
extra_info     {problem_type, index}, and what else there is
data_source    text
ability        text
len_frames_N   tokens of the prompt with N frames
=============  =================================================================================

Only ``prompt`` and ``reward_model`` must be there. A list of records may also come as a record of
lists, and text as bytes, as tensorflow-datasets gives them; in place of a path, bytes that are no
text are the file itself.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np

from resadapt_jax.models.prompt_builder import MARKER, Turn, without_markers

REQUIRED_COLUMNS = ("prompt", "reward_model")
COLUMNS = (*REQUIRED_COLUMNS, "images", "videos", "extra_info", "data_source", "ability")

ROLES = ("system", "user", "assistant")

_CACHED_LENGTH = re.compile(r"len_frames_(\d+)")


class RowError(ValueError):
    """A row that cannot be used, and why, in one line.

    Attributes:
        kind: what is wrong, the same words for every such row, to count by.
        detail: what is wrong with this one.
    """

    def __init__(self, kind: str, detail: str):
        # Both are arguments, so that the error survives the way from a worker process.
        super().__init__(kind, detail)
        self.kind, self.detail = kind, " ".join(str(detail).split())

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


class UnknownTask(RowError):
    """A row whose problem type nobody knows: not only this row is wrong, but the run's settings."""

    def __init__(self, task: str, detail: str):
        super().__init__("unknown problem type", detail)
        self.args = task, detail
        self.task = task


@dataclass(frozen=True, kw_only=True)
class Medium:
    """An image or a video.

    Attributes:
        path: where it lies, empty if ``data`` is the file itself.
        min_frames, max_frames: of a video, in place of the corpus's.
        start, end: seconds of a video between which its frames are taken.
    """

    kind: Literal["image", "video"]
    path: str = ""
    data: bytes | None = field(default=None, repr=False)
    min_frames: int | None = None
    max_frames: int | None = None
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question of a corpus.

    Attributes:
        messages: the conversation so far; the answer is the next turn.
        media: in the order of their markers.
        truth: the right answer.
        problem_type: what kind of question it is; says how an answer is graded.
        index: the row's name in its corpus, if it has one.
        cached_lengths: from N frames to the tokens of the prompt, by the columns ``len_frames_N``.
    """

    messages: tuple[Turn, ...]
    media: tuple[Medium, ...] = ()
    truth: str = ""
    problem_type: str = ""
    data_source: str = ""
    ability: str = ""
    index: str = ""
    cached_lengths: Mapping[int, int] = field(default_factory=dict)


def parse_row(record: Mapping[str, Any]) -> Row:
    """Reads a record of the schema above.

    Raises:
        RowError: a column is missing, a value has the wrong type, a role is unknown, the user says
            nothing, or the markers are not as many as the media.
    """
    for column in REQUIRED_COLUMNS:
        if record.get(column) is None:
            raise RowError("missing column", f"{column!r}")
    extra = _mapping(record.get("extra_info"), "extra_info")
    messages = tuple(_messages(record["prompt"]))
    user_text(messages)
    media = {
        kind: [
            _medium(value, kind, at)
            for at, value in enumerate(records_of(record.get(kind + "s"), kind + "s"))
        ]
        for kind in ("image", "video")
    }
    reward = _mapping(record["reward_model"], "reward_model")
    if reward.get("ground_truth") is None:
        raise RowError("missing column", "'ground_truth' of 'reward_model'")
    return Row(
        messages=messages,
        media=tuple(_in_order(messages, media)),
        truth=text_of(reward["ground_truth"], "ground_truth"),
        problem_type=text_of(extra.get("problem_type"), "problem_type"),
        data_source=text_of(record.get("data_source"), "data_source"),
        ability=text_of(record.get("ability"), "ability"),
        index=text_of(extra.get("index"), "index"),
        cached_lengths=dict(_cached_lengths(record)),
    )


def _messages(value: Any) -> Iterator[Turn]:
    turns = records_of(value, "prompt")
    if not turns:
        raise RowError("empty prompt", "the list 'prompt' has no message")
    for at, turn in enumerate(turns):
        turn = _mapping(turn, f"prompt[{at}]")
        for name in ("role", "content"):
            if not isinstance(turn.get(name), str | bytes):
                raise RowError("wrong type", f"prompt[{at}] needs a text {name!r}")
        role = text_of(turn["role"], "role")
        if role not in ROLES:
            known = ", ".join(ROLES)
            raise RowError("prompt", f"prompt[{at}] has the unknown role {role!r}, not of {known}")
        yield Turn(role=role, content=text_of(turn["content"], "content"))


def user_text(messages: Sequence[Turn]) -> str:
    """What the user says, turn by turn, without markers: the query of the allocator.

    Raises:
        RowError: nothing.
    """
    said = (without_markers(turn.content).strip() for turn in messages if turn.role == "user")
    if not (text := "\n".join(filter(None, said))):
        raise RowError("prompt", "no turn of the user says anything")
    return text


def _medium(value: Any, kind: Literal["image", "video"], at: int) -> Medium:
    name = f"{kind}s[{at}]"
    if isinstance(value, str):
        return Medium(kind=kind, path=_path(value, name))
    if isinstance(value, bytes):
        return _path_or_data(value, kind, name)
    if isinstance(value, np.ndarray):
        raise _pixels(name, value)
    fields = _mapping(value, name)
    limits: dict[str, Any] = {}
    if kind == "video":
        limits = {
            "min_frames": _number(fields, name, "min_frames", whole=True),
            "max_frames": _number(fields, name, "max_frames", whole=True),
            "start": _number(fields, name, "start", "video_start"),
            "end": _number(fields, name, "end", "video_end"),
        }
        _check_limits(name, **limits)
    else:
        for key in ("start", "end", "video_start", "video_end"):
            if fields.get(key) is not None:
                raise RowError("wrong value", f"{name} is an image and has {key!r}")
    if isinstance(fields.get("bytes"), bytes):
        return Medium(kind=kind, data=fields["bytes"], **limits)
    source = fields.get("path") if fields.get(kind) is None else fields[kind]
    if isinstance(source, bytes):
        return _path_or_data(source, kind, name, **limits)
    if isinstance(source, np.ndarray):
        raise _pixels(name, source)
    if isinstance(source, str):
        return Medium(kind=kind, path=_path(source, name), **limits)
    raise RowError("wrong type", f"{name} has neither a path {kind!r} nor 'bytes'")


def _path_or_data(
    value: bytes, kind: Literal["image", "video"], name: str, **limits: Any
) -> Medium:
    """tensorflow-datasets has bytes for text; no file of a picture is text."""
    try:
        path = value.decode()
    except UnicodeDecodeError:
        return Medium(kind=kind, data=value, **limits)
    return Medium(kind=kind, path=_path(path, name), **limits)


def _path(value: str, name: str) -> str:
    if not value or "\0" in value or not _is_unicode(value):
        raise RowError("wrong type", f"{name} is {value!r}, no path")
    return value


def _pixels(name: str, value: np.ndarray) -> RowError:
    detail = f"{name} is an array {list(value.shape)}, not a file; store paths or encoded files"
    return RowError("wrong type", detail)


def _is_unicode(text: str) -> bool:
    """Half of a surrogate pair, as JSON may have it, is no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(fields: Mapping[str, Any], name: str, *keys: str, whole: bool = False) -> Any:
    for key in keys:
        value = fields.get(key)
        if value is None:
            continue
        known = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
        if not known or not math.isfinite(value):
            raise RowError("wrong type", f"{key} of {name} is {value!r}")
        return int(value) if whole else float(value)
    return None


def _check_limits(
    name: str,
    min_frames: int | None,
    max_frames: int | None,
    start: float | None,
    end: float | None,
) -> None:
    for limit in (min_frames, max_frames):
        if limit is not None and limit < 1:
            raise RowError("wrong value", f"{name} asks for {limit} frames")
    if min_frames is not None and max_frames is not None and min_frames > max_frames:
        raise RowError("wrong value", f"{name} asks for {min_frames} to {max_frames} frames")
    if (start or 0) < 0 or (end is not None and end <= (start or 0)):
        raise RowError("wrong value", f"{name} goes from {start} s to {end} s")


def _in_order(messages: Sequence[Turn], media: Mapping[str, Sequence[Medium]]) -> Iterator[Medium]:
    """The media as their markers follow each other."""
    kinds = [kind for message in messages for kind in MARKER.findall(message.content)]
    for kind, given in media.items():
        if kinds.count(kind) != len(given):
            detail = f"{kinds.count(kind)} <{kind}> in the prompt for {len(given)} in '{kind}s'"
            raise RowError("markers", detail)
    waiting = {kind: iter(given) for kind, given in media.items()}
    for kind in kinds:
        yield next(waiting[kind])


def _cached_lengths(record: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    for column, value in record.items():
        match = _CACHED_LENGTH.fullmatch(column)
        if match and isinstance(value, Real) and math.isfinite(value):
            yield int(match[1]), int(value)


def records_of(value: Any, name: str) -> list[Any]:
    """A list, whether it came as one, as an array or as a record of columns.

    Raises:
        RowError: it is none of these.
    """
    if value is None:
        return []
    if isinstance(value, Mapping):
        columns = {key: records_of(column, name) for key, column in value.items()}
        count = max(map(len, columns.values()), default=0)
        if any(len(column) != count for column in columns.values()):
            raise RowError("wrong type", f"the columns of {name} differ in length")
        return [{key: column[at] for key, column in columns.items()} for at in range(count)]
    if isinstance(value, np.ndarray):
        if value.ndim > 1:
            raise _pixels(name, value)
        return value.tolist()
    if isinstance(value, list | tuple):
        return list(value)
    raise RowError("wrong type", f"{name} is {type(value).__name__}, not a list")


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return {
            key: item.item() if isinstance(item, np.generic) else item
            for key, item in value.items()
        }
    raise RowError("wrong type", f"{name} is {type(value).__name__}, not a record")


def text_of(value: Any, name: str) -> str:
    """A value that should be text, tensorflow-datasets' bytes included; empty for none.

    Raises:
        RowError: it is no text.
    """
    if value is None:
        return ""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise RowError("wrong type", f"{name} is not UTF-8") from error
    if isinstance(value, str) and not _is_unicode(value):
        raise RowError("wrong type", f"{name} is not Unicode text: {value[:80]!r}")
    if isinstance(value, str | Real):
        return str(value)
    raise RowError("wrong type", f"{name} is {type(value).__name__}, not text")
