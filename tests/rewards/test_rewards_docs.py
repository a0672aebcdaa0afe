"""The examples of docs/rewards.md."""

import dataclasses
import re
from pathlib import Path

import pytest

from resadapt_jax.rewards import RewardConfig, TaskType, score
from resadapt_jax.rewards.config import Form

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "rewards.md").read_text()
ROW = re.compile(
    r"^\| ([\w -]+) \| `(.+)` \| `(.+)` \| ([0-9.]+) \| ([0-9.]+) \|$",
    re.MULTILINE,
)
EXAMPLES = ROW.findall(DOCS)
FORMS = [field.name for field in dataclasses.fields(RewardConfig) if field.type == Form]


def test_examples_are_found_and_cover_every_kind():
    table = DOCS.split("## Examples")[1].strip().splitlines()[4:]
    assert len(EXAMPLES) == len(table)
    assert {TaskType(row[0]) for row in EXAMPLES} == set(TaskType)


@pytest.mark.parametrize(("task", "output", "truth", "paper", "released"), EXAMPLES)
def test_example(task, output, truth, paper, released):
    for form, expected in (("paper", paper), ("released", released)):
        config = RewardConfig(**dict.fromkeys(FORMS, form))
        assert round(score(task, output, truth, config).accuracy, 3) == float(expected), form


def test_the_python_example():
    [code] = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    *program, comment = code.strip().splitlines()
    names = {}
    exec("\n".join(program[:-1]), names)
    assert eval(program[-1], names) == eval(comment.removeprefix("# "))


def test_defaults_are_those_of_the_table():
    config = RewardConfig()
    fields = {"math": "mathematics", "free-form": "free_form", "open-ended": "open_ended"}
    table = DOCS.split("## Kinds")[1].split("\n\n")[2].splitlines()[2:]
    assert len(table) == len(TaskType)
    for line in table:
        label, _, _, default = (cell.strip() for cell in line.strip("|").split("|"))
        label = label.split(" (")[0]
        name = fields.get(label, TaskType(label).value.replace(" ", "_"))
        assert default == getattr(config, name, ""), label
