"""The modules of ecgan_kernels.nn beyond SPADE's equation (see test_label_spade.py)."""

from __future__ import annotations

import copy

import pytest
import torch
from ecgan_kernels.nn import EdgeTransfer, LabelSPADE
from torch import nn


@pytest.mark.parametrize("activation", [None, "tanh"])
def test_edge_transfer(activation):
    image = torch.randn(2, 3, 4, 5, requires_grad=True)
    edge = torch.randn(2, 3, 4, 5, requires_grad=True)
    a = torch.tanh if activation == "tanh" else (lambda t: t)
    expected = a(image) * (1 + torch.sigmoid(a(edge)))
    layer = EdgeTransfer(activation, impl="reference")
    torch.testing.assert_close(layer(image, edge), expected)
    assert not layer.state_dict()
    assert repr(layer) == f"EdgeTransfer(activation={activation!r}, impl='reference')"


def test_edge_transfer_passes_impl_on():
    with pytest.raises(ValueError, match="impl"):
        EdgeTransfer(impl="nothing")(torch.zeros(1), torch.zeros(1))


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        ("instance", nn.InstanceNorm2d),
        ("batch", nn.BatchNorm2d),
        ("syncbatch", nn.SyncBatchNorm),
    ],
)
def test_norms_have_no_parameters(norm, kind):
    module = LabelSPADE(4, 3, norm=norm).param_free_norm
    assert isinstance(module, kind)
    assert not list(module.parameters())


def test_syncbatch_trains_on_the_cpu_inside_a_process_group(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        layer = LabelSPADE(4, 3, hidden=2, norm="syncbatch")
        plain = LabelSPADE(4, 3, hidden=2, norm="batch")
        plain.load_state_dict(layer.state_dict())
        x, labels = torch.randn(2, 4, 3, 3), torch.zeros(2, 3, 3).long()
        assert torch.equal(layer(x, labels), plain(x, labels))
    finally:
        torch.distributed.destroy_process_group()


def test_modules_copy_and_describe_themselves():
    layer = LabelSPADE(4, 3, hidden=2, negative_slope=0.2, noise_channels=1)
    x, labels = torch.randn(1, 4, 4, 4), torch.zeros(1, 4, 4).long()
    noise = torch.randn(1, 1, 4, 4)
    assert torch.equal(copy.deepcopy(layer)(x, labels, noise), layer(x, labels, noise))
    assert "4, 3, negative_slope=0.2, edge_channel=False, noise_channels=1, impl='auto'" in repr(
        layer
    )
