"""Corpora of every kind give the same records, in any order and in another process."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from resadapt_jax.data import sources
from resadapt_jax.data.row import RowError, parse_row
from resadapt_jax.data.sources import open_rows
from resadapt_jax.errors import UserError


def release_row(index):
    """A row as the release has it: nested columns, media as paths, a cached length."""
    return {
        "data_source": "some source",
        "prompt": [
            {"role": "system", "content": "Think."},
            {"role": "user", "content": f"<video>What is {index}?"},
        ],
        "images": [],
        "videos": [{"video": f"clips/{index}.mp4", "min_frames": 4, "max_frames": None}],
        "ability": "video",
        "reward_model": {"style": "rule", "ground_truth": str(index)},
        "extra_info": {"problem_type": "multiple choice", "index": index, "answer": "A"},
        "len_frames_32": 100 + index,
    }


ROWS = [release_row(index) for index in range(7)]


def parquet(folder):
    table = pa.Table.from_pylist(ROWS)
    # As a real file may, it has columns that nothing here needs.
    table = table.append_column("embedding", pa.array([[0.5] * 64] * 7))
    pq.write_table(table, folder / "rows.parquet", row_group_size=3)
    return folder / "rows.parquet"


def jsonl(folder):
    path = folder / "rows.jsonl"
    path.write_text("\n" + "\n\n".join(json.dumps(row) for row in ROWS))
    return path


def array_record(folder):
    path = folder / "rows.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:2")
    for row in ROWS:
        writer.write(json.dumps(row).encode())
    writer.close()
    return path


class Questions(tfds.core.GeneratorBasedBuilder):
    """The same rows, prepared by tensorflow-datasets."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text, number = tfds.features.Text(), tfds.features.Scalar(np.int64)
        sequence = tfds.features.Sequence
        return tfds.core.DatasetInfo(
            builder=self,
            disable_shuffling=True,
            features=tfds.features.FeaturesDict(
                {
                    "data_source": text,
                    "ability": text,
                    "prompt": sequence({"role": text, "content": text}),
                    "videos": sequence({"video": text, "min_frames": number}),
                    "reward_model": {"ground_truth": text},
                    "extra_info": {"problem_type": text, "index": number},
                    "len_frames_32": number,
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._rows(range(7)), "test": self._rows(range(2))}

    def _generate_examples(self):
        raise NotImplementedError

    def _rows(self, indices):
        for index in indices:
            row = release_row(index)
            del row["images"], row["videos"][0]["max_frames"]
            del row["reward_model"]["style"], row["extra_info"]["answer"]
            yield index, row


def prepared(folder):
    builder = Questions(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return builder.data_dir


MAKERS = [parquet, jsonl, array_record, prepared]


@pytest.mark.parametrize("make", MAKERS)
def test_every_kind_gives_the_same_rows(tmp_path, make):
    rows = open_rows(make(tmp_path))
    assert len(rows) == 7
    for position in (5, 0, 6, 2):
        row = parse_row(rows[position])
        expected = parse_row(release_row(position))
        assert row == expected
    assert parse_row(rows[-1]).index == "6"
    with pytest.raises(IndexError):
        rows[7]


@pytest.mark.parametrize("make", MAKERS)
def test_a_source_goes_to_another_process(tmp_path, make):
    rows = open_rows(make(tmp_path))
    rows[3]
    assert parse_row(pickle.loads(pickle.dumps(rows))[4]).index == "4"


def test_a_split_is_named_after_the_folder(tmp_path):
    folder = prepared(tmp_path)
    assert len(open_rows(f"{folder}:test")) == 2
    with pytest.raises(UserError, match="with a split 'dev'"):
        open_rows(f"{folder}:dev")


def test_a_data_source_of_tensorflow_datasets_is_taken_as_it_is(tmp_path):
    prepared(tmp_path)
    source = tfds.data_source("questions", data_dir=tmp_path, split="train")
    assert open_rows(source) is source
    assert parse_row(open_rows(source)[1]).index == "1"


def test_row_groups_beyond_the_limit_are_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_CACHED_BYTES", 1)
    rows = open_rows(parquet(tmp_path))
    for position in (0, 6, 3, 0):
        assert parse_row(rows[position]).index == str(position)
        assert len(rows._groups) == 1


def test_a_line_that_is_no_json_is_a_bad_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n\n{nope}\n[1]\n")
    rows = open_rows(path)
    assert len(rows) == 3
    with pytest.raises(RowError, match="unreadable row: line 3 is not JSON"):
        rows[1]
    with pytest.raises(RowError, match="line 4 is not a JSON object"):
        rows[2]


def damage(path, start):
    """Zeroes in the middle of the file; the end, which describes it, stays."""
    data = bytearray(path.read_bytes())
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)


def test_a_damaged_row_group_is_named(tmp_path):
    path = parquet(tmp_path)
    group = pq.ParquetFile(path).metadata.row_group(1)
    damage(path, group.column(1).dictionary_page_offset or group.column(1).data_page_offset)
    rows = open_rows(path)
    parse_row(rows[0])
    with pytest.raises(RowError, match=f"unreadable row: row group 1 of {path}: "):
        rows[3]


def test_a_damaged_record_is_named(tmp_path):
    path = array_record(tmp_path)
    rows = open_rows(path)
    damage(path, 40)  # the first chunk, of two records, begins there
    for position in range(2):
        with pytest.raises(RowError, match=f"unreadable row: record {position} of {path}: "):
            rows[position]
    assert parse_row(rows[2]).truth == "2"


def test_a_column_that_one_record_lacks_is_that_records_affair(tmp_path):
    records = [{"prompt": []}, ROWS[0]]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, records)))
    rows = open_rows(tmp_path / "rows.jsonl")
    with pytest.raises(RowError, match="missing column: 'reward_model'"):
        parse_row(rows[0])


def test_a_missing_column_is_named(tmp_path):
    table = pa.Table.from_pylist([{"prompt": "x", "answer": "y"}])
    pq.write_table(table, tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text('{"question": 1}\n' * 3)
    with pytest.raises(UserError, match="rows.parquet has no column 'reward_model'.*answer"):
        open_rows(tmp_path / "rows.parquet")
    with pytest.raises(UserError, match="rows.jsonl has no column 'prompt'; it has question"):
        open_rows(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("rows.csv", "a,b\n", "cannot read .*rows.csv: neither a prepared folder nor one of .parq"),
        ("rows.parquet", "hello", "not a parquet file"),
        ("rows.jsonl", "\n\n", "has no row"),
        ("rows.jsonl", "{}\n", "has no column 'prompt'; it has none"),
        ("rows.jsonl", '\n["a"]\n', "first 1 rows of .*: line 2 is not a JSON object"),
        ("rows.jsonl", '[\n  {\n"a": 1\n}]\n', "first 4 rows of .*: line 1 is not JSON"),
        ("rows.jsonl", b'{"prompt": "\xe9"}\n', "line 1 is not JSON: 'utf-8' codec"),
        ("rows.array_record", "hello" * 20_000, "ArrayRecord|has no row"),
    ],
)
def test_what_is_no_corpus_is_refused_in_one_line(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=reason) as caught:
        open_rows(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file: .*rows.parquet"):
        open_rows(tmp_path / "rows.parquet")
    with pytest.raises(UserError, match="not a prepared data set"):
        open_rows(tmp_path)
