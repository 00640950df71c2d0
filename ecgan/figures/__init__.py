"""The paper's figures, drawn from a trained generator."""

from ecgan.figures.catalogue import FIGURES, draw_figures
from ecgan.figures.material import Material, gather

__all__ = ["FIGURES", "Material", "draw_figures", "gather"]
