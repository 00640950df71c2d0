"""nn.LabelSPADE against the published layer in eager PyTorch: `pytest benchmarks/label_spade.py`.

Real label maps of ECGAN_TEST_DATA's coco_stuff, else random blobs; N = 183, a batch of 4, forward
and backward. Eager is SPADE as published: the one-hot map resized, normalisation, three
convolutions, modulation, LeakyReLU; its one-hot map of the full resolution is made beforehand.
"index included" finds the distinct neighbourhoods in each pass, "index prepared" beforehand, as a
data-loading worker does. The floor is what the map has to move: x read and y written forward, x and
its gradient's two read and written backward.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from ecgan_kernels import LabelIndex
from ecgan_kernels.nn import LabelSPADE
from torch import Tensor, nn

from benchmarks.common import DEVICE, Recorder, interleaved, peak_bytes

CLASSES, BATCH, CHANNELS = 183, 4, 64
SIZES = [64, 128, 256]


def label_maps(size: int) -> tuple[str, Tensor]:
    """Where the maps come from, and the maps [4, size, size]; 182 is void."""
    folder = Path(os.environ.get("ECGAN_TEST_DATA", "")) / "coco_stuff" / "val_label"
    files = sorted(folder.glob("*.png"))[:BATCH]
    if len(files) == BATCH:
        np, image = pytest.importorskip("numpy"), pytest.importorskip("PIL.Image")
        maps = [np.array(image.open(file).resize((size, size), 0)) for file in files]
        return "coco_stuff", torch.from_numpy(np.stack(maps)).long().clamp(max=CLASSES - 1)
    coarse = torch.randn(BATCH, CLASSES, 8, 8)
    return "blobs", F.interpolate(coarse, size=(size, size), mode="bicubic").argmax(1)


class Published(nn.Module):
    """SPADE as its authors wrote it, on the weights of a LabelSPADE."""

    def __init__(self, layer: LabelSPADE) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, segmap: Tensor) -> Tensor:
        layer = self.layer
        normalized = layer.param_free_norm(x)
        segmap = F.interpolate(segmap, size=x.shape[2:], mode="nearest")
        actv = layer.mlp_shared(segmap)
        out = normalized * (1 + layer.mlp_gamma(actv)) + layer.mlp_beta(actv)
        return F.leaky_relu(out, layer.negative_slope)


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder("label_spade")
    yield recorder
    recorder.write("implementation", "norm")


CASES = [(size, "instance") for size in SIZES] + [(SIZES[-1], "batch")]


@pytest.mark.timeout(1800)  # eager takes seconds, at 256 x 256 on a CPU
@pytest.mark.parametrize(("size", "norm"), CASES)
def test_label_spade(size, norm, benchmark, recorder):
    torch.manual_seed(0)
    source, labels = label_maps(size)
    labels = labels.to(DEVICE)
    layer = LabelSPADE(CHANNELS, CLASSES, norm=norm, negative_slope=0.2).to(DEVICE)
    published = Published(layer)
    segmap = F.one_hot(labels, CLASSES).permute(0, 3, 1, 2).float().contiguous()
    prepared = LabelIndex(labels, CLASSES).prepare([(size, size)])
    x = torch.randn(BATCH, CHANNELS, size, size, device=DEVICE, requires_grad=True)
    grad = torch.randn_like(x)
    wanted = [x, *layer.parameters()]

    def both(out: Tensor) -> list[Tensor]:
        return [out, *torch.autograd.grad(out, wanted, grad)]

    candidates = {
        "eager": lambda: both(published(x, segmap)),
        "index included": lambda: both(layer(x, LabelIndex(labels, CLASSES))),
        "index prepared": lambda: both(layer(x, prepared)),
        "index alone": lambda: LabelIndex(labels, CLASSES).nested(3),
    }
    times = interleaved(benchmark, candidates, "index included", budget=4.0)
    peaks = {name: peak_bytes(function) for name, function in candidates.items()}
    expected = candidates["eager"]()
    for name in ("index included", "index prepared"):
        for ours, theirs in zip(candidates[name](), expected, strict=True):
            # Sums over 10^5 pixels in another order, relative to the largest.
            assert (ours - theirs).abs().max() <= 2e-4 * theirs.abs().max() + 1e-5, name
    places = prepared.nested(3)
    recorder.add(
        times,
        peaks,
        moved=5 * x.nbytes,
        elements=x.numel(),
        shape=list(x.shape),
        norm=norm,
        labels=source,
        patches=len(places.patches),
        neighbourhoods=len(places.members),
    )
