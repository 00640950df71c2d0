"""What saves memory in G changes no number: lean forward and recomputed blocks."""

import dataclasses

import pytest
import torch

from ecgan.config import ModelConfig, preset_values
from ecgan.models import Generator, Layout, Synthesis

N = 4
SWITCHES = {
    preset: {
        key.removeprefix("model."): bool(value)
        for key, value in preset_values(preset).items()
        if key.startswith("model.")
    }
    for preset in ("B1", "B2", "B4", "B6")
}


def settings(preset: str = "B6", **options) -> ModelConfig:
    defaults = {"num_classes": N, "size": "64x64", "ngf": 8, "spade_hidden": 8, "projection_dim": 8}
    return ModelConfig(**{**defaults, **SWITCHES[preset], **options})


def build(cfg: ModelConfig) -> tuple[Generator, Layout]:
    torch.manual_seed(0)
    network = Generator(cfg).double()
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=1.0 / parameter[0].numel() ** 0.5)
    coarse = torch.randint(0, N + 1, (2, 16, 16))
    labels = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)
    edges = torch.rand(2, 1, 64, 64) < 0.2 if cfg.instance_edges else None
    return network, Layout(labels, N, instance_edges=edges)


def run(network: Generator, layout: Layout, **options) -> tuple[Synthesis, int]:
    """Outputs and gradients (left in the parameters), and the bytes kept for the backward pass."""
    kept: dict[int, int] = {}
    parameters = {p.data_ptr() for p in network.parameters()}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = network(layout, **options)
        images = [x for x in (out.image, out.edge, out.refined, out.class_image) if x is not None]
        loss = sum((x * torch.randn_like(x)).sum() for x in images)
    held = sum(kept.values())
    loss.backward()
    return out, held


def assert_equal(ours: Generator, theirs: Generator, a: Synthesis, b: Synthesis) -> None:
    for field in ("features", "image", "edge", "refined", "class_image"):
        x, y = getattr(a, field), getattr(b, field)
        assert (x is None) == (y is None)
        if x is not None:
            torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-7, atol=1e-9, msg=name)
    for (name, p), q in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("preset", SWITCHES)
def test_without_inner_features_all_else_is_the_same(preset):
    cfg = settings(preset)
    (lean, layout), (full, _) = build(cfg), build(cfg)
    a, _ = run(lean, layout)
    b, _ = run(full, layout, inspect=True)
    assert a.edge_features == a.image_features == []
    assert a.preserved is None
    assert_equal(lean, full, a, b)


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("B1", {}),
        ("B2", {"encoder": "resnet"}),
        ("B6", {}),
        ("B6", {"spectral": "paper", "norm": "batch", "instance_edges": True}),
        ("B6", {"norm": "instance", "spectral": "none", "class_fuse": "mean"}),
    ],
)
def test_recomputed_blocks_give_the_same_step_from_less(preset, options):
    cfg = settings(preset, **options)
    (plain, layout), (again, _) = build(cfg), build(dataclasses.replace(cfg, checkpointing=True))
    for _ in range(2):  # power iterations and running statistics carry over
        a, held = run(plain, layout)
        b, less = run(again, layout)
        assert_equal(plain, again, a, b)
    assert less < held / 2


def test_nothing_is_kept_for_a_network_in_use():
    network, layout = build(settings(checkpointing=True))
    with torch.no_grad():
        expected = network(layout)
    assert not expected.image.requires_grad
