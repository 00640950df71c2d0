"""Data: pairs of label map and photo, their edges, and a built-in set of street scenes."""

from ecgan.data.dataset import PairDataset, build_dataset
from ecgan.data.edges import EdgeExtractor, canny, opencv_canny
from ecgan.data.faults import Fault, skipped, write_faults
from ecgan.data.palette import colorize, pascal_palette
from ecgan.data.sources import Pair
from ecgan.data.transforms import instance_edges
from ecgan.data.validation import Scan, scan

__all__ = [
    "EdgeExtractor",
    "Fault",
    "Pair",
    "PairDataset",
    "Scan",
    "build_dataset",
    "canny",
    "colorize",
    "instance_edges",
    "opencv_canny",
    "pascal_palette",
    "scan",
    "skipped",
    "write_faults",
]
