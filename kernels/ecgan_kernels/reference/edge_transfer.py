"""Reference of `ecgan_kernels.edge_transfer`: the specification, in plain PyTorch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def edge_transfer(
    image: Tensor, edge: Tensor, *, activation: Literal["tanh"] | None = None
) -> Tensor:
    """Attention-guided edge transfer, Eq. 1 of the paper: ``image * sigmoid(edge) + image``.

    Args:
        image: [*S] floating. The image branch's features, or its raw image with "tanh".
        edge: [*S] like ``image``. The edge branch's.
        activation: "tanh" passes both inputs through tanh first (the content level).

    Returns:
        [*S] in the dtype of ``image``.
    """
    if activation == "tanh":
        image, edge = torch.tanh(image), torch.tanh(edge)
    return image * (1 + torch.sigmoid(edge))
