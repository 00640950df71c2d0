"""Argument checks shared by the operators: one sentence that names the argument and the remedy."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

_FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_INTEGER = (torch.uint8, torch.int16, torch.int32, torch.int64)


def check_floating(name: str, tensor: object, dims: int | None = None) -> None:
    """Requires a float32, float16, bfloat16 or float64 tensor, of ``dims`` dimensions if given.

    Raises:
        TypeError: not a tensor, or of another dtype.
        ValueError: another number of dimensions.
    """
    _check_tensor(name, tensor, _FLOATING, "float32, float16, bfloat16 or float64", dims)


def check_labels(name: str, tensor: object, dims: int | None = None) -> None:
    """Requires a label map: a uint8, int16, int32 or int64 tensor.

    Raises:
        TypeError: not a tensor, or of another dtype.
        ValueError: another number of dimensions.
    """
    _check_tensor(name, tensor, _INTEGER, "uint8, int16, int32 or int64", dims)


def check_dense(name: str, tensor: object) -> Tensor:
    """Requires a tensor with strides: not sparse, nested or in a library's own layout.

    Raises:
        TypeError: anything else.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, not {type(tensor).__name__}")
    if tensor.layout != torch.strided or tensor.is_nested:
        found = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise TypeError(f"{name} must be a dense tensor, not a {found} one")
    return tensor


def _check_tensor(
    name: str, tensor: object, dtypes: Sequence[torch.dtype], expected: str, dims: int | None
) -> None:
    tensor = check_dense(name, tensor)
    if tensor.dtype not in dtypes:
        found = str(tensor.dtype).removeprefix("torch.")
        raise TypeError(f"{name} must be {expected}, not {found}")
    if dims is not None and tensor.dim() != dims:
        raise ValueError(f"{name} must have {dims} dimensions, not shape {tuple(tensor.shape)}")


def check_shape(name: str, tensor: Tensor, expected: Sequence[int], meaning: str) -> None:
    """Requires the shape ``expected``; ``meaning`` says in words where it comes from.

    Raises:
        ValueError: another shape.
    """
    if tuple(tensor.shape) != tuple(expected):
        raise ValueError(
            f"{name} must have shape {tuple(expected)} ({meaning}), not {tuple(tensor.shape)}"
        )


def check_alike(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Requires ``tensor`` to share dtype and device with ``other``.

    Raises:
        TypeError: another dtype.
        ValueError: another device.
    """
    if tensor.dtype != other.dtype:
        raise TypeError(
            f"{name} must have the dtype of {other_name} ({other.dtype}), not {tensor.dtype}"
        )
    check_device(name, tensor, other_name, other)


def check_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Requires ``tensor`` to be on the device of ``other``.

    Raises:
        ValueError: another device.
    """
    if tensor.device != other.device:
        raise ValueError(
            f"{name} must be on the device of {other_name} ({other.device}), not {tensor.device}"
        )


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Requires one of ``choices``.

    Raises:
        ValueError: anything else.
    """
    if not isinstance(value, str) or value not in choices:
        found = repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {found}")


def check_bool(name: str, value: object) -> None:
    """Requires True or False.

    Raises:
        TypeError: anything else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {type(value).__name__}")


def check_slope(name: str, value: object) -> None:
    """Requires the slope of a LeakyReLU, a finite number of float32, or None.

    Raises:
        TypeError: not a number and not None.
        ValueError: NaN, infinite or too large for float32.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise TypeError(f"{name} must be a number or None, not {type(value).__name__}")
    if value is not None and not abs(value) <= torch.finfo(torch.float32).max:
        raise ValueError(f"{name} must be a finite number of float32, not {value}")


def check_int(
    name: str, value: object, minimum: int | None = None, maximum: int = 2**63 - 1
) -> None:
    """Requires an int of 64 bits, of at least ``minimum`` and at most ``maximum``.

    Raises:
        TypeError: not an int.
        ValueError: out of these bounds.
    """
    if isinstance(value, bool) or not isinstance(value, int | torch.SymInt):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if minimum is not None and value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, not {value}")
    if isinstance(value, int) and not -(2**63) <= value <= maximum:
        bound = f"at most {maximum}" if value > 0 else "at least -2**63"
        raise ValueError(f"{name} must be {bound}, not {value}")


def check_positive(name: str, value: float, below: float = float("inf")) -> None:
    """Requires a number greater than 0 and less than ``below``.

    Raises:
        TypeError: not a number.
        ValueError: outside that interval (NaN is).
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not 0 < value < below or value > sys.float_info.max:
        raise ValueError(f"{name} must be greater than 0 and less than {below}, not {value}")


def check_label_range(name: str, labels: Tensor, num_classes: int, ignore_index: int) -> None:
    """Requires every label to lie in ``[0, num_classes)`` or to equal ``ignore_index``.

    Looks at the values only where that is free of a device synchronisation and of a graph break:
    on the CPU, outside torch.compile.

    Raises:
        ValueError: a label is out of range; the offending values are listed.
    """
    if torch.compiler.is_compiling() or type(labels) is not Tensor or labels.device.type != "cpu":
        return
    values = labels.long()  # a scalar compared with a uint8 tensor would wrap around
    wrong = values[((values < 0) | (values >= num_classes)) & (values != ignore_index)]
    if wrong.numel():
        found = wrong.unique().tolist()
        shown = ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
        raise ValueError(
            f"{name} must lie in [0, {num_classes}) or equal ignore_index ({ignore_index}), "
            f"but holds {shown}"
        )
