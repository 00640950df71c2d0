"""label_conv2d against a loop over output pixels and taps in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from ecgan_kernels.label_conv2d import label_conv2d
from torch import Tensor

IGNORE = 255


def brute_force(
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    ignore: int = IGNORE,
) -> Tensor:
    """Sums one weight column per tap, from the equation of the docstring; differentiable."""
    batch, height, width = labels.shape
    kernel_height, kernel_width = weight.shape[2:]
    rows = (height + 2 * padding[0] - kernel_height) // stride[0] + 1
    columns = (width + 2 * padding[1] - kernel_width) // stride[1] + 1
    start = weight.new_zeros(weight.shape[0]) if bias is None else bias
    out = []
    for b in range(batch):
        for row in range(rows):
            for column in range(columns):
                y = start
                for i in range(kernel_height):
                    for j in range(kernel_width):
                        r = row * stride[0] + i - padding[0]
                        c = column * stride[1] + j - padding[1]
                        if 0 <= r < height and 0 <= c < width:
                            label = int(labels[b, r, c])
                            if label != ignore:
                                y = y + weight[:, label, i, j]
                out.append(y)
    return torch.stack(out).view(batch, rows, columns, -1).permute(0, 3, 1, 2)


def example(
    height: int = 5, width: int = 6, classes: int = 4, outputs: int = 3, kernel=(3, 3)
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(height * width)
    labels = torch.randint(0, classes, (2, height, width), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORE
    weight = torch.randn(outputs, classes, *kernel, generator=generator, dtype=torch.float64)
    bias = torch.randn(outputs, generator=generator, dtype=torch.float64)
    return labels, weight.requires_grad_(), bias.requires_grad_()


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((1, 1), 1, 0),
        ((3, 3), 1, 1),
        ((3, 3), 1, 0),
        ((3, 3), 2, 1),
        ((4, 4), 2, 2),
        ((5, 5), 1, 2),
        ((2, 3), (2, 1), (0, 1)),
        ((3, 3), (1, 3), (3, 0)),
    ],
)
@pytest.mark.parametrize("size", [(5, 6), (7, 4)])
def test_value_and_gradient(size, kernel, stride, padding):
    labels, weight, bias = example(*size, kernel=kernel)
    actual = label_conv2d(labels, weight, bias, stride=stride, padding=padding)
    pairs = [v if isinstance(v, tuple) else (v, v) for v in (stride, padding)]
    expected = brute_force(labels, weight, bias, *pairs)
    torch.testing.assert_close(actual, expected)
    grad = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(actual, (weight, bias), grad),
        torch.autograd.grad(expected, (weight, bias), grad),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (2, 1)])
def test_small_maps(size):
    labels, weight, _ = example(*size)
    actual = label_conv2d(labels, weight, padding=1)
    torch.testing.assert_close(actual, brute_force(labels, weight, None, padding=(1, 1)))


def test_ignore_index_inside_the_classes():
    labels, weight, _ = example()
    labels[labels == IGNORE] = 0
    actual = label_conv2d(labels, weight, padding=1, ignore_index=2)
    expected = brute_force(labels, weight, None, padding=(1, 1), ignore=2)
    torch.testing.assert_close(actual, expected)


def test_all_ignored_gives_the_bias():
    labels, weight, bias = example()
    out = label_conv2d(torch.full_like(labels, IGNORE), weight, bias)
    torch.testing.assert_close(out, bias[:, None, None].expand_as(out))


@pytest.mark.parametrize("needed", ["weight", "bias"])
def test_one_gradient_at_a_time(needed):
    labels, weight, bias = example()
    weight.requires_grad_(needed == "weight")
    bias.requires_grad_(needed == "bias")
    wanted = weight if needed == "weight" else bias
    assert torch.autograd.grad(label_conv2d(labels, weight, bias).sum(), wanted)[0].any()


def test_gradcheck():
    labels, weight, bias = example(4, 3)
    assert torch.autograd.gradcheck(
        lambda w, b: label_conv2d(labels, w, b, padding=1, stride=2), (weight, bias)
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_label_dtypes(dtype):
    labels, weight, bias = example()
    assert torch.equal(
        label_conv2d(labels.to(dtype), weight, bias), label_conv2d(labels, weight, bias)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weight_dtypes(dtype):
    labels, weight, bias = example()
    actual = label_conv2d(labels, weight.to(dtype), bias.to(dtype), padding=1)
    assert actual.dtype == dtype
    truth = brute_force(labels, weight.to(dtype).double(), bias.to(dtype).double(), padding=(1, 1))
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(actual.double(), truth, rtol=tolerance, atol=4 * tolerance)


def test_empty_batch():
    _, weight, bias = example()
    out = label_conv2d(torch.zeros(0, 5, 6).long(), weight, bias)
    assert out.shape == (0, 3, 3, 4)
    out.sum().backward()
    assert (weight.grad == 0).all()


def test_non_contiguous():
    labels, weight, bias = example()
    expected = label_conv2d(labels, weight, bias)
    turned = weight.detach().to(memory_format=torch.channels_last)
    columns = labels.mT.contiguous().mT
    torch.testing.assert_close(label_conv2d(columns, turned, bias), expected)


def test_autocast_follows_conv2d():
    labels, weight, bias = example()
    weight, bias = weight.float(), bias.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = label_conv2d(labels, weight, bias)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(
        actual.float(), label_conv2d(labels, weight, bias), rtol=2e-2, atol=5e-2
    )


def test_compiles_to_one_graph():
    labels, weight, bias = example()
    compiled = torch.compile(label_conv2d, fullgraph=True, backend="aot_eager")
    actual = compiled(labels, weight, bias, padding=1)
    torch.testing.assert_close(actual, label_conv2d(labels, weight, bias, padding=1))
    # Values cannot be looked at in a graph: out-of-range labels contribute nothing there.
    wrong = torch.where(labels == IGNORE, -9, labels)
    torch.testing.assert_close(compiled(wrong, weight, bias, padding=1), actual)


def test_equals_conv2d_of_the_one_hot_form_at_many_classes():
    labels = torch.randint(0, 183, (1, 9, 9), dtype=torch.uint8)
    weight = torch.randn(4, 183, 3, 3, dtype=torch.float64)
    columns = F.one_hot(labels.long(), 183).permute(0, 3, 1, 2).double()
    torch.testing.assert_close(
        label_conv2d(labels, weight, padding=1), F.conv2d(columns, weight, padding=1)
    )


LABELS, WEIGHT, BIAS = torch.zeros(2, 4, 4).long(), torch.randn(5, 3, 3, 3), torch.randn(5)


@pytest.mark.parametrize(
    ("error", "words", "arguments", "options"),
    [
        (TypeError, "labels must be uint8", (LABELS.float(), WEIGHT), {}),
        (ValueError, "labels must have 3 dimensions", (LABELS[0], WEIGHT), {}),
        (TypeError, "weight must be a torch.Tensor", (LABELS, None), {}),
        (TypeError, "weight must be float32", (LABELS, WEIGHT.int()), {}),
        (ValueError, "weight must have 4 dimensions", (LABELS, WEIGHT[0]), {}),
        (ValueError, "weight must be on the device", (LABELS, WEIGHT.to("meta")), {}),
        (ValueError, "kernel height between 1 and .* \\(2\\)", (LABELS[:, :2], WEIGHT), {}),
        (ValueError, "kernel width", (LABELS[:, :, :2], WEIGHT), {}),
        (ValueError, r"bias must have shape \(5,\)", (LABELS, WEIGHT, BIAS[1:]), {}),
        (TypeError, "bias must have the dtype of weight", (LABELS, WEIGHT, BIAS.double()), {}),
        (ValueError, "stride must be at least 1", (LABELS, WEIGHT), {"stride": 0}),
        (ValueError, "stride must be one int or two", (LABELS, WEIGHT), {"stride": (1, 1, 1)}),
        (TypeError, "padding must be an int", (LABELS, WEIGHT), {"padding": "same"}),
        (ValueError, "padding must be at least 0", (LABELS, WEIGHT), {"padding": (0, -1)}),
        (TypeError, "ignore_index must be an int", (LABELS, WEIGHT), {"ignore_index": 2.0}),
        (ValueError, r"labels must lie in \[0, 3\).*holds 3", (LABELS + 3, WEIGHT), {}),
        (ValueError, "impl", (LABELS, WEIGHT), {"impl": "fast"}),
        (RuntimeError, "cpu", (LABELS, WEIGHT), {"impl": "cpu"}),
    ],
)
def test_errors(error, words, arguments, options):
    with pytest.raises(error, match=words):
        label_conv2d(*arguments, **options)
