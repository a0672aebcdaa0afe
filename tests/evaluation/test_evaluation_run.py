"""One command evaluates a run; what is wrong with the run is said in one line."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from allocator_factory import make_allocator
from evaluation_parts import LIMITS, WORLD, backbone, clips

from resadapt_jax.allocator import LogisticNormalBounds, Pictures, ScaleRange, ThumbnailConfig
from resadapt_jax.allocator.checkpoint import save_allocator
from resadapt_jax.allocator.network import allocate
from resadapt_jax.allocator.policy import to_scale
from resadapt_jax.config import to_json
from resadapt_jax.data.toy_questions import question_text
from resadapt_jax.data.toy_source import ToyClips
from resadapt_jax.errors import UserError, run_cli
from resadapt_jax.evaluation import run
from resadapt_jax.evaluation.clips import other_colour
from resadapt_jax.evaluation.evaluator import propose
from resadapt_jax.evaluation.run import evaluate_run
from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.models.prompt_builder import build_prompt
from resadapt_jax.models.qwen2_5_vl.checkpoint import save_hf
from resadapt_jax.operators import SizeLimits
from resadapt_jax.report.frontier import frontier_table
from resadapt_jax.training.config import (
    BackboneTrainingConfig,
    EvaluationConfig,
    TrainConfig,
    resolve,
)
from resadapt_jax.training.encoder import encode

ROOT = Path(__file__).resolve().parents[2]
NUM_CLIPS = 7  # two batches of four, of which the last clip does not count


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A run's directory, as training leaves it, with random weights."""
    directory = tmp_path_factory.mktemp("run")
    save_hf(directory / "backbone", backbone().config, backbone().params)
    backbone().tokenizer.save_pretrained(directory / "backbone")
    save_allocator(directory / "allocator", make_allocator(noise=0.5))
    config = TrainConfig(
        output_dir=str(directory),
        backbone=str(directory / "backbone"),
        data=replace(WORLD, seed=0),
        limits=LIMITS,
        evaluation=EvaluationConfig(
            num_clips=NUM_CLIPS,
            batch_size=4,
            fixed_retentions=(0.25, 0.5),
            drop_retentions=(0.5,),
            budgets=(0.5,),
            capacities=(0.25, 1.0, 4.0),
        ),
    )
    resolved = resolve(config, make_allocator().encoder)
    (directory / "config.json").write_text(to_json(resolved))
    return config


@pytest.fixture(scope="module")
def evaluated(config):
    """What was measured, and the files of it before another test writes there."""
    record = evaluate_run(config, "train me")
    files = {p.name: p.read_bytes() for p in Path(config.output_dir).iterdir() if p.is_file()}
    return record, files


@pytest.fixture(scope="module")
def record(evaluated):
    return evaluated[0]


def test_the_files_are_written_and_hold_what_was_measured(evaluated):
    record, files = evaluated
    saved = json.loads(files["frontier.json"])
    assert saved == record
    assert set(saved) == {
        "points", "gain_at_matched_retention", "controls", "config", "versions"
    }  # fmt: skip
    assert saved["config"]["advantage"]["kind"] == "CapoConfig"
    for name in ("frontier.png", "scales.png"):
        assert files[name].startswith(b"\x89PNG\r\n\x1a\n")
    assert not [name for name in files if name.endswith(".tmp")]


def test_every_point_is_there_with_the_retention_it_says(record):
    points = {(p["method"], p["setting"]): p for p in record["points"]}
    assert list(points) == [
        ("vanilla", "scale 1"),
        ("random_drop", "tokens 0.5"),
        ("random_drop", "frames 0.5"),
        ("fixed_scale", "0.25"),
        ("fixed_scale", "0.5"),
        ("oracle", "evidence at 1"),
        ("resadapt", "free"),
        ("resadapt", "budget 0.5"),
    ]
    for point in points.values():
        assert {"method", "setting", "retention", "accuracy", "stderr", "clips"} <= set(point)
        assert point["clips"] == NUM_CLIPS
        assert 0 <= point["accuracy"] <= 1 and point["retention"] > 0
        # This allocator may ask for scales up to 1.8: 100 pixels, hence 16 tokens instead of 4.
        assert point["retention"] <= (4 if point["setting"] == "free" else 1)
        assert sum(task["clips"] for task in point["tasks"].values()) == NUM_CLIPS
    assert points["vanilla", "scale 1"]["retention"] == 1.0
    # One layer's keys and values, 2 heads of 32 numbers of 4 bytes: 512 bytes a slot. 4 rows of
    # 3 headers of 4 tokens, the longest question in its markup, 12 visual tokens, 4 of the answer.
    longest = "How many points is the yellow sign worth?"
    turn = len(build_prompt(backbone().tokenizer, longest, []).token_ids)
    assert points["vanilla", "scale 1"]["cache_bytes"] == 4 * (12 + turn + 12 + 4) * 512
    assert points["random_drop", "tokens 0.5"]["retention"] == 0.5
    # Tokens are dropped after all were encoded; whatever resizes encodes what it keeps.
    assert points["random_drop", "tokens 0.5"]["encoded"] == 1.0
    assert all(p["encoded"] == p["retention"] for (_, s), p in points.items() if s != "tokens 0.5")
    assert points["fixed_scale", "0.25"]["retention"] == 0.25
    assert points["fixed_scale", "0.5"]["retention"] == 0.5
    assert points["resadapt", "budget 0.5"]["retention"] <= 0.5
    # 4 tokens where the evidence is and 1 elsewhere, over 7 clips of 12; the eighth is not counted.
    evidence = sum(clip["evidence"].sum() for clip in clips_seen())
    expected = (4 * evidence + 3 * NUM_CLIPS - evidence) / (12 * NUM_CLIPS)
    assert points["oracle", "evidence at 1"]["retention"] == pytest.approx(expected)
    assert record["controls"]["blind"]["retention"] == 0.0


def clips_seen():
    source = ToyClips(replace(WORLD, seed=EvaluationConfig().seed), NUM_CLIPS)
    return [source[i] for i in range(NUM_CLIPS)]


def test_the_table_has_a_row_for_everything(record):
    table = frontier_table(record)
    for name in ("vanilla", "tokens 0.5", "evidence at 1", "budget 0.5", "other query", "blind"):
        assert name in table
    assert "gain at matched retention" in table


def test_a_changed_config_is_recorded_and_all_else_repeats_exactly(config, record):
    changed = replace(config, advantage=replace(config.advantage, gamma=9.0))
    again = evaluate_run(changed, "train me")
    assert again["changed_since_training"] == ["advantage.gamma: 0.05 -> 9.0"]
    assert again["points"] == record["points"] and again["controls"] == record["controls"]


def test_the_wrong_query_reaches_the_allocator_and_only_it():
    allocator, batch = make_allocator(noise=0.5), clips().batch
    proposed = propose(allocator, clips())
    assert proposed.scales.shape == (4, WORLD.num_pairs)
    assert np.abs(proposed.scales - proposed.other_query).max() > 1e-3
    # What is proposed for the other query is what would be for a batch that has it by rights.
    others = other_colour(clips().questions)
    assert all(clips().questions[i] != clips().questions[j] for i, j in enumerate(others))
    other = batch.replace(query_ids=batch.query_ids[others], query_mask=batch.query_mask[others])
    swapped = propose(allocator, replace(clips(), batch=other))
    np.testing.assert_allclose(swapped.scales, proposed.other_query, atol=1e-6)


@pytest.mark.parametrize(
    ("colours", "expected"),
    [
        ("red blue green", [1, 2, 0]),
        ("red red blue red", [2, 2, 3, 2]),  # the last passes two of its own colour
        ("red red red blue", [3, 3, 3, 0]),
        ("blue cyan cyan blue", [1, 3, 3, 1]),
        ("red red red", [1, 2, 0]),  # none differs
        ("red", [0]),
    ],
)
def test_the_other_query_is_the_nearest_about_another_colour(colours, expected):
    tasks = ("which", "how_many", "when")
    questions = [question_text(tasks[i % 3], colour) for i, colour in enumerate(colours.split())]
    assert other_colour(questions).tolist() == expected


def test_the_other_query_shares_no_colour_with_a_question_about_two():
    colours = ("red blue", "blue", "red cyan", "green")
    questions = [question_text("both", *colours[0].split()), question_text("which", colours[1])]
    questions += [question_text("both", *colours[2].split()), question_text("when", colours[3])]
    assert other_colour(questions).tolist() == [3, 2, 3, 0]


def test_frame_actions_are_averaged_over_pairs():
    allocator = make_allocator(noise=0.5, unit="frame", bounds=LogisticNormalBounds())
    batch = clips().batch
    pictures = Pictures.of_videos(batch.frames).replace(
        mask=batch.frame_mask, segment_ids=batch.segment_ids
    )
    features = encode(allocator.encoder, pictures, batch.query_ids, batch.query_mask)
    policy = allocate(allocator.params, allocator.config.network, features).policy
    scales = np.asarray(to_scale(policy.mean(), allocator.config.scale_range))
    first, second = scales[:, ::2], scales[:, 1::2]
    assert np.abs(first - second).max() > 1e-4
    proposed = propose(allocator, clips()).scales
    np.testing.assert_allclose(proposed, (first + second) / 2, atol=1e-6)


def test_no_allocator_names_the_command_that_makes_one(config, tmp_path):
    with pytest.raises(UserError, match="no trained allocator at .*; make one with: train me"):
        evaluate_run(replace(config, output_dir=str(tmp_path)), "train me")


def test_the_allocator_is_the_one_that_the_run_ends_with(config, tmp_path):
    trained = str(Path(config.output_dir) / "allocator")
    assert config.trained_allocator == trained
    kept = {
        "train_allocator": False,
        "backbone_training": BackboneTrainingConfig(),
        "rollouts": replace(config.rollouts, decoding=DecodingConfig(temperature=1.0)),
    }
    assert replace(config, start_allocator="elsewhere", **kept).trained_allocator == "elsewhere"
    alone = replace(config, allocator=None, scale_range=ScaleRange(s_min=0.2, s_max=1.0), **kept)
    with pytest.raises(UserError, match="no allocator to evaluate"):
        evaluate_run(alone, "train me")


def test_an_allocator_of_another_backbone_is_refused(config, tmp_path):
    small = make_allocator()
    table = small.encoder.text_table[:-1]
    small = replace(
        small,
        config=replace(small.config, vocab_size=len(table)),
        encoder=small.encoder.replace(text_table=table),
    )
    save_allocator(tmp_path / "allocator", small)
    with pytest.raises(UserError, match="trained with another backbone"):
        evaluate_run(replace(config, output_dir=str(tmp_path)), "train me")


def test_clips_that_were_trained_on_are_refused(config):
    same_seed = replace(config, evaluation=replace(config.evaluation, seed=config.data.seed))
    with pytest.raises(UserError, match="trained on"):
        evaluate_run(same_seed, "train me")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"budgets": (0.5, 0.2)}, "a budget of 0.2 is 2 tokens a clip, but 3 are needed"),
        ({"fixed_retentions": (0.5, 0.2)}, "keeps 0.25 to 1 of the tokens, not 0.2"),
        # 56 pixels at s_max 1.8 are 100, that is 4 x 4 tokens where there were 2 x 2.
        ({"capacities": (1.0, 3.9)}, "end at 3.9 of the native tokens, .* 1.8 asks for 4"),
    ],
)
def test_shares_that_cannot_be_kept_are_refused_before_any_clip(
    config, monkeypatch, changed, reason
):
    def never(*arguments, **options):
        raise AssertionError("a clip was evaluated")

    monkeypatch.setattr(run, "evaluate", never)
    with pytest.raises(UserError, match=reason):
        evaluate_run(replace(config, evaluation=replace(config.evaluation, **changed)), "train me")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"encoder": ThumbnailConfig(grid=2)}, "encoder.grid is 2, the allocator was .* with 4"),
        ({"limits": SizeLimits(patch_size=16)}, "patches of 16 pixels .* the backbone has 14"),
    ],
)
def test_another_view_or_other_sizes_are_refused_before_any_clip(
    config, monkeypatch, changed, reason
):
    monkeypatch.setattr(run, "evaluate", None)
    with pytest.raises(UserError, match=reason):
        evaluate_run(replace(config, **changed), "train me")


def test_a_damaged_config_is_refused_before_any_clip(config, monkeypatch):
    monkeypatch.setattr(run, "evaluate", None)
    path = Path(config.output_dir) / "config.json"
    whole = path.read_bytes()
    try:
        for damaged in (whole[:-5], b"\xff\xfe", b"[]"):
            path.write_bytes(damaged)
            with pytest.raises(UserError, match=f"{path} is damaged: "):
                evaluate_run(config, "train me")
    finally:
        path.write_bytes(whole)


def test_what_was_measured_outlives_a_picture_that_fails(config, record, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("no fonts")

    path = Path(config.output_dir) / "frontier.json"
    path.unlink()
    monkeypatch.setattr(run, "frontier_png", fail)
    with pytest.raises(RuntimeError, match="no fonts"):
        evaluate_run(config, "train me")
    assert json.loads(path.read_text())["points"] == record["points"]


def run_eval(monkeypatch, *arguments):
    spec = importlib.util.spec_from_file_location("eval_program", ROOT / "eval.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    monkeypatch.setattr(sys, "argv", ["eval.py", *arguments])
    return run_cli(program.main)


def test_the_program_says_what_is_missing(monkeypatch, capsys, tmp_path):
    config = ("--config", str(ROOT / "configs/toy.py"))
    assert run_eval(monkeypatch, *config, "--output-dir", str(tmp_path)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no trained allocator at") and error.count("\n") == 1
    assert f"python train.py --config {ROOT}/configs/toy.py --output-dir {tmp_path}" in error
    assert not any(tmp_path.iterdir())
    assert run_eval(monkeypatch, "--config", str(ROOT / "configs/toy_pretrain.py")) == 2
    assert "PretrainConfig" in capsys.readouterr().err
