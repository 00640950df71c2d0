"""The Triton kernel of similarity_bce: run in the interpreter or on a GPU, compiled for all GPUs.

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
from ecgan_kernels import reference, similarity_bce

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
runs_here = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()),
    reason="no GPU; test_interpreter runs this in a process of its own",
)
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def on_device(test):
    return pytest.mark.gpu(runs_here(test))


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Blocks of 16 in the interpreter: many tiles in a small matrix."""
    if INTERPRETED:
        from ecgan_kernels.triton import similarity_bce as kernels

        sizes = kernels.block_sizes
        monkeypatch.setattr(kernels, "block_sizes", lambda width: (16, sizes(width)[1]))


def example(*size, classes=5, batch=2, sharpness=2.0, dtype=torch.float32, void=0.2):
    torch.manual_seed(classes + sum(size))
    probs = (torch.randn(batch, classes, *size, dtype=torch.float64) * sharpness).softmax(1)
    labels = torch.randint(0, classes, (batch, *size))
    labels[torch.rand(labels.shape) < void] = 255
    return probs.to(DEVICE, dtype), labels.to(DEVICE)


def check(probs, labels, *, eps=1e-6, precision="exact", error=5e-7):
    """Loss and gradient against the reference in float64; ``error`` is that of a product p."""
    from ecgan_kernels.triton import similarity_bce as kernels

    loss, valid, grad = kernels.forward(probs, labels, 255, eps, precision, True)
    alone, _, nothing = kernels.forward(probs, labels, 255, eps, precision, False)
    assert nothing.numel() == 0
    s = probs.double().requires_grad_()
    want = reference.similarity_bce(s, labels, eps=eps, reduction="none")
    (want_grad,) = torch.autograd.grad(want.sum(), s)
    y = labels.reshape(len(labels), -1)
    counts = y != 255
    assert torch.equal(valid, counts.sum(1))
    # An error of p counts 1 / x times in the loss and 1 / x^2 times in the gradient.
    m = s.detach().flatten(2) if s.dim() > 2 else s.detach()[:, :, None]
    p = torch.einsum("bnm,bnk->bmk", m, m)
    x = torch.where(y[:, :, None] == y[:, None], p, 1 - p).clamp(min=eps)
    pairs = (counts[:, :, None] & counts[:, None]) / counts.sum(1).clamp(min=1)[:, None, None] ** 2
    allowed = error * ((pairs / x).sum((1, 2)) + want)
    assert ((loss - want).abs() <= allowed).all()
    assert ((alone - want).abs() <= allowed).all()
    slope = 2 * torch.einsum("bmk,bnk->bnm", pairs / x**2, m).reshape(grad.shape)
    assert ((grad - want_grad).abs() <= error * (slope + want_grad.abs().max())).all()


@on_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(), (17,), (3, 5, 2)])
def test_ragged_sizes(size, dtype):
    check(*example(*size, dtype=dtype))


@on_device
@pytest.mark.parametrize("classes", [1, 17, 70])
def test_classes(classes):
    check(*example(13, classes=classes, batch=1))


@on_device
@pytest.mark.parametrize("eps", [1e-6, 1e-12])
def test_confident(eps):
    check(*example(20, sharpness=30, batch=1), eps=eps)


@on_device
def test_fast():
    # In float16 products are exact all the same; weights and, of float32, products are TF32.
    check(*example(21, sharpness=1, batch=1), precision="fast", error=1e-3)
    check(*example(21, sharpness=1, batch=1, dtype=torch.float16), precision="fast", error=1e-3)


@on_device
def test_void():
    probs, labels = example(4, 5, void=1.0)
    check(probs, labels)
    labels[1, 0] = 2
    broken = probs.movedim(1, -1).contiguous().movedim(-1, 1)
    broken = broken.where(labels[:, None] != 255, torch.nan)
    from ecgan_kernels.triton import similarity_bce as kernels

    got = kernels.forward(broken, labels, 255, 1e-6, "exact", True)
    want = kernels.forward(probs, labels, 255, 1e-6, "exact", True)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    broken[1, 1, 0, 2] = torch.nan  # where it counts
    assert kernels.forward(broken, labels, 255, 1e-6, "exact", True)[0][1].isnan()


@on_device
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_public_operator(reduction):
    probs, labels = example(3, 7)
    probs = probs.transpose(2, 3).contiguous().transpose(2, 3).requires_grad_()
    loss = similarity_bce(probs, labels, reduction=reduction, impl="triton")
    want = reference.similarity_bce(probs, labels, reduction=reduction)
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(
        torch.autograd.grad(loss.sum(), probs), torch.autograd.grad(want.sum(), probs)
    )


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
    assert int(passed[1]) > 18, run.stdout


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


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("dtype", "exact", "classes", "need_grad"),
    [("fp32", True, 35, True), ("fp16", False, 10, False), ("bf16", True, 200, False)],
)
def test_compiles_ahead_of_time(dtype, exact, classes, need_grad, capability):
    from ecgan_kernels.triton import pairwise
    from ecgan_kernels.triton import similarity_bce as kernels

    types = {"probs": f"*{dtype}", "labels": "*i32", "partial": "*fp64", "grad": "*fp32"}
    types |= {"pixels": "i32", "classes": "i32", "eps": "fp32"}
    block, width = pairwise.block_sizes(classes)
    torch_dtype = torch.float32 if dtype == "fp32" else torch.float16
    constants = {"NEED_GRAD": need_grad, "BLOCK": block, "WIDTH": width}
    constants |= pairwise.precisions(torch_dtype, exact)
    compiled = compile_kernel(kernels.kernel, types, constants, capability)
    assert compiled.metadata.shared <= 99 * 1024  # what a block has from sm_86 on
