"""Losses of ECGAN, one a file, and the objective that weighs them."""

from ecgan.losses.class_l1 import class_l1
from ecgan.losses.contrast import contrast_loss
from ecgan.losses.feature_matching import feature_matching
from ecgan.losses.gan import gan_loss
from ecgan.losses.kld import kl_divergence
from ecgan.losses.labels import resize_labels
from ecgan.losses.objective import Objective
from ecgan.losses.pair_sampling import sampled_similarity
from ecgan.losses.perceptual import perceptual_loss
from ecgan.losses.similarity import similarity_grid, similarity_loss, similarity_pairs

__all__ = [
    "Objective",
    "class_l1",
    "contrast_loss",
    "feature_matching",
    "gan_loss",
    "kl_divergence",
    "perceptual_loss",
    "resize_labels",
    "sampled_similarity",
    "similarity_grid",
    "similarity_loss",
    "similarity_pairs",
]
