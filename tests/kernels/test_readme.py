"""The examples of kernels/README.md, run as they stand."""

import re
from pathlib import Path

import jax

README = (Path(__file__).resolve().parents[2] / "kernels/README.md").read_text()


def test_the_examples_run():
    resize, attention = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    resize, asked = re.subn(r"^jitted\(.*\.overflow", r"overflow = \g<0>", resize, flags=re.M)
    resize, sharded = re.subn(r"^shard_.*\.patches", r"clips = \g<0>", resize, flags=re.M)
    assert asked == sharded == 1
    exec(resize, names := {})
    assert names["packed"].patches.shape == (4 * 64, 1176) and names["overflow"]
    assert names["clips"].shape == (jax.device_count(), 4 * 64, 1176)
    exec(attention, names)
    assert names["out"].shape == (10, 4, 64) and not names["out"][-2:].any()
