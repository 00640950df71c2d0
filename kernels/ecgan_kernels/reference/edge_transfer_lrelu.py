"""Reference of `ecgan_kernels.edge_transfer_lrelu`: the specification, in plain PyTorch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ecgan_kernels.reference.edge_transfer import edge_transfer


def edge_transfer_lrelu(
    image: Tensor, edge: Tensor, *, negative_slope: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Edge transfer (Eq. 1 of the paper) and the LeakyReLU before both next convolutions.

    Args:
        image: [*S] floating. The image branch's features.
        edge: [*S] like ``image``. The edge branch's.
        negative_slope: Slope of LeakyReLU at and below 0, in (0, 1].

    Returns:
        ``lrelu(image * (1 + sigmoid(edge)))`` and ``lrelu(edge)``, [*S] each, in the dtype of
        ``image``.
    """
    transferred = edge_transfer(image, edge)
    return F.leaky_relu(transferred, negative_slope), F.leaky_relu(edge, negative_slope)
