"""class_conv2d against loops over pixels and taps, and against N masked passes, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from ecgan_kernels import _library, class_conv2d
from torch import Tensor

needs_library = pytest.mark.skipif(not _library.CPU.loaded, reason=str(_library.CPU.problem))
IMPLS = [pytest.param("cpu", marks=needs_library), "reference"]


def brute_force(x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Sums tap by tap, from the equation of the docstring; differentiable."""
    batch, _, height, width = x.shape
    start = weight.new_zeros(weight.shape[0]) if bias is None else bias
    out = []
    for b in range(batch):
        for row in range(height):
            for column in range(width):
                y = start
                for i in range(3):
                    for j in range(3):
                        r, c = row + i - 1, column + j - 1
                        inside = 0 <= r < height and 0 <= c < width
                        if inside and labels[b, r, c] == labels[b, row, column]:
                            y = y + weight[:, :, i, j] @ x[b, :, r, c]
                out.append(y)
    return torch.stack(out).view(batch, height, width, -1).permute(0, 3, 1, 2)


def example(
    height: int = 5, width: int = 4, channels: int = 3, outputs: int = 2, classes: int = 3
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(height * width)
    labels = torch.randint(0, classes, (2, height, width), generator=generator)
    x = torch.randn(2, channels, height, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(outputs, channels, 3, 3, generator=generator, dtype=torch.float64)
    bias = torch.randn(outputs, generator=generator, dtype=torch.float64)
    return x.requires_grad_(), labels, weight.requires_grad_(), bias.requires_grad_()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2), (5, 4), (3, 17)])
def test_value_and_gradient(size, impl):
    x, labels, weight, bias = example(*size)
    actual, expected = (
        class_conv2d(x, labels, weight, bias, impl=impl),
        brute_force(x, labels, weight, bias),
    )
    torch.testing.assert_close(actual, expected)
    grad = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(actual, (x, weight, bias), grad),
        torch.autograd.grad(expected, (x, weight, bias), grad, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("impl", IMPLS)
def test_gradcheck(impl):
    x, labels, weight, bias = example(3, 3)
    assert torch.autograd.gradcheck(
        lambda x, w, b: class_conv2d(x, labels, w, b, impl=impl), (x, weight, bias)
    )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_every_subset_of_gradients(needed, impl):
    x, labels, weight, bias = example()
    operands = [x, weight, bias]
    full = torch.autograd.grad(
        class_conv2d(x, labels, weight, bias, impl=impl).square().sum(), operands
    )
    for i, operand in enumerate(operands):
        operand.requires_grad_(i in needed)
    loss = class_conv2d(x, labels, weight, bias, impl=impl).square().sum()
    some = torch.autograd.grad(loss, [operands[i] for i in needed])
    for i, grad in zip(needed, some, strict=True):
        torch.testing.assert_close(grad, full[i])


@pytest.mark.parametrize("impl", IMPLS)
def test_decoder_equals_n_masked_passes(impl):
    # A decoder whose input is masked by class and whose masks are applied again at every layer.
    x, labels, *_ = example(6, 7, channels=4, classes=3)
    weights = [torch.randn(o, c, 3, 3, dtype=torch.float64) for c, o in ((4, 5), (5, 3))]
    biases = [torch.randn(o, dtype=torch.float64) for o in (5, 3)]
    expected = torch.zeros(2, 3, 6, 7, dtype=torch.float64)
    for label in range(3):
        mask = (labels == label)[:, None]
        h = x
        for weight, bias in zip(weights, biases, strict=True):
            h = F.conv2d(F.leaky_relu(h, 0.2) * mask, weight, bias, padding=1) * mask
        expected = expected + h
    h = x
    for weight, bias in zip(weights, biases, strict=True):
        h = class_conv2d(F.leaky_relu(h, 0.2), labels, weight, bias, impl=impl)
    torch.testing.assert_close(h, expected)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("slope", [0.2, 0.0, 3, -1.0])
def test_negative_slope(slope, impl):
    x, labels, weight, bias = example()
    with torch.no_grad():
        x[:, :, 1] = 0  # where the derivative is the slope's, as in torch
    ours = class_conv2d(x, labels, weight, bias, negative_slope=slope, impl=impl)
    plain = class_conv2d(F.leaky_relu(x, slope), labels, weight, bias, impl="reference")
    torch.testing.assert_close(ours, plain)
    grad = torch.randn_like(plain)
    torch.testing.assert_close(
        torch.autograd.grad(ours, (x, weight, bias), grad),
        torch.autograd.grad(plain, (x, weight, bias), grad),
    )


@pytest.mark.parametrize("impl", IMPLS)
def test_nan_does_not_cross_a_class_boundary(impl):
    x, labels, weight, bias = (t.detach() for t in example())
    expected = class_conv2d(x, labels, weight, bias, impl=impl)
    broken = torch.where(labels[:, None] == 1, torch.nan, x).requires_grad_()
    actual = class_conv2d(broken, labels, weight, bias, impl=impl)
    keep = (labels != 1)[:, None].expand_as(expected)
    torch.testing.assert_close(actual[keep], expected[keep])
    (grad,) = torch.autograd.grad(actual[keep].sum(), broken)
    assert grad.isfinite().all()


@pytest.mark.parametrize("impl", IMPLS)
def test_one_class_is_a_plain_convolution(impl):
    x, labels, weight, bias = example()
    actual = class_conv2d(x, torch.full_like(labels, 255), weight, bias, impl=impl)
    torch.testing.assert_close(actual, F.conv2d(x, weight, bias, padding=1))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_label_dtypes(dtype, impl):
    x, labels, weight, bias = example()
    assert torch.equal(
        class_conv2d(x, labels.to(dtype), weight, bias, impl=impl),
        class_conv2d(x, labels, weight, bias, impl=impl),
    )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_rounds_once(dtype, impl):
    x, labels, weight, bias = (t.detach() for t in example())
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    truth = brute_force(x.double(), labels, weight.double(), bias.double())
    actual = class_conv2d(x, labels, weight, bias, impl=impl)
    assert actual.dtype == dtype
    torch.testing.assert_close(
        actual.double(), truth, rtol=torch.finfo(dtype).eps / 2 + 1e-6, atol=1e-6
    )
    x, weight = x.requires_grad_(), weight.requires_grad_()
    grads = torch.autograd.grad(class_conv2d(x, labels, weight, bias, impl=impl).sum(), (x, weight))
    assert [grad.dtype for grad in grads] == [dtype, dtype]


@pytest.mark.parametrize("impl", IMPLS)
def test_incoming_gradients_of_any_stride(impl):
    x, labels, weight, _ = example()
    y = class_conv2d(x, labels, weight, impl=impl)
    turned = torch.randn(2, 4, 5, 2, dtype=torch.float64).permute(0, 3, 2, 1)
    stretched = torch.ones(1, dtype=torch.float64).expand_as(y)
    for grad in (turned, stretched):
        ours = torch.autograd.grad(y, (x, weight), grad, retain_graph=True)
        theirs = torch.autograd.grad(y, (x, weight), grad.contiguous(), retain_graph=True)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("layout", ["channels_last", "expanded", "sliced"])
def test_non_contiguous(layout, impl):
    x, labels, weight, bias = (t.detach() for t in example())
    if layout == "channels_last":
        odd = x.to(memory_format=torch.channels_last)
    elif layout == "expanded":
        x = x[:, :, :, :1].expand_as(x).contiguous()
        odd = x[:, :, :, :1].expand_as(x)
    else:
        odd = torch.stack([x, x], dim=-1)[..., 0]
    assert not odd.is_contiguous()
    torch.testing.assert_close(
        class_conv2d(odd, labels.mT.contiguous().mT, weight, bias, impl=impl),
        class_conv2d(x, labels, weight, bias, impl=impl),
    )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4)])
def test_empty(shape, impl):
    x = torch.zeros(shape, requires_grad=True)
    weight = torch.randn(2, 3, 3, 3, requires_grad=True)
    y = class_conv2d(x, torch.zeros(shape[0], *shape[2:]).long(), weight, impl=impl)
    assert y.shape == (shape[0], 2, *shape[2:])
    y.sum().backward()
    assert x.grad.shape == shape
    assert (weight.grad == 0).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_autocast_casts_as_conv2d_does(impl):
    x, labels, weight, bias = (t.detach() for t in example())
    x, weight, bias = x.float().requires_grad_(), weight.float().requires_grad_(), bias.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = class_conv2d(x, labels, weight, bias, impl=impl)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(
        y.float(), class_conv2d(x, labels, weight, bias, impl=impl), rtol=2e-2, atol=5e-2
    )
    y.sum().backward()
    assert x.grad.dtype == weight.grad.dtype == torch.float32


@pytest.mark.parametrize("impl", IMPLS)
def test_compiles_to_one_graph(impl):
    x, labels, weight, bias = example()
    dynamic = impl != "reference"  # which takes long to trace so
    compiled = torch.compile(class_conv2d, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    expected = torch.autograd.grad(
        class_conv2d(x, labels, weight, bias, negative_slope=0.2, impl=impl).sin().sum(),
        (x, weight),
    )
    actual = torch.autograd.grad(
        compiled(x, labels, weight, bias, negative_slope=0.2, impl=impl).sin().sum(), (x, weight)
    )
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_keeps_its_inputs_and_nothing_else(impl):
    x, labels, weight, bias = example()
    kept = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t)
    with hooks:
        class_conv2d(x, labels, weight, bias, impl=impl)
    assert {t.data_ptr() for t in kept} <= {t.data_ptr() for t in (x, labels, weight)}


X, LABELS = torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4).long()
WEIGHT, BIAS = torch.randn(5, 3, 3, 3), torch.randn(5)


@pytest.mark.parametrize(
    ("error", "words", "arguments", "options"),
    [
        (TypeError, "x must be float32", (X.int(), LABELS, WEIGHT), {}),
        (ValueError, "x must have 4 dimensions", (X[0], LABELS, WEIGHT), {}),
        (TypeError, "labels must be uint8", (X, LABELS.float(), WEIGHT), {}),
        (ValueError, r"labels must have shape \(2, 4, 4\)", (X, LABELS[:, :3], WEIGHT), {}),
        (ValueError, "labels must be on the device", (X, LABELS.to("meta"), WEIGHT), {}),
        (ValueError, r"weight must have shape \(5, 3, 3, 3\)", (X, LABELS, WEIGHT[:, :2]), {}),
        (ValueError, "weight must have shape", (X, LABELS, WEIGHT[..., :1]), {}),
        (TypeError, "weight must have the dtype of x", (X, LABELS, WEIGHT.double()), {}),
        (ValueError, "weight must be on the device", (X, LABELS, WEIGHT.to("meta")), {}),
        (ValueError, r"bias must have shape \(5,\)", (X, LABELS, WEIGHT, BIAS[:2]), {}),
        (TypeError, "bias must have the dtype", (X, LABELS, WEIGHT, BIAS.half()), {}),
        (TypeError, "negative_slope must be a", (X, LABELS, WEIGHT), {"negative_slope": "0.2"}),
        (TypeError, "negative_slope must be a", (X, LABELS, WEIGHT), {"negative_slope": True}),
        (ValueError, "impl", (X, LABELS, WEIGHT), {"impl": "best"}),
        (RuntimeError, "cuda", (X, LABELS, WEIGHT), {"impl": "cuda"}),
    ],
)
def test_errors(error, words, arguments, options):
    with pytest.raises(error, match=words):
        class_conv2d(*arguments, **options)
