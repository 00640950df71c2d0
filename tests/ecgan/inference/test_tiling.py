import itertools

import pytest
import torch

from ecgan.errors import ConfigError
from ecgan.inference import tiling


def regions(height: int, width: int, num_classes: int, seed: int = 0) -> torch.Tensor:
    """Label maps [2, H, W] of patches of many sizes, with void."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.zeros(2, height, width, dtype=torch.int64)
    for side in (16, 5, 2):
        grid = torch.randint(
            0, num_classes, (2, -(-height // side), -(-width // side)), generator=random
        )
        patches = grid.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, :height, :width]
        labels = torch.where(torch.rand(patches.shape, generator=random) < 0.6, patches, labels)
    labels[torch.rand(labels.shape, generator=random) < 0.02] = 255
    return labels


SETTINGS = {
    "B6": {"num_upsamples": 2},
    "one doubling": {"num_upsamples": 1, "class_fuse": "attention"},
    "fused features": {"num_upsamples": 3, "fuse_features": True},
    "B1, batch norm": {
        "num_upsamples": 2, "norm": "batch", "edge_branch": False, "edge_transfer": False,
        "semantic_preserving": False, "class_branch": False,
    },
    "noise": {"num_upsamples": 1, "style": "noise", "z_dim": 3},
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_tiles_equal_the_whole(make_model, name: str):
    # In float64, where rounding is far below what a margin one cell too narrow would change.
    model = make_model(**SETTINGS[name]).double()
    around = tiling.margin(model.cfg)
    # Three tiles along an axis, the middle one with its margin inside the image.
    tile = model.multiple * 2
    side = -(-(2 * around + tile) // model.multiple) * model.multiple + model.multiple
    labels = regions(side, side // 2 // model.multiple * model.multiple, 5)
    style = None
    if model.cfg.style == "noise":
        style = torch.randn(2, 3, *labels.shape[1:], dtype=torch.float64)
    whole = model.synthesize(labels, style=style)
    tiled = model.synthesize(labels, style=style, tile=-(-side // 3 // tile) * tile)
    assert whole.images.std() > 0.1
    torch.testing.assert_close(tiled.images, whole.images, atol=1e-6, rtol=0)
    assert (tiled.edges is None) == (whole.edges is None)
    if whole.edges is not None:
        torch.testing.assert_close(tiled.edges, whole.edges, atol=1e-6, rtol=0)


@pytest.mark.parametrize("doublings", [1, 2])
def test_the_margin_is_needed(make_model, monkeypatch: pytest.MonkeyPatch, doublings: int):
    model = make_model(num_upsamples=doublings).double()
    needed = tiling.margin(model.cfg)
    labels = regions(8 * needed, 16, 5)
    whole = model.synthesize(labels).images
    errors = []
    for margin in (needed // 2 // model.multiple * model.multiple, needed):
        monkeypatch.setattr(tiling, "margin", lambda cfg, m=margin: m)
        tiled = model.synthesize(labels, tile=needed).images
        errors.append((tiled - whole).abs().max().item())
    assert errors[0] > 1e-4 > 1e-6 > errors[1]


def test_instance_edges_and_float32(make_model):
    model = make_model(num_upsamples=1, instance_edges=True, void_channel=True)
    labels = regions(96, 64, 5)
    instances = labels * 3 + torch.arange(64) // 9
    whole = model.synthesize(labels, instances=instances)
    tiled = model.synthesize(labels, instances=instances, tile=32)
    torch.testing.assert_close(tiled.images, whole.images, atol=2e-5, rtol=0)


def test_memory_is_that_of_a_tile(make_model, monkeypatch: pytest.MonkeyPatch):
    model = make_model(num_upsamples=1, semantic_preserving=False)
    largest = 0
    forward = type(model.generator).forward

    def watched(self, layout, *arguments, **options):
        nonlocal largest
        largest = max(largest, layout.size[0] * layout.size[1])
        return forward(self, layout, *arguments, **options)

    monkeypatch.setattr(type(model.generator), "forward", watched)
    side = 32 + 2 * tiling.margin(model.cfg)
    model.synthesize(torch.zeros(side + 32, side + 32, dtype=torch.int64), tile=32)
    assert largest == side**2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "instance"}, "norm instance normalises by the statistics of the whole image"),
        ({"encoder": "resnet"}, "the resnet encoder normalises"),
        ({"style": "encoder", "z_dim": 4}, "makes images of 32x64 only"),
        ({}, "multiple of 32 pixels, not 33"),
    ],
)
def test_what_cannot_be_tiled_is_said(make_model, changes: dict, message: str):
    model = make_model(**changes)
    with pytest.raises(ConfigError, match=message):
        model.synthesize(torch.zeros(32, 64, dtype=torch.int64), tile=33 if not changes else 32)


def test_margins_grow_with_the_doublings(make_model):
    margins = [tiling.margin(make_model(num_upsamples=k).cfg) for k in range(1, 5)]
    assert all(a < b for a, b in itertools.pairwise(margins))
