"""Every operator written plainly from its equation: specification, test oracle and fallback."""

from ecgan_kernels.reference.class_conv2d import class_conv2d
from ecgan_kernels.reference.edge_transfer import edge_transfer
from ecgan_kernels.reference.edge_transfer_lrelu import edge_transfer_lrelu
from ecgan_kernels.reference.label_conv2d import label_conv2d
from ecgan_kernels.reference.label_spade import label_spade
from ecgan_kernels.reference.pixel_contrast import pixel_contrast
from ecgan_kernels.reference.sample_pixels import sample_pixels
from ecgan_kernels.reference.similarity_bce import similarity_bce

__all__ = [
    "class_conv2d",
    "edge_transfer",
    "edge_transfer_lrelu",
    "label_conv2d",
    "label_spade",
    "pixel_contrast",
    "sample_pixels",
    "similarity_bce",
]
