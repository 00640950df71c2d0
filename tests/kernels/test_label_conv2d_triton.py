"""The Triton kernels of label_conv2d: run in the interpreter or on a GPU, compiled for all GPUs.

The interpreter has to be switched on before triton is imported, so `test_interpreter` runs the
numerical tests of this file in a process of its own. On a machine with a GPU they run on it too.
"""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
import torch
from ecgan_kernels import label_conv2d, reference

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
runs_here = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()),
    reason="no GPU; test_interpreter runs this in a process of its own",
)
DEVICE = "cpu" if INTERPRETED else "cuda"
# Relative to the largest element; the interpreter truncates to bfloat16, GPUs round.
TOLERANCE = {
    torch.float32: 2e-6,
    torch.float16: 2**-11 + 2e-6,
    torch.bfloat16: (2**-7 if INTERPRETED else 2**-8) + 2e-6,
}


def on_device(test):
    return pytest.mark.gpu(runs_here(test))


def check(labels, weight, bias, grad=None, **options):
    """Result and gradients against the reference's in float64."""

    def run(impl, dtype=None):
        inputs = [weight, bias] if bias is not None else [weight]
        inputs = [x.detach().to(dtype or x.dtype).requires_grad_() for x in inputs]
        out = label_conv2d(labels, *inputs, impl=impl, **options)
        g = torch.ones_like(out) if grad is None else grad.to(out.dtype)
        return out, *torch.autograd.grad(out, inputs, g)

    for ours, want in zip(run("triton"), run("reference", torch.float64), strict=True):
        assert ours.dtype == weight.dtype
        assert ours.shape == want.shape
        if ours.numel():
            error = (ours.double() - want).abs().max()
            assert error <= TOLERANCE[weight.dtype] * want.abs().max() + 1e-6, error


def example(batch=2, height=6, width=9, classes=4, outputs=5, kernel=(3, 3), extra=0):
    torch.manual_seed(batch * height + width)
    labels = torch.randint(0, classes, (batch, height, width))
    labels[torch.rand(labels.shape) < 0.2] = 255
    weight, bias = torch.randn(outputs, classes + extra, *kernel), torch.randn(outputs)
    return labels.to(DEVICE), weight.to(DEVICE), bias.to(DEVICE)


@on_device
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((3, 3), 1, 1), ((4, 4), 2, 2), ((2, 3), (2, 1), (0, 1)), ((1, 1), 1, 0)],
)
def test_geometries(kernel, stride, padding):
    labels, weight, bias = example(kernel=kernel)
    check(labels, weight, bias, stride=stride, padding=padding)


@on_device
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_dtypes(dtype):
    labels, weight, bias = example(kernel=(4, 4))
    check(labels, weight.to(dtype), bias.to(dtype), stride=2, padding=2)


@on_device
@pytest.mark.parametrize(("scaled", "marked"), [(False, False), (True, True)])
def test_edges_and_scale(marked, scaled):
    labels, weight, bias = example(extra=marked)
    options = {}
    if marked:
        options["edges"] = torch.rand(2, 1, 6, 9, device=DEVICE) < 0.3
    if scaled:
        options["scale"] = torch.rand(6, 9, device=DEVICE)
    check(labels, weight, bias, padding=1, **options)
    check(labels, weight, None, padding=1, **options)


@on_device
def test_sizes():
    for sizes in ((1, 1, 1), (1, 1, 17), (0, 4, 4), (1, 13, 21)):
        labels, weight, bias = example(*sizes)
        check(labels, weight, bias, padding=1)
    labels, weight, bias = example(40, 3, 3, outputs=70)  # neighbourhoods
    check(labels, weight, bias, grad=torch.randn(40, 70, 1, 1, device=DEVICE))


@on_device
def test_many_pixels_are_cut_into_pieces():
    labels, weight, bias = example(1, 96, 100, classes=2, outputs=3, kernel=(1, 1))
    check(labels, weight, bias, grad=torch.randn(1, 3, 96, 100, device=DEVICE))


@on_device
def test_strides_of_the_gradient_and_the_weight():
    labels, weight, bias = example()
    grad = torch.randn(2, 6, 9, 5, device=DEVICE).permute(0, 3, 1, 2)
    check(labels, weight.flip(1).mT, bias, grad=grad, padding=1)
    check(labels.mT.contiguous().mT, weight, bias, grad=grad[:1, :1].expand(2, 5, 6, 9), padding=1)


@on_device
def test_labels_out_of_range_contribute_nothing():
    from ecgan_kernels.triton import label_conv2d as kernels

    labels, weight, bias = example()
    wrong = labels.clone()
    wrong[labels == 255] = -3
    wrong[0, 0, 0] = 4
    labels[0, 0, 0] = 255
    ours = kernels.forward(wrong, weight, bias, None, None, (1, 1), (1, 1), 255)
    want = reference.label_conv2d(labels, weight, bias, padding=1)
    torch.testing.assert_close(ours, want)


@on_device
def test_gradients_asked_for():
    labels, weight, bias = example()
    for needs in ((True, False), (False, True)):
        inputs = [
            x.detach().requires_grad_(need) for x, need in zip((weight, bias), needs, strict=True)
        ]
        label_conv2d(labels, *inputs, impl="triton").sum().backward()
        for x, need in zip(inputs, needs, strict=True):
            assert (x.grad is not None) == need


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
    assert int(passed[1]) >= 14, run.stdout


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("capability", [70, 75, 80, 90])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("scaled", [False, True])
def test_compiles_ahead_of_time(scaled, dtype, capability):
    import triton
    from ecgan_kernels.triton import label_conv2d as kernels
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    def compile_kernel(kernel, pointers, constants, *extra):
        signature = {name: pointers.get(name, "i32") for name in kernel.arg_names}
        signature |= dict.fromkeys(constants, "constexpr")
        source = ASTSource(
            fn=kernel,
            signature=signature,
            constexprs={(kernel.arg_names.index(k),): v for k, v in constants.items()},
            attrs={
                (kernel.arg_names.index(name),): [["tt.divisibility", 16]]
                for name in (*pointers, *extra)
            },
        )
        return triton.compile(source, target=GPUTarget("cuda", capability, 32))

    extras = {"scale": "*fp32"} if scaled else {}
    constants = {"KERNEL_WIDTH": 3, "PIXELS": kernels._PIXELS, "CHANNELS": kernels._CHANNELS}
    constants |= {} if scaled else {"scale": None}
    typed = f"*{dtype}"
    forward = compile_kernel(
        kernels.forward_kernel,
        {"codes": "*i32", "table": "*fp32", "bias": typed, "out": typed, **extras},
        {**constants, "KERNEL_HEIGHT": 3, "SINGLE": False},
        "outputs",
    )
    backward = compile_kernel(
        kernels.backward_kernel,
        {"grad": typed, "order": "*i64", "starts": "*i64", "sums": "*fp32", **extras},
        constants,
    )
    for compiled in (forward, backward):
        assert f".target sm_{capability}" in compiled.asm["ptx"]
        assert compiled.asm["cubin"]
        assert ".local" not in compiled.asm["ptx"]
    assert "st.global.v" in forward.asm["ptx"]  # along the outputs, not the channels
