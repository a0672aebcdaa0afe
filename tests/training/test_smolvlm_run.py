"""A run whose allocator sees through a SmolVLM2: trained, resumed, evaluated, or refused."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from resadapt_jax.allocator import (
    AllocatorConfig,
    SmolVLMEncoderConfig,
    ThumbnailConfig,
    count_params,
    init_params,
    smolvlm_encoder,
)
from resadapt_jax.allocator.checkpoint import load_allocator
from resadapt_jax.config import from_json, parse_config
from resadapt_jax.data.toy_source import ToyClips
from resadapt_jax.errors import UserError
from resadapt_jax.evaluation import run as evaluation
from resadapt_jax.evaluation.run import evaluate_run
from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.models.qwen2_5_vl.checkpoint import save_hf
from resadapt_jax.training import recipe
from resadapt_jax.training.config import EvaluationConfig, TrainConfig
from resadapt_jax.training.loop.metric_log import read_metrics
from resadapt_jax.training.loop.run_config import RunConfig
from resadapt_jax.training.mesh import MeshConfig
from resadapt_jax.training.recipe import train
from resadapt_jax.training.rollout_config import RolloutConfig
from resadapt_jax.training.state import describe_parameters
from resadapt_jax.training.update import UpdateConfig
from tests.evaluation.evaluation_parts import LIMITS, WORLD, backbone
from tests.smolvlm_factory import CONFIG, random_params, word_tokenizer, write_smolvlm
from tests.training.toy_parts import ALLOCATOR

NUM_STEPS, BATCH, NUM_CLIPS, CHUNK = 2, 2, 2, 4


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("smolvlm_run")
    save_hf(root / "backbone", backbone().config, backbone().params)
    backbone().tokenizer.save_pretrained(root / "backbone")
    write_smolvlm(root / "smolvlm", tokenizer=word_tokenizer())
    return root


def run_config(root, name, **encoder) -> TrainConfig:
    here = {"directory": str(root / "smolvlm"), "cache_dir": str(root / f"{name}_features")}
    here["chunk_frames"] = CHUNK
    return TrainConfig(
        output_dir=str(root / name),
        backbone=str(root / "backbone"),
        data=replace(WORLD, seed=0),
        limits=LIMITS,
        num_steps=NUM_STEPS,
        batch_size=BATCH,
        update=UpdateConfig(epochs=1),
        mesh=MeshConfig(data=1),
        run=RunConfig(checkpoint_every=1, samples_every=2),
        encoder=SmolVLMEncoderConfig(**here | encoder),
        allocator=replace(ALLOCATOR, num_space_time_layers=1),
        rollouts=RolloutConfig(
            num_allocations=2, token_capacity=12, decoding=DecodingConfig(max_new_tokens=2)
        ),
        evaluation=EvaluationConfig(
            num_clips=NUM_CLIPS, fixed_retentions=(0.25,), drop_retentions=(), budgets=()
        ),
    )


@pytest.fixture
def encoded(monkeypatch):
    """The number of frames each time that some go through the tower."""
    frames, encode = [], smolvlm_encoder._encode_frames

    def counting(encoder, chunk, native, mesh):
        frames.append(len(chunk))
        return encode(encoder, chunk, native, mesh)

    monkeypatch.setattr(smolvlm_encoder, "_encode_frames", counting)
    return frames


@pytest.fixture(scope="module")
def trained(root):
    """A whole run, without features on disk."""
    config = run_config(root, "whole", cache_dir="")
    train(config)
    return config


def weights(config):
    return load_file(Path(config.output_dir) / "allocator" / "model.safetensors")


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_a_run_records_its_encoder(root, trained):
    saved = from_json((Path(trained.output_dir) / "config.json").read_text(), TrainConfig)
    fingerprint = smolvlm_encoder.checkpoint_fingerprint(root / "smolvlm")
    assert saved.encoder == replace(trained.encoder, fingerprint=fingerprint)
    width = CONFIG.text.hidden_size
    assert (saved.allocator.frame_width, saved.allocator.text_width) == (width, width)
    allocator = load_allocator(Path(trained.output_dir) / "allocator")
    source = allocator.config.encoder
    assert (source.directory, source.fingerprint) == (root / "smolvlm", fingerprint)
    # Its words are the encoder's, not the backbone's.
    assert allocator.config.vocab_size == CONFIG.text.vocab_size != len(backbone().tokenizer)
    assert allocator.tokenizer.get_vocab() == word_tokenizer().get_vocab()


def test_a_run_shows_samples(trained):
    lines = read_metrics(Path(trained.output_dir) / "samples.jsonl")
    assert [line["step"] for line in lines] == [2] * BATCH
    shape = (trained.rollouts.num_allocations, WORLD.num_pairs)
    for line in lines:
        assert np.shape(line["scales"]) == shape
        assert np.shape(line["scores"]) == np.shape(line["answers"]) == (shape[0], 1)
        assert len(line["tokens"]) == shape[0] and line["prompt"] and line["truth"]


def test_each_prompt_is_encoded_once_and_read_from_disk_afterwards(
    root, trained, encoded, monkeypatch
):
    config, step = run_config(root, "cut"), recipe.run_step

    def stopped(trainer, frozen, state, *arguments):
        if int(state.step) == 1:
            raise RuntimeError("killed")
        return step(trainer, frozen, state, *arguments)

    monkeypatch.setattr(recipe, "run_step", stopped)
    with pytest.raises(RuntimeError, match="killed"):
        train(config)
    # One video a prompt, whatever the number of allocations.
    assert encoded == [CHUNK] * (BATCH * WORLD.num_frames // CHUNK) * NUM_STEPS
    monkeypatch.setattr(recipe, "run_step", step)
    encoded.clear()
    (root / "moved").symlink_to(root / "smolvlm")
    train(run_config(root, "cut", directory=str(root / "moved"), chunk_frames=CHUNK + 1))
    assert encoded == []
    assert_same(weights(config), weights(trained))


def test_questions_reach_the_encoder_in_its_own_words(root, trained, monkeypatch):
    asked, encode = [], smolvlm_encoder._encode_text

    def spying(encoder, ids, mask, mesh):
        asked.extend(
            word_tokenizer().decode(row[valid]) for row, valid in zip(ids, mask, strict=True)
        )
        return encode(encoder, ids, mask, mesh)

    monkeypatch.setattr(smolvlm_encoder, "_encode_text", spying)
    train(run_config(root, "asked"))
    clips = ToyClips(replace(WORLD, seed=0), BATCH * NUM_STEPS)
    assert asked == [clips[i]["question"] for i in range(len(clips))]


def test_evaluation_encodes_each_clip_once(root, trained, encoded, monkeypatch):
    for picture in ("frontier_png", "scale_traces_png"):
        monkeypatch.setattr(evaluation, picture, lambda *arguments, **options: b"")
    config = replace(trained, encoder=run_config(root, "whole").encoder)
    record = evaluate_run(config, "train me")
    assert encoded == [CHUNK] * (NUM_CLIPS * WORLD.num_frames // CHUNK)
    assert "changed_since_training" not in record
    assert {point["clips"] for point in record["points"]} == {NUM_CLIPS}
    encoded.clear()
    assert evaluate_run(config, "train me")["points"] == record["points"]
    assert encoded == []


def test_another_checkpoint_is_refused(root, trained, tmp_path, monkeypatch):
    other = write_smolvlm(tmp_path / "other", seed=1, tokenizer=word_tokenizer())
    encoder = replace(trained.encoder, directory=str(other))
    changed = replace(trained, encoder=encoder)
    with pytest.raises(UserError, match="holds a run of another config .encoder.fingerprint: "):
        train(changed)
    with pytest.raises(UserError, match=f"{other} is not the checkpoint that was recorded"):
        evaluate_run(changed, "train me")
    pinned = replace(trained, encoder=replace(trained.encoder, fingerprint="3b5d"))
    monkeypatch.setattr(smolvlm_encoder, "load_hf", None)  # no weights are read
    with pytest.raises(UserError, match="smolvlm is not the checkpoint that was recorded"):
        train(pinned)
    with pytest.raises(UserError, match="another checkpoint than that of encoder.fingerprint"):
        evaluate_run(pinned, "train me")


def test_another_kind_of_encoder_is_refused(root, trained, monkeypatch):
    monkeypatch.setattr(evaluation, "load_allocator", None)
    with pytest.raises(UserError, match="was trained with another encoder, not ThumbnailConfig"):
        evaluate_run(replace(trained, encoder=ThumbnailConfig()), "train me")


@pytest.mark.parametrize(
    ("encoder", "reason"),
    [
        ({"directory": "nowhere"}, "no SmolVLM checkpoint at nowhere"),
        ({"directory": "backbone"}, "backbone: .*qwen2_5_vl"),
        ({"filter": "bicubic"}, 'preprocess.filter: "lanczos" -> "bicubic"'),
        ({"dtype": "bfloat16"}, 'dtype: "float32" -> "bfloat16"'),
    ],
)
def test_what_cannot_serve_is_refused_in_one_line(root, trained, monkeypatch, encoder, reason):
    monkeypatch.setattr(recipe, "run", lambda state, *arguments, **options: state)
    train(run_config(root, "kept"))  # starts the cache
    monkeypatch.setattr(recipe, "run", None)
    monkeypatch.chdir(root)
    with pytest.raises(UserError, match=reason) as caught:
        train(run_config(root, "kept", **encoder))
    assert "\n" not in str(caught.value)


def test_the_counts_are_printed(root, trained, monkeypatch, capsys):
    monkeypatch.setattr(recipe, "run", lambda state, *arguments, **options: state)
    train(run_config(root, "printed"))
    own = sum(tensor.size for tensor in weights(trained).values())
    frozen = sum(leaf.size for leaf in jax.tree.leaves(random_params()))
    line = f"allocator: {own / 1e6:.3g} M parameters trained, {frozen / 1e6:.3g} M frozen (its enc"
    assert line in capsys.readouterr().out
    released = jax.eval_shape(lambda key: init_params(key, AllocatorConfig()), jax.random.key(0))
    assert describe_parameters(released, {}) == "47.9 M parameters trained, 0 M frozen"


def test_the_config_file_is_overridden_on_the_command_line():
    path = Path(__file__).resolve().parents[2] / "configs" / "toy_smolvlm.py"
    overrides = ("--encoder.directory", "here", "--encoder.cache-dir", "there")
    config = parse_config(["--config", str(path), *overrides, "--encoder.filter", "bicubic"])
    assert config.encoder == SmolVLMEncoderConfig(
        directory="here", cache_dir="there", filter="bicubic", dtype="bfloat16", chunk_frames=64
    )
    assert count_params(config.allocator) == count_params(AllocatorConfig())
