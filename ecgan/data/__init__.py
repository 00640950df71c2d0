"""Data: pairs of label map and photo, their edges, and a built-in set of street scenes."""

from ecgan.data.dataset import Pair, PairDataset, build_dataset
from ecgan.data.edges import EdgeExtractor, canny, opencv_canny
from ecgan.data.formats import Fault
from ecgan.data.palette import colorize, pascal_palette
from ecgan.data.transforms import instance_edges

__all__ = [
    "EdgeExtractor",
    "Fault",
    "Pair",
    "PairDataset",
    "build_dataset",
    "canny",
    "colorize",
    "instance_edges",
    "opencv_canny",
    "pascal_palette",
]
