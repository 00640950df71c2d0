"""ECGAN: edge guided GANs with contrastive learning for semantic image synthesis."""

__version__ = "0.1.0"
