"""Checkpoint directories: round trips, shards, key layouts, and every error at once."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from resadapt_jax.errors import UserError
from resadapt_jax.models import hf
from resadapt_jax.models.qwen2_5_vl.checkpoint import load_hf, save_hf
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig, TextConfig, VisionConfig
from resadapt_jax.models.qwen2_5_vl.model import init_params, param_shapes

CONFIG = Qwen2_5VLConfig(
    text=TextConfig(
        vocab_size=24,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        mrope_section=(1, 1, 2),
    ),
    vision=VisionConfig(
        depth=2,
        hidden_size=8,
        intermediate_size=12,
        num_heads=2,
        out_hidden_size=16,
        fullatt_block_indexes=(1,),
    ),
    image_token_id=20,
    video_token_id=21,
    vision_start_token_id=22,
    vision_end_token_id=23,
    eos_token_id=(1, 2),
)


@pytest.fixture(scope="module")
def tensors():
    """Distinct numpy tensors under the published keys."""
    rng = np.random.default_rng(0)
    return {k: rng.normal(size=s).astype("f4") for k, s in param_shapes(CONFIG).items()}


def write(directory, config, shards):
    """A directory of one or several shards, with an index if there are several."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config.to_hf()))
    if len(shards) == 1:
        save_file(shards[0], directory / "model.safetensors")
        return directory
    weight_map = {}
    for number, shard in enumerate(shards):
        save_file(shard, directory / f"part-{number}.safetensors")
        weight_map |= {key: f"part-{number}.safetensors" for key in shard}
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def assert_same(params, tensors):
    flat = traverse_util.flatten_dict(params, sep=".")
    assert flat.keys() == tensors.keys()
    for key, value in flat.items():
        np.testing.assert_array_equal(value, tensors[key], key)


def test_round_trip(tmp_path, tensors):
    params = traverse_util.unflatten_dict(tensors, sep=".")
    save_hf(tmp_path / "model", CONFIG, params)
    config, loaded = load_hf(tmp_path / "model")
    assert config == CONFIG
    assert_same(loaded, tensors)


def test_bfloat16_round_trip_and_cast(tmp_path, tensors):
    half = {key: value.astype(jnp.bfloat16) for key, value in tensors.items()}
    params = traverse_util.unflatten_dict(half, sep=".")
    save_hf(tmp_path / "model", CONFIG, params)
    _, kept = load_hf(tmp_path / "model")
    _, cast = load_hf(tmp_path / "model", jnp.float32)
    for leaf in zip(*map(jax.tree.leaves, (params, kept, cast)), strict=True):
        assert [x.dtype for x in leaf] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
        np.testing.assert_array_equal(leaf[0], leaf[1])
        np.testing.assert_array_equal(leaf[0].astype(jnp.float32), leaf[2])


def test_shards_with_an_index(tmp_path, tensors):
    keys = sorted(tensors)
    shards = [{key: tensors[key] for key in keys[i::3]} for i in range(3)]
    _, params = load_hf(write(tmp_path / "model", CONFIG, shards))
    assert_same(params, tensors)


def test_large_exports_are_divided(tmp_path, tensors):
    params = traverse_util.unflatten_dict(tensors, sep=".")
    save_hf(tmp_path / "model", CONFIG, params)  # what an earlier export left must go
    hf.save(tmp_path / "model", CONFIG.to_hf(), params, max_file_bytes=20_000)
    files = sorted((tmp_path / "model").glob("*.safetensors"))
    assert len(files) > 2 and all(path.name.startswith("model-0") for path in files)
    sizes = [
        {key: len(value.tobytes()) for key, value in load_file(path).items()} for path in files
    ]
    # Only a tensor that is too large by itself exceeds the limit, and then it is alone.
    assert all(sum(size.values()) <= 20_000 or len(size) == 1 for size in sizes)
    _, loaded = load_hf(tmp_path / "model")
    assert_same(loaded, tensors)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_each_device_gets_its_part(tmp_path, tensors, dtype):
    save_hf(tmp_path / "model", CONFIG, traverse_util.unflatten_dict(tensors, sep="."))
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"))
    _, params = load_hf(tmp_path / "model", dtype, mesh)
    flat = traverse_util.flatten_dict(params, sep=".")
    for key, value in flat.items():
        np.testing.assert_array_equal(value, tensors[key].astype(dtype or "f4"), key)
    # 20 hidden units by 16 inputs: 10 x 8 on each of the 2 x 2 devices, the same on both of data.
    gate = flat["model.layers.0.mlp.gate_proj.weight"]
    assert {shard.data.shape for shard in gate.addressable_shards} == {(10, 8)}
    assert len({str(shard.index) for shard in gate.addressable_shards}) == 4
    assert flat["model.norm.weight"].is_fully_replicated


def test_in_memory_key_layout(tmp_path, tensors):
    def in_memory(key):
        if key.startswith("model."):
            return "model.language_model." + key.removeprefix("model.")
        return "model." + key if key.startswith("visual.") else key

    renamed = {in_memory(key): value for key, value in tensors.items()}
    _, params = load_hf(write(tmp_path / "model", CONFIG, [renamed]))
    assert_same(params, tensors)


def test_all_wrong_tensors_are_listed_at_once(tmp_path, tensors):
    broken = dict(tensors)
    del broken["visual.blocks.1.norm2.weight"]
    del broken["model.norm.weight"]
    broken["model.layers.2.extra"] = np.zeros(3, np.float32)
    key = "model.layers.0.self_attn.k_proj.weight"
    broken[key] = np.ascontiguousarray(broken[key].T)
    with pytest.raises(UserError) as error:
        load_hf(write(tmp_path / "model", CONFIG, [broken]))
    assert str(error.value).splitlines()[1:] == [
        f"  misshaped {key} (16, 8), expected (8, 16)",
        "  missing model.norm.weight (16,)",
        "  missing visual.blocks.1.norm2.weight (8,)",
        "  unexpected model.layers.2.extra (3,)",
    ]


def test_tied_head_may_be_absent_or_stored(tmp_path, tensors):
    tied = dataclasses.replace(CONFIG, tie_word_embeddings=True)
    absent = {key: value for key, value in tensors.items() if key != "lm_head.weight"}
    for name, stored in [("absent", absent), ("stored", tensors)]:
        _, params = load_hf(write(tmp_path / name, tied, [stored]))
        assert_same(params, absent)
    with pytest.raises(UserError, match="missing lm_head.weight"):
        load_hf(write(tmp_path / "untied", CONFIG, [absent]))


def test_bad_directories(tmp_path, tensors):
    with pytest.raises(UserError, match="no config.json"):
        load_hf(tmp_path / "nowhere")
    directory = write(tmp_path / "model", CONFIG, [tensors])
    (directory / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(UserError, match="cannot be read"):
        load_hf(directory)
    (directory / "model.safetensors").unlink()
    with pytest.raises(UserError, match="lacks model.safetensors$"):
        load_hf(directory)
    (directory / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match="pickled weights are not read"):
        load_hf(directory)
    (directory / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="no index of weights"):
        load_hf(directory)
    (directory / "config.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        load_hf(directory)
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match="model_type is 'llama'"):
        load_hf(directory)


def test_init_params_has_the_checkpoints_shapes_and_scales():
    params = traverse_util.flatten_dict(init_params(jax.random.key(0), CONFIG), sep=".")
    assert {key: value.shape for key, value in params.items()} == param_shapes(CONFIG)
    assert (params["visual.blocks.0.norm1.weight"] == 1).all()
    assert not params["visual.blocks.0.attn.qkv.bias"].any()
    # 20 inputs: standard deviation 1 / sqrt(20) = 0.2236; 320 draws, so within 15 %.
    std = float(params["model.layers.0.mlp.down_proj.weight"].std())
    assert abs(std / 20**-0.5 - 1) < 0.15
    # Tensors of one shape are drawn apart.
    first, second = (params[f"model.layers.{i}.mlp.up_proj.weight"] for i in range(2))
    assert np.abs(first - second).max() > 0.1
