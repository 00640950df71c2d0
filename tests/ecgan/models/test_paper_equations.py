"""The networks against a plain second writing of the paper.

Everything between the two rules below is written from the paper's equations and the published
layer lists alone, as functions of a state_dict: explicit one-hots, plain convolutions on
concatenations, N decoder passes, no operator and no module of the project.
"""

import pytest
import torch
from torch.nn import functional as F

from ecgan.config import ModelConfig, preset_values
from ecgan.models import Generator, ImageEncoder, Layout, MultiModalityDiscriminator

# --------------------------------------------------------------------------------------------------


def weight_of(state, name):
    """W, or W / sigma with sigma = u^T W v where the layer is spectrally normalised."""
    if f"{name}.weight" in state:
        return state[f"{name}.weight"]
    w = state[f"{name}.parametrizations.weight.original"]
    u = state[f"{name}.parametrizations.weight.0._u"]
    v = state[f"{name}.parametrizations.weight.0._v"]
    return w / (u @ w.reshape(len(w), -1) @ v)


def conv(state, name, x, padding=1, stride=1):
    return F.conv2d(x, weight_of(state, name), state.get(f"{name}.bias"), stride, padding)


def leaky(x):
    return torch.where(x > 0, x, 0.2 * x)


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def one_hot(labels, channels):
    return torch.stack([(labels == c).double() for c in range(channels)], dim=1)


def nearest(x, h, w):
    rows = torch.arange(h) * x.shape[2] // h
    columns = torch.arange(w) * x.shape[3] // w
    return x[:, :, rows][:, :, :, columns]


def instance_norm(x):
    centred = x - x.mean((2, 3), keepdim=True)
    return centred / torch.sqrt((centred**2).mean((2, 3), keepdim=True) + 1e-5)


def spade(state, name, x, s):
    """n * (1 + gamma) + beta, n by running statistics where there are some, else by the image's."""
    s = nearest(s, x.shape[2], x.shape[3])
    if f"{name}.param_free_norm.running_mean" in state:
        mean = state[f"{name}.param_free_norm.running_mean"][:, None, None]
        var = state[f"{name}.param_free_norm.running_var"][:, None, None]
        n = (x - mean) / torch.sqrt(var + 1e-5)
    else:
        n = instance_norm(x)
    hidden = conv(state, f"{name}.mlp_shared.0", s).clamp(min=0)
    gamma = conv(state, f"{name}.mlp_gamma", hidden)
    beta = conv(state, f"{name}.mlp_beta", hidden)
    return n * (1 + gamma) + beta


def spade_block(state, name, x, s):
    shortcut = x
    if any(key.startswith(f"{name}.norm_s") for key in state):
        shortcut = conv(state, f"{name}.conv_s", spade(state, f"{name}.norm_s", x, s), padding=0)
    y = conv(state, f"{name}.conv_0", leaky(spade(state, f"{name}.norm_0", x, s)))
    y = conv(state, f"{name}.conv_1", leaky(spade(state, f"{name}.norm_1", y, s)))
    return shortcut + y


def encoder(state, s, doublings, z):
    """SPADE's generator without its last convolution; z starts it in the VAE's setting."""
    h, w = s.shape[2] // 2**doublings, s.shape[3] // 2**doublings
    if z is None:
        x = conv(state, "encoder.fc", nearest(s, h, w))
    else:
        x = z @ weight_of(state, "encoder.fc").T + state["encoder.fc.bias"]
        x = x.reshape(len(z), -1, h, w)

    def up(x):
        return nearest(x, 2 * x.shape[2], 2 * x.shape[3])

    x = spade_block(state, "encoder.head_0", x, s)
    if doublings >= 5:
        x = up(x)
    x = spade_block(state, "encoder.G_middle_0", x, s)
    if doublings >= 6:
        x = up(x)
    x = spade_block(state, "encoder.G_middle_1", x, s)
    maps = []
    for level in range(4):
        if doublings >= 4 - level:
            x = up(x)
        x = spade_block(state, f"encoder.up_{level}", x, s)
        maps.append(x)
    for at, x_at in enumerate(maps[1:3]):
        if f"encoder.fusion.lateral.{at}.bias" in state:
            lateral = conv(state, f"encoder.fusion.lateral.{at}", x_at, padding=0)
            x = x + F.interpolate(lateral, x.shape[2:], mode="bilinear", align_corners=False)
    return x


def generator(state, cfg, labels, instance_edges, z=None, noise=None):
    """Sections 3.1 to 3.3; returns a dict of the paper's symbols."""
    s = one_hot(labels, cfg.num_classes + cfg.void_channel)
    if cfg.instance_edges:
        s = torch.cat([s, instance_edges], 1)
    conditioning = s if noise is None else torch.cat([s, noise], 1)
    out = {"F": encoder(state, conditioning, cfg.num_upsamples, z)}

    if cfg.edge_branch:
        x, out["F_e"] = out["F"], []
        for j in range(3):
            x = conv(state, f"edge_generator.convs.{j}", leaky(x))
            out["F_e"].append(x)
        out["I'_e"] = torch.tanh(conv(state, "edge_generator.convs.3", leaky(x)))

    x, out["F_i"] = out["F"], []
    for j in range(3):
        x = conv(state, f"image_generator.convs.{j}", leaky(x))
        if cfg.edge_transfer:
            x = sigmoid(out["F_e"][j]) * x + x
        out["F_i"].append(x)
    out["I'_i"] = torch.tanh(conv(state, "image_generator.convs.3", leaky(x)))
    out["I'"] = out["I'_i"]
    if cfg.edge_transfer:
        out["I'"] = sigmoid(out["I'_e"]) * out["I'_i"] + out["I'_i"]

    if cfg.semantic_preserving:
        edge = [out["I'_e"]] if cfg.edge_branch else []
        joined = torch.cat([out["F"], out["I'"], *edge, s], 1)
        f_c = conv(state, "semantic_preserving.to_classes", leaky(joined))
        gamma = sigmoid(f_c.mean((2, 3)))[:, :, None, None]
        f_c = f_c * gamma + f_c
        out["F'"] = conv(state, "semantic_preserving.to_features", leaky(f_c))
        out["I''"] = torch.tanh(conv(state, "semantic_preserving.to_image", leaky(out["F'"])))

    if cfg.class_branch:
        out["I_g"] = torch.zeros_like(out["I'"])
        for c in range(cfg.num_classes):
            mask = (labels == c).double()[:, None]
            x = leaky(out["F"]) * mask
            for j in range(4):
                x = conv(state, f"class_decoder.convs.{j}", x) * mask
                x = torch.tanh(x) if j == 3 else leaky(x)
            out["I_g"] = out["I_g"] + x * mask
        known = (labels < cfg.num_classes).double()[:, None]
        if cfg.class_fuse == "mean":
            fused = (out["I''"] + out["I_g"]) / 2
            out["I''"] = known * fused + (1 - known) * out["I''"]
        if cfg.class_fuse == "attention":
            a = sigmoid(conv(state, "class_fusion.attention", leaky(out["F"]))) * known
            out["I''"] = a * out["I_g"] + (1 - a) * out["I''"]
    return out


def discriminator(state, scale, s, image):
    """One scale; the list of its layers' outputs."""
    x = torch.cat([s, image], 1)
    for _ in range(scale):
        ones = F.avg_pool2d(torch.ones_like(x), 3, 2, 1)
        x = F.avg_pool2d(x, 3, 2, 1) / ones
    x = leaky(conv(state, f"scales.{scale}.first", x, padding=2, stride=2))
    outputs = [x]
    for level, stride in enumerate([2, 2, 1]):
        x = conv(state, f"scales.{scale}.middle.{level}", x, padding=2, stride=stride)
        x = leaky(instance_norm(x))
        outputs.append(x)
    return [*outputs, conv(state, f"scales.{scale}.last", x, padding=2)]


def image_encoder(state, image, layers):
    x = image
    for level in range(layers):
        x = leaky(instance_norm(conv(state, f"convs.{level}", x, stride=2)))
    x = x.reshape(len(x), -1)
    return [x @ weight_of(state, name).T + state[f"{name}.bias"] for name in ("fc_mu", "fc_var")]


# --------------------------------------------------------------------------------------------------

CLASSES = 4


@pytest.fixture(autouse=True)
def double_precision():
    """Both writings in float64, where agreement to 1e-9 leaves no room for a wrong equation."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def enlarge(network, *arguments, scale=1.5):
    """Draws weights and biases so that every output is of order one, and fits the buffers to them.

    A few training forwards on ``arguments`` bring the singular vectors of the spectral norm near
    their weights and give the batch norms statistics, which evaluation then uses.
    """
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
        else:
            torch.nn.init.normal_(parameter, std=scale / parameter[0].numel() ** 0.5)
    for module in network.modules():
        if hasattr(module, "momentum"):
            module.momentum = 1.0
    with torch.no_grad():
        for _ in range(2):
            network(*arguments)
    return network.eval()


def settings(**kwargs):
    defaults = {
        "num_classes": CLASSES,
        "size": "32x48",
        "ngf": 8,
        "spade_hidden": 8,
        "num_upsamples": 4,
        "projection_dim": 8,
        "ndf": 8,
    }
    return ModelConfig(**{**defaults, **kwargs})


def layout_of(cfg, labels, edges):
    edges = edges if cfg.instance_edges else None
    return Layout(labels, CLASSES, void_channel=cfg.void_channel, instance_edges=edges)


def inputs(seed=1):
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, CLASSES + 1, (2, 8, 12), generator=random)
    labels = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)
    edges = (torch.rand(2, 1, 32, 48, generator=random) < 0.2).double()
    return labels, edges


def synthesise(cfg, z=None, noise=None, dtype=torch.float64, scale=1.5):
    """Both writings' outputs by the paper's symbols; ours computed in ``dtype``."""
    torch.manual_seed(0)
    network = enlarge(Generator(cfg), layout_of(cfg, *inputs(seed=2)), scale=scale)
    labels, edges = inputs()
    with torch.no_grad():
        state = {name: value.clone() for name, value in network.state_dict().items()}
        style = z if noise is None else noise
        out = network.to(dtype)(layout_of(cfg, labels, edges), style, inspect=True)
        spread = None
        if noise is not None:
            spread = noise if noise.dim() == 4 else noise[..., None, None].expand(-1, -1, 32, 48)
        expected = generator(state, cfg, labels, edges, z, spread)
    ours = {
        "F": out.features,
        "F_e": out.edge_features or None,
        "F_i": out.image_features,
        "I'_e": out.edge,
        "I'_i": out.raw_image,
        "I'": out.image,
        "F'": out.preserved,
        "I''": out.refined,
        "I_g": out.class_image,
    }
    return {name: value for name, value in ours.items() if value is not None}, expected


def assert_same(ours, expected):
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        levels = [(ours[name], value)]
        if isinstance(value, list):
            levels = list(zip(ours[name], value, strict=True))
        for a, b in levels:
            assert b.std() > 0.05, f"{name} is too flat to tell anything"
            torch.testing.assert_close(
                a, b, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize(
    ("preset", "void_and_edges"),
    [*((preset, False) for preset in ("B1", "B2", "B3", "B4", "B5", "B6")), ("B6", True)],
)
def test_generator_is_the_papers(preset, void_and_edges):
    switches = {
        key.removeprefix("model."): value
        for key, value in preset_values(preset).items()
        if key.startswith("model.")
    }
    cfg = settings(void_channel=void_and_edges, instance_edges=void_and_edges, **switches)
    assert_same(*synthesise(cfg))


@pytest.mark.parametrize(
    "options",
    [
        {"class_fuse": "mean"},
        {"class_fuse": "attention"},
        {"edge_branch": False, "edge_transfer": False},
        {"fuse_features": True},
        {"norm": "instance", "spectral": "none"},
        {"norm": "batch", "spectral": "paper"},
        {"num_upsamples": 3},
    ],
    ids=lambda options: "-".join(f"{k}={v}" for k, v in options.items()),
)
def test_options_of_the_generator(options):
    assert_same(*synthesise(settings(**options)))


@pytest.mark.parametrize("doublings", [1, 5, 6])
def test_doublings(doublings):
    torch.manual_seed(0)
    side = 32 if doublings == 1 else 64
    cfg = settings(size=f"{side}x{side}", num_upsamples=doublings)
    labels = torch.randint(0, CLASSES, (2, side, side))
    layout = Layout(labels, CLASSES)
    network = enlarge(Generator(cfg), layout)
    with torch.no_grad():
        expected = generator(network.state_dict(), cfg, labels, None)["F"]
        torch.testing.assert_close(network(layout).features, expected, rtol=1e-9, atol=1e-9)


def test_single_precision_stays_within_1e5():
    ours, expected = synthesise(settings(), dtype=torch.float32, scale=0.5)
    for name in ("I'_e", "I'", "I''", "I_g"):
        assert ours[name].dtype == torch.float32
        assert expected[name].std() > 0.05
        assert (ours[name] - expected[name]).abs().max() < 1e-5


def test_style_code_replaces_the_start():
    z = torch.randn(2, 6, generator=torch.Generator().manual_seed(3))
    assert_same(*synthesise(settings(style="encoder", z_dim=6, instance_edges=True), z=z))


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 32, 48)])
def test_noise_enters_the_start_and_every_spade(shape):
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    cfg = settings(style="noise", z_dim=6, instance_edges=True, void_channel=True)
    assert_same(*synthesise(cfg, noise=noise))


@pytest.mark.parametrize("spectral", ["official", "paper", "none"])
def test_discriminator_is_the_published_one_on_every_pair(spectral):
    torch.manual_seed(0)
    cfg = settings(spectral=spectral, instance_edges=True, void_channel=True)
    labels, edges = inputs()
    images = [torch.randn(2, 3, 32, 48) for _ in range(3)]
    layout = layout_of(cfg, labels, edges)
    network = enlarge(MultiModalityDiscriminator(cfg), layout, images)
    s = torch.cat([one_hot(labels, CLASSES + 1), edges], 1)
    with torch.no_grad():
        judged = network(layout, images)
        for image, scales in zip(images, judged, strict=True):
            for scale, layers in enumerate(scales):
                expected = discriminator(network.state_dict(), scale, s, image)
                for a, b in zip(layers, expected, strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("size", "side", "layers"), [("64x96", 128, 5), ("256x512", 256, 6)])
def test_image_encoder_is_spades(size, side, layers):
    torch.manual_seed(0)
    image = torch.rand(2, 3, side, side) * 2 - 1
    network = enlarge(ImageEncoder(settings(size=size, style="encoder", z_dim=6)), image)
    with torch.no_grad():
        for a, b in zip(
            network(image), image_encoder(network.state_dict(), image, layers), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
