"""Fused operators for semantic image synthesis: differentiable PyTorch functions on label maps.

With ``impl="auto"`` an operator runs as the best implementation that this machine has; without any
compiled library that is its plain-PyTorch reference (`ecgan_kernels.reference`).
"""

from ecgan_kernels import nn, reference
from ecgan_kernels._dispatch import OperatorInfo, implementation, info
from ecgan_kernels._library import Library, cpu_isa, libraries
from ecgan_kernels.class_conv2d import class_conv2d
from ecgan_kernels.edge_transfer import edge_transfer
from ecgan_kernels.edge_transfer_lrelu import edge_transfer_lrelu
from ecgan_kernels.label_conv2d import label_conv2d
from ecgan_kernels.label_index import LabelIndex
from ecgan_kernels.pixel_contrast import pixel_contrast
from ecgan_kernels.pixel_queue import PixelQueue
from ecgan_kernels.sample_pixels import sample_pixels
from ecgan_kernels.similarity_bce import similarity_bce

__all__ = [
    "LabelIndex",
    "Library",
    "OperatorInfo",
    "PixelQueue",
    "class_conv2d",
    "cpu_isa",
    "edge_transfer",
    "edge_transfer_lrelu",
    "implementation",
    "info",
    "label_conv2d",
    "libraries",
    "nn",
    "pixel_contrast",
    "reference",
    "sample_pixels",
    "similarity_bce",
]
