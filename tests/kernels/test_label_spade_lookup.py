"""LabelSPADE by lookup against the dense form: accuracy, layouts, real maps, memory, processes."""

from __future__ import annotations

import copy
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing
from ecgan_kernels import LabelIndex, _library, label_spade
from ecgan_kernels.label_spade import (
    _gather_sum,
    choose_fused,
    modulate,
    modulate_shared,
    spade_table,
)
from ecgan_kernels.nn import LabelSPADE, _sharing
from torch import Tensor

pytestmark = pytest.mark.skipif(not _library.CPU.loaded, reason="_C is not built")
NORMS = ["instance", "batch", "syncbatch"]
needs_gpu = pytest.mark.skipif(
    not (torch.cuda.is_available() and _library.CUDA.loaded), reason="needs a GPU and _C_cuda"
)
LOOKUPS = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])]


def blobs(batch: int, height: int, width: int, classes: int, scale: int = 8) -> Tensor:
    """Label maps of smooth regions, as layouts are; label ``classes`` is void."""
    coarse = torch.randn(batch, classes + 1, -(-height // scale) + 1, -(-width // scale) + 1)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    return smooth.argmax(1)


def twins(
    channels: int, classes: int, impl: str = "cpu", **options
) -> tuple[LabelSPADE, LabelSPADE]:
    """A layer by lookup and its dense twin, on the device of ``impl``."""
    lookup = LabelSPADE(channels, classes, impl=impl, **options).to(impl)
    dense = copy.deepcopy(lookup)
    dense.impl = "reference"
    return lookup, dense


def results(layer: LabelSPADE, x: Tensor, index: LabelIndex, grad: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    out = layer(x, index)
    return [out.detach(), *torch.autograd.grad(out, [x, *layer.parameters()], grad)]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("kind", ["noise", "blobs", "one class", "void"])
def test_equals_the_dense_form(kind, edges, training, norm):
    maps = {
        "noise": torch.randint(0, 6, (3, 13, 21)),
        "blobs": blobs(3, 37, 41, 5),
        "one class": torch.zeros(2, 18, 35).long(),
        "void": torch.full((2, 9, 17), 255),
    }
    labels = maps[kind]
    marks = torch.rand(len(labels), 1, *labels.shape[1:]) < 0.1 if edges else None
    index = LabelIndex(labels, 5, edges=marks)
    lookup, dense = twins(6, 5, hidden=7, norm=norm, negative_slope=0.2, edge_channel=edges)
    lookup.double().train(training)
    dense.double().train(training)
    if norm != "instance":
        for layer in (lookup, dense):
            layer.param_free_norm.running_mean.copy_(torch.linspace(-1, 1, 6))
            layer.param_free_norm.running_var.copy_(torch.linspace(0.5, 2, 6))
    x = torch.randn(len(labels), 6, *labels.shape[1:], dtype=torch.float64) * 2 + 1
    grad = torch.randn_like(x)
    for ours, theirs in zip(
        results(lookup, x, index, grad), results(dense, x, index, grad), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(lookup.buffers(), dense.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("impl", LOOKUPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("offset", [0, 30])
def test_error_is_no_larger_than_eagers(offset, norm, dtype, impl, assert_accurate):
    labels = blobs(2, 33, 47, 9).to(impl)
    index = LabelIndex(labels, 9)
    lookup, dense = twins(5, 9, impl, hidden=16, norm=norm, negative_slope=0.2)
    for layer in (lookup, dense):
        layer.to(dtype)
    truth = copy.deepcopy(dense).double()
    x = (torch.randn(2, 5, 33, 47) + offset).to(impl, dtype)
    grad = torch.randn(2, 5, 33, 47).to(impl, dtype)
    wanted = results(truth, x.double(), index, grad.double())
    eager = results(dense, x, index, grad)
    for i, ours in enumerate(results(lookup, x, index, grad)):
        # A sum over the LeakyReLU's kink differs where the sign of a value near 0 does.
        assert_accurate(ours, eager[i], wanted[i], ulps=4 if i == 0 else 40)


@pytest.mark.parametrize("impl", LOOKUPS)
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_layouts(norm, impl, layout, with_layout):
    index = LabelIndex(blobs(2, 11, 19, 4).to(impl), 4)
    layer, _ = twins(3, 4, impl, hidden=5, norm=norm, negative_slope=0.2)
    x, grad = (torch.randn(2, 3, 11, 19).to(impl) for _ in range(2))
    expected = results(layer, x, index, grad)
    actual = results(layer, with_layout(x, layout), index, with_layout(grad, layout))
    same = partial(torch.testing.assert_close, rtol=0, atol=0)
    if impl == "cuda":  # torch's own sums into the table come in any order there
        same = torch.testing.assert_close
    for ours, theirs in zip(actual, expected, strict=True):
        same(ours, theirs)
    # Channels apart: planes in a row, with gaps between them.
    apart = torch.randn(2, 6, 11, 19).to(impl)
    apart[:, ::2] = x
    for ours, theirs in zip(results(layer, apart[:, ::2], index, grad), expected, strict=True):
        same(ours, theirs)
    expanded = torch.ones((), device=impl).expand(x.shape)
    for ours, theirs in zip(
        results(layer, x, index, expanded),
        results(layer, x, index, expanded.contiguous()),
        strict=True,
    ):
        same(ours, theirs)


@pytest.mark.parametrize("norm", ["instance", "batch", "fixed"])
def test_gradcheck_and_opcheck(norm):
    labels = torch.randint(0, 2, (2, 4, 5))
    labels[1] = 0
    places = LabelIndex(labels, 2).nested(3)
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    table = torch.randn(4, len(places.members), dtype=torch.float64, requires_grad=True)
    moments = (None, None)
    if norm == "fixed":
        moments = (torch.randn(1, 2).double(), torch.rand(1, 2).double() + 0.5)

    def function(x: Tensor, table: Tensor) -> Tensor:
        mean, var = moments
        return modulate(x, table, places, norm=norm, mean=mean, var=var, negative_slope=0.3)[0]

    assert torch.autograd.gradcheck(function, (x, table))
    where = places.inverse, places.walk, places.bounds
    options = (norm, 1e-5, 0.3)
    arguments = (x, table, *where, *moments, *options)
    torch.library.opcheck(torch.ops.ecgan.label_spade.default, arguments)
    torch.library.opcheck(torch.ops.ecgan.label_spade_statistics.default, (x.detach(),))
    _, mean, var = torch.ops.ecgan.label_spade(*arguments)
    for need in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(
            torch.ops.ecgan.label_spade_backward.default,
            (
                x.detach(),
                x.detach(),
                table.detach(),
                *where,
                mean,
                var,
                None,
                norm,
                1e-5,
                0.3,
                *need,
            ),
        )


@pytest.mark.gpu
@needs_gpu
def test_an_index_made_on_either_device_serves_a_gpu():
    labels = blobs(2, 33, 47, 9)
    layer, _ = twins(5, 9, "cuda", hidden=16)
    x = torch.randn(2, 5, 33, 47).cuda()
    there = LabelIndex(labels.cuda(), 9)
    moved = LabelIndex(labels, 9).prepare([(33, 47)]).to("cuda")
    for ours, theirs in zip(
        results(layer, x, moved, x), results(layer, x, there, x), strict=True
    ):  # the two number the neighbourhoods differently
        torch.testing.assert_close(ours, theirs)


def test_every_subset_of_gradients():
    index = LabelIndex(blobs(2, 12, 20, 4), 4)
    layer, _ = twins(3, 4, hidden=5)
    x, grad = torch.randn(2, 3, 12, 20), torch.randn(2, 3, 12, 20)
    _, grad_x, *grads = results(layer, x, index, grad)
    (alone,) = torch.autograd.grad(layer(x, index), [layer.mlp_beta.weight], grad)
    assert torch.equal(alone, grads[4])
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    x.requires_grad_()
    assert torch.equal(torch.autograd.grad(layer(x, index), x, grad)[0], grad_x)
    assert not layer(x.detach(), index).requires_grad


def test_second_derivative_is_refused():
    layer, _ = twins(3, 4, hidden=5)
    x = torch.randn(1, 3, 6, 6, requires_grad=True)
    labels = torch.zeros(1, 6, 6).long()
    (grad,) = torch.autograd.grad(layer(x, labels).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        grad.sum().backward()


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_single_values_are_refused_as_torch_does(norm):
    lookup, dense = twins(3, 4, hidden=5, norm=norm)
    x, labels = torch.randn(1, 3, 1, 1), torch.zeros(1, 1, 1).long()
    for layer in (lookup, dense):
        with pytest.raises(ValueError, match=r"more than (1|one)"):
            layer(x, labels)
    if norm == "batch":
        x, labels = torch.randn(5, 3, 1, 1), torch.tensor([0, 1, 2, 3, 0]).view(5, 1, 1)
        torch.testing.assert_close(lookup(x, labels), dense(x, labels))


@pytest.mark.skipif(not _library.CPU.loaded, reason="needs the compiled operators")
@pytest.mark.parametrize("spoil", ["large id", "negative id", "segment too long", "too few images"])
def test_places_that_do_not_fit_are_refused(spoil):
    layer, _ = twins(2, 4, hidden=5)
    index = LabelIndex(blobs(2, 17, 33, 4), 4)
    places = index.nested(3)
    if "id" in spoil:
        places.inverse[1, 3, 5] = len(places.members) if spoil == "large id" else -1
    elif spoil == "segment too long":
        places.walk[-1, 1] *= 2
    else:
        places.bounds[-1] = places.bounds[-2]
    with pytest.raises(RuntimeError, match=r"inverse: expected|walk: expected"):
        layer(torch.randn(2, 2, 17, 33), index)


def test_special_values_stay_in_their_plane():
    layer, _ = twins(2, 4, hidden=5)
    index = LabelIndex(blobs(1, 17, 33, 4), 4)
    x = torch.randn(1, 2, 17, 33)
    clean = layer(x, index)
    x[0, 0, 3, 4] = torch.inf
    out = layer(x, index)
    assert out[0, 0].isnan().any()
    assert torch.equal(out[0, 1], clean[0, 1])


def test_results_do_not_depend_on_threads():
    index = LabelIndex(blobs(3, 40, 52, 6), 6)
    x, grad = torch.randn(3, 5, 40, 52), torch.randn(3, 5, 40, 52)
    threads = torch.get_num_threads()
    places = index.nested(3)
    table = torch.randn(10, len(places.members), requires_grad=True)
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for norm in ("instance", "batch"):
                x.requires_grad_()
                out, *_ = modulate(x, table, places, norm=norm, negative_slope=0.2)
                found.append([out, *torch.autograd.grad(out, (x, table), grad)])
    finally:
        torch.set_num_threads(threads)
    for i in range(2, 6):
        assert all(map(torch.equal, found[i], found[i % 2]))


def test_memory(peak_memory):
    labels = blobs(2, 128, 128, 40, scale=64)
    lookup, dense = twins(32, 40, hidden=32, negative_slope=0.2)
    index = LabelIndex(labels, 40).prepare([(128, 128)])
    x = torch.randn(2, 32, 128, 128)
    grad = torch.randn_like(x)
    ours = peak_memory(lambda: results(lookup, x, index, grad))
    assert not index._one_hot
    assert ours < 4.5 * x.nbytes  # the result, the gradient, and the table's products
    assert 2 * ours < peak_memory(lambda: results(dense, x, LabelIndex(labels, 40), grad))


def test_auto_takes_the_dense_form_where_patches_are_many():
    x = torch.randn(1, 2, 64, 64)
    noise = LabelIndex(torch.randint(0, 9, (1, 64, 64)), 9)
    layout = LabelIndex(blobs(1, 64, 64, 9, scale=64), 9)
    assert choose_fused(x, noise, 3, False, "auto") is None
    assert choose_fused(x, layout, 3, False, "auto") is layout.nested(3)
    assert choose_fused(x, layout, 3, True, "auto") is None
    assert choose_fused(x, noise, 3, False, "cpu") is noise.nested(3)
    assert choose_fused(x, layout, 3, False, "reference") is None


def test_table_is_the_two_convolutions_at_each_neighbourhood():
    labels = blobs(2, 20, 30, 5)
    labels[0, :3] = 255
    places = LabelIndex(labels, 5).nested(3)
    layer = LabelSPADE(3, 5, hidden=6).double()
    table = spade_table(places, 5, *layer._weights(), torch.float64)
    hidden = layer.mlp_shared(LabelIndex(labels, 5).one_hot(torch.float64))
    dense = torch.cat([layer.mlp_gamma(hidden), layer.mlp_beta(hidden)], dim=1)
    torch.testing.assert_close(table[:, places.inverse.long()].transpose(0, 1), dense)


@pytest.mark.parametrize(("row_step", "tap_step"), [(3, 1), (1, 5), (1, 0)])
@pytest.mark.parametrize("width", [1, 7, 130])
@pytest.mark.parametrize("count", [0, 1, 300])
def test_gather_sum(count, width, row_step, tap_step):
    values = torch.randn(15, width, dtype=torch.float64, requires_grad=True)
    rows = torch.randint(-1, 5, (count, 3), dtype=torch.int32)
    if tap_step == 0:  # columns with rows of their own
        rows = torch.where(rows < 0, -1, rows + 5 * torch.arange(3)).int()
    expected = torch.zeros(count, width, dtype=torch.float64)
    for t in range(3):
        there = rows[:, t] >= 0
        at = rows[:, t].long() * row_step + t * tap_step
        expected = expected + torch.where(there[:, None], values[at.clamp(min=0)], 0)
    out = _gather_sum(values, rows, row_step, tap_step)
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(y, values, grad)[0] for y in (out, expected))
    torch.testing.assert_close(ours, theirs)
    arguments = (values, rows, row_step, tap_step)
    torch.library.opcheck(torch.ops.ecgan.gather_sum.default, arguments)
    with pytest.MonkeyPatch.context() as patch:  # what a GPU runs
        patch.setattr(label_spade, "_on_cpu", lambda tensor: False)
        other = _gather_sum(values, rows, row_step, tap_step)
    torch.testing.assert_close(other, expected)


def share_statistics(rank: int, folder: str, results: Tensor) -> None:
    """One of two processes that hold a half of a batch each, of unequal size."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    x, table, grad, labels = batch_of_three()
    part = slice(0, 1) if rank == 0 else slice(1, 3)
    mine, table = x[part].requires_grad_(), table.requires_grad_()
    places = LabelIndex(labels, 3).nested(3)
    places.inverse = places.inverse[part].contiguous()
    places.walk, places.bounds = torch.ops.ecgan.label_segments(places.inverse, 16)
    group = torch.distributed.group.WORLD
    out, mean, var, values = modulate_shared(mine, table, places, group=group, negative_slope=0.2)
    assert values == x.numel() // x.shape[1]
    grads = torch.autograd.grad(out, (mine, table), grad[part])
    results[0, part], results[1, part] = out.detach(), grads[0]
    torch.save((grads[1], mean, var), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def batch_of_three() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, 3, (3, 3, 4), generator=generator).repeat_interleave(5, 2)
    count = len(LabelIndex(labels, 3).nested(3).members)
    x, grad = (torch.randn(3, 4, 3, 20, generator=generator).double() for _ in range(2))
    return x + 2, torch.randn(8, count, generator=generator).double(), grad, labels


def test_shared_statistics_equal_those_of_the_whole_batch(tmp_path):
    x, table, grad, labels = batch_of_three()
    results = torch.zeros(2, *x.shape, dtype=torch.float64).share_memory_()
    torch.multiprocessing.spawn(share_statistics, (str(tmp_path), results), nprocs=2)
    x.requires_grad_()
    table.requires_grad_()
    places = LabelIndex(labels, 3).nested(3)
    out, mean, var = modulate(x, table, places, norm="batch", negative_slope=0.2)
    grad_x, grad_table = torch.autograd.grad(out, (x, table), grad)
    torch.testing.assert_close(results[0], out.detach())
    torch.testing.assert_close(results[1], grad_x)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    torch.testing.assert_close(found[0][0] + found[1][0], grad_table)
    for other in found:
        torch.testing.assert_close(other[1:], (mean, var))


def test_norms_converted_by_torch_share_statistics_too(monkeypatch):
    layer = LabelSPADE(3, 4, norm="batch")
    torch.nn.SyncBatchNorm.convert_sync_batchnorm(layer, "these two")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: 2)
    assert _sharing(layer.param_free_norm, torch.empty(1, device="meta")) == "these two"
    assert _sharing(layer.param_free_norm, torch.empty(1)) is None  # torch shares on GPUs only
    assert _sharing(torch.nn.BatchNorm2d(3), torch.empty(1, device="meta")) is None


DATA = Path(os.environ.get("ECGAN_TEST_DATA", "")) / "coco_stuff"


@pytest.mark.skipif(not DATA.is_dir(), reason="ECGAN_TEST_DATA holds no coco_stuff")
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_real_layouts(training, norm, assert_accurate):
    image = pytest.importorskip("PIL.Image")

    def read(name: str) -> Tensor:
        files = sorted((DATA / name).glob("*.png"))[:2]
        maps = [np.array(image.open(f).resize((128, 128), 0)).astype(np.int64) for f in files]
        return torch.from_numpy(np.stack(maps))

    labels, instances = read("val_label"), read("val_inst")
    edges = torch.zeros(labels.shape, dtype=torch.bool)
    edges[:, 1:] |= instances[:, 1:] != instances[:, :-1]
    edges[:, :, 1:] |= instances[:, :, 1:] != instances[:, :, :-1]
    index = LabelIndex(labels, 182, edges=edges[:, None])
    lookup, dense = twins(8, 182, norm=norm, negative_slope=0.2, edge_channel=True)
    for layer in (lookup, dense):
        layer.train(training)
    assert choose_fused(torch.zeros(2, 8, 128, 128), index, 3, False, "auto") is not None
    x, grad = torch.randn(2, 8, 128, 128), torch.randn(2, 8, 128, 128)
    ours, eager = (results(layer, x, index, grad) for layer in (lookup, dense))
    truth = results(copy.deepcopy(dense).double(), x.double(), index, grad.double())
    for i, result in enumerate(ours):
        assert_accurate(result, eager[i], truth[i], ulps=4 if i == 0 else 100)
