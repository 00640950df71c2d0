"""Networks of ECGAN: generator, discriminator and image encoder.

The frozen networks of the losses live in ``ecgan.models.perceptual`` and ``ecgan.models.segmenter``
and are imported from there, so that the generator alone needs nothing but torch.
"""

from ecgan.models.discriminator import MultiModalityDiscriminator
from ecgan.models.generator import Generator, Synthesis
from ecgan.models.image_encoder import ImageEncoder
from ecgan.models.layout import Layout
from ecgan.models.projection import ProjectionHead

__all__ = [
    "Generator",
    "ImageEncoder",
    "Layout",
    "MultiModalityDiscriminator",
    "ProjectionHead",
    "Synthesis",
]
