"""The paper's figures, drawn from a trained generator, and those of the benchmarks."""

from ecgan.figures.catalogue import FIGURES, draw_figures
from ecgan.figures.material import Material, gather
from ecgan.figures.measurements import draw_measurements

__all__ = ["FIGURES", "Material", "draw_figures", "draw_measurements", "gather"]
