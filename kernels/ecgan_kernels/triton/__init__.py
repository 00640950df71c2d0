"""Triton kernels, one file an operator.

This package imports without Triton; its modules need it and are imported on first use.
"""
