"""The Triton kernels of edge_transfer: run in the interpreter or on a GPU, compiled for all GPUs.

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
from ecgan_kernels import reference

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
# float32's few roundings and one to the half type, relative to the largest term. The interpreter
# truncates to bfloat16, GPUs round.
BFLOAT16 = 2**-7 if INTERPRETED else 2**-8
TOLERANCE = {torch.float32: 1e-6, torch.float16: 2**-11 + 1e-6, torch.bfloat16: BFLOAT16 + 1e-6}

N, C, H, W = 2, 5, 7, 9


def on_device(test):
    return pytest.mark.gpu(runs_here(test))


def dense(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (3 * torch.randn(shape)).to(DEVICE, dtype)


LAYOUTS = {
    "channels last": lambda: dense(N, H, W, C).permute(0, 3, 1, 2),
    "contiguous": lambda: dense(N, C, H, W),
    "expanded": lambda: dense(N, 1, H, W).expand(N, C, H, W),
    "one number": lambda: dense(1).expand(N, C, H, W),
    "sliced": lambda: dense(N, C, H, 2 * W)[..., ::2],
}


def truth(image, edge, grad, activation):
    """Output and gradients of the reference in float64 from the very inputs of the kernels."""
    image, edge = (t.double().detach().requires_grad_() for t in (image, edge))
    out = reference.edge_transfer(image, edge, activation=activation)
    return (out.detach(), *torch.autograd.grad(out, (image, edge), grad.double()))


def check(image, edge, grad, activation, need_image=True, need_edge=True):
    from ecgan_kernels.triton import edge_transfer

    name = activation or "none"
    out, grad_image, grad_edge = truth(image, edge, grad, activation)
    got = edge_transfer.forward(image, edge, name)
    got_image, got_edge = edge_transfer.backward(grad, image, edge, name, need_image, need_edge)
    assert (got_image is None) != need_image
    assert (got_edge is None) != need_edge
    for ours, want, like in (
        (got, out, image),
        (got_image, grad_image, image),
        (got_edge, grad_edge, edge),
    ):
        if ours is None:
            continue
        assert ours.dtype == image.dtype
        assert ours.stride() == torch.empty_like(like).stride()
        error = (ours.double() - want).abs()
        scale = want.abs() + 0.5 * grad.double().abs()  # 1 - tanh^2 cancels against 1
        assert (error <= TOLERANCE[image.dtype] * scale + 1e-7).all(), error.max()


@on_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [None, "tanh"])
@pytest.mark.parametrize("size", [0, 1, 2, 17, 257, 1024, 2051])
def test_ragged_sizes(size, activation, dtype):
    torch.manual_seed(0)
    check(*(dense(size, dtype=dtype) for _ in range(3)), activation)


@on_device
@pytest.mark.parametrize(
    ("image", "edge", "grad"),
    [
        ("channels last", "channels last", "channels last"),
        ("channels last", "contiguous", "sliced"),
        ("contiguous", "expanded", "one number"),
        ("sliced", "channels last", "contiguous"),
        ("expanded", "contiguous", "channels last"),
    ],
)
def test_strides(image, edge, grad):
    torch.manual_seed(1)
    check(*(LAYOUTS[name]() for name in (image, edge, grad)), "tanh")


@on_device
@pytest.mark.parametrize("need_image", [True, False])
@pytest.mark.parametrize("need_edge", [True, False])
def test_gradients_asked_for(need_image, need_edge):
    torch.manual_seed(2)
    tensors = [dense(3, 11) for _ in range(3)]
    for activation in (None, "tanh"):
        check(*tensors, activation, need_image, need_edge)


@on_device
@pytest.mark.parametrize("activation", [None, "tanh"])
def test_saturated_and_special_values(activation):
    edges = [0.0, 1e-6, -1e-6, 0.2499, 0.2501, 20.0, -20.0, 100.0, -100.0]
    image = torch.tensor([1.5, -2.0], device=DEVICE)[:, None].expand(2, len(edges))
    edge = torch.tensor(edges, device=DEVICE).expand(2, len(edges))
    check(image, edge, torch.ones_like(edge), activation)
    from ecgan_kernels.triton import edge_transfer

    special = torch.tensor([torch.inf, -torch.inf, torch.nan], device=DEVICE)
    one = torch.ones_like(special)
    name = activation or "none"
    for image, edge in ((special, one), (one, special)):
        got = edge_transfer.forward(image, edge, name)
        want = reference.edge_transfer(image, edge, activation=activation)
        torch.testing.assert_close(got, want, equal_nan=True)


@on_device
def test_public_operator():
    from ecgan_kernels import edge_transfer

    torch.manual_seed(3)
    image, edge = (dense(2, 3, 5, 4).requires_grad_() for _ in range(2))
    out = edge_transfer(image, edge, activation="tanh", impl="triton")
    grad = torch.randn_like(out)
    want = truth(image, edge, grad, "tanh")
    for ours, expected in zip(
        (out, *torch.autograd.grad(out, (image, edge), grad)), want, strict=True
    ):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-6)


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
    assert int(passed[1]) > 50, run.stdout


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("capability", [70, 75, 80, 90])
@pytest.mark.parametrize(("dtype", "ndim"), [("fp32", 0), ("fp16", 0), ("bf16", 0), ("fp32", 3)])
def test_compiles_ahead_of_time(dtype, ndim, capability):
    import triton
    from ecgan_kernels.triton import edge_transfer
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    def compile_kernel(kernel, pointers, constants):
        strides = {name: ("i64",) * ndim for name in kernel.arg_names if name.endswith("strides")}
        signature = dict.fromkeys(pointers, f"*{dtype}")
        signature |= {"numel": "i32", "sizes": ("i32",) * ndim, **strides}
        signature |= dict.fromkeys(constants, "constexpr")
        assert signature.keys() == set(kernel.arg_names)
        multiple_of_16 = {
            (kernel.arg_names.index(name),): [["tt.divisibility", 16]]
            for name in (*pointers, "numel")
        }
        source = ASTSource(
            fn=kernel,
            signature={name: signature[name] for name in kernel.arg_names},
            constexprs={(kernel.arg_names.index(k),): v for k, v in constants.items()},
            attrs=multiple_of_16,
        )
        return triton.compile(source, target=GPUTarget("cuda", capability, 32))

    shared = {"TANH": True, "NDIM": ndim, "WIDE": False, "BLOCK": 1024}
    forward = compile_kernel(edge_transfer.forward_kernel, ["image", "edge", "out"], shared)
    backward = compile_kernel(
        edge_transfer.backward_kernel,
        ["grad", "image", "edge", "grad_image", "grad_edge"],
        {**shared, "NEED_IMAGE": True, "NEED_EDGE": True},
    )
    for compiled, loads, stores in ((forward, 2, 1), (backward, 3, 2)):
        ptx = compiled.asm["ptx"]
        assert f".target sm_{capability}" in ptx
        assert compiled.asm["cubin"]
        if ndim == 0:  # 16 bytes an access: 1024 elements on 128 threads
            accesses = 2 if dtype == "fp32" else 1
            assert ptx.count("ld.global.v4") == loads * accesses
            assert ptx.count("st.global.v4") == stores * accesses
