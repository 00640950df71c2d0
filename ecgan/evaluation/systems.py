"""What is evaluated: generators, and folders of other systems' images."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ecgan.config import ModelConfig, parse_size
from ecgan.data import PairDataset
from ecgan.data.transforms import Size
from ecgan.errors import ConfigError
from ecgan.evaluation.pairs import EvaluationPairs, Filter, ResultsImages, resize, to_bytes
from ecgan.models import Layout

Batch = dict[str, Any]


@dataclass
class Comparison:
    """How everything is brought to one form before it is compared."""

    size: Size
    resampling: Filter = "bicubic"
    limit: int = 0
    seed: int = 1


class Synthesizer(Protocol):
    """What is asked of a generator: as `ecgan.models.Generator` has it."""

    @property
    def cfg(self) -> ModelConfig:
        """Its settings."""
        ...

    def sample_style(self, batch: int, *, generator: torch.Generator) -> Tensor | None:
        """Style codes, or None for a model without style."""
        ...

    def __call__(self, layout: Layout, z: Tensor | None) -> Any:
        """Something with ``final`` [B, 3, H, W] and ``edge`` [B, C, H, W] or None."""
        ...


class System(Protocol):
    """Something that has an image for every label map."""

    name: str
    origin: str
    weights: str

    def open(self, data: PairDataset, comparison: Comparison) -> Dataset[Batch]:
        """The pairs with what the system needs; all that can be wrong is found here."""
        ...

    def images(self, batch: Batch) -> Tensor:
        """Its images, uint8 [B, 3, H, W], for a batch of those pairs."""
        ...

    def facts(self) -> dict[str, object]:
        """What a reader must know of its images; after `open`."""
        ...


class _WithResults(Dataset[Batch]):
    def __init__(self, pairs: EvaluationPairs, results: ResultsImages) -> None:
        self.pairs = pairs
        self.results = results

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, position: int) -> Batch:
        return {**self.pairs[position], "made": self.results[position]}


class FolderSystem:
    """A folder of images, named as the label maps are.

    Args:
        name: the system's.
        folder: see `ResultsImages`.
    """

    weights = ""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.origin = str(folder)
        self._results: ResultsImages | None = None

    def open(self, data: PairDataset, comparison: Comparison) -> Dataset[Batch]:
        """Pairs with their images.

        Raises:
            DataError: an image is missing or cannot be read; see `ResultsImages`.
        """
        pairs = EvaluationPairs(
            data, comparison.size, resampling=comparison.resampling, limit=comparison.limit
        )
        self._results = ResultsImages(
            self.name, Path(self.origin), pairs.names(), comparison.size, comparison.resampling
        )
        self._results.check()
        return _WithResults(pairs, self._results)

    def images(self, batch: Batch) -> Tensor:
        """The folder's images."""
        return batch["made"]

    def facts(self) -> dict[str, object]:
        """Size of the files and how many of them were left out."""
        assert self._results is not None, "open() comes first"
        height, width = self._results.original_size()
        return {
            "made_at": f"{height}x{width} (first file)",
            "images_left_out": self._results.left_out,
        }


class NetworkSystem:
    """A generator, run at its training size.

    Args:
        name: the system's.
        origin: checkpoint or file.
        network: in evaluation mode, on the device.
        weights: SHA-256 of its weights file.
        class_names: the classes that it was trained on; None where nobody knows.
        device: where it computes.
    """

    def __init__(
        self,
        name: str,
        origin: str,
        network: Synthesizer,
        weights: str,
        class_names: Sequence[str] | None,
        device: torch.device,
    ) -> None:
        self.name = name
        self.origin = origin
        self.network = network
        self.weights = weights
        self.class_names = class_names
        self.device = device
        self._comparison = Comparison((0, 0))

    @property
    def cfg(self) -> ModelConfig:
        """The network's settings."""
        return self.network.cfg

    @property
    def size(self) -> Size:
        """Height and width at which it works."""
        return parse_size(self.cfg.size)

    def open(self, data: PairDataset, comparison: Comparison) -> EvaluationPairs:
        """Pairs with layouts at the network's size.

        Raises:
            ConfigError: the data set has other classes, or no instance maps where they are needed.
        """
        names = data.class_names
        if len(names) != self.cfg.num_classes:
            raise ConfigError(
                f"{self.name} was trained on {self.cfg.num_classes} classes but the data set has "
                f"{len(names)}: evaluate it on data with the same classes"
            )
        if self.class_names is not None and list(self.class_names) != list(names):
            pairs = zip(self.class_names, names, strict=True)
            first = next(index for index, (a, b) in enumerate(pairs) if a != b)
            raise ConfigError(
                f"{self.name} was trained on other classes than the data set's: class {first} is "
                f"{self.class_names[first]!r} there and {names[first]!r} here"
            )
        if self.cfg.instance_edges and not data.cfg.instance_edges:
            raise ConfigError(
                f"{self.name} takes instance edges, but the data set was opened without instance "
                "maps"
            )
        self._comparison = comparison
        return EvaluationPairs(
            data,
            comparison.size,
            layout_size=self.size,
            resampling=comparison.resampling,
            limit=comparison.limit,
            instances=self.cfg.instance_edges,
        )

    def facts(self) -> dict[str, object]:
        """The generator's size and style."""
        return {
            "made_at": self.cfg.size,
            "style": self.cfg.style,
            "seed": self._comparison.seed,
        }

    def images(self, batch: Batch) -> Tensor:
        """One image a label map, of the style that ``ecgan synthesize`` draws first."""
        return self.samples(batch, 1)[0][0]

    @torch.no_grad()
    def samples(self, batch: Batch, count: int) -> list[tuple[Tensor, Tensor | None]]:
        """Images and edges, uint8 [B, 3, H, W], in ``count`` styles."""
        layout = Layout(
            batch["layout"],
            self.cfg.num_classes,
            void_channel=self.cfg.void_channel,
            instance_edges=batch.get("instances") if self.cfg.instance_edges else None,
        ).to(self.device)
        codes = self._codes(batch["name"], count)
        made = []
        for index in range(count):
            code = None if codes is None else codes[:, index].to(self.device)
            out = self.network(layout, code)
            edge = None if out.edge is None else self._finish(out.edge)
            made.append((self._finish(out.final), edge))
        return made

    def _codes(self, names: Sequence[str], count: int) -> Tensor | None:
        """Styles [B, count, Z], each label map's from a stream of its own."""
        codes = []
        for name in names:
            stream = self._comparison.seed << 32 | zlib.crc32(Path(name).name.encode())
            random = torch.Generator().manual_seed(stream)
            # One at a time: the stream of ``ecgan synthesize``.
            drawn = [self.network.sample_style(1, generator=random) for _ in range(count)]
            if drawn[0] is None:
                return None
            codes.append(torch.cat([code for code in drawn if code is not None]))
        return torch.stack(codes)

    def _finish(self, image: Tensor) -> Tensor:
        size = self._comparison.size
        made = to_bytes(image.expand(-1, 3, -1, -1)).cpu()
        if tuple(made.shape[2:]) == size:
            return made
        arrays = [
            resize(one.permute(1, 2, 0).numpy(), size, self._comparison.resampling) for one in made
        ]
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
