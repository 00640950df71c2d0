"""Modules over the operators: drop-in layers for a label-conditioned generator."""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ecgan_kernels._checks import (
    check_choice,
    check_device,
    check_floating,
    check_int,
    check_shape,
)
from ecgan_kernels.edge_transfer import edge_transfer
from ecgan_kernels.label_index import LabelIndex
from ecgan_kernels.reference.label_spade import label_spade

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
    has no parameters. Source: Park et al., Semantic Image Synthesis with Spatially-Adaptive
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

    Raises:
        TypeError: a size is not an int.
        ValueError: a size is out of range, ``kernel_size`` is even or ``norm`` is not known.
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
    ) -> None:
        super().__init__()
        check_int("channels", channels, minimum=1)
        check_int("num_classes", num_classes, minimum=1)
        check_int("hidden", hidden, minimum=1)
        check_int("kernel_size", kernel_size, minimum=1)
        check_int("noise_channels", noise_channels, minimum=0)
        check_choice("norm", norm, tuple(_NORMS))
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, not {kernel_size}")
        self.channels = channels
        self.num_classes = num_classes
        self.negative_slope = negative_slope
        self.edge_channel = edge_channel
        self.noise_channels = noise_channels
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
            ValueError: a shape, a device or the number of classes does not fit, or edges or noise
                are missing or not expected.
        """
        check_floating("x", x, dims=4)
        check_shape("x", x, (x.shape[0], self.channels, *x.shape[2:]), "[B, channels, H, W]")
        index = self._index(x, labels_or_index)
        conditioning = index.resize((x.shape[2], x.shape[3])).one_hot(x.dtype)
        noise = self._noise(x, noise)
        if noise is not None:
            conditioning = torch.cat([conditioning, noise], dim=1)
        shared = cast(nn.Conv2d, self.mlp_shared[0])
        return label_spade(
            self.param_free_norm(x),
            conditioning,
            (shared.weight, shared.bias),
            (self.mlp_gamma.weight, self.mlp_gamma.bias),
            (self.mlp_beta.weight, self.mlp_beta.bias),
            self.negative_slope,
        )

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
            f"edge_channel={self.edge_channel}, noise_channels={self.noise_channels}"
        )


class _SyncBatchNorm2d(nn.SyncBatchNorm):
    """SyncBatchNorm that normalises per process on the CPU, where torch has no shared form."""

    def forward(self, x: Tensor) -> Tensor:
        return _BatchNorm.forward(self, x) if x.device.type == "cpu" else super().forward(x)


_NORMS: dict[str, type[nn.Module]] = {
    "instance": nn.InstanceNorm2d,
    "batch": nn.BatchNorm2d,
    "syncbatch": _SyncBatchNorm2d,
}
