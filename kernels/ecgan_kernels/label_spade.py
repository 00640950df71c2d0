"""SPADE from distinct label neighbourhoods: a small table, and one pass that looks it up."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgan_kernels import _library
from ecgan_kernels._checks import check_slope
from ecgan_kernels._dispatch import choose
from ecgan_kernels.label_conv2d import label_conv2d
from ecgan_kernels.label_index import LabelIndex, NestedPatches

Norm = Literal["instance", "batch", "fixed", "shared"]


# Distinct k x k patches to pixels, above which the dense form is taken. Beyond it the lookup gains
# little or loses (see LabelSPADE), and its products take 4.5 times the memory of x and more.
MOST_PATCHES = 0.25


def choose_fused(
    x: Tensor, index: LabelIndex, kernel_size: int, noise: bool, impl: str
) -> NestedPatches | None:
    """The places to look up at x's resolution, or None where the dense form is to run.

    Args:
        x: [B, C, H, W].
        index: at x's resolution.
        kernel_size: of the convolutions.
        noise: whether the conditioning holds noise, which makes every neighbourhood distinct.
        impl: as for `ecgan_kernels.nn.LabelSPADE`.

    Raises:
        RuntimeError: the implementation asked for by name cannot run.
    """
    chosen = choose("label_spade", impl, x)
    if impl == "auto" and (noise or x.numel() == 0):
        return None
    if chosen == "reference":
        return None
    if noise:
        raise RuntimeError(
            f"label_spade: impl={impl!r} cannot run here: with noise no neighbourhood repeats"
        )
    places = index.nested(kernel_size)
    if impl == "auto" and len(places.patches) > MOST_PATCHES * places.inverse.numel():
        return None
    return places


def spade_table(
    places: NestedPatches,
    num_classes: int,
    shared: tuple[Tensor, Tensor | None],
    gamma: tuple[Tensor, Tensor | None],
    beta: tuple[Tensor, Tensor | None],
    dtype: torch.dtype,
) -> Tensor:
    r"""Gamma and beta of every distinct neighbourhood of a label map.

    .. math::
        h_u = \mathrm{relu}\Big(b + \sum_t W_{:,\,l(u,t),\,t}\Big), \qquad
        \gamma_v = b^\gamma + \sum_t W^\gamma_{:,:,t} \, h_{m(v,t)}

    over the taps t, for the patches u with their labels l(u, t) and the larger neighbourhoods v
    with their patches m(v, t); beta likewise. A product of each patch with all k * k taps comes
    first: there are several times fewer patches than neighbourhoods, whose sums are additions only.

    Args:
        places: what `LabelIndex.nested` gives for the kernel size k.
        num_classes: N.
        shared: weight [hidden, N (+1 for edges), k, k] and bias [hidden] of the first convolution.
        gamma: weight [C, hidden, k, k] and bias [C].
        beta: weight [C, hidden, k, k] and bias [C].
        dtype: what to compute in.

    Returns:
        [2 C, V], gamma's rows before beta's.
    """
    weight = torch.cat([gamma[0], beta[0]])
    outputs, taps = weight.shape[0], weight.shape[2] * weight.shape[3]
    biases = [w.new_zeros(len(w)) if b is None else b for w, b in (gamma, beta)]
    # On the CPU half types save nothing here; on a GPU autocast gives the product tensor cores.
    with torch.autocast("cpu", enabled=False):
        hidden = _first_layer(places.patches, num_classes, shared[0].to(dtype), shared[1])
        products = hidden @ weight.to(dtype).permute(1, 2, 3, 0).flatten(1)
        products = products.to(dtype).view(-1, outputs)
        table = _gather_sum(products, places.members, taps, 1)
        return (table + torch.cat(biases).to(dtype)).t()


def _first_layer(patches: Tensor, num_classes: int, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Relu of the one-hot convolution of ``patches`` [U, k * k], one output each: [U, hidden]."""
    kernel = weight.shape[2:]
    # Codes as LabelIndex.neighbourhoods has them: void and outside, which count nothing, are N and
    # N + 1, and N + 2 is added on an edge.
    labels = (patches % (num_classes + 2)).clamp(max=num_classes).unflatten(1, kernel)
    edges = None
    if weight.shape[1] > num_classes:
        edges = (patches >= num_classes + 2).unflatten(1, kernel)[:, None]
    bias = None if bias is None else bias.to(weight.dtype)
    out = label_conv2d(labels, weight, bias, ignore_index=num_classes, edges=edges)
    return out.flatten(1).relu()


def _gather_sum(values: Tensor, rows: Tensor, row_step: int, tap_step: int) -> Tensor:
    """Sums ``values[rows[v, t] * row_step + t * tap_step]`` over t, without negative rows.

    Args:
        values: [R, C] in float32 or float64.
        rows: int32 [V, T]; two columns never name the same row of ``values``.
        row_step: see above.
        tap_step: see above.

    Returns:
        [V, C].
    """
    if _on_cpu(values):
        return torch.ops.ecgan.gather_sum(values, rows, row_step, tap_step)
    taps = torch.arange(rows.shape[1], dtype=rows.dtype, device=rows.device) * tap_step
    # A last row of zeros stands for those that are not there.
    rows = torch.where(rows < 0, len(values), rows * row_step + taps)
    return F.embedding_bag(rows, F.pad(values, (0, 0, 0, 1)), mode="sum")


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def modulate(
    x: Tensor,
    table: Tensor,
    places: NestedPatches,
    *,
    norm: Norm,
    mean: Tensor | None = None,
    var: Tensor | None = None,
    eps: float = 1e-5,
    negative_slope: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Normalises, modulates by lookup and applies a LeakyReLU: one read and one write of x.

    .. math::
        n = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}}, \qquad
        y = \mathrm{lrelu}\big(n \, (1 + \gamma_v) + \beta_v\big)

    with v each pixel's neighbourhood. Gradient, with d = lrelu' dy: dbeta_v and dgamma_v are the
    sums of d and d n over its pixels, and with e = d (1 + gamma_v) and means over what shares
    :math:`\mu`, :math:`dx = (e - \overline{e} - n \, \overline{e n}) / \sqrt{\sigma^2 + \epsilon}`.
    Kept for the backward pass are x, the table and the statistics.

    Args:
        x: [B, C, H, W].
        table: [2 C, V] in float32, or float64 for float64.
        places: what `LabelIndex.nested` gives at x's resolution.
        norm: "instance" or "batch" for statistics of x, "fixed" for given ones.
        mean: float64 [1, C] with "fixed".
        var: float64 [1, C] with "fixed".
        eps: added to the variance.
        negative_slope: slope of the LeakyReLU; None: there is none.

    Returns:
        y [B, C, H, W] in x's dtype, and the mean and the biased variance used, [B or 1, C].
    """
    check_slope("negative_slope", negative_slope)
    slope = 1.0 if negative_slope is None else float(negative_slope)
    return torch.ops.ecgan.label_spade(
        x, table, places.inverse, places.walk, places.bounds, mean, var, norm, eps, slope
    )


def modulate_shared(
    x: Tensor,
    table: Tensor,
    places: NestedPatches,
    *,
    group: torch.distributed.ProcessGroup,
    eps: float = 1e-5,
    negative_slope: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, int]:
    """`modulate` with statistics over the batches of all processes of ``group``.

    Its two sums of the gradient are added up over them too, as torch's SyncBatchNorm does.

    Returns:
        What `modulate` returns, and the number of values that share a mean.
    """
    slope = 1.0 if negative_slope is None else float(negative_slope)
    mean, var = torch.ops.ecgan.label_spade_statistics(x.detach())
    values = mean.new_full((1,), x.numel() // x.shape[1])
    mine = torch.cat([values, mean[0], var[0]])
    everyone = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size(group))]
    torch.distributed.all_gather(everyone, mine, group=group)
    parts = torch.stack(everyone)
    weights = parts[:, :1] / parts[:, :1].sum()
    means, variances = parts[:, 1:].chunk(2, dim=1)
    means = means.nan_to_num()  # of a process without values
    mean = (weights * means).sum(0, keepdim=True)
    var = (weights * (variances.nan_to_num() + (means - mean) ** 2)).sum(0, keepdim=True)
    total = int(parts[:, 0].sum())
    return _Shared.apply(x, table, places, mean, var, eps, slope, group, total), mean, var, total


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        table: Tensor,
        places: NestedPatches,
        mean: Tensor,
        var: Tensor,
        eps: float,
        slope: float,
        group: torch.distributed.ProcessGroup,
        values: int,
    ) -> Tensor:
        lookup = places.inverse, places.walk, places.bounds
        ctx.save_for_backward(x, table, *lookup, mean, var)
        ctx.eps, ctx.slope, ctx.group, ctx.values = eps, slope, group, values
        return torch.ops.ecgan.label_spade(x, table, *lookup, mean, var, "shared", eps, slope)[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        need_x, need_table, *_ = ctx.needs_input_grad
        run = torch.ops.ecgan.label_spade_backward
        options = "shared", ctx.eps, ctx.slope
        _, grad_table, sums = run(grad, *ctx.saved_tensors, None, *options, False, need_table)
        grad_x = None
        if need_x:
            torch.distributed.all_reduce(sums, group=ctx.group)
            means = sums / ctx.values
            grad_x, _, _ = run(grad, *ctx.saved_tensors, means, *options, True, False)
        return grad_x, grad_table if need_table else None, *[None] * 7


def _register_gather_sum() -> None:
    def fake(values: Tensor, rows: Tensor, row_step: int, tap_step: int) -> Tensor:
        return values.new_empty(rows.shape[0], values.shape[1])

    def fake_backward(
        grad: Tensor, rows: Tensor, size: Tensor, row_step: int, tap_step: int
    ) -> Tensor:
        return grad.new_empty(size.shape[0], grad.shape[1])

    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int, int], output: Tensor) -> None:
        values, rows, ctx.row_step, ctx.tap_step = inputs
        ctx.save_for_backward(rows, values.new_empty(values.shape[0], 0))

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_values = torch.ops.ecgan.gather_sum_backward(
            grad, *ctx.saved_tensors, ctx.row_step, ctx.tap_step
        )
        return grad_values, None, None, None

    def backward_twice(ctx: Any, grad: Tensor) -> None:
        raise RuntimeError(
            "label_spade is differentiable once: use impl='reference' for second derivatives"
        )

    torch.library.register_fake("ecgan::gather_sum", fake)
    torch.library.register_fake("ecgan::gather_sum_backward", fake_backward)
    torch.library.register_autograd("ecgan::gather_sum", backward, setup_context=setup_context)
    torch.library.register_autograd("ecgan::gather_sum_backward", backward_twice)


def _register() -> None:
    def fake(
        x: Tensor,
        table: Tensor,
        inverse: Tensor,
        walk: Tensor,
        bounds: Tensor,
        mean: Tensor | None,
        var: Tensor | None,
        norm: str,
        eps: float,
        slope: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        groups = x.shape[0] if norm == "instance" else 1
        mean, var = (x.new_empty((groups, x.shape[1]), dtype=torch.float64) for _ in range(2))
        return x.new_empty(x.shape), mean, var

    def fake_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = (x.new_empty((1, x.shape[1]), dtype=torch.float64) for _ in range(2))
        return mean, var

    def fake_backward(
        grad: Tensor,
        x: Tensor,
        table: Tensor,
        inverse: Tensor,
        walk: Tensor,
        bounds: Tensor,
        mean: Tensor,
        var: Tensor,
        shared: Tensor | None,
        norm: str,
        eps: float,
        slope: float,
        need_x: bool,
        need_table: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        channels = x.shape[1] if norm == "shared" else 0
        return (
            x.new_empty(x.shape if need_x else 0),
            table.new_empty(table.shape if need_table else 0),
            x.new_empty((channels, 2), dtype=torch.float64),
        )

    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
        x, table, inverse, walk, bounds, _, _, ctx.norm, ctx.eps, ctx.slope = inputs
        _, mean, var = output
        ctx.mark_non_differentiable(mean, var)
        ctx.save_for_backward(x, table, inverse, walk, bounds, mean, var)

    def backward(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        need_x, need_table, *_ = ctx.needs_input_grad
        grad_x, grad_table, _ = torch.ops.ecgan.label_spade_backward(
            grad, *ctx.saved_tensors, None, ctx.norm, ctx.eps, ctx.slope, need_x, need_table
        )
        return grad_x if need_x else None, grad_table if need_table else None, *[None] * 8

    def backward_twice(ctx: Any, *grads: Tensor) -> None:
        # Without this, torch would take the first gradient for a constant.
        raise RuntimeError(
            "label_spade is differentiable once: use impl='reference' for second derivatives"
        )

    torch.library.register_fake("ecgan::label_spade", fake)
    torch.library.register_fake("ecgan::label_spade_statistics", fake_statistics)
    torch.library.register_fake("ecgan::label_spade_backward", fake_backward)
    torch.library.register_autograd("ecgan::label_spade", backward, setup_context=setup_context)
    torch.library.register_autograd("ecgan::label_spade_backward", backward_twice)


if _library.CPU.loaded:
    _register_gather_sum()
    _register()
