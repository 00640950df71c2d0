import pytest
import torch

from ecgan.config import ModelConfig
from ecgan.errors import ConfigError
from ecgan.models import Layout, MultiModalityDiscriminator

CLASSES = 4


def settings(**kwargs):
    return ModelConfig(**{"num_classes": CLASSES, "size": "32x64", "ngf": 8, "ndf": 8, **kwargs})


def layout(batch=2, height=32, width=64):
    return Layout(torch.randint(0, CLASSES + 1, (batch, height, width)), CLASSES)


def test_parameters_at_ndf_64_are_the_published_layers():
    with torch.device("meta"):
        network = MultiModalityDiscriminator(
            ModelConfig(num_classes=35, instance_edges=True, spectral="none")
        )
    table = [
        (36 + 3) * 64 * 16 + 64,  # no normalisation, hence a bias
        64 * 128 * 16,
        128 * 256 * 16,
        256 * 512 * 16,
        512 * 1 * 16 + 1,
    ]
    for scale in network.scales:
        layers = [scale.first, *scale.middle, scale.last]
        assert [sum(p.numel() for p in layer.parameters()) for layer in layers] == table
        strides = [layer.stride[0] for layer in layers]
        assert strides == [2, 2, 2, 1, 1]


@pytest.mark.parametrize("size", [(32, 64), (64, 96), (33, 47)])
@pytest.mark.parametrize("scales", [1, 2, 3])
def test_shapes_by_image_scale_and_layer(size, scales):
    network = MultiModalityDiscriminator(settings(num_discriminators=scales))
    images = [torch.randn(2, 3, *size) for _ in range(3)]
    judged = network(layout(2, *size), images)
    assert len(judged) == 3
    for per_scale in judged:
        assert len(per_scale) == scales
        h, w = size
        for layers in per_scale:
            expected, (y, x) = [], (h, w)
            for channels, stride in [(8, 2), (16, 2), (32, 2), (64, 1), (1, 1)]:
                y, x = y // stride + 1, x // stride + 1  # (side + 2 * 2 - 4) // stride + 1
                expected.append((2, channels, y, x))
            assert [tuple(layer.shape) for layer in layers] == expected
            h, w = (h + 1) // 2, (w + 1) // 2


@pytest.mark.parametrize(
    ("layers", "widths"), [(1, [8]), (2, [8, 16]), (6, [8, 16, 32, 64, 64, 64])]
)
def test_other_depths(layers, widths):
    network = MultiModalityDiscriminator(settings(d_layers=layers, num_discriminators=1))
    outputs = network(layout(), [torch.randn(2, 3, 32, 64)])[0][0]
    assert [x.shape[1] for x in outputs] == [*widths, 1]


def test_images_judged_together_get_what_they_get_alone():
    torch.manual_seed(0)
    network = MultiModalityDiscriminator(settings()).eval()
    s = layout()
    images = [torch.randn(2, 3, 32, 64) for _ in range(3)]
    with torch.no_grad():
        together = network(s, images)
        for image, judged in zip(images, together, strict=True):
            (alone,) = network(s, [image])
            for a, b in zip(judged, alone, strict=True):
                for x, y in zip(a, b, strict=True):
                    torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("spectral", ["official", "paper"])
def test_two_training_forwards_then_one_backward(spectral):
    """The power iteration of the second forward must not spoil the graph of the first."""
    torch.manual_seed(0)
    network = MultiModalityDiscriminator(settings(spectral=spectral)).double()
    s = layout()
    a, b = (torch.randn(2, 3, 32, 64, dtype=torch.float64) for _ in range(2))

    def vectors():
        return [x.clone() for name, x in network.named_buffers() if name.endswith("_v")]

    def loss(image):
        return sum(scale[-1].square().sum() for scale in network(s, [image])[0])

    start = {name: value.clone() for name, value in network.state_dict().items()}
    before = vectors()
    (loss(a) + loss(b)).backward()
    assert all(not torch.equal(x, y) for x, y in zip(before, vectors(), strict=True))
    joint = [p.grad.clone() for p in network.parameters()]

    # One after the other, from the same start, the gradients add up to the same.
    network.load_state_dict(start)
    network.zero_grad()
    for image in (a, b):
        loss(image).backward()
    for x, p in zip(joint, network.parameters(), strict=True):
        torch.testing.assert_close(x, p.grad, rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize("spectral", ["official", "paper", "none"])
def test_gradient_reaches_every_parameter_and_every_image(spectral):
    torch.manual_seed(0)
    network = MultiModalityDiscriminator(settings(spectral=spectral)).double()
    images = [torch.randn(2, 3, 32, 64, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    judged = network(layout(), images)
    logits = [scale[-1] for scales in judged for scale in scales]
    sum((x * torch.randn_like(x)).sum() for x in logits).backward()
    assert all(p.grad.abs().max() > 0 for p in network.parameters())
    assert all(image.grad.abs().max() > 0 for image in images)


@pytest.mark.parametrize(
    ("spectral", "expected"),
    [("official", {"middle"}), ("paper", {"first", "middle", "last"}), ("none", set())],
)
def test_spectral_norm(spectral, expected):
    network = MultiModalityDiscriminator(settings(spectral=spectral))
    names = [n for n, m in network.named_modules() if hasattr(m, "parametrizations")]
    assert {name.split(".")[2] for name in names} == expected


def test_the_layout_counts():
    network = MultiModalityDiscriminator(settings()).eval()
    image = torch.randn(2, 3, 32, 64)
    with torch.no_grad():
        a, b = (network(Layout(torch.full((2, 32, 64), c), CLASSES), [image]) for c in (0, 1))
    assert all((x[-1] - y[-1]).abs().max() > 0 for x, y in zip(a[0], b[0], strict=True))


def test_contradicting_settings_are_refused():
    with pytest.raises(ConfigError, match="num_discriminators must be at least 1"):
        MultiModalityDiscriminator(settings(num_discriminators=0))
