"""A trained ECGAN as one object: label maps in, images and edges out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ecgan import __version__
from ecgan.config import ModelConfig, parse_size
from ecgan.data.classes import ClassTable
from ecgan.errors import ConfigError
from ecgan.inference import hub
from ecgan.inference.card import model_card
from ecgan.inference.inputs import Labels, Photo, label_array, layout_of, photo_tensor, seeds_of
from ecgan.inference.tiling import synthesize_tiles
from ecgan.models import Generator, ImageEncoder, Layout, Synthesis
from ecgan.models.resolve import style_length


class Synthesized(NamedTuple):
    """What :meth:`ECGAN.synthesize` returns."""

    images: Tensor
    """float32 [B, 3, H, W] in [-1, 1], on the model's device (of tiles: on the CPU)."""
    edges: Tensor | None
    """I'_e, float32 [B, 3, H, W] in [-1, 1]; None for a model without edge branch (B1)."""


class ECGAN(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="ecgan",
    tags=["ecgan", "semantic-image-synthesis"],
    pipeline_tag="image-to-image",
):
    """Generator, classes and style encoder of a trained model.

    Spectral normalisation is folded into the weights, so that nothing of it is left to compute (or
    to lose in half precision); ``cfg.spectral`` is ``none``. ``half()``, ``to(...)`` and
    ``torch.compile`` work as for any module.

    Args:
        model: networks' settings, complete (classes and size filled in).
        classes: names, colours and file ids of the classes.
        provenance: what the model card tells of data, training, metrics and environment, as JSON
            has it.

    Raises:
        ConfigError: settings contradict each other.
    """

    def __init__(
        self,
        model: ModelConfig,
        classes: ClassTable,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.cfg = dataclasses.replace(model, spectral="none", checkpointing=False)
        if len(classes) != self.cfg.num_classes:
            raise ConfigError(
                f"the class table has {len(classes)} classes, but the model {self.cfg.num_classes}"
            )
        self.classes = classes
        self.provenance = provenance or {}
        self.generator = Generator(self.cfg)
        self.image_encoder = ImageEncoder(self.cfg) if self.cfg.style == "encoder" else None
        self.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        source: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        **hub_options: Any,
    ) -> ECGAN:
        """Loads a model; nothing but safetensors, JSON and YAML is ever read.

        Args:
            source: folder of :meth:`save_pretrained`, run folder, checkpoint, or ``USER/NAME`` on
                the Hugging Face hub.
            device: where to put it.
            dtype: float32, float16 or bfloat16.
            hub_options: ``revision``, ``token``, ``cache_dir``, ``force_download`` and
                ``local_files_only`` of huggingface_hub.

        Returns:
            The model in evaluation mode.

        Raises:
            CheckpointError: a run or checkpoint that cannot be used.
            WeightsError: no model there, or one with damaged files.
        """
        path = Path(source)
        if path.is_dir() and not (path / "config.json").is_file():
            from ecgan.inference.from_run import load_run

            model = load_run(cls, path)
        else:
            hub.check_source(str(source))
            with hub.one_sentence(source):
                hub.check_config(path / "config.json")
                model = super().from_pretrained(str(source), **hub_options)
        return model.to(device, dtype)

    @classmethod
    def from_networks(
        cls,
        generator: Generator,
        image_encoder: ImageEncoder | None,
        classes: ClassTable,
        provenance: dict[str, Any] | None = None,
    ) -> ECGAN:
        """Takes the weights of trained networks, as they act in evaluation mode."""
        model = cls(generator.cfg, classes, provenance)
        model.generator.load_state_dict(_plain_state(generator))
        if model.image_encoder is not None:
            assert image_encoder is not None
            model.image_encoder.load_state_dict(_plain_state(image_encoder))
        return model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels that the model was trained at."""
        return parse_size(self.cfg.size)

    @property
    def multiple(self) -> int:
        """What height and width must be multiples of."""
        return self.generator.encoder.multiple

    def synthesize(
        self,
        labels: Labels,
        *,
        seed: int | Sequence[int] = 0,
        style: Tensor | Photo | None = None,
        instances: Labels | None = None,
        size: tuple[int, int] | None = None,
        tile: int | None = None,
    ) -> Synthesized:
        """Makes images and edges for label maps.

        Args:
            labels: integers [H, W] or [B, H, W] (tensor, array or Pillow image), in the ids of the
                label files that the model was trained with; ``classes.canonical`` maps them.
            seed: of the style; item i of a batch draws from ``seed + i``, so that it is the same
                image as by itself. Or one seed an item.
            style: instead of a seed: a style code [Z] or [B, Z], for 3D noise also
                [B, Z, H, W], or for a model with an image encoder a photo (Pillow image or uint8
                [h, w, 3]), whose style all images take. Ignored by a model without style.
            instances: instance ids of the same shape, for a model with instance edges.
            size: height and width of the images; None: as the labels. Labels are resized to it by
                nearest neighbour.
            tile: side of square tiles in pixels that are computed one after the other, for images
                larger than memory; a multiple of :attr:`multiple`. Equal to the whole up to
                rounding. Each tile is computed with a margin
                (`ecgan.inference.tiling.margin`), so large tiles waste less.

        Returns:
            Images and edges, clamped to [-1, 1].

        Raises:
            DataError: labels hold an unknown id or have no usable shape.
            ConfigError: the size does not suit the model, or it cannot be computed in tiles.
            ValueError: the style has a wrong shape.
        """
        layout, z = self._inputs(labels, instances, size, seed, style, keep=tile is not None)
        if tile is None:
            with torch.inference_mode():
                out = self.generator(layout, z)
            made: tuple[Tensor, Tensor | None] = (out.final, out.edge)
        else:
            made = synthesize_tiles(self.generator, layout, z, tile)
        images, edges = (None if t is None else t.float().clamp(-1, 1) for t in made)
        assert images is not None
        return Synthesized(images, edges)

    @torch.inference_mode()
    def stages(
        self,
        labels: Labels,
        *,
        seed: int | Sequence[int] = 0,
        style: Tensor | Photo | None = None,
        instances: Labels | None = None,
        size: tuple[int, int] | None = None,
    ) -> Synthesis:
        """All that one forward makes: I'_e, I', I'', I_g; arguments as of :meth:`synthesize`.

        In the model's dtype, not clamped.
        """
        layout, z = self._inputs(labels, instances, size, seed, style)
        return self.generator(layout, z)

    def sample_style(self, seed: int, size: tuple[int, int] | None = None) -> Tensor | None:
        """The style code that ``seed`` stands for.

        Args:
            seed: any integer.
            size: height and width for a code a pixel, the same everywhere: paste others into its
                regions to give them a style of their own (``style: noise``).

        Returns:
            float32 [Z], with ``size`` [Z, H, W], on the CPU; None for a model without style.
        """
        random = torch.Generator().manual_seed(seed % 2**63)
        z = self.generator.sample_style(1, generator=random)
        if z is None or size is None:
            return None if z is None else z[0]
        return z[0, :, None, None].repeat(1, *size)

    @torch.inference_mode()
    def encode_style(self, photo: Photo) -> Tensor:
        """The style code [Z] of a photo: the mean that the image encoder gives.

        Raises:
            ConfigError: the model has no image encoder.
        """
        if self.image_encoder is None:
            raise ConfigError(
                f"this model has model.style {self.cfg.style}: only one with encoder takes photos"
            )
        image = photo_tensor(photo).to(self.device, self.dtype)
        return self.image_encoder(image)[0][0]

    def _inputs(
        self,
        labels: Labels,
        instances: Labels | None,
        size: tuple[int, int] | None,
        seed: int | Sequence[int],
        style: Tensor | Photo | None,
        *,
        keep: bool = False,
    ) -> tuple[Layout, Tensor | None]:
        """The layout, moved to the device unless ``keep``, and the style code there."""
        layout = layout_of(label_array(labels), instances, self.classes, self.cfg, size)
        self.generator.encoder.check_size(layout.size)
        z = self._style(len(layout), seed, style)
        if keep:
            return layout, z
        return layout.to(self.device), None if z is None else z.to(self.device, self.dtype)

    def _style(
        self, count: int, seed: int | Sequence[int], style: Tensor | Photo | None
    ) -> Tensor | None:
        seeds = seeds_of(seed, count)
        if style_length(self.cfg) == 0:
            return None
        if style is None:
            codes = [self.sample_style(each) for each in seeds]
            return torch.stack([code for code in codes if code is not None])
        code = style if isinstance(style, Tensor) else self.encode_style(style)
        if code.dim() in (1, 3):
            code = code[None].expand(count, *code.shape)
        return code

    def _save_pretrained(self, save_directory: Path) -> None:
        content = {
            "library": f"ecgan {__version__}",
            "model": dataclasses.asdict(self.cfg),
            "classes": self.classes.to_values(),
            "provenance": self.provenance,
        }
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (save_directory / "config.json").write_text(text + "\n", encoding="utf-8")
        super()._save_pretrained(save_directory)

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, model: Any = None, classes: Any = None, provenance: Any = None,
        **options: Any,
    ) -> ECGAN:  # fmt: skip
        settings, table = hub.read_settings(model, classes, model_id)
        weights = hub.weights_file(model_id, options)
        with torch.device("meta"):  # hostile settings may ask for any amount of memory
            hub.check_weights(weights, cls(settings, table))
        found = cls(settings, table, provenance if isinstance(provenance, dict) else None)
        hub.load_weights(weights, found)
        return found

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The model card, written from :attr:`provenance`.

        Args:
            args: none.
            kwargs: ``license`` (an identifier of the hub, such as ``cc-by-4.0``) and
                ``license_link``: the licence of these weights, which follows from the data that
                they were trained on and which only their author knows; else ``unknown``.
        """
        return model_card(self, **kwargs)


def _plain_state(network: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers of a network with its parametrizations (spectral norm) worked out."""
    state = {k: v for k, v in network.state_dict().items() if ".parametrizations." not in k}
    training = network.training
    network.eval()
    with torch.no_grad():
        for name, module in network.named_modules():
            if parametrize.is_parametrized(module):
                for tensor in module.parametrizations:
                    state[f"{name}.{tensor}"] = getattr(module, tensor).detach()
    network.train(training)
    return state
