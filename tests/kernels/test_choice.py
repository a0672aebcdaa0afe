"""How a call, the environment and the platform name a backend, the same in both operations."""

from enum import Enum
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from kernels import resize_patchify as resize
from kernels import segment_attention as attention
from kernels.choice import BackendError
from kernels.resize_patchify import backends as resize_backends
from kernels.segment_attention import backends as attention_backends


class Other(Enum):
    AUTO = "automatic"


LONG = jnp.zeros((1, 1, 400, 64))


def attention_choice(backend):
    return attention_backends.resolve(backend, LONG, LONG)


# The choice, the variable, the enumeration, a name, what AUTO is on this machine.
OPERATIONS = {
    "resize_patchify": (
        resize_backends.chosen, "RESIZE_PATCHIFY_BACKEND", resize.Backend,
        "reference", resize.Backend.AUTO,
    ),
    "segment_attention": (
        attention_choice, "SEGMENT_ATTENTION_BACKEND", attention.Backend,
        "dense", attention.Backend.BLOCKWISE,
    ),
}  # fmt: skip
both = pytest.mark.parametrize(
    ("choose", "variable", "names", "name", "automatic"), OPERATIONS.values(), ids=OPERATIONS
)


@both
def test_a_call_names_a_backend(choose, variable, names, name, automatic, monkeypatch):
    monkeypatch.delenv(variable, raising=False)
    assert choose(name) is choose(names(name)) is names(name)
    assert choose(None) is choose("auto") is choose(names.AUTO) is automatic
    for wrong in ("nonsense", 3, [], Other.AUTO):
        with pytest.raises(BackendError, match=f"backend is .*, it may be one of auto, {name}"):
            choose(wrong)


@both
def test_the_environment_speaks_where_the_call_does_not(
    choose, variable, names, name, automatic, monkeypatch
):
    monkeypatch.setenv(variable, name)
    assert choose(None) is choose("auto") is choose(names.AUTO) is names(name)
    other = [backend for backend in names if backend not in (names.AUTO, names(name))]
    assert choose(other[0]) is other[0]
    monkeypatch.setenv(variable, "")
    assert choose(None) is automatic
    monkeypatch.setenv(variable, "fastest")
    with pytest.raises(BackendError, match=f"{variable} is .fastest., it may be one of auto"):
        choose(None)


def resized(backend):
    spec = resize.PatchSpec(capacity=1, max_height=28, max_width=28)
    frames, sizes = jnp.zeros((2, 1, 28, 28, 3)), jnp.full((2, 1), 28)

    def total(frames, sizes):
        run = partial(resize.resize_patchify, spec=spec, backend=backend)
        return jax.vmap(run)(frames, sizes, sizes).patches.sum()

    return total, (frames, sizes)


def attended(backend):
    def total(*arrays):
        return jnp.sum(attention.attend_within_segments(*arrays, jnp.ones(8, int), backend))

    return total, [jnp.ones((8, 1, 16), jnp.bfloat16)] * 3


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of a machine without an accelerator")
@pytest.mark.parametrize(
    ("of", "backend", "platform"),
    [
        (resized, "pallas_tpu", "tpu"),
        (resized, "pallas_gpu", "cuda"),
        (attended, "splash", "tpu"),
        (attended, "pallas_gpu", "cuda"),
        (attended, "cudnn", "cuda"),
    ],
)
def test_a_kernel_of_another_platform_is_one_line(of, backend, platform):
    total, arrays = of(backend)
    message = f"backend {backend} needs the platform {platform}.*, here it is cpu"
    for run in (total, jax.jit(total), jax.grad(total)):
        with pytest.raises(BackendError, match=message) as caught:
            run(*arrays)
        assert "\n" not in str(caught.value)
