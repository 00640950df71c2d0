import pytest
import torch
from torch.nn import functional as F

from ecgan.models import Layout
from ecgan.models.layout import AveragedLayout

LABELS = torch.tensor([[[0, 0, 2, 3], [1, 3, 2, 0]], [[2, 2, 2, 2], [0, 1, 1, 3]]])
EDGES = torch.tensor([[[[0, 1, 1, 0], [0, 0, 0, 1]]], [[[1, 0, 0, 0], [0, 0, 0, 0]]]]).float()


def literal_one_hot(layout: Layout, size: tuple[int, int]) -> torch.Tensor:
    out = torch.zeros(len(LABELS), layout.channels, *size)
    for b in range(len(LABELS)):
        for y in range(size[0]):
            for x in range(size[1]):
                row, column = y * 2 // size[0], x * 4 // size[1]
                label = int(LABELS[b, row, column])
                if label < 3 or layout.void_channel:
                    out[b, label, y, x] = 1
                if layout.instance_edges is not None:
                    out[b, -1, y, x] = EDGES[b, 0, row, column]
    return out


def channels(layout: Layout, noise: int = 0) -> torch.Tensor:
    """The layout's channels, read by a 1x1 convolution that keeps each as it is."""
    return layout.conv2d(torch.eye(layout.channels + noise)[:, :, None, None])


def channels_of(averaged: AveragedLayout, count: int) -> torch.Tensor:
    return averaged.conv2d(torch.eye(count)[:, :, None, None])


@pytest.mark.parametrize("void_channel", [False, True])
@pytest.mark.parametrize("edges", [None, EDGES])
@pytest.mark.parametrize("size", [(2, 4), (4, 8), (1, 2), (3, 5)])
def test_one_hot_form_at_every_size(void_channel, edges, size):
    layout = Layout(LABELS, 3, void_channel=void_channel, instance_edges=edges)
    assert layout.channels == 3 + void_channel + (edges is not None)
    resized = layout.resize(size)
    assert resized.channels == layout.channels
    assert torch.equal(channels(resized), literal_one_hot(layout, size))


def test_index_holds_the_void_channel_as_a_class():
    assert Layout(LABELS, 3).index().num_classes == 3
    assert Layout(LABELS, 3, void_channel=True).index().num_classes == 4


@pytest.mark.parametrize("void_channel", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_every_label_outside_the_classes_is_void(void_channel, dtype):
    labels = LABELS.to(dtype).clone()
    labels[labels == 3] = 200 if dtype == torch.uint8 else -1
    layout = Layout(labels, 3, void_channel=void_channel)
    assert torch.equal(layout.labels, LABELS)
    assert torch.equal(layout.valid, LABELS != 3)
    expected = Layout(LABELS, 3, void_channel=void_channel)
    assert torch.equal(channels(layout), channels(expected))


def test_results_are_kept():
    layout = Layout(LABELS, 3, instance_edges=EDGES)
    assert layout.resize((4, 8)) is layout.resize((4, 8))
    assert layout.resize((2, 4)) is layout
    assert layout.halve() is layout.halve()
    assert layout.halve().halve() is layout.halve().halve()
    assert layout.with_noise(torch.zeros(2, 5)).index() is layout.index()


def test_noise_is_resized_and_concatenated():
    noise = torch.arange(2 * 5 * 2 * 4).view(2, 5, 2, 4).float()
    layout = Layout(LABELS, 3, noise=noise).resize((4, 8))
    assert torch.equal(layout.noise, F.interpolate(noise, (4, 8), mode="nearest"))
    assert layout.channels == 3
    assert torch.equal(channels(layout, 5), torch.cat([channels(layout), layout.noise], 1))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 8), (12, 9)])
@pytest.mark.parametrize("void_channel", [False, True])
def test_halving_averages_the_one_hot_form(size, void_channel):
    torch.manual_seed(0)
    labels, edges = torch.randint(0, 4, (2, *size)), torch.rand(2, 1, *size) < 0.3
    layout = Layout(labels, 3, void_channel=void_channel, instance_edges=edges)
    dense, averaged = channels(layout), layout
    weight = torch.randn(6, layout.channels, 4, 4, requires_grad=True)
    bias = torch.randn(6, requires_grad=True)
    for _ in range(2):
        dense = F.avg_pool2d(dense, 3, stride=2, padding=1, count_include_pad=False)
        averaged = averaged.halve()
        torch.testing.assert_close(channels_of(averaged, layout.channels), dense)
        expected = F.conv2d(dense, weight, bias, stride=2, padding=2)
        found = averaged.conv2d(weight, bias, stride=2, padding=2)
        torch.testing.assert_close(found, expected)
        grad = torch.randn_like(expected)
        for a, b in zip(
            torch.autograd.grad(found, (weight, bias), grad),
            torch.autograd.grad(expected, (weight, bias), grad),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_constant_noise_equals_its_spread_out_form():
    code = torch.randn(2, 5)
    spread = code[:, :, None, None].repeat(1, 1, 2, 4)
    for size in [(2, 4), (6, 4)]:
        constant = Layout(LABELS, 3).with_noise(code).resize(size).noise
        assert torch.equal(constant, Layout(LABELS, 3, noise=spread).resize(size).noise)


def test_repeat_goes_over_the_whole_batch():
    layout = Layout(LABELS, 3, void_channel=True, instance_edges=EDGES, noise=torch.randn(2, 5))
    twice = layout.repeat(2)
    assert len(twice) == 4
    for half in (slice(0, 2), slice(2, 4)):
        assert torch.equal(channels(twice, 5)[half], channels(layout, 5))


def test_to_takes_everything_along():
    layout = Layout(LABELS, 3, void_channel=True, instance_edges=EDGES, noise=torch.randn(2, 5))
    moved = layout.to("meta")
    assert len(moved) == len(layout)
    assert moved.channels == layout.channels
    assert {x.device.type for x in (moved.labels, moved.instance_edges, moved.noise)} == {"meta"}
    assert torch.equal(channels(layout.to("cpu"), 5), channels(layout, 5))


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"labels": LABELS.float()}, TypeError, "labels must be an integer tensor"),
        ({"labels": LABELS[0]}, ValueError, "labels must be"),
        ({"instance_edges": EDGES[:, :, :1]}, ValueError, "instance_edges must be"),
        ({"noise": torch.randn(3, 5)}, ValueError, "noise must be"),
        ({"noise": torch.randn(2, 5, 2, 3)}, ValueError, "noise must be"),
    ],
)
def test_wrong_arguments_are_named(kwargs, error, words):
    with pytest.raises(error, match=words):
        Layout(**{"labels": LABELS, "num_classes": 3, **kwargs})
