"""Tiles of a pair matrix in Triton: what the kernels of all pairwise operators share.

A program owns a block of rows of the matrix and walks over its columns, a block at a time. Products
run on tensor cores: of float32 vectors as three TF32 products ("tf32x3", float32 grade) or one
("tf32"), of half types as they are, which is exact. Weights, which span more than a half's range,
always meet the vectors in TF32. Nothing of the matrix leaves a program, and no sum is atomic.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of its kernels: constexpr, or none.

from __future__ import annotations

import torch
import triton
import triton.language as tl

MAX_WIDTH = 512  # elements of a vector that a program holds for each of its rows


@triton.jit
def vectors(x, index, inside, row_stride, column_stride, width, WIDTH: tl.constexpr):
    """Vectors ``index`` as [len(index), WIDTH]; zero beyond ``width`` and where not ``inside``."""
    k = tl.arange(0, WIDTH)
    at = index.to(tl.int64)[:, None] * row_stride + k.to(tl.int64)[None, :] * column_stride
    return tl.load(x + at, mask=inside[:, None] & (k < width)[None, :], other=0.0)


@triton.jit
def products(rows, columns, PRECISION: tl.constexpr):
    """Computes <x_i, y_j> of rows [R, WIDTH] and columns [C, WIDTH], in float32."""
    if rows.dtype == tl.float16:
        return tl.dot(rows, tl.trans(columns))
    rows, columns = rows.to(tl.float32), columns.to(tl.float32)  # TF32 holds a bfloat16
    return tl.dot(rows, tl.trans(columns), input_precision=PRECISION)


@triton.jit
def weighted_sum(sums, weights, columns, PRECISION: tl.constexpr):
    """Adds weights [R, C] times columns [C, WIDTH] to sums [R, WIDTH]."""
    return tl.dot(weights, columns.to(tl.float32), acc=sums, input_precision=PRECISION)


def block_sizes(width: int) -> tuple[int, int]:
    """Returns the rows (and columns) of a block, and the power of two that holds ``width``.

    Raises:
        ValueError: the vectors are too wide for these kernels.
    """
    if width > MAX_WIDTH:
        raise ValueError(
            f"Triton kernels take vectors of at most {MAX_WIDTH} elements, not {width}"
        )
    padded = max(16, triton.next_power_of_2(width))
    return {256: 32, 512: 16}.get(padded, 64), padded  # what shared memory holds from sm_80 on


def precisions(dtype: torch.dtype, exact: bool) -> dict[str, str]:
    """Returns the kernels' PRODUCTS and WEIGHTS: TF32 products, three for float32 grade."""
    return {
        "PRODUCTS": "tf32x3" if exact and dtype == torch.float32 else "tf32",
        "WEIGHTS": "tf32x3" if exact else "tf32",
    }
