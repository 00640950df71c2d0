"""Importers against the published forwards, written here densely from the papers' descriptions."""

import pytest
import torch
import torch.nn.functional as F

from ecgan.config import ModelConfig
from ecgan.errors import ConfigError, WeightsError
from ecgan.models import Layout
from ecgan.models.importers import OASISBaseline, SPADEBaseline, load_oasis, load_spade
from ecgan.models.importers.state import fold_spectral_norms, label_channels

NGF, HIDDEN, Z = 8, 6, 5
SPADE_BLOCKS = {
    "head_0": (16, 16), "G_middle_0": (16, 16), "G_middle_1": (16, 16), "up_0": (16, 8),
    "up_1": (8, 4), "up_2": (4, 2), "up_3": (2, 1),
}  # fmt: skip
OASIS_BLOCKS = {
    f"body.{i}": pair
    for i, pair in enumerate([(16, 16), (16, 16), (16, 8), (8, 4), (4, 2), (2, 1)])
}


def published_state(blocks, channels, norm):
    """Random tensors with the names and shapes of a published file of width NGF."""
    generator = torch.Generator().manual_seed(0)

    state = {}

    def conv(name, inputs, outputs, kernel, bias=True, spectral=False):
        weight = torch.randn(outputs, inputs, kernel, kernel, generator=generator)
        weight *= (2 / (inputs * kernel * kernel)) ** 0.5
        if bias:
            state[f"{name}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
        if not spectral:
            state[f"{name}.weight"] = weight
            return
        state[f"{name}.weight_orig"] = weight
        u = F.normalize(torch.randn(outputs, generator=generator), dim=0)
        v = F.normalize(weight.flatten(1).T @ u, dim=0)
        state[f"{name}.weight_u"], state[f"{name}.weight_v"] = u, v

    def spade(name, width):
        state[f"{name}.{norm}.running_mean"] = torch.randn(width, generator=generator)
        state[f"{name}.{norm}.running_var"] = torch.rand(width, generator=generator) + 0.5
        state[f"{name}.{norm}.num_batches_tracked"] = torch.tensor(7)
        conv(f"{name}.mlp_shared.0", channels, HIDDEN, 3)
        conv(f"{name}.mlp_gamma", HIDDEN, width, 3)
        conv(f"{name}.mlp_beta", HIDDEN, width, 3)

    conv("fc", channels, 16 * NGF, 3)
    for name, (a, b) in blocks.items():
        inputs, outputs, middle = a * NGF, b * NGF, min(a, b) * NGF
        conv(f"{name}.conv_0", inputs, middle, 3, spectral=True)
        conv(f"{name}.conv_1", middle, outputs, 3, spectral=True)
        spade(f"{name}.norm_0", inputs)
        spade(f"{name}.norm_1", middle)
        if a != b:
            conv(f"{name}.conv_s", inputs, outputs, 1, bias=False, spectral=True)
            spade(f"{name}.norm_s", inputs)
    conv("conv_img", NGF, 3, 3)
    return state


def dense_forward(state, blocks, doubled, s, size, norm):
    """The published forward on a dense label tensor s [B, channels, H, W]."""

    def conv(x, name, padding=1):
        weight = state.get(f"{name}.weight")
        if weight is None:  # torch's spectral norm in evaluation mode
            weight = state[f"{name}.weight_orig"]
            sigma = state[f"{name}.weight_u"] @ weight.flatten(1) @ state[f"{name}.weight_v"]
            weight = weight / sigma
        return F.conv2d(x, weight, state.get(f"{name}.bias"), padding=padding)

    def spade(x, name):
        mean, var = state[f"{name}.{norm}.running_mean"], state[f"{name}.{norm}.running_var"]
        shared = conv(F.interpolate(s, x.shape[2:]), f"{name}.mlp_shared.0").relu()
        gamma, beta = conv(shared, f"{name}.mlp_gamma"), conv(shared, f"{name}.mlp_beta")
        return F.batch_norm(x, mean, var) * (1 + gamma) + beta

    x = conv(F.interpolate(s, size), "fc")
    for name, (a, b) in blocks.items():
        if name in doubled:
            x = F.interpolate(x, scale_factor=2)
        short = x
        if a != b:
            short = conv(spade(x, f"{name}.norm_s"), f"{name}.conv_s", padding=0)
        y = conv(F.leaky_relu(spade(x, f"{name}.norm_0"), 0.2), f"{name}.conv_0")
        x = short + conv(F.leaky_relu(spade(y, f"{name}.norm_1"), 0.2), f"{name}.conv_1")
    return conv(F.leaky_relu(x, 0.2), "conv_img").tanh()


def labels_and_edges():
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randint(0, 5, (2, 8, 16), generator=generator)  # 4 is void
    labels = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
    edges = (torch.rand(2, 1, 64, 128, generator=generator) < 0.1).float()
    return labels, edges


def dense_labels(labels, order):
    """Channels as the published loaders make them; class 4 is void."""
    if order == "none":
        return F.one_hot(labels, 5)[..., :4].permute(0, 3, 1, 2).float()
    if order == "shifted":
        return F.one_hot(labels, 5).permute(0, 3, 1, 2).float()
    return F.one_hot((labels + 1) % 5, 5).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("order", ["none", "shifted", "unshifted"])
@pytest.mark.parametrize("instances", [False, True])
@pytest.mark.parametrize("size", ["64x128", "64x64"])
def test_spade(order, instances, size, tmp_path):
    labels, edges = labels_and_edges()
    if size == "64x64":
        labels, edges = labels[..., :64], edges[..., :64]
    s = dense_labels(labels, order)
    s = torch.cat([s, edges], 1) if instances else s
    state = published_state(SPADE_BLOCKS, s.shape[1], "param_free_norm")
    torch.save(state, tmp_path / "latest_net_G.pth")
    network = load_spade(tmp_path / "latest_net_G.pth", 4, size, label_order=order)
    assert (network.cfg.void_channel, network.cfg.instance_edges) == (order != "none", instances)
    layout = Layout(
        labels, 4, void_channel=order != "none", instance_edges=edges if instances else None
    )
    doubled = {"G_middle_0", "up_0", "up_1", "up_2", "up_3"}
    small = (labels.shape[1] // 32, labels.shape[2] // 32)
    expected = dense_forward(state, SPADE_BLOCKS, doubled, s, small, "param_free_norm")
    made = network(layout).final
    assert 0.05 < expected.std() < 0.99
    torch.testing.assert_close(made, expected, rtol=1e-3, atol=2e-4)
    assert network.sample_style(2) is None


@pytest.mark.parametrize("order", ["none", "coco_plus1"])
def test_oasis(order, tmp_path):
    labels, _ = labels_and_edges()
    s = dense_labels(labels, order)
    state = published_state(OASIS_BLOCKS, Z + s.shape[1], "first_norm")
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "best_EMA.pth")
    network = load_oasis(tmp_path / "best_EMA.pth", 4, "64x128", label_order=order, z_dim=Z)
    z = network.sample_style(2, generator=torch.Generator().manual_seed(1))
    assert z.shape == (2, Z)
    with_noise = torch.cat([z[:, :, None, None].expand(-1, -1, 64, 128), s], 1)
    doubled = {f"body.{index}" for index in range(1, 6)}
    expected = dense_forward(state, OASIS_BLOCKS, doubled, with_noise, (2, 4), "first_norm")
    made = network(Layout(labels, 4, void_channel=order != "none"), z)
    assert made.edge is None
    assert 0.05 < expected.std() < 0.99
    torch.testing.assert_close(made.final, expected, rtol=1e-3, atol=2e-4)


def test_spade_with_its_image_encoder(tmp_path):
    labels, _ = labels_and_edges()
    state = published_state(SPADE_BLOCKS, 4, "param_free_norm")
    code, size = 7, (2, 4)
    weight = torch.randn(16 * NGF * 8, code, generator=torch.Generator().manual_seed(5))
    state |= {"fc.weight": weight, "fc.bias": torch.ones(16 * NGF * 8)}
    torch.save(state, tmp_path / "vae.pth")
    network = load_spade(tmp_path / "vae.pth", 4, "64x128")
    z = network.sample_style(2)
    assert z.shape == (2, code)
    x = F.linear(z, weight, state["fc.bias"]).view(2, -1, *size)
    torch.testing.assert_close(network.encoder._start(Layout(labels, 4), z), x)
    assert network(Layout(labels, 4), z).final.shape == (2, 3, 64, 128)


def test_published_sizes():
    """Millions of parameters at the published widths and depths."""

    def millions(kind, **cfg):
        with torch.device("meta"):
            network = kind(ModelConfig(ngf=64, norm="batch", **cfg))
        return sum(parameter.numel() for parameter in network.parameters()) / 1e6

    cityscapes = {"num_classes": 35, "instance_edges": True, "size": "256x512"}
    ade20k = {"num_classes": 150, "void_channel": True}
    coco_stuff = {"num_classes": 182, "void_channel": True, "instance_edges": True}
    found = [millions(SPADEBaseline, **cfg) for cfg in (cityscapes, ade20k, coco_stuff)]
    assert found == pytest.approx([93.0, 96.5, 97.5], abs=0.05)
    found = [millions(OASISBaseline, style="noise", **ade20k)]
    assert found == pytest.approx([74.3], abs=0.05)


def test_spectral_norms_of_all_ages():
    weight, u = torch.randn(4, 3, 3, 3), F.normalize(torch.randn(4), dim=0)
    v = F.normalize(torch.randn(27), dim=0)
    fold = fold_spectral_norms
    now = fold({"c.weight_orig": weight, "c.weight_u": u, "c.weight_v": v, "c.bias": u})
    assert set(now) == {"c.weight", "c.bias"}
    torch.testing.assert_close(now["c.weight"], weight / (u @ weight.flatten(1) @ v))
    # torch's own layer in evaluation mode
    network = torch.nn.Sequential(torch.nn.utils.spectral_norm(torch.nn.Conv2d(3, 4, 3)))
    x = torch.randn(1, 3, 5, 5)
    network(x)
    folded = fold(dict(network.eval().state_dict()))
    torch.testing.assert_close(F.conv2d(x, folded["0.weight"], folded["0.bias"]), network(x))
    # The first releases: the normalised weight itself, or u alone.
    old = fold({"c.weight_orig": weight, "c.weight_u": u, "c.weight": 2 * weight})
    assert torch.equal(old["c.weight"], 2 * weight)
    (left, largest, _) = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    alone = fold({"c.weight_orig": weight, "c.weight_u": left[:, 0]})
    torch.testing.assert_close(alone["c.weight"], weight / largest[0])


def test_checkpoints_that_do_not_fit(tmp_path):
    state = published_state(SPADE_BLOCKS, 6, "param_free_norm")
    path = tmp_path / "net.pth"
    torch.save(state, path)
    with pytest.raises(ConfigError, match=r"takes 6 label channels .* 4 classes: set label_order"):
        load_spade(path, 4, "64x64")
    with pytest.raises(ConfigError, match="label_order none with 4 classes means 4, or 5 with"):
        load_spade(path, 4, "64x64", label_order="none")
    with pytest.raises(ConfigError, match="60x64 does not suit the spade encoder"):
        load_spade(path, 6, "60x64")
    with pytest.raises(WeightsError, match=r"lack 'body\.0\.norm_0\.mlp_shared\.0\.weight'"):
        load_oasis(path, 6, "64x64")
    torch.save(state | {"up_4.conv_0.bias": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match=r"hold an unknown 'encoder\.up_4\.conv_0\.bias'"):
        load_spade(path, 6, "64x64")
    with pytest.raises(WeightsError, match="does not exist"):
        load_spade(tmp_path / "none.pth", 6, "64x64")
    oasis = published_state(OASIS_BLOCKS, Z + 4, "first_norm")
    torch.save(oasis, path)
    with pytest.raises(ConfigError, match="multiples of 32, not 48x64"):
        load_oasis(path, 4, "48x64", z_dim=Z)
    del oasis["body.0.conv_0.weight_u"]
    torch.save(oasis, path)
    with pytest.raises(WeightsError, match=r"expected 'body\.0\.conv_0\.weight_u' \[128\]"):
        load_oasis(path, 4, "64x64", z_dim=Z)
    torch.save(state | {"fc.weight": torch.zeros(128, 3, 3, 3)}, path)
    with pytest.raises(WeightsError, match=r"'encoder\.fc\.weight' has shape \[128, 3, 3, 3\]"):
        load_spade(path, 6, "64x64")


def test_label_orders():
    columns = {
        order: label_channels("x", 4 + (order != "none"), 4, order).columns
        for order in ("none", "shifted", "unshifted", "coco_plus1")
    }
    assert columns == {
        "none": [0, 1, 2, 3],
        "shifted": [0, 1, 2, 3, 4],
        "unshifted": [1, 2, 3, 4, 0],
        "coco_plus1": [1, 2, 3, 4, 0],
    }
    assert label_channels("x", 6, 4, "unshifted").columns == [1, 2, 3, 4, 0, 5]
