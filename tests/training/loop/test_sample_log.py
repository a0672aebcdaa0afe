"""The sample table: a line per prompt, a page whose pictures stand at their scales."""

import base64
import io
import re

import numpy as np
from PIL import Image

from resadapt_jax.report.samples import PICTURE_SIDE, Sample
from resadapt_jax.training.loop.metric_log import read_metrics
from resadapt_jax.training.loop.sample_log import SampleLog


def sample(prompt="which?"):
    return Sample(
        prompt=prompt,
        truth="<b>",
        pictures=np.stack([np.full((56, 112, 3), shade, np.uint8) for shade in (0, 200)]),
        scales=np.array([[0.5, 1.0], [0.25, 2.0]], np.float32),
        tokens=np.array([5, 9]),
        answers=[["A"], ["B & C"]],
        scores=np.array([[0.0], [1.0]], np.float32),
    )


def test_a_line_per_prompt(tmp_path):
    log = SampleLog(tmp_path, done=0)
    log.add(3, [sample("one"), sample("two")])
    first, second = read_metrics(log.path)
    assert (first["prompt"], second["prompt"]) == ("one", "two")
    del second["prompt"]
    assert second == {
        "step": 3,
        "truth": "<b>",
        "answers": [["A"], ["B & C"]],
        "scores": [[0.0], [1.0]],
        "scales": [[0.5, 1.0], [0.25, 2.0]],
        "tokens": [5, 9],
    }


def test_a_page_shows_units_at_their_scales(tmp_path):
    log = SampleLog(tmp_path, done=0)
    log.add(3, [sample()])
    page = (log.pages / "3.html").read_text()
    sizes = re.findall(r'class="p1u(\d)"[^>]*width:(\d+)px;height:(\d+)px', page)
    at_one = PICTURE_SIDE, PICTURE_SIDE // 2
    expected = [(1, 0.5), (2, 1.0), (1, 0.25), (2, 2.0)]  # two units of two allocations
    assert sizes == [
        (str(unit), *(str(round(scale * side)) for side in at_one)) for unit, scale in expected
    ]
    for text in ("&lt;b&gt;", "B &amp; C", "9 tokens", "1.00"):
        assert text in page
    # Each picture is there once, and nothing comes from elsewhere.
    pictures = re.findall(r"url\((.*?)\)", page)
    assert len(pictures) == 2 and "http" not in page
    shades = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))).mean()
        for uri in pictures
    ]
    np.testing.assert_allclose(shades, [0, 200], atol=2)


def test_resuming_drops_what_comes_again(tmp_path):
    log = SampleLog(tmp_path, done=0)
    for step in (2, 4, 6):
        log.add(step, [sample()])
    log = SampleLog(tmp_path, done=4)
    assert [record["step"] for record in read_metrics(log.path)] == [2, 4]
    assert sorted(path.name for path in log.pages.iterdir()) == ["2.html", "4.html"]
