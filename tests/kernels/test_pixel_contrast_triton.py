"""The Triton kernels of pixel_contrast: run in the interpreter or on a GPU, compiled for all GPUs.

The interpreter has to be switched on before triton is imported, so `test_interpreter` runs the
numerical tests of this file in a process of its own. On a machine with a GPU they run on it too.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys

import pytest
import torch
from ecgan_kernels import pixel_contrast, reference

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
runs_here = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()),
    reason="no GPU; test_interpreter runs this in a process of its own",
)
DEVICE = "cpu" if INTERPRETED else "cuda"


def on_device(test):
    return pytest.mark.gpu(runs_here(test))


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Blocks of 16 in the interpreter: many tiles in a small matrix."""
    if INTERPRETED:
        from ecgan_kernels.triton import pixel_contrast as kernels

        sizes = kernels.block_sizes
        monkeypatch.setattr(kernels, "block_sizes", lambda width: (16, sizes(width)[1]))


def example(count, dim=5, classes=3, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    z = torch.nn.functional.normalize(torch.randn(count, dim, dtype=torch.float64), dim=1)
    labels = torch.randint(0, classes, (count,))
    labels[torch.rand(count) < 0.15] = 255
    return z.to(DEVICE, dtype), labels.to(DEVICE)


def check(z, labels, other=None, other_labels=None, temperature=0.07):
    """Losses and both gradients against the reference in float64."""
    from ecgan_kernels.triton import pixel_contrast as kernels

    same = other is None
    sets = (z, labels, z if same else other, labels if same else other_labels, same)
    loss, positives, negatives, pull = kernels.forward(*sets, temperature, 255, True)
    assert torch.equal(kernels.forward(*sets, temperature, 255, False)[0], loss)
    upstream = torch.rand(len(z), device=DEVICE)
    grads = kernels.backward(
        upstream, *sets, temperature, 255, positives, negatives, pull, True, True
    )
    inputs = [z.double().requires_grad_()]
    keywords = {"temperature": temperature, "normalize": False, "reduction": "none"}
    if other is not None:
        inputs.append(other.double().requires_grad_())
        keywords |= {"contrast": inputs[1], "contrast_labels": other_labels}
    want = reference.pixel_contrast(inputs[0], labels, **keywords)
    scale = max(1.0, float(z.double().square().sum(1).max()) / temperature) if len(z) else 1.0
    torch.testing.assert_close(loss.double(), want, rtol=1e-6, atol=5e-7 * scale)
    wanted = torch.autograd.grad(want @ upstream.double(), inputs)
    assert (grads[1] is None) == same
    for ours, truth in zip(grads, wanted, strict=False):
        tolerance = 3e-7 * scale * truth.abs().max() if truth.numel() else 0
        torch.testing.assert_close(ours.double(), truth, rtol=0, atol=float(tolerance))


@on_device
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize(
    ("count", "dtype"),
    [(1, torch.float32), (37, torch.float32), (17, torch.float16), (17, torch.bfloat16)],
)
def test_ragged_sizes(count, separate, dtype):
    sets = example(count, dtype=dtype)
    check(*sets, *(example(count + 9, dtype=dtype, seed=1) if separate else ()))


@on_device
@pytest.mark.parametrize("temperature", [0.01, 1.0])
@pytest.mark.parametrize("separate", [False, True])
def test_temperatures(separate, temperature):
    sets = (*example(33), *(example(20, seed=1) if separate else ()))
    check(*sets, temperature=temperature)


@on_device
@pytest.mark.parametrize("dim", [1, 70, 300])
def test_dimensions(dim):
    check(*example(20, dim), *example(18, dim, seed=1))


@on_device
@pytest.mark.parametrize("classes", [1, 40])
def test_without_negatives_or_positives(classes):
    check(*example(20, classes=classes))
    check(*example(20, classes=classes), *example(0))


@on_device
def test_ignored_and_strided():
    from ecgan_kernels.triton import pixel_contrast as kernels

    z, labels = example(30)
    broken = z.t().contiguous().t().where((labels != 255)[:, None], torch.nan)
    for set_of in (z, broken):
        assert (labels == 255).any()
        loss = kernels.forward(set_of, labels, set_of, labels, True, 0.07, 255, True)
        grad, _ = kernels.backward(
            torch.ones(30, device=DEVICE),
            *(set_of, labels, set_of, labels, True, 0.07, 255),
            *loss[1:],
            *(True, False),
        )
        if set_of is z:
            want = (*loss, grad)
    assert all(torch.equal(a, b) for a, b in zip((*loss, grad), want, strict=True))


@on_device
@pytest.mark.parametrize("separate", [False, True])
def test_public_operator(separate):
    z, labels = example(30)
    z = (3 * z).requires_grad_()
    inputs, keywords = [z], {}
    if separate:
        other, other_labels = example(20, seed=1)
        inputs.append(other.requires_grad_())
        keywords = {"contrast": other, "contrast_labels": other_labels}
    loss = pixel_contrast(z, labels, impl="triton", **keywords)
    want = reference.pixel_contrast(z, labels, **keywords)
    torch.testing.assert_close(loss, want, rtol=1e-5, atol=1e-6)
    for ours, expected in zip(
        torch.autograd.grad(loss, inputs), torch.autograd.grad(want, inputs), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


@on_device
def test_too_wide():
    z, labels = example(2, 600)
    with pytest.raises(ValueError, match="at most 512 elements, not 600"):
        check(z, labels)


@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
def test_interpreter():
    run = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-p", "no:cacheprovider", "-rs", "--tb=short"],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed, run.stdout
    assert int(passed[1]) > 20, run.stdout


def compile_kernel(kernel, types, constants, capability):
    from triton import compile as build
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    strides = {name: "i64" for name in kernel.arg_names if name.endswith("_stride")}
    types = types | strides | dict.fromkeys(constants, "constexpr")
    source = ASTSource(
        fn=kernel,
        signature={name: types[name] for name in kernel.arg_names},
        constexprs={(kernel.arg_names.index(k),): v for k, v in constants.items()},
    )
    compiled = build(source, target=GPUTarget("cuda", capability, 32))
    ptx = compiled.asm["ptx"]
    assert f".target sm_{capability}" in ptx
    assert compiled.asm["cubin"]
    assert re.search(r"wgmma\.mma|mma\.sync", ptx), "no tensor cores"
    assert ".local" not in ptx
    return compiled


POINTERS = dict.fromkeys(("anchors", "contrast", "x", "others"), "*fp32")
POINTERS |= dict.fromkeys(("negatives", "loss", "pull", "statistics", "grad"), "*fp32")
POINTERS |= dict.fromkeys(("labels", "contrast_labels", "other_labels", "positives"), "*i64")
NUMBERS = dict.fromkeys(("count", "contrast_count", "other_count", "dim", "none"), "i32")
NUMBERS |= {"inverse_temperature": "fp32"}


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("name", "dim", "constants"),
    [
        ("negatives_kernel", 512, {}),
        ("positives_kernel", 16, {"SAME_SET": True}),
        ("gradient_kernel", 64, {"ROWS_ARE_ANCHORS": True, "COLUMNS_ARE_ANCHORS": True}),
    ],
)
def test_compiles_ahead_of_time(name, dim, constants, capability):
    from ecgan_kernels.triton import pairwise
    from ecgan_kernels.triton import pixel_contrast as kernels

    precisions = pairwise.precisions(torch.float32, True)
    block, width = pairwise.block_sizes(dim)
    constants = constants | {"BLOCK": block, "WIDTH": width, "PRODUCTS": precisions["PRODUCTS"]}
    if name == "gradient_kernel":
        constants["WEIGHTS"] = precisions["WEIGHTS"]
    compiled = compile_kernel(getattr(kernels, name), POINTERS | NUMBERS, constants, capability)
    assert compiled.metadata.shared <= 99 * 1024  # what a block has from sm_86 on
