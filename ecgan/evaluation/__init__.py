"""Evaluation: metrics of made images, each with the protocol that it was measured under."""
