"""What the pretrained, frozen networks share: reading weights, normalisation, staying frozen."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ecgan.errors import WeightsError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class FrozenNetwork(nn.Module):
    """A module that training leaves alone: no trainable parameter, always in evaluation mode."""

    def freeze(self) -> Self:
        """Makes every parameter constant; to be called once the weights are in."""
        self.requires_grad_(False)
        return self.train()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode, whatever ``mode`` says."""
        return super().train(False)


class ImageNetNormalize(nn.Module):
    """Maps images in [-1, 1] to zero mean and unit deviation over ImageNet, channel by channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        # ((x + 1) / 2 - mean) / std as one multiplication and one addition. Not saved: constants.
        self.register_buffer("scale", 0.5 / std, persistent=False)
        self.register_buffer("shift", (0.5 - mean) / std, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Normalises float [B, 3, H, W]."""
        return image * self.scale + self.shift


def read_state_dict(path: str | Path, what: str) -> dict[str, Tensor]:
    """Reads a foreign weights file without running any code in it.

    What the file claims is held against its length, so that a small one cannot take much memory.

    Args:
        path: a safetensors file, or one that ``torch.save`` wrote, read with ``weights_only``; the
            content counts, not the suffix.
        what: name of the network, for messages.

    Returns:
        Dense tensors on the CPU by name.

    Raises:
        WeightsError: no such file, or it is not a dictionary of tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"the weights file of {what} does not exist: {path}")
    no_tensors = f"the weights file of {what} is no plain dictionary of tensors: {path}"
    try:
        size = path.stat().st_size
        if _is_safetensors(path):
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            _check_zip(path, size)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message advises weights_only=False, which would run the file's code.
        raise WeightsError(no_tensors) from error
    except Exception as error:
        # A damaged file raises almost anything, from EOFError to safetensors' own type.
        reason = " ".join(str(error).split()) or type(error).__name__
        if "weights_only" in reason:  # The same advice, for TorchScript and for files of 2016.
            raise WeightsError(no_tensors) from error
        raise WeightsError(f"cannot read the weights file of {what}, {path}: {reason}") from error
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in state.items()
    ):
        raise WeightsError(no_tensors)
    for key, tensor in state.items():
        dense = tensor.layout is torch.strided and tensor.device.type == "cpu"
        if not dense or tensor.numel() * tensor.element_size() > size:
            raise WeightsError(
                f"cannot read the weights file of {what}, {path}: it does not hold all numbers of "
                f"tensor {key!r}, {list(tensor.shape)}"
            )
    return dict(state)


def _is_safetensors(path: Path) -> bool:
    # Eight bytes of length and a JSON object; pickles and zip files begin otherwise.
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{" or path.suffix == ".safetensors"


def _check_zip(path: Path, size: int) -> None:
    """Refuses a zip file that holds more than its length; torch.save compresses nothing."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        claimed = sum(entry.file_size for entry in archive.infolist())
    if claimed > size:
        raise ValueError(f"a zip file of {size:,} bytes that claims to hold {claimed:,}")


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Loads a state dict into ``module``: every tensor of the module, each of the right shape.

    Raises:
        WeightsError: a tensor is missing, unknown or misshapen; the message names the first.
    """
    expected = module.state_dict()
    for problem, keys in (
        ("lack", expected.keys() - state.keys()),
        ("hold an unknown", state.keys() - expected.keys()),
    ):
        if keys:
            raise WeightsError(f"the weights are not those of {what}: they {problem} {min(keys)!r}")
    for key, tensor in expected.items():
        if state[key].shape != tensor.shape:
            raise WeightsError(
                f"the weights are not those of {what}: {key!r} has shape "
                f"{list(state[key].shape)}, expected {list(tensor.shape)}"
            )
    module.load_state_dict(dict(state))


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
