"""The evidence page: its jobs fit together, and its sentences say what the figures say."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from resadapt_jax.advantages import AdvantageConfig
from resadapt_jax.config import load_config
from resadapt_jax.data.toy_world import HARD_WORLD

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
from evidence import Places, to_do  # noqa: E402
from evidence_claims import claims  # noqa: E402
from evidence_jobs import FULL, QUICK, is_done, jobs, result_path, size_of  # noqa: E402
from evidence_page import METHODS, write_page  # noqa: E402
from evidence_results import Estimate, Results, paired  # noqa: E402

ABLATION = ROOT / "configs/toy_ablation.py"


def test_jobs_come_after_what_they_need():
    known = jobs(FULL)
    names = list(known)
    for place, (name, job) in enumerate(known.items()):
        assert all(known[need].output and need in names[:place] for need in job.needs), name
    outputs = [job.output for job in known.values() if job.output]
    assert len(set(outputs)) == len(outputs)
    assert {name.removeprefix("variant/") for name in names} >= {
        f"{method}/{seed}" for method in METHODS for seed in range(3)
    }


def test_what_is_to_do_includes_lost_output_that_is_needed(tmp_path):
    places = Places(folder=tmp_path / "runs", results=tmp_path / "results", page=tmp_path)
    known = jobs(QUICK)
    places.results.mkdir()
    for name, job in known.items():
        if name != "transfer/0":
            record = {"size": size_of(job, QUICK)}
            result_path(places.results, name).write_text(json.dumps(record))
    # Figures of another size do not count.
    other = result_path(places.results, "variant/gdpo/0")
    other.write_text(json.dumps({"size": size_of(known["variant/gdpo/0"], FULL)}))
    needed = ["backbone/qwen3_vl", "variant/capo_released/0", "variant/gdpo/0", "transfer/0"]
    assert to_do(known, QUICK, places) == [name for name in known if name in needed]
    (places.folder / known["backbone/qwen3_vl"].output).mkdir(parents=True)
    assert "backbone/qwen3_vl" not in to_do(known, QUICK, places)
    assert is_done(places.results, "backbone/hard", known["backbone/hard"], QUICK)


def test_every_variant_is_a_config():
    capo = load_config(ABLATION, "capo_released")
    for name in jobs(FULL):
        if name.startswith("variant/"):
            variant = name.split("/")[1]
            config = load_config(ABLATION, variant)
            assert isinstance(config.advantage, AdvantageConfig)
            assert config.output_dir == f"runs/toy_ablation/{variant}"
            assert (config.data == HARD_WORLD) == variant.startswith("hard_")
            assert variant == "capo_released" or config != capo
    with pytest.raises(Exception, match="knows no 'cappo'"):
        load_config(ABLATION, "cappo")


def test_an_estimate_is_a_mean_and_its_standard_error():
    # s = 1, 1/√3 = .57735; Student's t for two degrees of freedom is 4.303: 2 ± 2.484.
    wide = Estimate.of([1.0, 2.0, 3.0])
    np.testing.assert_allclose(wide[:2], [2.0, 0.57735], atol=1e-5)
    assert wide.sign == 0
    # s = .1: 1 ± .248
    assert Estimate.of([0.9, 1.0, 1.1]).sign == 1 and Estimate.of([-0.9, -1.0, -1.1]).sign == -1
    lone = Estimate.of([0.5])
    assert lone == (0.5, 0.0, 1) and lone.sign == 0
    assert Estimate.of([0.5, 0.52]).percent() == "51.0 ± 1.0 %"
    assert Estimate.of([-0.5, -0.52]).points() == "-51.0 ± 1.0 points"


def test_differences_are_of_the_same_seeds():
    first, second = {0: 5.0, 1: 7.0, 2: 100.0}, {0: 4.0, 1: 5.0}
    assert paired(first, second, lambda value: value) == (1.5, 0.5, 2)


def _record(accuracy, retention, spread=0.2):
    point = {"accuracy": accuracy, "retention": retention}
    return {
        "points": [
            {"method": "vanilla", "setting": "scale 1", "accuracy": 1.0, "retention": 1.0},
            {"method": "resadapt", "setting": "free", **point},
        ],
        "selectivity": {
            "gini": 0.3,
            "spread": spread,
            "hit_rate": 0.9,
            "hit_rate_by_chance": 0.1,
            "answers": {"kept": 500, "lost": 5, "gained": 1, "wrong": 6},
        },
        "training": {name: [0.1, 0.2] for name in ("step", "reward", "retention")},
    }


def _fixed(points):
    rows = [{"method": "fixed_scale", "setting": f"{r:g}", "accuracy": a, "retention": r}
            for r, a in points]  # fmt: skip
    full = {"method": "vanilla", "setting": "scale 1", "accuracy": 1.0, "retention": 1.0}
    return {"points": [*rows, full]}


def _write(folder, name, record):
    folder.mkdir(exist_ok=True)
    result_path(folder, name).write_text(json.dumps(record))


def _verdicts(folder):
    found = claims(Results(folder, FULL))
    return {claim.said.split(":")[0]: claim for claim in found}


def test_claims_follow_the_figures(tmp_path):
    for seed, shift in enumerate((-0.001, 0.0, 0.001)):
        figures = {
            "capo_released": _record(0.99 + shift, 0.19),
            "cost_outside": _record(0.98 + shift, 0.19 + 5 * shift),
            "direct_cost": _record(0.2 + shift, 0.0625),
            "accuracy": _record(1.0, 0.6 + shift),
            "capo_paper": _record(0.99 - shift, 0.19 - shift),
            "capo_released+similarity_paper": _record(0.99, 0.19, spread=0.1 + shift),
        }
        for name, record in figures.items():
            _write(tmp_path, f"variant/{name}/{seed}", record)
    _write(tmp_path, "frontier/0", _fixed([(0.1, 0.1), (0.3, 0.3)]))
    found = _verdicts(tmp_path)

    capo = found["CAPO"]
    assert (capo.verdict, capo.seeds) == ("yes", 3)
    assert capo.found == "19.0 ± 0.0 % of the tokens, -1.0 ± 0.1 points against full size"
    # FixedScale at .19 lies between .1 and .3: .19; .99 less that is .8.
    assert found["35 points or more above FixedScale at the same tokens"].found.startswith("+80.0")
    assert found["cost inside the reward collapses to the least sizes"].verdict == "yes"
    assert found["without a cost the policy goes to full size"].verdict == "no"  # .6 of the tokens
    assert found["CAPO's asymmetric shaping is what prevents the collapse"].verdict == "no"
    # One point more accurate with each seed, no difference in tokens that three seeds show.
    assert found["CAPO's shaping"].verdict == "better"
    assert found["the paper's sign of the shaping"].verdict == "no difference shown"
    similar = found["the similarity term (paper form) makes scales differ within a clip"]
    assert similar.verdict == "the opposite"
    assert found["savings buy more frames for the same tokens"].verdict == "not run"


def test_the_page_is_written_from_whatever_there_is(tmp_path):
    path = write_page(tmp_path / "results", tmp_path, FULL)
    assert "not run" in path.read_text()
    _write(tmp_path / "results", "variant/gdpo/1", _record(0.5, 0.25))
    _write(tmp_path / "results", "frontier/0", _fixed([(0.1, 0.1), (0.3, 0.3)]))
    text = write_page(tmp_path / "results", tmp_path, FULL).read_text()
    row = "| GDPO | 1 | 50.0 ± 0.0 % | 25.0 ± 0.0 % | +25.0 ± 0.0 points | 0.200 ± 0.000 |"
    assert row in text
    pictures = [line.split("(")[1].rstrip(")") for line in text.splitlines() if line[:2] == "!["]
    assert len(pictures) == 5 and all((tmp_path / name).stat().st_size > 5000 for name in pictures)
