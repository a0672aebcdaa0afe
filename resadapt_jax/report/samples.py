"""A table of prompts, the allocations drawn for them and the answers, as records and as a page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

PICTURE_SIDE = 72
"""Longer side of a unit's picture at scale 1, in pixels of the page."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One prompt of a step, M allocations of its K units and N answers to each. Host arrays.

    Attributes:
        prompt: the question.
        truth: the answer that was graded right.
        pictures: one per unit; none of a text alone.
        scales: of each unit in each allocation.
        tokens: visual tokens of each allocation.
        answers: M rows of N texts.
        scores: what the answers got.
    """

    prompt: str
    truth: str
    pictures: UInt8[np.ndarray, "K height width 3"]
    scales: Float[np.ndarray, "M K"]
    tokens: Int[np.ndarray, " M"]
    answers: Sequence[Sequence[str]]
    scores: Float[np.ndarray, "M N"]


def to_record(sample: Sample) -> dict[str, Any]:
    """A line of samples.jsonl, of JSON's types: all but the pictures."""
    return {
        "prompt": sample.prompt,
        "truth": sample.truth,
        "answers": [list(row) for row in sample.answers],
        "scores": np.round(sample.scores.astype(float), 4).tolist(),
        "scales": np.round(sample.scales.astype(float), 4).tolist(),
        "tokens": sample.tokens.tolist(),
    }


def page(samples: Sequence[Sample], *, title: str) -> str:
    """HTML that needs no other file: an allocation a row, its pictures at their scales."""
    return _PAGE.render(title=title, side=PICTURE_SIDE, samples=[_shown(s) for s in samples])


def _shown(sample: Sample) -> dict[str, Any]:
    height, width = sample.pictures.shape[1:3]
    unit = PICTURE_SIDE / max(height, width, 1)
    rows = zip(sample.scales, sample.tokens, sample.answers, sample.scores, strict=True)
    return {
        "prompt": sample.prompt,
        "truth": sample.truth,
        "pictures": [_data_uri(picture, unit) for picture in sample.pictures],
        "rows": [
            {
                "tokens": int(tokens),
                "answers": [
                    (text, float(score)) for text, score in zip(answers, scores, strict=True)
                ],
                "sizes": [
                    (float(scale), round(width * unit * scale), round(height * unit * scale))
                    for scale in scales
                ],
            }
            for scales, tokens, answers, scores in rows
        ],
    }


def _data_uri(picture: UInt8[np.ndarray, "height width 3"], unit: float) -> str:
    """As JPEG, twice as fine as it is shown at scale 1."""
    height, width = (max(round(2 * unit * side), 1) for side in picture.shape[:2])
    file = io.BytesIO()
    Image.fromarray(picture).resize((width, height)).save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


# A picture is in the page once, as a class; every allocation shows it at a size of its own.
_PAGE = jinja2.Environment(autoescape=True).from_string("""\
<!doctype html>
<meta charset="utf-8">
<title>{{ title }}</title>
<style>
body { font: 14px sans-serif; background: #14161a; color: #f2f4f8; margin: 2em }
td { padding: 4px 12px 4px 0; vertical-align: middle }
.units { white-space: nowrap }
.units span { display: inline-block; background-size: 100% 100%; margin-right: 4px;
  vertical-align: middle }
.truth, .tokens { color: #8b93a1 }
.score { color: #f0a202 }
{% for sample in samples %}{% set prompt = loop.index %}{% for picture in sample.pictures -%}
.p{{ prompt }}u{{ loop.index }} { background-image: url({{ picture }}) }
{% endfor %}{% endfor -%}
</style>
<h1>{{ title }}</h1>
{% for sample in samples %}{% set prompt = loop.index %}
<h2>{{ sample.prompt }} <span class="truth">{{ sample.truth }}</span></h2>
<table>
{% for row in sample.rows -%}
<tr>
<td class="units">
{%- for scale, width, height in row.sizes -%}
<span class="p{{ prompt }}u{{ loop.index }}" title="×{{ '%.2f' % scale }}" style="width:
{{- width }}px;height:{{ height }}px"></span>
{%- endfor -%}
</td>
<td class="tokens">{{ row.tokens }} tokens</td>
<td>{% for text, score in row.answers %}{{ text }} <span class="score">{{ '%.2f' % score }}</span>
{% if not loop.last %}<br>{% endif %}{% endfor %}</td>
</tr>
{% endfor -%}
</table>
{% endfor -%}
""")
