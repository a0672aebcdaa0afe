"""What a compiled program holds of split weights as wholes at once, read from its schedule.

Weights that are split over a mesh are gathered where they are used. One program may gather them
one layer after another, another all of them before the first: the gathers are the same, and only
the schedule tells which are alive together.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

BYTES = {"bf16": 2, "f16": 2, "f32": 4}
# What gives its first operand, or a part of it, under another name.
SAME = ("bitcast", "copy-done", "opt-barrier", "while")

Shape = tuple[int, ...]


class Instruction(NamedTuple):
    """A line of a computation.

    Attributes:
        result: its type, as in HLO.
        operands: names.
        attributes: what follows them.
    """

    name: str
    result: str
    operation: str
    operands: list[str]
    attributes: str
    is_root: bool


def shapes_of_split_weights(tree: Any) -> set[Shape]:
    """What the split matrices among placed shapes are as wholes; of stacked ones a layer too.

    A matrix that is still split over ``tensor`` is a whole to its device.
    """
    shapes = set()
    for leaf in jax.tree.leaves(tree):
        place = leaf.sharding
        if place is not None and place.shard_shape(leaf.shape) != leaf.shape:
            by_tensor = PartitionSpec(*(axis if axis == "tensor" else None for axis in place.spec))
            device = NamedSharding(place.mesh, by_tensor).shard_shape(leaf.shape)
            for shape in (leaf.shape, device):
                shapes |= {_ordered(shape), _ordered(shape[1:])}
    return {shape for shape in shapes if len(shape) > 1}


def most_at_once(program: str, shapes: set[Shape]) -> int:
    """Bytes of whole weights, and of gradients as large, that are alive at once at the worst.

    Args:
        program: scheduled HLO.
        shapes: by `shapes_of_split_weights`; the order of axes does not count.
    """
    computations, entry = _computations(program)
    known: dict[str, int] = {}

    def most(name: str) -> int:
        if name not in known:
            lines = computations[name]
            inner = [
                max((most(called) for called in _runs(line) if called in computations), default=0)
                for line in lines
            ]
            alive = _alive(lines, shapes)
            known[name] = max(map(sum, zip(alive, inner, strict=True)), default=0)
        return known[name]

    return most(entry)


def _alive(lines: list[Instruction], shapes: set[Shape]) -> list[int]:
    """Bytes of whole weights that are alive at each line of a computation.

    Its parameters do not count: they are alive where it is called.
    """
    values: dict[str, Any] = {}  # the buffers of each result: None, a place in `spans`, or a list
    spans: list[list[int]] = []  # bytes, first and last line of a buffer

    def fresh(of: Any, line: int) -> Any:
        if isinstance(of, list):
            return [fresh(part, line) for part in of]
        dtype, shape = of
        if _ordered(shape) not in shapes or dtype not in BYTES:
            return None
        spans.append([BYTES[dtype] * math.prod(shape), line, line])
        return len(spans) - 1

    for number, line in enumerate(lines):
        given = [values.get(name) for name in line.operands]
        for buffer in _leaves(given):
            spans[buffer][2] = number
        if line.operation == "parameter":
            value = None
        elif line.operation == "tuple":
            value = given
        elif line.operation == "get-tuple-element":
            index = int(re.search(r"index=(\d+)", line.attributes)[1])
            value = given[0][index] if isinstance(given[0], list) else None
        elif line.operation in SAME:
            value = given[0] if given else None
        else:
            value = fresh(_parts(line.result), number)
        values[line.name] = value
        if line.is_root:
            for buffer in _leaves(value):
                spans[buffer][2] = len(lines)
    return [sum(size for size, a, b in spans if a <= line <= b) for line in range(len(lines))]


def _runs(line: Instruction) -> list[str]:
    """Computations that a line runs and that have a schedule of their own."""
    if line.operation not in ("while", "call", "conditional"):
        return []
    named = r"(?:body|to_apply|branch_computations)=\{?((?:%?[\w.\-]+(?:, )?)+)"
    groups = re.findall(named, line.attributes)
    return [name.lstrip("%") for group in groups for name in group.split(", ")]


def _computations(program: str) -> tuple[dict[str, list[Instruction]], str]:
    computations, current, entry = {}, [], ""
    for text in program.splitlines():
        if text.endswith("{") and "->" in text and not text.startswith(" "):
            is_entry, name = re.match(r"(ENTRY )?%?([\w.\-]+)", text).groups()
            computations[name] = current = []
            entry = name if is_entry else entry
        elif text.startswith("  ") and " = " in text:
            current.append(_instruction(text.strip()))
    return computations, entry


def _instruction(text: str) -> Instruction:
    name, rest = text.removeprefix("ROOT ").split(" = ", 1)
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    result, rest = rest[:end], rest[end:].strip()
    start = rest.index("(")
    end = _closing(rest, start)
    return Instruction(
        name=name.lstrip("%"),
        result=result,
        operation=rest[:start],
        operands=re.findall(r"%([\w.\-]+)", rest[start:end]),
        attributes=rest[end:],
        is_root=text.startswith("ROOT "),
    )


def _closing(text: str, start: int) -> int:
    """Where the bracket at ``start`` is closed."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if not depth:
            return place
    raise ValueError(f"no closing bracket in {text}")


def _parts(result: str) -> Any:
    """A type as (dtype, shape), or a list of such where it is a tuple."""
    root: list[Any] = []
    stack = [root]
    # layouts have brackets of their own
    for bracket, dtype, dims in re.findall(
        r"([()])|([a-z]+\d*)\[([\d,]*)\]", re.sub(r"\{[^}]*\}", "", result)
    ):
        if bracket == "(":
            stack[-1].append([])
            stack.append(stack[-1][-1])
        elif bracket:
            stack.pop()
        else:
            stack[-1].append((dtype, tuple(int(n) for n in dims.split(",") if n)))
    return root[0]


def _leaves(value: Any) -> Iterator[int]:
    if isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    elif value is not None:
        yield value


def _ordered(shape: Shape) -> Shape:
    """Whatever the order of the axes; those of length 1 do not count."""
    return tuple(sorted(n for n in shape if n > 1))
