"""Rows that were dropped, skipped or damaged: a line each, counted at the end."""

import json

import numpy as np

from resadapt_jax.training.loop.metric_log import read_metrics
from resadapt_jax.training.loop.skip_log import SkipLog, rows_with

DROPPED = [
    {"file": "a.jsonl", "row": 3, "kind": "no such file", "reason": "b.mp4"},
    {"file": "a.jsonl", "row": 5, "kind": "no such file", "reason": "c.mp4"},
    {"file": "a.jsonl", "row": 6, "kind": "markers", "reason": "1 <video> for 0"},
]


def row(number, reason):
    return {"file": "a.jsonl", "row": number, "index": str(number), "reason": reason}


def test_rows_of_a_batch_are_those_with_a_reason():
    records = {
        "file": np.array(["a.jsonl", "b.jsonl"]),
        "row": np.array([4, 7]),
        "index": np.array(["x", ""]),
        "skipped": np.array(["", "unreadable video: no frame"]),
        "damage": np.array(["1 of 30 frames lost", ""]),
    }
    reason = "unreadable video: no frame"
    (skipped,) = rows_with(records, "skipped")
    assert skipped == {"file": "b.jsonl", "row": 7, "index": "", "reason": reason}
    assert [one["row"] for one in rows_with(records, "damage")] == [4]
    assert json.loads(json.dumps(skipped)) == skipped
    # Batches of the embedded world name no file, and have no such row.
    assert rows_with({"skipped": np.array(["", ""])}, "skipped") == []


def test_every_row_has_a_line_and_all_are_counted(tmp_path):
    log = SkipLog(tmp_path, done=0, dropped=DROPPED)
    log.add(1, [row(4, "damaged video: half"), row(2, "a URL: s3://a")], [])
    log.add(2, [row(4, "damaged video: half")], [row(1, "1 of 30 frames")])
    written = [json.loads(line) for line in (tmp_path / "dropped.jsonl").open()]
    assert written == DROPPED
    assert read_metrics(log.skipped)[1] == {"step": 1, **row(2, "a URL: s3://a")}
    assert log.summary().splitlines() == [
        f"dropped 3 rows: 2 no such file, 1 markers before training ({tmp_path / 'dropped.jsonl'})",
        f"skipped 3 rows: 2 damaged video, 1 a URL (2 different) ({tmp_path / 'skipped.jsonl'})",
        f"used 1 rows although damaged ({tmp_path / 'damaged.jsonl'})",
    ]


def test_what_comes_again_is_not_counted_twice(tmp_path):
    SkipLog(tmp_path, done=0, dropped=DROPPED).add(2, [row(4, "markers: 1")], [row(1, "a")])
    again = SkipLog(tmp_path, done=1)
    assert again.summary() == ""
    assert (tmp_path / "dropped.jsonl").read_text() == ""  # of the rows as they are now


def test_records_of_processes_that_are_no_more_are_taken_over(tmp_path):
    SkipLog(tmp_path, done=0).add(1, [row(4, "markers: 1")], [])
    gone = [{"step": step, **row(step, "a URL: b")} for step in (2, 3)]
    (tmp_path / "skipped-1.jsonl").write_text("".join(json.dumps(one) + "\n" for one in gone))
    again = SkipLog(tmp_path, done=2)
    assert [record["row"] for record in read_metrics(again.skipped)] == [4, 2]
    assert again.summary().startswith("skipped 2 rows: 1 markers, 1 a URL (")
    assert [path.name for path in tmp_path.iterdir()] == ["skipped.jsonl"]


def test_nothing_is_written_of_a_run_without_such_rows(tmp_path):
    log = SkipLog(tmp_path, done=0)
    log.add(1, [], [])
    assert log.summary() == "" and not list(tmp_path.iterdir())
