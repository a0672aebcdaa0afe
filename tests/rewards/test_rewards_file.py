"""``python -m resadapt_jax.rewards FILE``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from resadapt_jax.errors import run_cli
from resadapt_jax.rewards import __main__ as program

ROOT = Path(__file__).resolve().parents[2]

RECORDS = [
    {"output": "<think>x</think><answer>\\boxed{B}</answer>", "ground_truth": "B"},
    {"output": "A or B", "ground_truth": "B"},
    {"output": "from 0:05 to 0:09", "ground_truth": [3, 7], "problem_type": "iou"},
    {"output": "B <> [5, 9]", "ground_truth": {"answer": "B", "at": [3, 7]}, "problem_type": "gqa"},
    {"output": None, "ground_truth": 7, "problem_type": "numerical"},
]
for record in RECORDS:
    record.setdefault("problem_type", "multiple choice")


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the program; gives its exit code, what it printed and what it complained of."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rewards", *map(str, arguments)])
        code = run_cli(program.main)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def answers(tmp_path):
    return write_lines(tmp_path / "answers.jsonl", RECORDS)


def write_lines(path, records):
    path.write_text("\n".join(map(json.dumps, records)) + "\n")
    return path


def columns(line):
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_rows_and_summary(run, answers):
    code, printed, complaints = run(answers)
    assert (code, complaints) == (0, "")
    lines = [columns(line) for line in printed.splitlines()]
    header = ["row", "task", "accuracy", "format", "total", "answer", "truth", "why"]
    assert lines[0] == header
    letters = ["letters {B} vs {B}", "letters {A, B} vs {B}"]
    assert lines[1] == ["0", "multiple choice", "1.000", "+1", "1.200", "'B'", "'B'", letters[0]]
    assert lines[2] == ["1", "multiple choice", "0.000", "0", "0.000", "'A, B'", "'B'", letters[1]]
    # 5 to 7 of 3 to 9
    assert lines[3][2:] == [
        *("0.333", "0", "0.333", "'[5, 9]'", "'[3, 7]'"),
        "IoU 0.333 of [5, 9] with [3, 7]",
    ]
    # (1 + 1/3) / 2, with its parts
    assert lines[4][2] == "0.667" and lines[4][-1].endswith("; answer 1; iou 0.333")
    assert lines[5][-1] == "no one number in ''"
    assert lines[7] == ["task", "count", "ungraded", "accuracy", "format", "total", "success"]
    # accuracies 1 and 0; totals 1.2 and 0; one of two above .35
    assert lines[8] == ["multiple choice", "2", "0", "0.500", "0.500", "0.600", "50.0%"]
    assert lines[9] == ["temporal grounding", "1", "0", "0.333", "0.000", "0.333", "0.0%"]
    # 1, 0, 1/3, 2/3, 0: mean 2/5; two of five
    assert lines[12] == ["all", "5", "0", "0.400", "0.200", "0.440", "40.0%"]


def test_the_config_is_on_the_command_line(run, answers):
    _, printed, _ = run(answers, "--rewards.multiple-choice", "released", "--threshold", "0.1")
    # F1 of {A, B} and {B}
    assert columns(printed.splitlines()[2])[2] == "0.667"
    assert columns(printed.splitlines()[9])[-1] == "100.0%"


def test_what_was_not_graded_is_counted_and_in_no_mean(run, tmp_path):
    pairs = [("7", "7"), ("sin(x)+cos(x)", "cos(x)+sin(x)")]  # the second is given no time
    records = [{"output": a, "ground_truth": b, "problem_type": "math"} for a, b in pairs]
    path, out = write_lines(tmp_path / "answers.jsonl", records), tmp_path / "scores.json"
    _, printed, _ = run(path, "--rewards.maths-seconds", "0.001", "--json", out)
    lines = [columns(line) for line in printed.splitlines()]
    assert lines[2][2:5] == ["-", "0", "-"]
    assert lines[-2] == ["all", "2", "1", "1.000", "0.000", "1.000", "100.0%"]
    run(write_lines(path, records[1:]), "--rewards.maths-seconds", "0.001", "--json", out)
    assert json.loads(out.read_text())["summary"]["all"]["accuracy"] is None


def test_rows_are_written(run, answers, tmp_path):
    out = tmp_path / "made" / "scores.json"
    code, printed, _ = run(answers, "--json", out, "--show", "0")
    assert code == 0
    assert columns(printed.splitlines()[0]) == [
        "5 more rows: --show -1 prints all, --json FILE writes them"
    ]
    record = json.loads(out.read_text())
    assert record["config"]["multiple_choice"] == "paper"
    assert record["summary"]["all"]["success"] == pytest.approx(2 / 5)
    assert len(record["rows"]) == 5
    fourth = record["rows"][3]
    assert fourth["place"] == "row 3 (line 4)"
    assert fourth["task"] == "grounding qa"
    assert fourth["parts"] == pytest.approx({"answer": 1.0, "iou": 1 / 3})


def test_workers_give_the_same(run, answers):
    alone = run(answers)
    assert run(answers, "--rewards.num-workers", "2") == alone


def test_parquet_in_the_shape_of_training_data(run, tmp_path):
    path = tmp_path / "answers.parquet"
    records = [
        {
            "response": record["output"] or "",
            "reward_model": {"style": "rule", "ground_truth": str(record["ground_truth"])},
            "extra_info": {"problem_type": record["problem_type"], "index": index},
        }
        for index, record in enumerate(RECORDS[:3])
    ]
    pq.write_table(pa.Table.from_pylist(records), path)
    code, printed, _ = run(path)
    assert code == 0
    assert [columns(line)[2] for line in printed.splitlines()[1:4]] == ["1.000", "0.000", "0.333"]


def test_fields_and_a_task_can_be_named(run, tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"said": {"text": "it is 7"}, "is": "7"}])
    fields = ("--output-field", "said.text", "--truth-field", "is")
    assert run(path, *fields)[2] == (
        f"error: {path}, row 0 (line 1): no task; looked for problem_type, "
        "extra_info.problem_type, task_type, task (--task-field)\n"
    )
    code, printed, _ = run(path, *fields, "--task", "numerical")
    assert code == 0 and columns(printed.splitlines()[1])[2] == "1.000"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "{path} has no rows"),
        ("\n\n", "{path} has no rows"),
        ("{}\n", "{path}, row 0 (line 1): no output; looked for output, response, prediction"),
        ('\n{"output": 1, ', "{path}, row 0 (line 2): not JSON: Expecting"),
        ("[1]\n", "{path}, row 0 (line 1): not a JSON object but list"),
        ('{"output": "7"}\n', "{path}, row 0 (line 1): no truth; looked for ground_truth"),
        ('{"output": "7", "task": "ocr"}', "{path}, row 0 (line 1): no truth"),
        (
            '{"output": "7", "reward_model": {"ground_truth": null}, "task": "ocr"}\n\n'
            '{"output": "7", "ground_truth": "seven", "task": "numerical"}\n',
            "{path}, 2 of 2 rows cannot be graded, so none was:\n"
            "  row 0 (line 1): reward_model.ground_truth is null\n"
            "  row 1 (line 3): no one number in ground truth 'seven'\n",
        ),
        (
            '{"output": "7", "ground_truth": "7", "task": "juggling"}',
            "{path}, 1 of 1 rows cannot be graded, so none was:\n"
            "  row 0 (line 1): unknown task type 'juggling'; known are 'multiple choice'",
        ),
        (
            '{"output": "7", "ground_truth": "7", "task": "ocr"}\n'
            '{"output": "7", "ground_truth": "seven", "task": "numerical"}\n'
            '{"output": "7", "ground_truth": "", "task": "ocr"}\n',
            "{path}, 2 of 3 rows cannot be graded, so none was:\n"
            "  row 1 (line 2): no one number in ground truth 'seven'\n"
            "  row 2 (line 3): the ground truth is empty\n",
        ),
        (
            '{"output": "7", "ground_truth": "7", "task": 3}',
            "{path}, row 0 (line 1): a task type is text",
        ),
        ("\udcff\udcfe", "{path}, row 0 (line 1): not JSON: "),
        ("[" * 100_000, "{path}, row 0 (line 1): not JSON: "),
    ],
)
def test_mistakes_in_the_file(run, tmp_path, content, complaint):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    code, printed, complaints = run(path)
    assert (code, printed) == (2, "")
    assert complaints.startswith("error: " + complaint.format(path=path))
    # one line, but where several rows are named
    assert complaints.count("\n") == max(1, complaint.count("\n  ") + 1)


def test_other_mistakes(run, tmp_path, answers):
    assert run(tmp_path / "none.jsonl")[2].endswith("none.jsonl: No such file or directory\n")
    assert run(tmp_path)[2] == f"error: cannot read {tmp_path}: Is a directory\n"
    fake = tmp_path / "a.parquet"
    fake.write_text("no")
    assert run(fake)[2].startswith(f"error: {fake} cannot be read as Parquet: ")
    assert "--rewards.multiple-choice" in run(answers, "--multiple-choice", "released")[2]
    assert run(answers, "--rewards.maths-seconds", "0")[0] == 2
    complaint = run(answers, "--threshold", "nan")[2]
    assert "threshold must be a number, got nan" in complaint and complaint.count("\n") == 1
    assert "default_task" not in run(answers)[2]
    assert run(answers, "--json", answers / "x")[0] == 2
    assert "PATH" in run()[2]


def test_an_unknown_label_can_have_a_default(run, tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"output": "7", "truth": "7", "task": "juggling"}])
    code, printed, _ = run(path, "--rewards.default-task", "numerical")
    assert code == 0 and columns(printed.splitlines()[1])[1] == "numerical"


def test_as_a_program_in_a_terminal_that_knows_ascii_alone(tmp_path):
    row = {"output": "Yes \ud800 狗", "ground_truth": "yes", "problem_type": None}
    path = write_lines(tmp_path / "a.jsonl", [row, RECORDS[1]])
    command = [sys.executable, "-m", "resadapt_jax.rewards", str(path), "--show", "-1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert columns(done.stdout.splitlines()[1])[2] == "1.000"
