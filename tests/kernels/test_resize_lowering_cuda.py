"""What is compiled for a CUDA GPU, without one: tracing and lowering; and the choice of backend."""

import warnings
from functools import partial
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType
from resize_parts import op, spec_for

from kernels import choice
from kernels.resize_patchify import Backend, backends, pallas_gpu, resize_patchify, triton

FRAMES = (5, 45, 61, 3)
SIZES = [28, 84, 28], [56, 28, 28]
PRODUCT = "stablehlo.dot_general"
KERNELS = ("__gpu$xla.gpu.triton", "triton_kernel_call")  # the names that a Triton kernel goes by


# What a kernel asks about the device, answered without one.
DEVICES = {
    "cuda": AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu"),
    "tpu": AbstractDevice("TPU v5 lite", 1, "tpu"),
    "cpu": AbstractDevice("cpu", None, "cpu"),
}

pytestmark = pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")


def stablehlo(spec, backend, platform="cuda", frames=FRAMES, dtype=jnp.uint8, *, sources=False):
    """Of a call, or with five axes of frames of a batch of calls."""
    call = partial(op, spec=spec, backend=backend)
    call = jax.jit(jax.vmap(call) if len(frames) == 5 else call)
    sizes = [jax.ShapeDtypeStruct((*frames[:-4], 3), jnp.int32)] * (4 if sources else 2)
    axes = {"axis_types": (AxisType.Auto,), "abstract_device": DEVICES[platform]}
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("x",), **axes)):
        traced = call.trace(jax.ShapeDtypeStruct(frames, dtype), *sizes)
        return traced.lower(lowering_platforms=(platform,)).as_text()


def launches(text):
    return sum(text.count(f"@{name}") for name in KERNELS)


@pytest.mark.parametrize(
    ("how", "frames", "dtype"),
    [
        ({}, FRAMES, jnp.uint8),
        (
            {"precision": "high", "rounding": "final", "dtype": "bfloat16", "antialias": False},
            (5, 3, 45, 61),
            jnp.float32,
        ),
        ({"filter": "lanczos", "patch_size": 7}, (4, *FRAMES), jnp.bfloat16),
    ],
)
@pytest.mark.parametrize("sources", [False, True])
def test_pallas_gpu_is_one_launch(how, frames, dtype, sources):
    spec = spec_for(*SIZES, **how)
    text = stablehlo(spec, Backend.PALLAS_GPU, "cuda", frames, dtype, sources=sources)
    assert launches(text) == 1
    assert PRODUCT not in text  # all are the kernel's


@pytest.mark.parametrize("sources", [False, True])
@pytest.mark.parametrize("platform", DEVICES)
def test_the_platform_that_is_compiled_for_chooses(platform, sources):
    text = stablehlo(spec_for(*SIZES, padding=1), Backend.AUTO, platform, sources=sources)
    assert (PRODUCT in text) == (platform == "cpu")
    assert launches(text) == (platform == "cuda")
    assert text.count("@tpu_custom_call") == (platform == "tpu")


# --- what is missing ------------------------------------------------------------------------------


def versions(**installed):
    def version(package):
        try:
            return installed[package.replace("-", "_")]
        except KeyError:
            raise PackageNotFoundError(package) from None

    return version


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        ({"jax": "0.10.2"}, "package jax-triton, .* wants jax-triton 0.3.1"),
        ({"jax": "0.11.2", "triton": "3.9.0"}, "package jax-triton, .* wants jax-triton 0.4.1"),
        ({"jax": "0.10.2", "jax_triton": "0.3.1"}, "package triton, "),
        (
            {"jax": "0.10.2", "jax_triton": "0.4.1", "triton": "3.9.0"},
            "jax-triton 0.4.1 needs jax 0.11",
        ),
        (
            {"jax": "0.11.2", "jax_triton": "0.4.1", "triton": "3.6.0"},
            "jax-triton 0.4.1 needs triton 3.7, found 3.6.0",
        ),
        ({"jax": "0.10.2", "jax_triton": "0.3.1", "triton": "3.5.1"}, "triton 3.6 or newer"),
        (
            {"jax": "0.11.2", "jax_triton": "0.3.1", "triton": "3.9.0"},
            "on jax 0.11 jax-triton 0.3.1 goes with triton 3.6 alone, found 3.9.0",
        ),
        ({"jax": "0.10.2", "jax_triton": "0.3.1", "triton": "3.9.0"}, "jax-cuda13-plugin"),
    ],
)
def test_triton_says_what_it_lacks(monkeypatch, installed, message):
    monkeypatch.setattr(triton, "version", versions(**installed))
    monkeypatch.setattr(triton, "_version", triton._version.__wrapped__)
    monkeypatch.setattr(triton, "find_spec", lambda name: None)
    frames = jnp.zeros(FRAMES, jnp.uint8)
    with pytest.raises(ValueError, match=f"backend triton: .*{message}"):
        resize_patchify(frames, *map(jnp.asarray, SIZES), spec_for(*SIZES), backend=Backend.TRITON)


def test_pallas_gpu_says_what_it_lacks(monkeypatch):
    spec = spec_for([128], [128], patch_size=32, merge_size=4)
    assert "at most 64 pixels a side, got 128" in pallas_gpu.lacks((1, *FRAMES), spec)
    # 3 GiB of bytes
    assert "split the batch" in pallas_gpu.lacks((1024, 1024, 1024, 1, 3), spec_for(*SIZES))
    monkeypatch.setattr(pallas_gpu, "_lowering", lambda: None)
    assert f"jax {jax.__version__} is without" in pallas_gpu.lacks((1, *FRAMES), spec_for(*SIZES))


@pytest.mark.parametrize(("capability", "fits"), [("9.0", True), ("7.5", False)])
def test_an_old_gpu_has_the_reference(monkeypatch, capability, fits):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    device = SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(jax, "devices", lambda *_: [device])
    choice.warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        text = stablehlo(spec_for(*SIZES, padding=6 + fits), Backend.AUTO)  # a trace of its own
    assert launches(text) == fits
    told = [str(w.message) for w in caught if w.category is RuntimeWarning]
    assert len(told) == (not fits)
    assert all("compute capability is 7.5, not 8.0" in message for message in told)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_gpu_without_a_kernel_gives_one_warning_and_the_reference(monkeypatch, device):
    monkeypatch.setattr(pallas_gpu, "lacks", lambda *_: "is away")
    monkeypatch.setattr(triton, "lacks", lambda *_: "is away too")
    monkeypatch.setattr(jax, "default_backend", lambda: device)
    monkeypatch.setattr(backends, "old_gpu", lambda: None)
    choice.warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for padding in (2, 3) if device == "cpu" else (4, 5):  # each a trace of its own
            spec = spec_for(*SIZES, padding=padding)
            text = stablehlo(spec, Backend.AUTO)
            assert launches(text) == 0 and PRODUCT in text
    ours = [str(w.message) for w in caught if w.category is RuntimeWarning]
    assert len(ours) == (device == "gpu")
    assert all("pallas_gpu: is away; triton: is away too" in message for message in ours)
