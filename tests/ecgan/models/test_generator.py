import itertools

import pytest
import torch

from ecgan.config import ModelConfig, preset_values
from ecgan.errors import ConfigError
from ecgan.models import Generator, Layout
from ecgan.models.branches import ClassDecoder

PRESETS = ["B1", "B2", "B3", "B4", "B5", "B6"]
CLASSES = 4


def settings(preset="B6", **kwargs):
    switches = {
        key.removeprefix("model."): bool(value)
        for key, value in preset_values(preset).items()
        if key.startswith("model.")
    }
    defaults = {"size": "32x64", "ngf": 8, "spade_hidden": 8, "projection_dim": 8}
    return ModelConfig(**{"num_classes": CLASSES, **defaults, **switches, **kwargs})


def build(cfg, scale=1.0):
    """A generator with weights large enough that every part of it shows in the output."""
    torch.manual_seed(0)
    network = Generator(cfg)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=scale / parameter[0].numel() ** 0.5)
    return network


def labels(height=32, width=64, batch=2):
    random = torch.Generator().manual_seed(5)
    coarse = torch.randint(0, CLASSES + 1, (batch, height // 4, width // 4), generator=random)
    return coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)


def tensors(out):
    """Every output that a loss can pull on."""
    found = [out.features, out.image, out.edge, out.refined, out.class_image, out.preserved]
    return [x for x in (*found, *out.edge_features, *out.image_features) if x is not None]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_switch_the_parts_on_one_after_the_other(preset):
    network = Generator(settings(preset))
    out = network(Layout(labels(), CLASSES), inspect=True)
    shape = (2, 3, 32, 64)
    assert out.image.shape == out.raw_image.shape == shape
    assert [x.shape[1] for x in out.image_features] == [4, 2, 1]
    assert (out.edge is not None) == (preset >= "B2")
    assert [x.shape[1] for x in out.edge_features] == ([4, 2, 1] if preset >= "B2" else [])
    assert (out.refined is not None) == (preset >= "B4")
    assert (out.preserved is not None) == (preset >= "B4")
    assert (out.class_image is not None) == (preset == "B6")
    assert (network.projection is not None) == (preset == "B6")
    if preset >= "B4":
        assert out.preserved.shape == (2, 8 + CLASSES + 6, 32, 64)
    assert out.final is (out.image if preset < "B4" else out.refined)
    assert out.final.shape == shape


def test_one_preset_differs_from_the_next_in_its_part_only():
    names = [set(Generator(settings(preset)).state_dict()) for preset in PRESETS]
    added = [{name.split(".")[0] for name in b - a} for a, b in itertools.pairwise(names)]
    assert all(a <= b for a, b in itertools.pairwise(names))
    expected = [{"edge_generator"}, set(), {"semantic_preserving"}, set()]
    assert added == [*expected, {"class_decoder", "projection"}]


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        *((preset, {}) for preset in PRESETS),
        (
            "B6",
            {"spectral": "paper", "void_channel": True, "instance_edges": True, "norm": "instance"},
        ),
        ("B6", {"encoder": "resnet", "fuse_features": True, "class_fuse": "attention"}),
        ("B6", {"encoder": "vgg", "style": "noise", "z_dim": 3}),
        ("B6", {"fuse_features": True, "style": "encoder", "z_dim": 3}),
    ],
)
def test_gradient_reaches_every_parameter(preset, options):
    cfg = settings(preset, size="64x64", **options)  # instance norm needs more than one pixel
    network = build(cfg).double()
    edges = (torch.rand(2, 1, 64, 64) < 0.2) if cfg.instance_edges else None
    layout = Layout(labels(64, 64), CLASSES, void_channel=cfg.void_channel, instance_edges=edges)
    code = torch.randn(2, 3, dtype=torch.float64)
    out = network(layout, code)
    images = [x for x in (out.image, out.edge, out.refined, out.class_image) if x is not None]
    loss = sum((x * torch.randn_like(x)).sum() for x in images)
    if network.projection is not None:
        embedded = network.projection(out.features)
        loss = loss + (embedded * torch.randn_like(embedded)).sum()
    loss.backward()
    norms = {name: float(p.grad.abs().max()) for name, p in network.named_parameters()}
    dead = {name for name, norm in norms.items() if norm < 1e-9}
    assert dead == (biases_before_norms(network) if cfg.encoder == "spade" else set())


def biases_before_norms(network):
    """What SPADEEncoder documents: biases that the next normalisation takes away."""
    names = {name for name, _ in network.named_parameters() if name.endswith("bias")}
    ends = (".conv_0.bias", ".conv_1.bias", ".norm_s.mlp_beta.bias")
    before = {name for name in names if name.endswith(ends)}
    start = set() if network.cfg.style == "encoder" else {"encoder.fc.bias"}
    leaving = ["up_3", "up_1", "up_2"] if network.cfg.fuse_features else ["up_3"]
    kept = {f"encoder.{block}.{bias}" for block in leaving for bias in ("conv_1.bias", ends[2][1:])}
    return (before | start) - kept


@pytest.mark.parametrize(
    ("preset", "least", "most"), [("B2", 0.99, 1.0), ("B3", 1.2, 1 + 1 / (1 + 2.718281828**-1))]
)
def test_range_of_the_coarse_image(preset, least, most):
    """Equation 1 leaves (-1, 1) behind, up to 1 + sigmoid(1) [R25]."""
    out = build(settings(preset), scale=6.0)(Layout(labels(), CLASSES))
    assert least < out.image.abs().max() <= most
    assert out.raw_image.abs().max() <= 1
    assert not out.raw_image.requires_grad


def test_class_image_is_zero_at_void_pixels_only():
    out = build(settings())(Layout(labels(), CLASSES, void_channel=False))
    void = (labels() == CLASSES)[:, None].expand(-1, 3, -1, -1)
    assert void.any()
    assert (out.class_image[void] == 0).all()
    assert (out.class_image[~void] != 0).all()


def test_a_class_branch_sees_its_own_class_only():
    """Gradients of the class image within one class, at the feature of the others, are zero."""
    decoder = ClassDecoder(8)
    feature = torch.randn(1, 8, 16, 16, requires_grad=True)
    layout = Layout((torch.arange(16) // 5).clamp(max=2).expand(1, 16, 16), 3)
    mine = (layout.labels == 1)[:, None]
    (decoder(feature, layout) * mine).sum().backward()
    seen = (feature.grad != 0).any(1)
    assert torch.equal(seen, layout.labels == 1)


def test_one_pass_equals_a_pass_per_class_with_gradients():
    torch.manual_seed(0)
    decoder = ClassDecoder(8).double()
    feature = torch.randn(2, 8, 32, 64, dtype=torch.float64, requires_grad=True)
    layout = Layout(labels(), CLASSES)
    grad = torch.randn(2, 3, 32, 64, dtype=torch.float64)

    passes = decoder.passes(feature, layout, range(CLASSES))
    wanted = [feature, *decoder.parameters()]
    expected = torch.autograd.grad(passes, wanted, grad)

    once = decoder(feature, layout)
    torch.testing.assert_close(once, passes, rtol=1e-10, atol=1e-10)
    for a, b in zip(torch.autograd.grad(once, wanted, grad), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_mean_fusion_leaves_void_to_the_refined_image():
    cfg, plain = settings(class_fuse="mean"), settings()
    layout = Layout(labels(), CLASSES)
    network = build(cfg).eval()
    reference = Generator(plain).eval()
    reference.load_state_dict(network.state_dict())
    with torch.no_grad():
        fused, out = network(layout), reference(layout)
    known = layout.valid[:, None]
    expected = torch.where(known, (out.refined + out.class_image) / 2, out.refined)
    torch.testing.assert_close(fused.final, expected)
    assert fused.final is fused.refined


@pytest.mark.parametrize("size", [(32, 64), (64, 32), (96, 128)])
def test_one_model_serves_every_size(size):
    out = build(settings())(Layout(labels(*size), CLASSES))
    assert {x.shape[-2:] for x in tensors(out)} == {size}
    assert all(x.isfinite().all() for x in tensors(out))


@pytest.mark.parametrize("encoder", ["spade", "resnet", "vgg"])
@pytest.mark.parametrize("style", ["encoder", "noise"])
def test_code_decides_image_and_edge(encoder, style):
    cfg = settings(encoder=encoder, style=style, z_dim=6, size="32x64")
    network = build(cfg).eval()
    layout = Layout(labels(), CLASSES)
    z = torch.randn(2, 6)
    with torch.no_grad():
        one, same, other = network(layout, z), network(layout, z), network(layout, -z)
        drawn, again = network(layout), network(layout)
    for name in ("image", "edge", "refined", "class_image"):
        assert torch.equal(getattr(one, name), getattr(same, name))
        assert (getattr(one, name) - getattr(other, name)).abs().max() > 1e-3
        assert (getattr(drawn, name) - getattr(again, name)).abs().max() > 1e-3


def test_noise_may_differ_from_region_to_region():
    network = build(settings(style="noise", z_dim=6)).eval()
    z = torch.randn(2, 6)
    spread = z[:, :, None, None].repeat(1, 1, 32, 64)
    region = spread.clone()
    region[..., 48:] = torch.randn(2, 6, 1, 1)
    plain = Layout(labels(), CLASSES)
    with torch.no_grad():
        constant = network(plain, z).refined
        torch.testing.assert_close(network(plain, spread).refined, constant)
        torch.testing.assert_close(
            network(Layout(labels(), CLASSES, noise=spread)).refined, constant
        )
        assert (network(plain, region).refined - constant).abs()[..., 48:].max() > 1e-3


def test_without_style_the_code_is_ignored():
    network = build(settings()).eval()
    layout = Layout(labels(), CLASSES)
    assert network.sample_style(2) is None
    with torch.no_grad():
        assert torch.equal(network(layout).image, network(layout, torch.randn(2, 5)).image)


def test_sampled_codes_follow_the_generator():
    for style, length in (("encoder", 256), ("noise", 64)):
        network = Generator(settings(style=style))
        a, b = (network.sample_style(3, generator=torch.Generator().manual_seed(1)) for _ in "ab")
        assert a.shape == (3, length)
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    network = build(settings(class_fuse="attention", instance_edges=True))
    layout = Layout(labels(), CLASSES, instance_edges=torch.zeros(2, 1, 32, 64))
    with torch.autocast("cpu", dtype=dtype):
        out = network(layout, inspect=True)
    sum(x.float().abs().mean() for x in tensors(out)).backward()
    for name, parameter in network.named_parameters():
        assert name.startswith("projection") or parameter.grad.isfinite().all()


def test_initialisation_is_xaviers_with_gain_002():
    network = Generator(settings(ngf=16, spectral="none"))
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all()
        elif parameter.numel() > 2000:
            field = parameter[0, 0].numel()
            expected = 0.02 * (2 / (field * (parameter.shape[0] + parameter.shape[1]))) ** 0.5
            assert abs(parameter.std() / expected - 1) < 0.1, name


@pytest.mark.parametrize(
    ("spectral", "expected"),
    [("official", {"conv_0", "conv_1", "conv_s"}), ("none", set()), ("paper", None)],
)
def test_spectral_norm(spectral, expected):
    network = Generator(settings(spectral=spectral, class_fuse="attention"))
    normalised = {n for n, m in network.named_modules() if hasattr(m, "parametrizations")}
    if expected is None:
        every = {n for n, m in network.named_modules() if hasattr(m, "in_channels")}
        assert normalised == every
    else:
        assert {name.split(".")[-1] for name in normalised} == expected
        assert all(name.startswith("encoder.") for name in normalised)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1, not 0"),
        ({"ngf": 12}, "ngf must be a multiple of 8, not 12"),
        ({"edge_branch": False}, "edge_transfer needs model.edge_branch"),
        ({"class_branch": False, "class_fuse": "mean"}, "class_fuse mean needs model.class_branch"),
        ({"num_upsamples": 7}, "num_upsamples must be 0 to 6, not 7"),
        ({"z_dim": -1}, "z_dim must not be negative"),
        ({"spade_hidden": 0}, "spade_hidden must be at least 1"),
        ({"size": "32"}, "size must be HEIGHTxWIDTH"),
        ({"size": "33x64"}, "33x64 does not suit the spade encoder"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        Generator(settings(**options))


def test_layouts_of_another_kind_are_refused():
    network = Generator(settings(instance_edges=True))
    with pytest.raises(ConfigError, match=r"takes layouts of 5 channels .* has 4"):
        network(Layout(labels(), CLASSES))


def test_codes_of_another_shape_are_refused():
    network = Generator(settings(style="noise", z_dim=6))
    with pytest.raises(ValueError, match=r"z must be \[2, 6\] or \[2, 6, 32, 64\], not \[2, 5\]"):
        network(Layout(labels(), CLASSES), torch.randn(2, 5))
