import pytest
import torch

from ecgan.config import ModelConfig
from ecgan.errors import ConfigError
from ecgan.models import Layout
from ecgan.models.encoders import build_encoder

BACKBONES = ["spade", "resnet", "vgg"]


def settings(**kwargs):
    return ModelConfig(**{"num_classes": 4, "size": "64x96", "ngf": 8, "spade_hidden": 8, **kwargs})


def layout(height=64, width=96, batch=2, channels=4):
    return Layout(torch.randint(0, channels + 1, (batch, height, width)), channels)


def published_parameters(channels):
    """Counts from the published layer list at ngf 64: (name, weights and biases)."""

    def conv(a, b, k, bias=True):
        return a * b * k * k + bias * b

    def spade(width):
        return conv(channels, 128, 3) + 2 * conv(128, width, 3)

    table = {"fc": conv(channels, 1024, 3)}
    for name, a, b in [
        ("head_0", 1024, 1024),
        ("G_middle_0", 1024, 1024),
        ("G_middle_1", 1024, 1024),
        ("up_0", 1024, 512),
        ("up_1", 512, 256),
        ("up_2", 256, 128),
        ("up_3", 128, 64),
    ]:
        middle = min(a, b)
        table[name] = conv(a, middle, 3) + conv(middle, b, 3) + spade(a) + spade(middle)
        if a != b:
            table[name] += conv(a, b, 1, bias=False) + spade(a)
    return table


@pytest.mark.parametrize(
    ("size", "doublings", "options", "channels"),
    [
        ("256x512", 6, {"num_classes": 35, "instance_edges": True}, 36),
        ("256x256", 5, {"num_classes": 150, "void_channel": True}, 151),
    ],
)
def test_parameters_at_ngf_64_are_the_published_layers(size, doublings, options, channels):
    with torch.device("meta"):
        encoder = build_encoder(ModelConfig(size=size, **options))
    assert encoder.multiple == 2**doublings
    counted = {
        name: sum(p.numel() for p in block.parameters()) for name, block in encoder.named_children()
    }
    assert counted == published_parameters(channels)


def test_parameter_names_and_shapes_are_the_published_ones():
    with torch.device("meta"):
        state = build_encoder(ModelConfig(num_classes=35, instance_edges=True)).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items() if name.startswith("up_3")}
    expected = {"up_3.conv_0": (64, 128, 3, 3), "up_3.conv_1": (64, 64, 3, 3)}
    shapes_of_norms = {"norm_0": 128, "norm_1": 64, "norm_s": 128}
    for norm, width in shapes_of_norms.items():
        expected[f"up_3.{norm}.mlp_shared.0"] = (128, 36, 3, 3)
        expected[f"up_3.{norm}.mlp_gamma"] = (width, 128, 3, 3)
        expected[f"up_3.{norm}.mlp_beta"] = (width, 128, 3, 3)
    with_bias = {f"{name}.weight": shape for name, shape in expected.items()}
    with_bias |= {f"{name}.bias": shape[:1] for name, shape in expected.items()}
    with_bias["up_3.conv_s.weight"] = (64, 128, 1, 1)
    for norm, width in shapes_of_norms.items():
        for buffer, shape in [
            ("running_mean", (width,)),
            ("running_var", (width,)),
            ("num_batches_tracked", ()),
        ]:
            with_bias[f"up_3.{norm}.param_free_norm.{buffer}"] = shape
    assert shapes == with_bias


@pytest.mark.parametrize("encoder", BACKBONES)
@pytest.mark.parametrize("fuse", [False, True])
def test_feature_has_ngf_channels_at_the_layouts_size(encoder, fuse):
    network = build_encoder(settings(encoder=encoder, fuse_features=fuse))
    for height, width in [(64, 96), (32, 64), (96, 32)]:
        feature = network(layout(height, width))
        assert feature.shape == (2, 8, height, width)
        assert feature.isfinite().all()


@pytest.mark.parametrize("encoder", BACKBONES)
def test_fusion_adds_to_the_feature(encoder):
    torch.manual_seed(0)
    network = build_encoder(settings(encoder=encoder, fuse_features=True)).eval()
    s = layout()
    with torch.no_grad():
        fused = network(s)
        for conv in network.fusion.lateral:
            conv.weight.zero_()
            conv.bias.zero_()
        plain = network(s)
    assert (fused - plain).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "size", "multiple"),
    [
        ({"num_upsamples": 5}, "64x100", 32),
        ({"num_upsamples": 3}, "60x64", 8),
        ({"size": "300x512"}, "300x512", 32),
        ({"encoder": "resnet"}, "64x97", 16),
        ({"encoder": "vgg"}, "63x96", 16),
    ],
)
def test_odd_sizes_are_refused_in_one_sentence(options, size, multiple):
    words = f"{size} does not suit the .* encoder.*multiples of {multiple}, such as "
    with pytest.raises(ConfigError, match=words):
        build_encoder(settings(**{**options, "size": size}))


@pytest.mark.parametrize("encoder", BACKBONES)
def test_odd_layouts_are_refused_too(encoder):
    network = build_encoder(settings(encoder=encoder))
    with pytest.raises(ConfigError, match="70x96 does not suit"):
        network(layout(70, 96))


@pytest.mark.parametrize(
    ("size", "multiple"),
    [("256x512", 64), ("512x256", 64), ("512x1024", 64), ("256x256", 32), ("96x128", 32)],
)
def test_doublings_follow_the_size(size, multiple):
    with torch.device("meta"):
        assert build_encoder(settings(size=size)).multiple == multiple


@pytest.mark.parametrize("encoder", BACKBONES)
@pytest.mark.parametrize("spectral", ["official", "none"])
def test_which_layers_official_normalises(encoder, spectral):
    """Every convolution of a residual block, and no other."""
    network = build_encoder(settings(encoder=encoder))
    chosen = {id(conv) for conv in network.residual_convolutions()}
    names = {name for name, module in network.named_modules() if id(module) in chosen}
    expected = {
        "spade": {n for n, _ in network.named_modules() if n.split(".")[-1].startswith("conv_")},
        "resnet": {f"blocks.{at}.conv_{which}" for at in range(9) for which in (0, 1)},
        "vgg": set(),
    }
    assert names == expected[encoder]


def test_a_style_encoders_start_is_tied_to_its_size():
    network = build_encoder(settings(style="encoder", z_dim=4))
    assert network(layout(), torch.randn(2, 4)).shape == (2, 8, 64, 96)
    with pytest.raises(ConfigError, match="images of 64x96 only, not 32x96"):
        network(layout(32, 96), torch.randn(2, 4))
