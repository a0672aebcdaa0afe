"""A directory that is no backbone is one clear line, in Python and from the command line."""

import json
import re
import shutil

import pytest
from test_programs import ROOT, run_program

from resadapt_jax.errors import UserError
from resadapt_jax.evaluation import run as evaluation
from resadapt_jax.generation.backbone import load_backbone
from resadapt_jax.shipped import TOY_ALLOCATOR, TOY_BACKBONE


def change(directory, part=None, **fields):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    (config if part is None else config[part]).update(fields)
    path.write_text(json.dumps(config))


def unsupported(directory):
    change(directory, model_type="llava")


def truncated(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def pickled(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def other_tokens(directory):
    change(directory, image_token_id=7, video_token_id=8)


MAIN = [
    (unsupported, "model_type is 'llava', supported are qwen2_5_vl, qwen3_vl"),
    (truncated, "a weight file cannot be read: .* file not fully covered"),
    (pickled, "lacks model.safetensors; pickled weights are not read, save them as safetensors"),
    (other_tokens, r"<\|image_pad\|> is 5, config.json says 7; <\|video_pad\|> is 6, .* says 8"),
]


def no_text(name):
    return lambda directory: (directory / name).write_bytes(b"\xff\xfe\x00")


def written(name, text):
    return lambda directory: (directory / name).write_text(text)


INDEX = "model.safetensors.index.json"
DAMAGED = [
    (written("config.json", "[]"), "config.json: the config is no JSON object"),
    (no_text("config.json"), "config.json is not JSON"),
    (lambda d: change(d, model_type=["qwen2_5_vl"]), r"model_type is \['qwen2_5_vl'\], supported"),
    (lambda d: change(d, vision_config=[]), "a field of config.json makes no sense"),
    (lambda d: change(d, "text_config", hidden_size="128"), "hidden_size is '128' in"),
    (lambda d: change(d, "text_config", num_attention_heads=0), "a field of config.json makes no"),
    (lambda d: change(d, "text_config", eos_token_id="</s>"), "eos_token_id must be an id"),
    (lambda d: change(d, "text_config", num_hidden_layers="3"), "num_hidden_layers is '3' in"),
    (lambda d: change(d, "text_config", num_attention_heads=4.0), "num_attention_heads is 4.0 in"),
    (lambda d: change(d, video_token_id="<pad>"), "video_token_id must be a token id, got '<pad>'"),
    (written(INDEX, '{"weight_map": ["a"]}'), "is no index of weights"),
    (written(INDEX, '{"weight_map": {"a": 3}}'), "is no index of weights"),
    (no_text(INDEX), "is no index of weights"),
    (written(INDEX, '{"weight_map": {"a": "b.safetensors"}}'), "lacks b.safetensors"),
    (written("tokenizer.json", "{}"), "no tokenizer in"),
    (written("tokenizer_config.json", "["), "no tokenizer in"),
    (lambda d: (d / "chat_template.jinja").unlink(), "the tokenizer has no chat template"),
]


@pytest.fixture
def directory(tmp_path):
    return shutil.copytree(TOY_BACKBONE, tmp_path / "backbone")


@pytest.mark.parametrize(("damage", "message"), MAIN + DAMAGED)
def test_python_raises_one_line_that_names_the_directory(directory, damage, message):
    damage(directory)
    with pytest.raises(UserError, match=message) as error:
        load_backbone(directory)
    assert str(directory) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("damage", "message"), MAIN)
def test_eval_ends_with_code_2_before_any_clip(
    directory, tmp_path, monkeypatch, capsys, damage, message
):
    damage(directory)
    shutil.copytree(TOY_ALLOCATOR, tmp_path / "run" / "allocator")
    monkeypatch.setattr(evaluation, "evaluate_opened", None)  # a call would be no UserError
    arguments = ["--config", str(ROOT / "configs/toy.py"), "--output-dir", str(tmp_path / "run")]
    assert run_program(monkeypatch, "eval.py", *arguments, "--backbone", str(directory)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"error: {directory}.*{message}", line)
