"""README's "Bring a checkpoint", run as it stands on what transformers' save_pretrained writes."""

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="parity with HF transformers needs torch")

import hf_qwen2_5_vl  # noqa: E402
import hf_qwen3_vl  # noqa: E402
import hf_smolvlm  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from transformers import AutoModelForImageTextToText  # noqa: E402

from resadapt_jax.allocator import Pictures  # noqa: E402
from resadapt_jax.allocator.smolvlm_encoder import load_smolvlm_encoder  # noqa: E402
from resadapt_jax.data.toy_tokenizer import build_toy_tokenizer  # noqa: E402
from resadapt_jax.models import families  # noqa: E402

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
SECTION = re.search(r"\n## Bring a checkpoint\n(.*?)\n## ", README, re.DOTALL)[1]
MESH = re.search(r"`mesh=(jax\.make_mesh\(.*?\))`", SECTION)[1]


@pytest.mark.parametrize("hf", [hf_qwen2_5_vl, hf_qwen3_vl], ids=["Qwen2.5-VL", "Qwen3-VL"])
def test_a_backbone_comes_in_and_goes_back(hf, tmp_path, monkeypatch):
    hf_model = hf.random_hf_model(seed=8)
    hf_model.save_pretrained(tmp_path / "theirs")
    monkeypatch.chdir(tmp_path)
    there_and_back, stack = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    there_and_back, replaced = re.subn(r'"path/to/.*?"', '"theirs"', there_and_back)
    assert replaced == 1
    exec(there_and_back, names := {})
    copy = AutoModelForImageTextToText.from_pretrained("copy", dtype="auto").state_dict()
    original = hf_model.to(torch.bfloat16).state_dict()
    assert copy.keys() == original.keys()
    for key, value in original.items():
        assert copy[key].dtype == torch.bfloat16 and torch.equal(copy[key], value), key
    params = names["params"]
    exec(stack, names)
    jax.tree.map(np.testing.assert_array_equal, names["unstack_layers"](names["params"]), params)
    mesh = eval(MESH, {"jax": jax})
    assert mesh.size == 8
    _, placed = families.load_hf("theirs", dtype="bfloat16", mesh=mesh)
    jax.tree.map(np.testing.assert_array_equal, placed, params)
    parts = [x for x in jax.tree.leaves(placed) if not x.is_fully_replicated]
    assert len(parts) > len(jax.tree.leaves(placed)) / 3


def test_an_encoder_comes_in(tmp_path):
    hf_smolvlm.random_hf_model(seed=8).save_pretrained(tmp_path)
    build_toy_tokenizer().save_pretrained(tmp_path)
    encoder, tokenizer = load_smolvlm_encoder(tmp_path)
    _, again = load_smolvlm_encoder(tmp_path, mesh=eval(MESH, {"jax": jax}))
    assert len(again) == len(tokenizer)
    frames = hf_smolvlm.picture_frames(np.random.default_rng(0), 2, 40, 56)
    ids = jnp.asarray(tokenizer("where?")["input_ids"])[None] % 128
    features = jax.jit(type(encoder).encode)(
        encoder, Pictures.of_videos(frames[None]), ids, jnp.ones(ids.shape, bool)
    )
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(features))
