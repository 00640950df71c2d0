"""Modules over the operators: drop-in layers for a label-conditioned generator."""

from __future__ import annotations

import functools
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ecgan_kernels._checks import (
    check_bool,
    check_choice,
    check_device,
    check_floating,
    check_int,
    check_shape,
    check_slope,
)
from ecgan_kernels._dispatch import IMPLEMENTATIONS, choose
from ecgan_kernels.edge_transfer import edge_transfer
from ecgan_kernels.label_conv2d import label_conv2d
from ecgan_kernels.label_index import LabelIndex, NestedPatches
from ecgan_kernels.label_spade import choose_fused, modulate, modulate_shared, spade_table
from ecgan_kernels.reference.label_spade import label_spade
from ecgan_kernels.reference.label_spade import modulate as modulate_densely

Norm = Literal["instance", "batch", "syncbatch"]


class EdgeTransfer(nn.Module):
    """`ecgan_kernels.edge_transfer` as a layer without parameters.

    Args:
        activation: None for the feature level, "tanh" for the content level.
        impl: implementation, as for the function.
    """

    def __init__(self, activation: Literal["tanh"] | None = None, impl: str = "auto") -> None:
        super().__init__()
        self.activation: Literal["tanh"] | None = activation
        self.impl = impl

    def forward(self, image: Tensor, edge: Tensor) -> Tensor:
        """Returns ``image * (1 + sigmoid(edge))``, after tanh on both with that activation."""
        return edge_transfer(image, edge, activation=self.activation, impl=self.impl)

    def extra_repr(self) -> str:
        """What ``repr`` shows."""
        return f"activation={self.activation!r}, impl={self.impl!r}"


class LabelSPADE(nn.Module):
    r"""Spatially-adaptive normalisation conditioned on a label map, then LeakyReLU if asked for.

    .. math::
        y = \mathrm{lrelu}\big(\mathrm{norm}(x) \, (1 + \gamma(s)) + \beta(s)\big), \qquad
        \gamma, \beta = \mathrm{conv}(\mathrm{relu}(\mathrm{conv}(s)))

    s is the label map in one-hot form at the resolution of x (resized to the nearest pixel),
    followed by the instance-edge channel with ``edge_channel`` and by the noise. The normalisation
    has no parameters.

    gamma and beta at a pixel depend on the (2k-1) x (2k-1) labels around it alone, and on real
    layouts few such neighbourhoods are distinct: they are computed once for each
    (`ecgan_kernels.label_spade.spade_table`), and one pass over x normalises, looks them up and
    applies the LeakyReLU. That is exact, and no one-hot map is built. Where it would not pay,
    ``impl="auto"`` runs the three convolutions densely: with noise, and where there is more than
    one distinct k x k patch in four pixels. Measured on a CPU (two AVX2 cores, forward and
    backward with indexing, C = 64, 128 x 128, coco_stuff layouts with more and more random pixels),
    for N = 35 and 183 the lookup is 4 and 8 times faster at 6 patches in 100 pixels, 3 and 3.6 at
    14 and 19, 1.6 and 2.4 at 27 and 37; on random labels it is slower or no faster (0.65 and 1.2),
    and takes many times the memory of x.

    Source: Park et al., Semantic Image Synthesis with Spatially-Adaptive
    Normalization, CVPR 2019, Eq. 1 and Fig. 2. The state_dict has the keys and shapes of the
    published SPADE layers: ``mlp_shared.0``, ``mlp_gamma``, ``mlp_beta`` (weight and bias each)
    and, for the batch norms, the buffers of ``param_free_norm``. The three convolutions are read
    for their weights (parametrizations such as spectral_norm count), never called.

    Args:
        channels: channels C of x.
        num_classes: classes N of the label map.
        hidden: width of the convolution that gamma and beta share.
        kernel_size: odd side length of the three convolutions.
        norm: "instance", "batch" or "syncbatch". syncbatch shares statistics between the processes
            of a CUDA training; on the CPU, and on one process, it is batch.
        negative_slope: slope of a LeakyReLU on the result; None: there is none.
        edge_channel: whether s holds the instance edges.
        noise_channels: channels Z of the noise appended to s.
        impl: "auto" for the fastest, or "cpu" or "cuda" for the lookup alone and
            "reference" for the dense form alone, which never fall back.

    Raises:
        TypeError: a size is not an int.
        ValueError: a size is out of range, ``kernel_size`` is even, or ``norm`` or ``impl`` is not
            known.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        hidden: int = 128,
        kernel_size: int = 3,
        norm: Norm = "instance",
        negative_slope: float | None = None,
        edge_channel: bool = False,
        noise_channels: int = 0,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        check_int("channels", channels, minimum=1)
        check_int("num_classes", num_classes, minimum=1)
        check_int("hidden", hidden, minimum=1)
        check_int("kernel_size", kernel_size, minimum=1)
        check_int("noise_channels", noise_channels, minimum=0)
        check_choice("norm", norm, tuple(_NORMS))
        check_slope("negative_slope", negative_slope)
        check_bool("edge_channel", edge_channel)
        check_choice("impl", impl, ("auto", *IMPLEMENTATIONS))
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, not {kernel_size}")
        self.channels = channels
        self.num_classes = num_classes
        self.kernel_size = kernel_size
        self.negative_slope = None if negative_slope is None else float(negative_slope)
        self.edge_channel = edge_channel
        self.noise_channels = noise_channels
        self.impl = impl
        self.param_free_norm = _NORMS[norm](channels, affine=False)
        inputs = num_classes + edge_channel + noise_channels
        padding = kernel_size // 2
        # The ReLU has no weights; it stands here as in the published layer, whose keys these are.
        self.mlp_shared = nn.Sequential(
            nn.Conv2d(inputs, hidden, kernel_size, padding=padding), nn.ReLU()
        )
        self.mlp_gamma = nn.Conv2d(hidden, channels, kernel_size, padding=padding)
        self.mlp_beta = nn.Conv2d(hidden, channels, kernel_size, padding=padding)

    def forward(
        self, x: Tensor, labels_or_index: Tensor | LabelIndex, noise: Tensor | None = None
    ) -> Tensor:
        """Normalises and modulates ``x``.

        Args:
            x: floating [B, C, H, W].
            labels_or_index: integer label map [B, h, w] of any size, indexed on the spot, or a
                LabelIndex, which shares its work between layers and may hold instance edges.
                A label outside ``[0, num_classes)`` contributes nothing.
            noise: floating [B, Z, h', w'] of any size, resized to the nearest pixel; required with
                ``noise_channels``, else None.

        Returns:
            [B, C, H, W], in the dtype that autocast or ``x`` gives.

        Raises:
            TypeError: an argument has the wrong type or dtype.
            ValueError: a shape, a device or the number of classes does not fit, edges or noise
                are missing or not expected, or the statistics would be those of a single value.
            RuntimeError: the ``impl`` asked for by name cannot run on these tensors.
        """
        check_floating("x", x, dims=4)
        check_shape("x", x, (x.shape[0], self.channels, *x.shape[2:]), "[B, channels, H, W]")
        index = self._index(x, labels_or_index)
        index = index.resize((x.shape[2], x.shape[3]))
        noise = self._noise(x, noise)
        places = choose_fused(x, index, self.kernel_size, noise is not None, self.impl)
        return self._dense(x, index, noise) if places is None else self._fused(x, places)

    def _weights(self) -> tuple[_Convolution, _Convolution, _Convolution]:
        shared = cast(nn.Conv2d, self.mlp_shared[0])
        return (
            (shared.weight, shared.bias),
            (self.mlp_gamma.weight, self.mlp_gamma.bias),
            (self.mlp_beta.weight, self.mlp_beta.bias),
        )

    def _dense(self, x: Tensor, index: LabelIndex, noise: Tensor | None) -> Tensor:
        shared, gamma, beta = self._weights()
        if choose("label_spade", self.impl, x) == "reference":
            conditioning = index.one_hot(x.dtype)
            if noise is not None:
                conditioning = torch.cat([conditioning, noise], dim=1)
            return label_spade(
                self.param_free_norm(x), conditioning, shared, gamma, beta, self.negative_slope
            )
        # The same without the one-hot form: conv(cat(s, noise)) = conv_s(s) + conv_noise(noise).
        weight, padding = shared[0], self.kernel_size // 2
        hidden = label_conv2d(
            index.labels,
            weight[:, : index.channels],
            shared[1],
            padding=padding,
            ignore_index=index.num_classes,
            edges=index.edges,
        )
        if noise is not None:
            hidden = hidden + F.conv2d(noise, weight[:, index.channels :], padding=padding)
        return modulate_densely(
            self.param_free_norm(x), hidden.relu(), gamma, beta, self.negative_slope
        )

    def _fused(self, x: Tensor, places: NestedPatches) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        table = spade_table(places, self.num_classes, *self._weights(), dtype)
        norm = self.param_free_norm
        how = functools.partial(
            modulate,
            x,
            table,
            places,
            eps=cast(float, norm.eps),
            negative_slope=self.negative_slope,
        )
        if isinstance(norm, nn.InstanceNorm2d):
            _check_values(x.shape[2] * x.shape[3], x)
            return how(norm="instance")[0]
        norm = cast(_BatchNorm, norm)
        running_mean, running_var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        if not norm.training:
            mean, var = running_mean.double()[None], running_var.double()[None]
            return how(norm="fixed", mean=mean, var=var)[0]
        group = _sharing(norm, x)
        values = x.numel() // x.shape[1]
        if group is None:
            _check_values(values, x)
            out, mean, var = how(norm="batch")
        else:
            out, mean, var, values = modulate_shared(
                x,
                table,
                places,
                group=group,
                eps=norm.eps,
                negative_slope=self.negative_slope,
            )
        with torch.no_grad():  # as the norm's own forward pass would
            batches = cast(Tensor, norm.num_batches_tracked).add_(1)
            share = 1 / batches.double() if norm.momentum is None else norm.momentum
            running_mean.copy_(running_mean + share * (mean[0] - running_mean))
            unbiased = var[0] * (values / max(values - 1, 1))
            running_var.copy_(running_var + share * (unbiased - running_var))
        return out

    def _index(self, x: Tensor, labels_or_index: Tensor | LabelIndex) -> LabelIndex:
        index = labels_or_index
        if not isinstance(index, LabelIndex):
            index = LabelIndex(index, self.num_classes)
        if index.num_classes != self.num_classes:
            raise ValueError(
                f"labels_or_index must index {self.num_classes} classes, not {index.num_classes}"
            )
        if (index.edges is not None) != self.edge_channel:
            expected = "must hold" if self.edge_channel else "must not hold"
            raise ValueError(
                f"labels_or_index {expected} instance edges (edge_channel={self.edge_channel}); "
                "edges are given by LabelIndex(labels, num_classes, edges=...)"
            )
        if len(index) != x.shape[0]:
            raise ValueError(
                f"labels_or_index must hold one label map per image of x ({x.shape[0]}), "
                f"not {len(index)}"
            )
        check_device("labels_or_index", index.labels, "x", x)
        return index

    def _noise(self, x: Tensor, noise: Tensor | None) -> Tensor | None:
        if self.noise_channels == 0:
            if noise is not None:
                raise ValueError("noise must be None: this layer has noise_channels=0")
            return None
        if noise is None:
            raise ValueError(f"noise must be given: it has {self.noise_channels} channels here")
        check_floating("noise", noise, dims=4)
        expected = (x.shape[0], self.noise_channels, *noise.shape[2:])
        check_shape("noise", noise, expected, "[B, noise_channels, h, w]")
        check_device("noise", noise, "x", x)
        noise = noise.to(x.dtype)
        if noise.shape[2:] == x.shape[2:]:
            return noise
        return F.interpolate(noise, size=x.shape[2:], mode="nearest")

    def extra_repr(self) -> str:
        """What ``repr`` shows."""
        return (
            f"{self.channels}, {self.num_classes}, negative_slope={self.negative_slope}, "
            f"edge_channel={self.edge_channel}, noise_channels={self.noise_channels}, "
            f"impl={self.impl!r}"
        )


_Convolution = tuple[Tensor, Tensor | None]


def _sharing(norm: _BatchNorm, x: Tensor) -> torch.distributed.ProcessGroup | None:
    """The processes that share statistics of ``x``; None where there is only this one.

    Any SyncBatchNorm counts: convert_sync_batchnorm of a whole network puts torch's own here.
    """
    if not isinstance(norm, nn.SyncBatchNorm) or x.device.type == "cpu":
        return None
    if not torch.distributed.is_initialized():
        return None
    group = norm.process_group or torch.distributed.group.WORLD
    return group if torch.distributed.get_world_size(group) > 1 else None


def _check_values(values: int, x: Tensor) -> None:
    """Refuses to normalise single values by themselves, as torch does."""
    if values == 1:
        raise ValueError(f"x must have more than one value per channel, not {tuple(x.shape)}")


class _SyncBatchNorm2d(nn.SyncBatchNorm):
    """SyncBatchNorm that normalises per process on the CPU, where torch has no shared form."""

    def forward(self, x: Tensor) -> Tensor:
        return _BatchNorm.forward(self, x) if x.device.type == "cpu" else super().forward(x)


_NORMS: dict[str, type[nn.Module]] = {
    "instance": nn.InstanceNorm2d,
    "batch": nn.BatchNorm2d,
    "syncbatch": _SyncBatchNorm2d,
}
