import pytest
import torch
from torch.nn import functional as F

from ecgan.models import Layout

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


@pytest.mark.parametrize("void_channel", [False, True])
@pytest.mark.parametrize("edges", [None, EDGES])
@pytest.mark.parametrize("size", [(2, 4), (4, 8), (1, 2), (3, 5)])
def test_one_hot_form_at_every_size(void_channel, edges, size):
    layout = Layout(LABELS, 3, void_channel=void_channel, instance_edges=edges)
    assert layout.channels == 3 + void_channel + (edges is not None)
    resized = layout.resize(size)
    assert resized.channels == layout.channels
    assert torch.equal(resized.one_hot(), literal_one_hot(layout, size))


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
    assert torch.equal(layout.one_hot(), expected.one_hot())


def test_results_are_kept():
    layout = Layout(LABELS, 3, instance_edges=EDGES)
    assert layout.resize((4, 8)) is layout.resize((4, 8))
    assert layout.resize((2, 4)) is layout
    assert layout.one_hot() is layout.one_hot()
    assert layout.with_noise(torch.zeros(2, 5)).one_hot() is layout.one_hot()


def test_noise_is_resized_and_concatenated():
    noise = torch.arange(2 * 5 * 2 * 4).view(2, 5, 2, 4).float()
    layout = Layout(LABELS, 3, noise=noise).resize((4, 8))
    assert torch.equal(layout.noise, F.interpolate(noise, (4, 8), mode="nearest"))
    assert layout.channels == 3
    assert torch.equal(layout.conditioning(), torch.cat([layout.one_hot(), layout.noise], 1))


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
        assert torch.equal(twice.conditioning()[half], layout.conditioning())


def test_to_takes_everything_along():
    layout = Layout(LABELS, 3, void_channel=True, instance_edges=EDGES, noise=torch.randn(2, 5))
    moved = layout.to("meta")
    assert len(moved) == len(layout)
    assert moved.channels == layout.channels
    assert {x.device.type for x in (moved.labels, moved.instance_edges, moved.noise)} == {"meta"}
    assert torch.equal(layout.to("cpu").conditioning(), layout.conditioning())


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
