"""Questions written as parquet of the release's schema, or refused with their lines."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from video_factory import flat_frames, write_video

from resadapt_jax.data import convert as convert_file
from resadapt_jax.data.convert import main, to_record
from resadapt_jax.data.row import Medium, Row, parse_row
from resadapt_jax.data.sources import open_rows
from resadapt_jax.errors import UserError, run_cli
from resadapt_jax.models.prompt_builder import Turn

ROW = Row(
    messages=(Turn(role="system", content="Think."), Turn(role="user", content="<video>é?")),
    media=(Medium(kind="video", path="a.mkv", min_frames=2, start=0.5, end=1.5),),
    truth="B",
    problem_type="multiple choice",
    data_source="mine",
    ability="video",
    index="7",
    cached_lengths={32: 100, 64: 200},
)


@pytest.fixture
def folder(tmp_path):
    write_video(tmp_path / "a.mkv", flat_frames(40))
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(tmp_path / "a.png")
    return tmp_path


def write_jsonl(folder, *records):
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return str(path)


def plain(content="Why?", **columns):
    prompt = [{"role": "user", "content": content}]
    return {"prompt": prompt, "reward_model": {"ground_truth": "A"}} | columns


def test_a_row_survives_the_way_to_a_record_and_back():
    picture = Medium(kind="image", data=b"\xffpixels")
    both = Row(messages=(Turn(role="user", content="<image>?"),), media=(picture,), truth="1")
    assert parse_row(to_record(ROW)) == ROW
    assert parse_row(to_record(both)) == both


def test_jsonl_becomes_parquet_that_reads_the_same(folder):
    record = to_record(ROW, {"answer": "B.", "doc_id": 3})
    path = write_jsonl(folder, json.loads(json.dumps(record)), plain(len_frames_8=5))
    main([path, str(folder / "rows.parquet")])
    rows = open_rows(folder / "rows.parquet")
    assert [parse_row(row) for row in rows] == [parse_row(row) for row in open_rows(path)]
    assert parse_row(rows[0]) == ROW
    assert rows[0]["extra_info"]["answer"] == "B." and rows[0]["extra_info"]["doc_id"] == "3"
    assert rows[1]["len_frames_8"] == 5 and rows[1]["len_frames_32"] is None
    names = set(pq.read_schema(folder / "rows.parquet").names)
    assert {"data_source", "prompt", "images", "videos", "ability"} < names
    assert {"reward_model", "extra_info", "len_frames_8", "len_frames_32"} < names
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_table_of_questions_becomes_rows(folder):
    (folder / "q.csv").write_text(
        "media,question,answer,problem_type,start,end,system\n"
        'a.mkv,"What, then?",A,multiple choice,0.5,2,Think.\n'
        "a.png|a.mkv,Alike?,yes,,,,\n"
        "a.png,Is <image> dark?,no,,,,\n"
        ",Text alone?,3,numerical,,,\n"
    )
    main([str(folder / "q.csv"), str(folder / "q.parquet")])
    first, second, third, fourth = map(parse_row, open_rows(folder / "q.parquet"))
    assert [m.content for m in first.messages] == ["Think.", "<video>What, then?"]
    assert first.media == (Medium(kind="video", path="a.mkv", start=0.5, end=2.0),)
    assert (first.truth, first.problem_type) == ("A", "multiple choice")
    assert second.messages[0].content == "<image><video>Alike?"
    assert [m.kind for m in second.media] == ["image", "video"]
    assert third.messages[0].content == "Is <image> dark?"
    assert fourth.media == () and fourth.problem_type == "numerical"


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("question,answer,Media", "unknown column 'Media'; known are question, answer, media,"),
        ("question,answer,problem type", "unknown column 'problem type'"),
        ("question,answer,", "unknown column ''"),
        ("question,answer,answer", "2 columns 'answer'"),
        ("answer,media", "no column 'question'; it has answer, media"),
        ("", "no column 'question'; it has none"),
    ],
)
def test_a_table_with_a_wrong_header_is_refused(folder, header, reason):
    (folder / "q.csv").write_text(f"{header}\nWhy?,yes,a.mkv\n" if header else "")
    with pytest.raises(UserError, match=reason):
        main([str(folder / "q.csv"), str(folder / "q.parquet")])


def bad_csv(folder):
    (folder / "q.csv").write_text(
        "media,question,answer,start\n"
        "a.mkv,Good?,yes,\n"
        "b.mkv,Missing?,yes,\n"
        "a.mkv,No number?,yes,soon\n"
        "a.mkv,Late?,yes,99\n"
        "a.mkv,Short\n"
        "../a.mkv,Out?,yes,\n"
    )
    return str(folder / "q.csv")


def test_a_table_of_nothing_is_refused(folder):
    (folder / "q.csv").write_text("question,answer\n")
    with pytest.raises(UserError, match="q.csv has no row"):
        main([str(folder / "q.csv"), str(folder / "rows.parquet")])


def test_bad_rows_are_listed_with_their_lines_and_nothing_is_written(folder, capsys):
    out = folder / "q.parquet"
    with pytest.raises(UserError) as caught:
        main([bad_csv(folder), str(out)])
    lines = str(caught.value).splitlines()
    assert lines[0] == "5 of 6 rows cannot be used; --drop-bad drops them"
    assert lines[1] == f"  row 1 (line 3): no such file: {folder}/b.mkv"
    assert lines[2] == "  row 2 (line 4): wrong type: start is 'soon', no number"
    assert lines[3].startswith(
        "  row 3 (line 5): unreadable video: a.mkv: it is asked for from 99 s on"
    )
    assert (
        lines[4] == "  row 4 (line 6): unreadable row: line 6 has not as many fields as the first"
    )
    assert lines[5].startswith("  row 5 (line 7): outside the media root")
    assert len(lines) == 6 and not out.exists()


def test_bad_rows_are_dropped_if_asked_and_counted(folder, capsys):
    main([bad_csv(folder), str(folder / "q.parquet"), "--drop-bad"])
    assert len(open_rows(folder / "q.parquet")) == 1
    text = capsys.readouterr().out
    assert "dropped 1 rows: no such file" in text and "wrote 1 rows" in text
    listed = folder / "q.parquet.dropped.jsonl"
    assert f"{listed} names them" in text
    first, *others = map(json.loads, listed.read_text().splitlines())
    reason = f"{folder}/b.mkv"
    assert first == {"row": 1, "line": 3, "kind": "no such file", "reason": reason}
    assert [(one["row"], one["line"]) for one in others] == [(2, 4), (3, 5), (4, 6), (5, 7)]
    main([write_jsonl(folder, plain()), str(folder / "q.parquet")])
    assert not listed.exists()


def test_lines_of_jsonl_are_those_of_the_file(folder):
    path = folder / "rows.jsonl"
    path.write_text("\n" + json.dumps(plain()) + "\n\n" + json.dumps(plain("")) + "\n{\n")
    with pytest.raises(UserError) as caught:
        main([str(path), str(folder / "rows.parquet")])
    assert "  row 1 (line 4): prompt: no turn" in str(caught.value)
    assert "  row 2 (line 5): unreadable row: line 5 is not JSON" in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"reward_model": {"ground_truth": " "}}, "answer: the ground truth is empty"),
        ({"extra_info": {"problem_type": "mutiple choice"}}, "unknown task type 'mutiple choice'"),
        (
            {
                "reward_model": {"ground_truth": "none at all"},
                "extra_info": {"problem_type": "numerical"},
            },
            "answer: no one number in ground truth",
        ),
        ({"prompt": [{"role": "user", "content": "<video>"}], "videos": ["a.mkv"]}, "no turn"),
        ({"prompt": [{"role": "system", "content": "Think."}]}, "prompt: no turn of the user"),
        ({"extra_info": {"answer": ["B"]}}, "wrong type: answer is list, not text"),
    ],
)
def test_what_training_would_refuse_is_refused(folder, columns, reason):
    path = write_jsonl(folder, plain(), plain(**columns))
    with pytest.raises(UserError, match=f"(?s)1 of 2 rows cannot be used.*row 1 .*{reason}"):
        main([path, str(folder / "rows.parquet")])


def test_a_grader_may_be_named_for_types_that_are_not_known(folder):
    path = write_jsonl(folder, plain(extra_info={"problem_type": "riddle"}))
    main([path, str(folder / "rows.parquet"), "--default-task", "general"])
    assert len(open_rows(folder / "rows.parquet")) == 1


def test_values_without_a_column_are_dropped_and_named(folder, capsys):
    extra = {"level": 3, "index": 1, "doc_id": None}
    path = write_jsonl(folder, plain(extra_info=extra, source="web"), plain(source="web"))
    main([path, str(folder / "rows.parquet")])
    text = capsys.readouterr().out
    assert "dropped extra_info.level of 1 rows" in text and "dropped source of 2 rows" in text
    assert text.count("no column") == 2


def test_nested_values_without_a_column_are_named_too(folder, capsys):
    videos = [{"video": "a.mkv", "fps": 2, "nframes": None}, {"video": "a.mkv", "fps": 1}]
    row = plain(
        videos=videos,
        images=[{"image": "a.png", "detail": "low"}],
        prompt=[{"role": "user", "content": "<video><video><image>?", "weight": 1}],
        reward_model={"style": "rule", "ground_truth": "A", "extra": 1},
    )
    main([write_jsonl(folder, row), str(folder / "rows.parquet")])
    text = capsys.readouterr().out
    for name in ("videos.fps", "images.detail", "prompt.weight", "reward_model.extra"):
        assert f"dropped {name} of 1 rows" in text
    assert text.count("no column") == 4


def test_an_image_has_no_start(folder):
    (folder / "q.csv").write_text("media,question,answer,start\na.png,Why?,yes,1\n")
    with pytest.raises(UserError, match="start is '1', but the row has no video"):
        main([str(folder / "q.csv"), str(folder / "q.parquet")])


def test_bytes_of_text_are_kept_as_text():
    assert to_record(ROW, {"answer": b"B"})["extra_info"]["answer"] == "B"


def test_what_is_a_picture_does_not_depend_on_the_machine(folder):
    for name in ("a.webp", "b.JPG", "c.tiff"):
        Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(folder / name)
    (folder / "q.csv").write_text("media,question,answer\na.webp|b.JPG|c.tiff|a.mkv,Alike?,yes\n")
    main([str(folder / "q.csv"), str(folder / "q.parquet")])
    (row,) = map(parse_row, open_rows(folder / "q.parquet"))
    assert [m.kind for m in row.media] == ["image"] * 3 + ["video"]


def test_a_long_list_is_cut_and_whole_in_its_file(folder):
    path = write_jsonl(folder, plain(), *[plain("")] * 30)
    with pytest.raises(UserError, match="and 10 more, all in .*rows.parquet.dropped.jsonl"):
        main([path, str(folder / "rows.parquet")])
    lines = (folder / "rows.parquet.dropped.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == list(range(1, 31))


def test_media_that_lie_elsewhere_are_named(folder, tmp_path_factory, capsys):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    path = write_jsonl(elsewhere, plain("<video>?", videos=["a.mkv"]))
    main([path, str(elsewhere / "rows.parquet"), "--media-root", str(folder)])
    assert f"train with --data.media-root {folder}" in capsys.readouterr().out


def test_row_groups_stay_small(folder, monkeypatch):
    monkeypatch.setattr(convert_file, "_GROUP_ROWS", 4)
    main([write_jsonl(folder, *[plain()] * 10), str(folder / "rows.parquet")])
    assert pq.ParquetFile(folder / "rows.parquet").num_row_groups == 3
    assert len(open_rows(folder / "rows.parquet")) == 10
    monkeypatch.setattr(convert_file, "_GROUP_BYTES", 50)  # less than the picture has
    picture = to_record(
        Row(
            messages=(Turn(role="user", content="<image>?"),),
            truth="1",
            media=(Medium(kind="image", data=(folder / "a.png").read_bytes()),),
        )
    )
    pq.write_table(convert_file.pa.Table.from_pylist([picture] * 3), folder / "in.parquet")
    main([str(folder / "in.parquet"), str(folder / "out.parquet")])
    assert pq.ParquetFile(folder / "out.parquet").num_row_groups == 3


def test_a_run_that_fails_leaves_the_old_file(folder, monkeypatch):
    out = folder / "rows.parquet"
    main([write_jsonl(folder, plain()), str(out)])
    before = out.read_bytes()
    monkeypatch.setattr(convert_file, "_normalised", None)
    with pytest.raises(TypeError):
        main([write_jsonl(folder, plain(), plain()), str(out)])
    assert out.read_bytes() == before
    assert not list(folder.glob(".*"))


def test_mistakes_are_told_in_a_line(folder, capsys):
    path = write_jsonl(folder, plain())
    (folder / "q.csv").write_text("question\nWhy?\n")
    for options in (
        [path, str(folder / "rows.json")],
        ["none.jsonl", str(folder / "rows.parquet")],
        ["none.csv", str(folder / "rows.parquet")],
        [str(folder / "q.csv"), str(folder / "rows.parquet")],
        [path, str(folder / "rows.parquet"), "--media-root", "nowhere"],
        [path],
    ):
        assert run_cli(lambda options=options: main(options)) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
