"""What is told of a corpus, on the terminal and as a page."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from video_factory import (
    block_frames,
    flat_frames,
    overwrite_packets,
    write_intra_mp4,
    write_video,
)

from resadapt_jax.data import inspect as inspect_file
from resadapt_jax.data.inspect import Bin, histogram
from resadapt_jax.errors import UserError, run_cli


@pytest.fixture
def corpus(tmp_path):
    write_video(tmp_path / "a.mkv", flat_frames(40))
    # Its packets are all there, so only decoding shows that there is nothing in them.
    overwrite_packets(write_intra_mp4(tmp_path / "b.mp4", block_frames(30)), 0, 30)
    Image.fromarray(np.full((56, 56, 3), 200, np.uint8)).save(tmp_path / "a.png")
    asked = [
        ("<video>When?", {"videos": ["a.mkv"]}, "exact match"),
        ("<video>Why?", {"videos": ["b.mp4"]}, "ocr"),
        ("<image><script>alert(1)</script> & what?", {"images": ["a.png"]}, "ocr"),
        ("Two words", {}, "ocr"),
        ("<video>Where?", {"videos": ["<b>.mp4"]}, "ocr"),
    ]
    rows = [
        {
            "prompt": [{"role": "user", "content": content}],
            "reward_model": {"ground_truth": "<i>A</i>"},
            "extra_info": {"problem_type": task},
            **media,
        }
        for content, media, task in asked
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


class Page(HTMLParser):
    """The tags, the text and the pictures of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.text = set(), [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def told(corpus, capsys, *options):
    out = corpus.parent / "page.html"
    inspect_file.main([str(corpus), "--out", str(out), *options])
    return capsys.readouterr().out, Page(out.read_text())


def test_rows_are_counted_by_task_and_modality(corpus, capsys):
    text, page = told(corpus, capsys)
    assert "5 rows, 4 kept, 1 dropped" in text
    assert re.search(r"3 ocr: 1 text, 1 image, 1 video\n", text)
    assert re.search(r"1 exact match: 1 video\n", text)
    assert "1 no such file" in text
    assert "5 rows: 4 can be used, 1 cannot." in page.text


def test_answers_are_checked_as_before_training(corpus, capsys):
    corpus.write_text(corpus.read_text().replace('"exact match"', '"riddle"'))
    text, _ = told(corpus, capsys)
    assert "5 rows, 3 kept, 2 dropped" in text and "unknown task type 'riddle'" in text
    assert "5 rows, 4 kept" in told(corpus, capsys, "--default-task", "general")[0]


def test_visual_tokens_are_those_of_the_frames_asked_for(corpus, capsys):
    # The flat clip has 56 x 84 pixels, 6 tokens a pair; four seconds give eight frames.
    _, page = told(corpus, capsys, "--frames", "8")
    assert "a.mkv · 24 visual tokens" in page.text
    _, page = told(corpus, capsys, "--frames", "4")
    assert "a.mkv · 12 visual tokens" in page.text
    _, page = told(corpus, capsys, "--frames", "8", "--patch-size", "21")  # 42: 1.3 by 2 tokens
    assert "a.mkv · 8 visual tokens" in page.text


def test_the_page_stands_alone_and_escapes_what_it_shows(corpus, capsys):
    _, page = told(corpus, capsys)
    assert not page.tags & {"script", "link", "iframe", "i"}
    assert "<script>alert(1)</script> & what?" in page.text
    assert "<i>A</i>" in page.text and "<b>.mp4" in page.text
    assert page.links and all(link.startswith("data:image/jpeg;base64,") for link in page.links)


def test_decoding_finds_what_headers_do_not_tell(corpus, capsys):
    text, _ = told(corpus, capsys)
    assert "would be skipped" not in text
    text, page = told(corpus, capsys, "--decode", "9")
    assert "decoded 4 rows" in text and "1 would be skipped" in text
    assert re.search("row 1: unreadable video: no frame of .*b.mp4 could be decoded", text)
    assert "4 rows decoded, 1 would be skipped." in page.text


def test_as_many_rows_are_shown_as_asked_for(corpus, capsys):
    _, page = told(corpus, capsys, "--rows", "1")
    assert "When?" in page.text and "Why?" not in page.text
    assert len(page.links) == 6  # thumbnails of the eight frames
    _, page = told(corpus, capsys, "--rows", "0")
    assert "When?" not in page.text


def test_a_histogram_has_every_value_in_a_bin():
    assert histogram(np.array([3, 3, 5, 12]), bins=5) == (
        Bin(3, 4, 2), Bin(5, 6, 1), Bin(7, 8, 0), Bin(9, 10, 0), Bin(11, 12, 1)
    )  # fmt: skip
    assert histogram(np.array([7, 7])) == (Bin(7, 7, 2),)


def test_mistakes_are_told_in_a_line(corpus, capsys, monkeypatch):
    monkeypatch.chdir(corpus.parent)
    for options in (
        ["none.parquet"],
        [str(corpus), "--rows", "-1"],
        [str(corpus), "--frames", "1"],
    ):
        assert run_cli(lambda options=options: inspect_file.main(options)) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1


def test_no_row_that_can_be_used_is_told_too(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": [], "reward_model": {"ground_truth": ""}}')
    text, page = told(path, capsys)
    assert "1 rows, 0 kept, 1 dropped" in text and "empty prompt" in page.text


def test_the_help_names_every_option(capsys):
    with pytest.raises(SystemExit):
        inspect_file.main(["--help"])
    text = capsys.readouterr().out
    for option in ("--media-root", "--frames", "--fps", "--rows", "--decode", "--out"):
        assert option in text


def test_an_unknown_option_is_refused():
    with pytest.raises(UserError, match="--frame"):
        inspect_file.main(["rows.jsonl", "--frame", "8"])
