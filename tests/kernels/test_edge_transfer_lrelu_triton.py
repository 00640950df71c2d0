"""The Triton kernels of edge_transfer_lrelu: run in the interpreter or on a GPU, compiled for all.

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
# float32's few roundings, and two to the half type: of the results, and of the gradients computed
# from them. The interpreter truncates to bfloat16, GPUs round.
BFLOAT16 = 2**-7 if INTERPRETED else 2**-8
ROUNDING = {torch.float32: 2**-23, torch.float16: 2**-11, torch.bfloat16: BFLOAT16}

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


def check(image, edge, grads, slope=0.2, need_image=True, need_edge=True):
    """Compares with the reference in float64 from the very inputs of the kernels."""
    from ecgan_kernels.triton import edge_transfer_lrelu

    wide = [x.double().detach().requires_grad_() for x in (image, edge)]
    outs = reference.edge_transfer_lrelu(*wide, negative_slope=slope)
    terms = [
        torch.autograd.grad(out, wide, g.double(), retain_graph=True, materialize_grads=True)
        for out, g in zip(outs, grads, strict=True)
        if g is not None
    ]
    got = edge_transfer_lrelu.forward(image, edge, slope)
    results = edge_transfer_lrelu.backward(*grads, *got, slope, need_image, need_edge)
    assert [x is not None for x in results] == [need_image, need_edge]
    # What e, where it comes back from its rounded result, does to sigmoid (1 - sigmoid).
    blur = 1 + (-wide[1].detach()).clamp(min=0)
    for ours, want, scale, like in (
        (got[0], outs[0].detach(), outs[0].detach().abs(), image),
        (got[1], outs[1].detach(), outs[1].detach().abs(), edge),
        (results[0], sum(t[0] for t in terms), sum(t[0].abs() for t in terms), image),
        (results[1], sum(t[1] for t in terms), blur * sum(t[1].abs() for t in terms), edge),
    ):
        if ours is None:
            continue
        assert ours.dtype == image.dtype
        assert ours.stride() == torch.empty_like(like).stride()
        error = (ours.double() - want).abs()
        assert (error <= (3 * ROUNDING[image.dtype] + 1e-6) * scale + 1e-7).all(), error.max()


@on_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("slope", [0.2, 1.0])
@pytest.mark.parametrize("size", [0, 1, 2, 17, 257, 1024, 2051])
def test_ragged_sizes(size, slope, dtype):
    torch.manual_seed(0)
    image, edge, *grads = (dense(size, dtype=dtype) for _ in range(4))
    check(image, edge, grads, slope)


@on_device
@pytest.mark.parametrize(
    "names",
    [
        ("channels last", "channels last", "channels last", "channels last"),
        ("channels last", "contiguous", "sliced", "one number"),
        ("contiguous", "expanded", "one number", "channels last"),
        ("sliced", "channels last", "contiguous", "expanded"),
        ("expanded", "contiguous", "channels last", "sliced"),
    ],
)
def test_strides(names):
    torch.manual_seed(1)
    image, edge, *grads = (LAYOUTS[name]() for name in names)
    check(image, edge, grads)


@on_device
@pytest.mark.parametrize("need_image", [True, False])
@pytest.mark.parametrize("need_edge", [True, False])
@pytest.mark.parametrize("there", [(True, True), (True, False), (False, True)])
def test_gradients_asked_for_and_there(there, need_image, need_edge):
    torch.manual_seed(2)
    image, edge, *grads = (dense(3, 11) for _ in range(4))
    grads = [g if t else None for g, t in zip(grads, there, strict=True)]
    check(image, edge, grads, need_image=need_image and there[0], need_edge=need_edge)


@on_device
def test_saturated_and_special_values():
    from ecgan_kernels.triton import edge_transfer_lrelu

    edges = [0.0, -0.0, 1e-6, -1e-6, 20.0, -20.0, 80.0, -80.0]
    image = torch.tensor([1.5, -2.0, 0.0], device=DEVICE)[:, None].expand(3, len(edges))
    edge = torch.tensor(edges, device=DEVICE).expand(3, len(edges))
    check(image, edge, [torch.ones_like(edge)] * 2)
    special = torch.tensor([torch.inf, -torch.inf, torch.nan], device=DEVICE)
    one = torch.ones_like(special)
    for image, edge in ((special, one), (one, special)):
        got = edge_transfer_lrelu.forward(image, edge, 0.2)
        want = reference.edge_transfer_lrelu(image, edge)
        torch.testing.assert_close(got, want, equal_nan=True)


@on_device
def test_public_operator():
    from ecgan_kernels import edge_transfer_lrelu

    torch.manual_seed(3)
    inputs = [dense(2, 3, 5, 4).requires_grad_() for _ in range(2)]
    for take in (lambda y, f: y.sum() + 2 * f.sum(), lambda y, f: y.sum(), lambda y, f: f.sum()):
        got, want = (
            torch.autograd.grad(
                take(*edge_transfer_lrelu(*inputs, impl=impl)), inputs, allow_unused=True
            )
            for impl in ("triton", "reference")
        )
        assert [x is None for x in got] == [x is None for x in want]
        for ours, expected in zip(got, want, strict=True):
            if ours is not None:
                torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


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
    from ecgan_kernels.triton import edge_transfer_lrelu
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    def compile_kernel(kernel, pointers, scalars, constants):
        strides = {name: ("i64",) * ndim for name in kernel.arg_names if name.endswith("strides")}
        signature = dict.fromkeys(pointers, f"*{dtype}") | dict.fromkeys(scalars, "fp32")
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

    shared = {"NDIM": ndim, "WIDE": False, "BLOCK": 1024}
    results = ["image_out", "edge_out"]
    forward = compile_kernel(
        edge_transfer_lrelu.forward_kernel, ["image", "edge", *results], ["negative_slope"], shared
    )
    flags = ("FROM_IMAGE", "FROM_EDGE", "NEED_IMAGE", "NEED_EDGE")
    backward = compile_kernel(
        edge_transfer_lrelu.backward_kernel,
        ["grad_image_out", "grad_edge_out", *results, "grad_image", "grad_edge"],
        ["negative_slope", "inverse_slope"],
        {**shared, **dict.fromkeys(flags, True)},
    )
    for compiled, loads, stores in ((forward, 2, 2), (backward, 4, 2)):
        ptx = compiled.asm["ptx"]
        assert f".target sm_{capability}" in ptx
        assert compiled.asm["cubin"]
        if ndim == 0:  # 16 bytes an access: 1024 elements on 128 threads
            accesses = 2 if dtype == "fp32" else 1
            assert ptx.count("ld.global.v4") == loads * accesses
            assert ptx.count("st.global.v4") == stores * accesses
