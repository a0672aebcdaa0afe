"""One place picks the family of a model: by its config, or by what a directory says."""

import json

import jax
import numpy as np
import pytest
from test_qwen2_5_vl import CONFIG as QWEN2_5
from test_qwen3_vl import CONFIG as QWEN3

from resadapt_jax.errors import UserError
from resadapt_jax.models.families import family_of, load_hf


@pytest.mark.parametrize("config", [QWEN2_5, QWEN3], ids=["qwen2_5_vl", "qwen3_vl"])
def test_every_family_has_what_generation_asks_for(config):
    family = family_of(config)
    assert family.model.__name__.split(".")[-2] == type(config).__module__.split(".")[-2]
    for module, names in [
        (family.model, ["encode_visual", "embed_prompt", "run_decoder", "forward"]),
        (family.model, ["param_shapes", "init_params"]),
        (family.text, ["embed_tokens", "forward", "logits"]),
        (family.checkpoint, ["load_hf", "save_hf"]),
    ]:
        assert all(callable(getattr(module, name)) for name in names)


@pytest.mark.parametrize("config", [QWEN2_5, QWEN3], ids=["qwen2_5_vl", "qwen3_vl"])
def test_a_directory_says_its_family(tmp_path, config):
    family = family_of(config)
    params = jax.jit(family.model.init_params, static_argnums=1)(jax.random.key(0), config)
    family.checkpoint.save_hf(tmp_path, config, params)
    loaded, tensors = load_hf(tmp_path)
    assert loaded == config
    jax.tree.map(np.testing.assert_array_equal, tensors, params)


@pytest.mark.parametrize("written", [{"model_type": "llava"}, {}])
def test_an_unsupported_family_is_named_with_the_supported(tmp_path, written):
    (tmp_path / "config.json").write_text(json.dumps(written))
    with pytest.raises(UserError) as error:
        load_hf(tmp_path)
    assert f"model_type is {written.get('model_type')!r}" in str(error.value)
    assert "supported are qwen2_5_vl, qwen3_vl" in str(error.value)
