"""One forward and backward pass of every operator, on small ragged tensors, against its reference.

    python tests/kernels/every_operator.py [DEVICE [IMPL ...]]     default: cpu auto

Imports torch and ecgan_kernels alone, for environments that hold nothing else, and runs under
compute-sanitizer, where a test suite would take too long. The truth is the reference in float64 on
the CPU, on inputs rounded to the dtype.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from ecgan_kernels import (
    PixelQueue,
    class_conv2d,
    edge_transfer,
    edge_transfer_lrelu,
    label_conv2d,
    pixel_contrast,
    sample_pixels,
    similarity_bce,
)
from ecgan_kernels.nn import LabelSPADE
from torch import Tensor

# Of the largest value of a result or gradient: some ten roundings.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2}
CLASSES = 5
LABELS = torch.tensor([[0, 1, 255, 2], [3, 3, 1, 4], [0, 2, 4, 4]]).repeat(2, 1, 1)
LABELS = LABELS.repeat_interleave(7, 1).repeat_interleave(8, 2)[..., :-1]  # [2, 21, 31], 255: void


def spade(x: Tensor, *weights: Tensor, norm: str, impl: str) -> Tensor:
    layer = LabelSPADE(3, CLASSES, hidden=7, norm=norm, negative_slope=0.2, impl=impl).to(x)
    names = [name for name, _ in layer.named_parameters()]
    state = dict(zip(names, weights, strict=True))
    return torch.func.functional_call(layer, state, (x, LABELS.to(x.device)))


def cases() -> dict[str, tuple[Callable[..., Tensor | tuple[Tensor, ...]], list[Tensor]]]:
    """Calls by name, each of differentiable tensors and ``impl``, and those tensors."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def on(x: Tensor) -> Tensor:
        return LABELS.to(x.device)

    maps = [randn(2, 3, 21, 31), randn(2, 3, 21, 31)]
    first = [randn(6, CLASSES + 1, 3, 3), randn(6)]
    marks = randn(2, 1, 21, 31) > 1
    z, contrast = randn(67, 19), randn(41, 19)
    z_labels, contrast_labels = torch.arange(67) % 4, torch.arange(41) % 3
    parameters = [
        *(randn(7, CLASSES, 3, 3), randn(7)),
        *(randn(3, 7, 3, 3) / 8, randn(3), randn(3, 7, 3, 3) / 8, randn(3)),
    ]
    return {
        "edge_transfer": (edge_transfer, maps),
        "edge_transfer, tanh": (
            lambda x, e, impl: edge_transfer(x, e.expand_as(x), activation="tanh", impl=impl),
            [maps[0], randn(2, 1, 21, 31)],
        ),
        "edge_transfer_lrelu": (edge_transfer_lrelu, maps),
        "similarity_bce": (
            lambda logits, impl: similarity_bce(logits.softmax(1), on(logits), impl=impl),
            [randn(2, CLASSES, 21, 31)],
        ),
        "pixel_contrast": (
            lambda z, impl: pixel_contrast(z, z_labels.to(z.device), impl=impl),
            [z],
        ),
        "pixel_contrast, queue": (
            lambda z, q, impl: pixel_contrast(
                z,
                z_labels.to(z.device),
                contrast=q,
                contrast_labels=contrast_labels.to(z.device),
                impl=impl,
            ),
            [z, contrast],
        ),
        "label_conv2d": (
            lambda w, b, impl: label_conv2d(
                on(w), w, b, stride=2, padding=1, edges=marks.to(w.device), impl=impl
            ),
            first,
        ),
        "class_conv2d": (
            lambda x, w, b, impl: class_conv2d(x, on(x), w, b, negative_slope=0.2, impl=impl),
            [maps[0], randn(5, 3, 3, 3) / 4, randn(5)],
        ),
        "LabelSPADE, instance": (
            lambda x, *w, impl: spade(x, *w, norm="instance", impl=impl),
            [maps[0], *parameters],
        ),
        "LabelSPADE, batch": (
            lambda x, *w, impl: spade(x, *w, norm="batch", impl=impl),
            [maps[0], *parameters],
        ),
    }


def run(function: Callable, inputs: list[Tensor], impl: str) -> list[Tensor]:
    """Results and gradients."""
    inputs = [x.requires_grad_() for x in inputs]
    outs = function(*inputs, impl=impl)
    outs = outs if isinstance(outs, tuple) else (outs,)
    grads = [torch.ones_like(out) for out in outs]
    return [*(out.detach() for out in outs), *torch.autograd.grad(outs, inputs, grads)]


def check(device: str, impl: str) -> None:
    for name, (function, inputs) in cases().items():
        if impl == "triton" and name.startswith("LabelSPADE"):
            continue  # it has none
        for dtype, tolerance in TOLERANCES.items():
            rounded = [x.to(dtype) for x in inputs]
            truth = run(function, [x.double() for x in rounded], "reference")
            ours = run(function, [x.to(device) for x in rounded], impl)
            for i, (got, wanted) in enumerate(zip(ours, truth, strict=True)):
                error = (got.double().cpu() - wanted).abs().max() / wanted.abs().max()
                what = f"{name}, {dtype}, {impl} on {device}: error {error:.2g} of tensor {i}"
                assert error <= tolerance, what
        print(f"{name}: {impl}", flush=True)


def check_sampling(device: str) -> None:
    """The two that have one implementation."""
    labels = LABELS.to(device)
    pixels = sample_pixels(labels, 100)
    drawn = labels.flatten()[pixels]
    assert torch.equal(drawn.bincount().cpu(), torch.full((CLASSES,), 20))
    print("sample_pixels")
    queue = PixelQueue(CLASSES, 3, megabytes=CLASSES * 8 * 3 * 4 / 2**20).to(device)
    queue.enqueue(torch.randn(len(drawn), 3, device=device), drawn)
    past, past_labels = queue.contents()
    assert torch.equal(past_labels.cpu(), torch.arange(CLASSES).repeat_interleave(8))
    assert torch.allclose(past.norm(dim=1).cpu(), torch.ones(len(past)))
    print("PixelQueue")


if __name__ == "__main__":
    torch.backends.cudnn.allow_tf32 = False  # a reference in float32 is to be one
    where, *impls = sys.argv[1:] or ["cpu"]
    for one in impls or ["auto"]:
        check(where, one)
    check_sampling(where)
    if where == "cuda":
        torch.cuda.synchronize()  # a fault of the last kernel is this program's
