"""Qwen3-VL directories: what we write transformers loads, and what either wrote comes back."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with HF transformers needs torch")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from flax import traverse_util  # noqa: E402
from hf_qwen3_vl import SHORT, random_hf_model  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402
from transformers import AutoModelForImageTextToText  # noqa: E402

from resadapt_jax.models.qwen3_vl.checkpoint import load_hf, save_hf  # noqa: E402
from resadapt_jax.models.qwen3_vl.model import param_shapes  # noqa: E402


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def exported(request, tmp_path_factory):
    """A model of transformers, and the directory that we make of it."""
    theirs, ours = tmp_path_factory.mktemp("theirs"), tmp_path_factory.mktemp("ours")
    hf_model = random_hf_model(seed=6)
    if request.param:
        hf_model.config.tie_word_embeddings = True
        hf_model.tie_weights()
    hf_model.save_pretrained(theirs)
    config, params = load_hf(theirs)
    assert config.tie_word_embeddings == request.param
    save_hf(ours, config, params)
    return hf_model, theirs, ours


def test_transformers_loads_what_we_write(exported):
    hf_model, _, directory = exported
    loaded, report = AutoModelForImageTextToText.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    assert type(loaded) is type(hf_model)
    assert not any(report[problem] for problem in ("missing_keys", "unexpected_keys"))
    assert not report["mismatched_keys"]
    with torch.no_grad():
        expected = hf_model(**SHORT.hf_inputs()).logits
        assert torch.equal(loaded.eval()(**SHORT.hf_inputs()).logits, expected)


def test_round_trip_is_bitwise(exported):
    _, theirs, ours = exported
    config, params = load_hf(theirs)
    again, reloaded = load_hf(ours)
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, reloaded, params)
    stored = load_file(ours / "model.safetensors")
    original = load_file(theirs / "model.safetensors")
    assert stored.keys() == param_shapes(config).keys()
    for key, value in stored.items():
        np.testing.assert_array_equal(value, original[key], key)


def test_bfloat16_round_trip_and_cast(exported, tmp_path):
    _, theirs, _ = exported
    config, half = load_hf(theirs, jnp.bfloat16)
    save_hf(tmp_path, config, half)
    _, kept = load_hf(tmp_path)
    for key, value in traverse_util.flatten_dict(kept, sep=".").items():
        assert value.dtype == jnp.bfloat16, key
    jax.tree.map(np.testing.assert_array_equal, kept, half)


def test_each_device_gets_its_part(exported):
    _, theirs, _ = exported
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"))
    _, whole = load_hf(theirs)
    _, params = load_hf(theirs, mesh=mesh)
    jax.tree.map(np.testing.assert_array_equal, params, whole)
    decoder = params["model"]["language_model"]
    gate = decoder["layers"]["0"]["mlp"]["gate_proj"]["weight"]  # 96 x 64 on 2 x 2 devices
    assert {shard.data.shape for shard in gate.addressable_shards} == {(48, 32)}
    assert decoder["norm"]["weight"].is_fully_replicated
