"""nn.LabelSPADE against the published layer in eager PyTorch: `pytest benchmarks/label_spade.py`.

COCO-Stuff's label maps where ECGAN_TEST_DATA names them, else drawn areas; N = 183, a batch of 4,
64 channels. Eager is SPADE as published: the one-hot map resized, normalisation, three
convolutions, modulation, LeakyReLU; its one-hot map of the full resolution is made beforehand.
"index included" finds the distinct neighbourhoods in each pass, "index prepared" beforehand, as a
data-loading worker does. The floor is what the map has to move: x read and y written forward, x and
its gradient's two read and written backward.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from ecgan_kernels import LabelIndex
from ecgan_kernels.nn import LabelSPADE
from torch import Tensor, nn

from benchmarks import common
from benchmarks.common import DEVICE, Recorder, compare, sweep
from benchmarks.layouts import coco_stuff

CLASSES, BATCH, CHANNELS = 183, 4, 64
CASES = [
    *[(size, "instance", "both") for size in (32, 64, 96, 128, 256)],
    (256, "instance", "forward"),
    (256, "instance", "backward"),
    (256, "batch", "both"),
]
TENSORS_MOVED = {"forward": 2, "backward": 3, "both": 5}


class Published(nn.Module):
    """SPADE as its authors describe it, on the weights of a LabelSPADE."""

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
    recorder.write()


def check(name, found, want):
    for ours, theirs in zip(found, want, strict=True):
        # Sums over 10^5 pixels in another order, relative to the largest.
        assert (ours - theirs).abs().max() <= 2e-4 * theirs.abs().max() + 1e-5, name


@pytest.mark.timeout(1800)  # eager takes seconds, at 256 x 256 on a CPU
@pytest.mark.parametrize(("size", "norm", "direction"), sweep(CASES))
def test_label_spade(size, norm, direction, benchmark, recorder):
    torch.manual_seed(0)
    labels, maps = coco_stuff(size, BATCH, CLASSES)
    labels = labels.clamp(max=CLASSES - 1).to(DEVICE)
    layer = LabelSPADE(CHANNELS, CLASSES, norm=norm, negative_slope=0.2).to(DEVICE)
    published = Published(layer)
    segmap = F.one_hot(labels, CLASSES).permute(0, 3, 1, 2).float().contiguous()
    prepared = LabelIndex(labels, CLASSES).prepare([(size, size)])
    x = torch.randn(BATCH, CHANNELS, size, size, device=DEVICE, requires_grad=True)
    functions = {
        "eager": lambda: published(x, segmap),
        "index included": lambda: layer(x, LabelIndex(labels, CLASSES)),
        "index prepared": lambda: layer(x, prepared),
    }
    faster = common.compiled(published) if size == 256 else None
    if faster is not None:
        functions["torch.compile"] = lambda: faster(x, segmap)
    places = prepared.nested(3)
    compare(
        benchmark,
        recorder,
        functions,
        [x, *layer.parameters()],
        (torch.randn_like(x),),
        ours="index included",
        elements=x.numel(),
        floor=TENSORS_MOVED[direction] * x.nbytes / recorder.bandwidth,
        direction=direction,
        case={"norm": norm, "maps": maps, "classes": CLASSES},
        notes={
            "shape": list(x.shape),
            "patches": len(places.patches),
            "neighbourhoods": len(places.members),
        },
        check=check,
        beside={"index alone": lambda: LabelIndex(labels, CLASSES).nested(3)},
        budget=4.0,
    )
