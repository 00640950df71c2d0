"""The Triton kernels of class_conv2d: run in the interpreter or on a GPU, compiled for all GPUs.

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
from ecgan_kernels import class_conv2d
from torch import Tensor

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
runs_here = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()),
    reason="no GPU; test_interpreter runs this in a process of its own",
)
DEVICE = "cpu" if INTERPRETED else "cuda"
TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def on_device(test):
    return pytest.mark.gpu(runs_here(test))


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Blocks of 16 in the interpreter: several in a small tensor."""
    if INTERPRETED:
        from ecgan_kernels.triton import class_conv2d as kernels

        monkeypatch.setattr(kernels, "_PIXELS", 16)
        monkeypatch.setattr(kernels, "_PARTS", 3)
        monkeypatch.setattr(kernels, "_block", lambda channels: 16)


def operands(batch, channels, outputs, height, width, dtype=torch.float32):
    """x, labels, weight, bias and an incoming gradient."""
    torch.manual_seed(channels * outputs + width)
    labels = torch.randint(0, 2, (batch, height, width)) * 2**32
    x = torch.randn(batch, channels, height, width)
    weight, bias = torch.randn(outputs, channels, 3, 3), torch.randn(outputs)
    grad = torch.randn(batch, outputs, height, width)
    x, weight, bias, grad = (t.to(DEVICE, dtype) for t in (x, weight, bias, grad))
    return x, labels.to(DEVICE), weight, bias, grad


def results(x, labels, weight, bias, grad, impl: str, slope: float | None = 0.2) -> list[Tensor]:
    """The output and the gradients of x, weight and bias."""
    inputs = [t.detach().requires_grad_() for t in (x, weight, bias)]
    y = class_conv2d(inputs[0], labels, *inputs[1:], negative_slope=slope, impl=impl)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad)]


def check(x, labels, weight, bias, grad, slope: float | None = 0.2):
    """Against the reference in float64."""
    got = results(x, labels, weight, bias, grad, "triton", slope)
    wide = (t.double() for t in (weight, bias, grad))
    want = results(x.double(), labels, *wide, "reference", slope)
    for o, t, like in zip(got, want, (x, x, weight, bias), strict=True):
        assert o.dtype == like.dtype
        limit = TOLERANCE[x.dtype] * (t.abs().max().item() if t.numel() else 0)
        torch.testing.assert_close(o.double(), t, rtol=0, atol=limit)


@on_device
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [(1, 1, 1, 1, 1), (2, 3, 5, 3, 7), (1, 17, 2, 4, 5)])
def test_sizes(size, dtype):
    check(*operands(*size, dtype=dtype))


@on_device
@pytest.mark.parametrize("size", [(1, 2, 18, 5, 4), (1, 20, 19, 2, 5)])
def test_several_blocks(size):
    check(*operands(*size), slope=None)


@on_device
def test_layouts():
    x, labels, weight, bias, grad = operands(2, 3, 4, 3, 4)
    odd = x.movedim(1, -1).contiguous().movedim(-1, 1)
    turned = grad.mT.contiguous().mT
    check(odd, labels.mT.contiguous().mT, weight, bias, turned)
    check(odd, labels, weight, bias, grad[:1, :1, :1, :1].expand_as(grad))


@on_device
def test_nan_stays_in_its_class():
    x, labels, weight, bias, grad = operands(1, 2, 3, 4, 5)
    clean = results(x, labels, weight, bias, grad, "triton")[0]
    broken = torch.where(labels[:, None] == 0, torch.nan, x)
    got = results(broken, labels, weight, bias, grad, "triton")[0]
    keep = (labels != 0)[:, None].expand_as(got)
    assert torch.equal(got[keep], clean[keep])


@on_device
@pytest.mark.parametrize("needs", [0, 1, 2, 4])
def test_gradients_asked_for(needs):
    x, labels, weight, bias, grad = operands(1, 3, 2, 3, 4)
    expected = results(x, labels, weight, bias, grad, "triton")[1:]
    inputs = [
        t.clone().requires_grad_(bool(needs >> i & 1)) for i, t in enumerate((x, weight, bias))
    ]
    y = class_conv2d(inputs[0], labels, *inputs[1:], negative_slope=0.2, impl="triton")
    if needs:
        y.backward(grad)
    for t, e in zip(inputs, expected, strict=True):
        assert torch.equal(t.grad, e) if t.requires_grad else t.grad is None


@on_device
@pytest.mark.parametrize("size", [(0, 2, 3, 4, 4), (1, 2, 3, 0, 4), (1, 0, 2, 3, 3)])
def test_empty(size):
    x, labels, weight, bias, grad = operands(*size)
    y, grad_x, grad_weight, _ = results(x, labels, weight, bias, grad, "triton")
    assert torch.equal(y, bias[:, None, None].expand_as(y))
    assert grad_x.shape == x.shape
    assert grad_weight.shape == weight.shape
    assert not grad_weight.any()


@pytest.mark.slow
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
    assert int(passed[1]) > 15, run.stdout


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize(
    ("dtype", "capability"), [("fp16", 70), ("fp32", 75), ("fp32", 80), ("fp16", 90)]
)
def test_compiles_ahead_of_time(dtype, capability):
    import triton
    from ecgan_kernels.triton import class_conv2d as kernels
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    precision = "tf32x3" if dtype == "fp32" else "tf32"
    constants = {"PRECISION": precision, "PIXELS": 128, "CHANNELS": 32, "OUTPUTS": 32}
    pointers = {"labels": "*i64", "weight": "*fp32", "bias": "*fp32", "partial": "*fp32"}
    pointers |= dict.fromkeys(["x", "y", "gate", "grad"], f"*{dtype}")
    floats = dict.fromkeys(["slope", "gate_slope"], "fp32")
    for kernel, more in (
        (kernels.product_kernel, {"HAS_BIAS": True, "HAS_GATE": True}),
        (kernels.weight_kernel, {}),
    ):
        values = {**constants, **more}
        kinds = {**dict.fromkeys(values, "constexpr"), **pointers, **floats}
        source = ASTSource(
            fn=kernel,
            signature={name: kinds.get(name, "i32") for name in kernel.arg_names},
            constexprs={(kernel.arg_names.index(k),): v for k, v in values.items()},
        )
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
        assert f".target sm_{capability}" in compiled.asm["ptx"]
        assert compiled.asm["cubin"]
        if capability == 80:
            assert "mma.sync" in compiled.asm["ptx"]
        assert compiled.metadata.shared <= 96 * 1024 or capability >= 80
