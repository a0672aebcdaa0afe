"""Which tokens end an answer: those of both config files of a directory."""

import json
import shutil
from dataclasses import replace

import pytest
from generation_parts import CONFIGS

from resadapt_jax.errors import UserError
from resadapt_jax.generation.backbone import load_backbone
from resadapt_jax.generation.stopping import stop_tokens, with_generation_eos
from resadapt_jax.shipped import TOY_BACKBONE

CONFIG = CONFIGS["qwen2_5_vl"]  # ends at 19, has 24 tokens


def listed(tmp_path, text, config=CONFIG):
    (tmp_path / "generation_config.json").write_text(text)
    return with_generation_eos(tmp_path, config).eos_token_id


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", 19),
        ('{"eos_token_id": null}', 19),
        ('{"eos_token_id": 19}', 19),
        ('{"eos_token_id": 3}', (3, 19)),
        ('{"eos_token_id": [19, 7, 3]}', (3, 7, 19)),
    ],
)
def test_tokens_of_both_files_end_an_answer(tmp_path, text, expected):
    assert listed(tmp_path, text) == expected


def test_either_file_suffices(tmp_path):
    assert with_generation_eos(tmp_path, CONFIG) == CONFIG
    without = replace(CONFIG, eos_token_id=None)
    assert listed(tmp_path, '{"eos_token_id": [3, 7]}', without) == (3, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "generation_config.json is not JSON"),
        ("[3]", "generation_config.json: .* object"),
        ('{"eos_token_id": "</s>"}', "must be an id or a list of ids, got"),
        ('{"eos_token_id": [3, true]}', "must be an id or a list of ids, got"),
        ('{"eos_token_id": [3, 24]}', r"stop tokens \[24\] are outside 24 tokens"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        listed(tmp_path, text)


def test_a_backbone_that_would_never_end_is_refused(tmp_path):
    shutil.copytree(TOY_BACKBONE, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    own = config["text_config"].pop("eos_token_id")
    config.pop("eos_token_id", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"^{tmp_path}: .* no eos_token_id"):
        load_backbone(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [own, 5]}))
    assert load_backbone(tmp_path).config.eos_token_id == tuple(sorted((own, 5)))


def test_stop_tokens_of_a_call_are_added_to_the_models():
    assert stop_tokens(CONFIG) == (19,)
    assert stop_tokens(replace(CONFIG, eos_token_id=(19, 2)), (5, 2)) == (2, 5, 19)
    with pytest.raises(UserError, match="names no eos_token_id"):
        stop_tokens(replace(CONFIG, eos_token_id=None), (5,))
    with pytest.raises(UserError, match=r"\[24\] are outside 24 tokens"):
        stop_tokens(CONFIG, (24,))
