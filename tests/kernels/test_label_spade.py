"""LabelSPADE against SPADE written out with explicit one-hot maps and functional layers."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from ecgan_kernels import libraries
from ecgan_kernels.label_index import LabelIndex
from ecgan_kernels.nn import LabelSPADE
from torch import Tensor

CLASSES = 4
IMPLS = ["reference", *(["cpu"] if any(library.loaded for library in libraries()) else [])]


def spade(
    state: dict[str, Tensor],
    x: Tensor,
    segmap: Tensor,
    norm: str,
    negative_slope: float | None = None,
    statistics: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The published layer from its state_dict: normalise, resize the segmap, modulate."""
    over = (2, 3) if norm == "instance" else (0, 2, 3)
    mean, variance = x.mean(over, keepdim=True), x.var(over, unbiased=False, keepdim=True)
    if statistics is not None:
        mean, variance = (s[:, None, None] for s in statistics)
    n = (x - mean) / (variance + 1e-5).sqrt()
    segmap = F.interpolate(segmap, size=x.shape[2:], mode="nearest")
    margin = state["mlp_gamma.weight"].shape[-1] // 2
    actv = F.conv2d(
        segmap, state["mlp_shared.0.weight"], state["mlp_shared.0.bias"], padding=margin
    ).clamp(min=0)
    gamma = F.conv2d(actv, state["mlp_gamma.weight"], state["mlp_gamma.bias"], padding=margin)
    beta = F.conv2d(actv, state["mlp_beta.weight"], state["mlp_beta.bias"], padding=margin)
    out = n * (1 + gamma) + beta
    return out if negative_slope is None else torch.where(out > 0, out, negative_slope * out)


def example(height: int = 6, width: int = 8, channels: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """x, labels of twice its size with void pixels, and the labels' one-hot form."""
    generator = torch.Generator().manual_seed(height * width)
    x = torch.randn(2, channels, height, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, CLASSES + 1, (2, 2 * height, 2 * width), generator=generator)
    segmap = F.one_hot(labels, CLASSES + 1)[..., :CLASSES].permute(0, 3, 1, 2).double()
    return x.requires_grad_(), labels, segmap


def layer(channels: int = 5, **options) -> LabelSPADE:
    torch.manual_seed(0)
    return LabelSPADE(channels, CLASSES, **{"hidden": 6, **options}).double()


def assert_same_with_gradients(module: LabelSPADE, x: Tensor, actual: Tensor, expected: Tensor):
    torch.testing.assert_close(actual, expected)
    operands = (x, *module.parameters())
    grad = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(actual, operands, grad),
        torch.autograd.grad(expected, operands, grad),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("norm", ["instance", "batch", "syncbatch"])
@pytest.mark.parametrize("negative_slope", [None, 0.2])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("impl", IMPLS)
def test_value_and_gradient(impl, norm, negative_slope, kernel_size):
    module = layer(norm=norm, negative_slope=negative_slope, kernel_size=kernel_size, impl=impl)
    x, labels, segmap = example()
    expected = spade(dict(module.named_parameters()), x, segmap, norm, negative_slope)
    assert_same_with_gradients(module, x, module(x, labels), expected)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("size", [(1, 2), (3, 5), (7, 4), (17, 1), (5, 67), (3, 257)])
def test_ragged_sizes(size, impl):
    module = layer(impl=impl)
    x, labels, segmap = example(*size)
    expected = spade(dict(module.named_parameters()), x, segmap, "instance")
    assert_same_with_gradients(module, x, module(x, labels), expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_edges(impl):
    module = layer(edge_channel=True, impl=impl)
    x, labels, segmap = example()
    edges = torch.rand(2, 1, *labels.shape[1:]) < 0.4
    segmap = torch.cat([segmap, edges.double()], dim=1)
    expected = spade(dict(module.named_parameters()), x, segmap, "instance")
    actual = module(x, LabelIndex(labels, CLASSES, edges=edges))
    assert_same_with_gradients(module, x, actual, expected)


@pytest.mark.parametrize("noise_size", [(12, 16), (6, 8), (1, 1)])
def test_noise_is_appended(noise_size):
    module = layer(noise_channels=3)
    x, labels, segmap = example()
    noise = torch.randn(2, 3, *noise_size, dtype=torch.float64, requires_grad=True)
    full = F.interpolate(noise, size=labels.shape[1:], mode="nearest")
    expected = spade(dict(module.named_parameters()), x, torch.cat([segmap, full], 1), "instance")
    actual = module(x, labels, noise)
    (grad,) = torch.autograd.grad(actual.sum(), noise, retain_graph=True)
    (wanted,) = torch.autograd.grad(expected.sum(), noise, retain_graph=True)
    torch.testing.assert_close(grad, wanted)
    assert_same_with_gradients(module, x, actual, expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_index_and_label_map_agree(impl):
    module = layer(impl=impl)
    x, labels, _ = example()
    index = LabelIndex(labels, CLASSES)
    assert torch.equal(module(x, index), module(x, labels))
    assert torch.equal(module(x, labels.to(torch.uint8)), module(x, labels))
    # The resized one-hot form is made once for all layers of a resolution.
    assert index.resize((6, 8)).one_hot(torch.float64) is index.resize((6, 8)).one_hot(
        torch.float64
    )


def test_published_state_dict():
    # SPADE's published layer: 36 input channels, hidden width 128, 3x3 convolutions.
    expected = {
        "param_free_norm.running_mean": (64,),
        "param_free_norm.running_var": (64,),
        "param_free_norm.num_batches_tracked": (),
        "mlp_shared.0.weight": (128, 36, 3, 3),
        "mlp_shared.0.bias": (128,),
        "mlp_gamma.weight": (64, 128, 3, 3),
        "mlp_gamma.bias": (64,),
        "mlp_beta.weight": (64, 128, 3, 3),
        "mlp_beta.bias": (64,),
    }
    for norm in ("batch", "syncbatch"):
        state = LabelSPADE(64, 35, norm=norm, edge_channel=True).state_dict()
        assert {key: tuple(value.shape) for key, value in state.items()} == expected
    state = LabelSPADE(64, 36).state_dict()
    assert list(state) == [key for key in expected if "norm" not in key]


@pytest.mark.parametrize("norm", ["batch", "syncbatch"])
@pytest.mark.parametrize("impl", IMPLS)
def test_evaluation_uses_running_statistics(impl, norm):
    module = layer(norm=norm, impl=impl)
    x, labels, segmap = example()
    module(x, labels)
    running = module.param_free_norm
    torch.testing.assert_close(running.running_mean, 0.1 * x.mean((0, 2, 3)))
    torch.testing.assert_close(running.running_var, 0.9 + 0.1 * x.var((0, 2, 3)))
    module.eval()
    statistics = running.running_mean, running.running_var
    expected = spade(dict(module.named_parameters()), x, segmap, norm, statistics=statistics)
    assert_same_with_gradients(module, x, module(x, labels), expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_autocast(impl):
    module = layer(impl=impl).float()
    x, labels, _ = example()
    x = x.detach().float()
    expected = module(x, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for operand in (x, x.bfloat16()):
            actual = module(operand, labels)
            assert actual.dtype == operand.dtype
            torch.testing.assert_close(actual.float(), expected, rtol=5e-2, atol=5e-2)
            actual.sum().backward()
    assert module.mlp_shared[0].weight.grad.dtype == torch.float32


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_compiles_to_one_graph_on_a_prepared_index(norm, impl):
    module = layer(norm=norm, negative_slope=0.2, impl=impl)
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x, _, _ = example(16, 20)
    for run in (5, 4, 3, 2):  # each has its own number of distinct neighbourhoods
        labels = torch.randint(0, CLASSES, (2, 16, 20 // run + 1)).repeat_interleave(run, 2)
        labels = labels[..., :20]
        segmap = F.one_hot(labels, CLASSES).permute(0, 3, 1, 2).double()
        index = LabelIndex(labels, CLASSES).prepare([(16, 20)])
        expected = spade(dict(module.named_parameters()), x, segmap, norm, 0.2)
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert_same_with_gradients(module, x, compiled(x, index), expected)
        made = torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
    assert made == 0  # symbolic sizes by now
    if norm == "batch":
        assert module.param_free_norm.num_batches_tracked == 4


@pytest.mark.parametrize("impl", IMPLS)
def test_compiles_around_the_indexing(impl):
    module = layer(norm="batch", negative_slope=0.2, impl=impl)
    x, labels, _ = example()
    compiled = torch.compile(copy.deepcopy(module), backend="aot_eager")
    torch.testing.assert_close(compiled(x, labels), module(x, labels))


@pytest.mark.parametrize("impl", IMPLS)
def test_spectral_norm_is_a_parametrization_and_counts(impl):
    module = layer(impl=impl)
    x, labels, _ = example()
    before = module(x, labels)
    torch.nn.utils.parametrizations.spectral_norm(module.mlp_gamma)
    after = module(x, labels)
    assert not torch.allclose(before, after)
    after.sum().backward()
    assert module.mlp_gamma.parametrizations.weight.original.grad.any()


@pytest.mark.parametrize("impl", IMPLS)
def test_empty_batch(impl):
    module = layer(impl=impl)
    out = module(torch.zeros(0, 5, 4, 4, dtype=torch.float64), torch.zeros(0, 8, 8).long())
    assert out.shape == (0, 5, 4, 4)


X, LABELS = torch.randn(2, 5, 4, 4), torch.zeros(2, 8, 8).long()
EDGES = torch.zeros(2, 1, 8, 8)
PLAIN = LabelSPADE(5, CLASSES, hidden=2)
EDGED = LabelSPADE(5, CLASSES, hidden=2, edge_channel=True)
NOISY_CPU = LabelSPADE(5, CLASSES, hidden=2, noise_channels=3, impl="cpu")
NOISY = LabelSPADE(5, CLASSES, hidden=2, noise_channels=3)


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ValueError, "impl must be one of", lambda: LabelSPADE(5, 4, impl="fast")),
        (RuntimeError, "impl='cuda' cannot run", lambda: LabelSPADE(5, 4, impl="cuda")(X, LABELS)),
        (RuntimeError, "with noise", lambda: NOISY_CPU(X, LABELS, X[:, :3])),
        (ValueError, "norm must be one of", lambda: LabelSPADE(5, 4, norm="layer")),
        (ValueError, "channels must be at least 1", lambda: LabelSPADE(0, 4)),
        (TypeError, "num_classes must be an int", lambda: LabelSPADE(5, "4")),
        (ValueError, "hidden must be", lambda: LabelSPADE(5, 4, hidden=0)),
        (ValueError, "kernel_size must be odd", lambda: LabelSPADE(5, 4, kernel_size=4)),
        (ValueError, "noise_channels must be", lambda: LabelSPADE(5, 4, noise_channels=-1)),
        (TypeError, "x must be float32", lambda: PLAIN(X.int(), LABELS)),
        (ValueError, r"x must have shape \(2, 5, 4, 4\)", lambda: PLAIN(X[:, 1:], LABELS)),
        (TypeError, "labels must be uint8", lambda: PLAIN(X, LABELS.float())),
        (ValueError, "must index 4 classes, not 3", lambda: PLAIN(X, LabelIndex(LABELS, 3))),
        (
            ValueError,
            "must not hold instance edges",
            lambda: PLAIN(X, LabelIndex(LABELS, CLASSES, edges=EDGES)),
        ),
        (ValueError, "must hold instance edges", lambda: EDGED(X, LABELS)),
        (ValueError, "one label map per image", lambda: PLAIN(X, LABELS[:1])),
        (
            ValueError,
            "labels_or_index must be on",
            lambda: PLAIN(X, LabelIndex(LABELS.to("meta"), CLASSES)),
        ),
        (ValueError, "noise must be None", lambda: PLAIN(X, LABELS, X)),
        (ValueError, "noise must be given", lambda: NOISY(X, LABELS)),
        (
            ValueError,
            r"noise must have shape \(2, 3, 4, 4\)",
            lambda: NOISY(X, LABELS, X),
        ),
        (TypeError, "noise must be float32", lambda: NOISY(X, LABELS, LABELS)),
    ],
)
def test_errors(error, words, call):
    with pytest.raises(error, match=words):
        call()
