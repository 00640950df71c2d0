"""Initialisation and spectral normalisation of G and D."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

GAIN = 0.02
"""Gain of Xavier's normal initialisation in SPADE and in the authors' code."""


def weighted_layers(network: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """Every convolution and linear layer of a network."""
    return [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def prepare(
    network: nn.Module,
    spectral: Literal["official", "paper", "none"],
    official: Iterable[nn.Module],
) -> None:
    """Initialises a network as SPADE does, then puts spectral normalisation where it belongs.

    Weights are drawn by Xavier's normal rule with gain 0.02, biases are 0.

    Args:
        network: G, D or the image encoder, freshly built.
        spectral: ``official`` normalises the layers that the authors' code does, ``paper`` every
            convolution and linear layer (Appendix B), ``none`` no layer [R12].
        official: the layers that the authors' code normalises.
    """
    layers = weighted_layers(network)
    for layer in layers:
        nn.init.xavier_normal_(layer.weight, gain=GAIN)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    # After the initialisation: the power iteration starts from the weights that it finds.
    if spectral != "none":
        for normalised in official if spectral == "official" else layers:
            spectral_norm(normalised)
