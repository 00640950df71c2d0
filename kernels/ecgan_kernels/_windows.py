"""Distinct windows of a batch of integer maps: what LabelIndex is built of.

`find` is the C++ operator on the CPU, where it was built; else it sorts, which any device does. The
two number the windows differently: C++ in the order in which a row-major walk meets them, sorting
by their values.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgan_kernels import _library

_SHORTEST_RUN = 16  # pixels of one neighbourhood that are worth a loop of their own: two vectors


def find(codes: Tensor, outside: int, kernel_size: int) -> tuple[Tensor, Tensor]:
    """Returns the distinct windows and, for each pixel, the number of its own.

    Args:
        codes: int32 [B, H, W] in ``[0, outside]``.
        outside: what stands outside the map.
        kernel_size: odd side length k of a window.

    Returns:
        windows: int32 [U, k * k], row-major, distinct.
        inverse: int32 [B, H, W] in ``[0, U)``.
    """
    if codes.numel() == 0:
        return codes.new_empty(0, kernel_size**2), codes.clone()
    if _native(codes):
        return torch.ops.ecgan.label_windows(codes, outside, kernel_size)
    inverse, order, ranks = _number(codes, outside, outside + 1, kernel_size)
    count = int(ranks[-1]) + 1
    return _contents(codes, outside, kernel_size, order, ranks, count), inverse


def find_nested(codes: Tensor, outside: int, kernel_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The windows that two convolutions of one size see, one after the other.

    On a GPU it costs one synchronisation, which reads both counts.

    Returns:
        patches: int32 [U, k * k], the distinct windows of ``codes``.
        members: int32 [V, k * k], the distinct (2k-1) x (2k-1) neighbourhoods, each as the rows of
            ``patches`` around its k x k middle pixels; -1 for a pixel outside the map.
        inverse: int32 [B, H, W] in ``[0, V)``.
    """
    if codes.numel() == 0 or _native(codes):
        patches, numbers = find(codes, outside, kernel_size)
        return patches, *find(numbers, -1, kernel_size)
    numbers, order, ranks = _number(codes, outside, outside + 1, kernel_size)
    inverse, outer_order, outer_ranks = _number(numbers, -1, codes.numel(), kernel_size)
    count, outer_count = torch.stack([ranks[-1], outer_ranks[-1]]).tolist()
    return (
        _contents(codes, outside, kernel_size, order, ranks, count + 1),
        _contents(numbers, -1, kernel_size, outer_order, outer_ranks, outer_count + 1),
        inverse,
    )


def walk(inverse: Tensor, count: int) -> tuple[Tensor | None, Tensor | None]:
    """How the kernels of inverse's device walk the pixels of ``count`` neighbourhoods.

    Returns:
        ``walk`` and ``bounds`` of `ecgan_kernels.label_index.NestedPatches`; None on a CPU without
        kernels.
    """
    if not _on_cpu(inverse):
        values, order = inverse.flatten().sort(stable=True)
        starts = torch.arange(count + 1, device=inverse.device, dtype=inverse.dtype)
        return order.int(), torch.searchsorted(values, starts).int()
    if not _library.CPU.loaded:
        return None, None
    return torch.ops.ecgan.label_segments(inverse, _SHORTEST_RUN)


def _native(codes: Tensor) -> bool:
    return _on_cpu(codes) and _library.CPU.loaded


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _pad(maps: Tensor, outside: int, kernel_size: int) -> Tensor:
    margin = kernel_size // 2
    return F.pad(maps, (margin, margin, margin, margin), value=outside)


def _number(
    maps: Tensor, outside: int, limit: int, kernel_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers windows of values in ``[-1, limit)`` by sorting; all shapes are known beforehand.

    Returns:
        numbers: int32, the shape of ``maps``.
        order: int64, the pixels sorted by number, stably.
        sorted_numbers: int64, their numbers.
    """
    values = _pad(maps, outside, kernel_size).long() + 1
    bits = limit.bit_length()
    order = sorted_numbers = values  # replaced below: a window has at least one row
    for dim in (2, 1):
        size = values.shape[dim] - kernel_size + 1
        parts = [values.narrow(dim, i, size) for i in range(kernel_size)]
        while True:
            room = max(2, 62 // bits)
            keys, parts = _pack(parts[:room], bits), parts[room:]
            numbers, order, sorted_numbers = _rank(keys)
            bits = max(bits, keys.numel().bit_length())
            if not parts:
                break
            parts.insert(0, numbers)
        values = numbers
    return values.int(), order, sorted_numbers


def _pack(parts: list[Tensor], bits: int) -> Tensor:
    keys = parts[0]
    for part in parts[1:]:
        keys = (keys << bits) | part
    return keys


def _rank(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each key's rank among the distinct ones, the order that sorts them, and the sorted ranks."""
    values, order = keys.flatten().sort(stable=True)
    fresh = F.pad((values[1:] != values[:-1]).long(), (1, 0))
    ranks = fresh.cumsum(0)
    return torch.empty_like(ranks).scatter_(0, order, ranks).view(keys.shape), order, ranks


def _contents(
    maps: Tensor,
    outside: int,
    kernel_size: int,
    order: Tensor,
    sorted_numbers: Tensor,
    count: int,
) -> Tensor:
    numbers = torch.arange(count, device=maps.device)
    first = order[torch.searchsorted(sorted_numbers, numbers)]
    _, height, width = maps.shape
    windows = _pad(maps, outside, kernel_size).unfold(1, kernel_size, 1).unfold(2, kernel_size, 1)
    image, pixel = first // (height * width), first % (height * width)
    return windows[image, pixel // width, pixel % width].reshape(count, kernel_size**2)
