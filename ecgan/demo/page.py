"""The page: controls from Gradio around the painter, and what happens when they are used."""

from __future__ import annotations

import functools
import html
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
import numpy as np
from gradio.processing_utils import save_bytes_to_cache
from numpy.typing import NDArray

from ecgan.data.palette import colorize
from ecgan.demo import studio
from ecgan.demo.painter import make_painter
from ecgan.demo.painting import Painting
from ecgan.demo.studio import FINAL, Request, Sample
from ecgan.demo.uploads import read_label_map, read_photo
from ecgan.errors import ECGANError
from ecgan.inference import ECGAN

MOST_SAMPLES = 8
LIVE_BELOW = 0.5
"""Seconds an image below which every stroke makes a new one, unless the user says otherwise."""
_QUEUE = 16
_NEW_SEED = "() => Math.floor(Math.random() * 1e6)"

Handler = TypeVar("Handler", bound=Callable[..., Any])


@dataclass(frozen=True)
class Made:
    """What the page shows: the samples of one painting, as they were when it was made."""

    samples: Sequence[Sample]
    labels: bytes
    index: int = 0
    """Of the sample whose stages are shown."""


def told(handler: Handler) -> Handler:
    """Turns an error that the user can put right into a sentence; nothing else changes."""

    @functools.wraps(handler)
    def tell(*arguments: Any, **named: Any) -> Any:
        try:
            return handler(*arguments, **named)
        except ECGANError as error:
            gr.Warning(html.escape(str(error)), title="")
            return gr.skip()

    return tell  # type: ignore[return-value]


class Page:
    """The page of one model.

    Args:
        model: in evaluation mode.
        examples: label maps to choose from; the page starts with the first.
        name: of the model, to show.
    """

    def __init__(self, model: ECGAN, examples: Sequence[Painting], name: str) -> None:
        self.model = model
        self.examples = examples
        self.name = name
        self.style = model.cfg.style
        self.void = studio.knows_void(model.classes)
        self.seconds = studio.seconds_an_image(model, examples[0])
        self.blocks = self._build()

    # What is on the page.

    def _build(self) -> gr.Blocks:
        with gr.Blocks(
            title="ECGAN", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)
        ) as blocks:
            gr.HTML(self._heading(), elem_id="heading", apply_default_css=False)
            with gr.Row(elem_id="page"):
                with gr.Column(elem_id="paint", min_width=0):
                    self._paint()
                with gr.Column(elem_id="result", min_width=0):
                    self._result()
                with gr.Column(elem_id="more", min_width=0):
                    self._more()
            self._connect(blocks)
        # One image at a time: two would take twice the memory and no less time.
        return blocks.queue(max_size=_QUEUE, api_open=False, default_concurrency_limit=1)

    def _heading(self) -> str:
        height, width = self.model.size
        return (
            f"<h1>Paint a label map, see the image</h1><p>{html.escape(self.name)}: "
            f"{len(self.model.classes)} classes, {width} × {height} pixels</p>"
        )

    def _paint(self) -> None:
        self.painter = make_painter(
            self.model.classes,
            self.examples[0],
            void=self.void,
            regions=self.style == "noise",
            live="#live",
        )
        with gr.Row(elem_id="run"):
            self.generate = gr.Button("Generate", variant="primary", elem_id="generate")
            self.live = gr.Checkbox(
                label="Live",
                value=self.seconds < LIVE_BELOW,
                interactive=True,
                container=False,
                elem_id="live",
                min_width=70,
            )

    def _result(self) -> None:
        self.image = gr.Image(
            label=FINAL,
            format="png",
            interactive=False,
            show_label=False,
            buttons=["fullscreen"],
            elem_id="image",
            alt_text="Generated image",
        )
        self.gallery = gr.Gallery(
            label="Samples: choose one to see its stages",
            object_fit="contain",
            allow_preview=False,
            interactive=False,
            buttons=[],
            visible=False,
            elem_id="samples",
        )
        self.stages = gr.Gallery(
            label="Stages",
            object_fit="contain",
            allow_preview=False,
            show_label=False,
            interactive=False,
            buttons=[],
            elem_id="stages",
        )
        self.status = gr.HTML("", elem_id="status", apply_default_css=False)
        with gr.Row(elem_id="downloads"):
            self.save_image = gr.DownloadButton("Save image", size="md", elem_id="save-image")
            self.save_all = gr.DownloadButton(
                "Save all stages", size="md", elem_id="save-all", min_width=120
            )
        self.made: gr.State = gr.State(None, time_to_live=3600)

    def _more(self) -> None:
        regions = self.style == "noise"
        with gr.Row(elem_id="seeds", visible=self.style != "none"):
            self.seed = gr.Number(0, label="Seed", precision=0, elem_id="seed")
            self.dice = gr.Button("⚄", elem_id="dice", elem_classes="dice")
            self.region_seed = gr.Number(
                1, label="Region seed", precision=0, elem_id="region-seed", visible=regions
            )
            self.region_dice = gr.Button("⚄", elem_classes="dice", visible=regions)
            self.count = gr.Number(
                1, label="Samples", precision=0, minimum=1, maximum=MOST_SAMPLES, elem_id="count"
            )
        if self.style == "none":
            gr.HTML(
                "This model has no style: a label map gives one image, so there is neither a seed "
                "nor a second sample.",
                elem_classes="note",
                apply_default_css=False,
            )
        with gr.Row(visible=self.style == "encoder"):
            self.photo = gr.State(None)
            self.photo_file = gr.UploadButton(
                "Take the style of a photo", file_types=["image"], size="md", elem_id="photo-file"
            )
            self.photo_shown = gr.Image(
                label="Style",
                format="png",
                interactive=False,
                visible=False,
                height=120,
                buttons=[],
            )
            self.photo_drop = gr.Button("Style by seed again", visible=False, size="md")
        self.chooser = gr.Gallery(
            [colorize(one.labels, self.model.classes.palette) for one in self.examples],
            label="Examples",
            format="png",
            object_fit="contain",
            allow_preview=False,
            interactive=False,
            buttons=[],
            visible=len(self.examples) > 1,
            elem_id="examples",
        )
        self.label_file = gr.UploadButton(
            "Open a label map",
            file_types=[".png", ".bmp", ".tif", ".tiff", ".pgm"],
            size="md",
            elem_id="label-file",
        )

    # What happens.

    def _connect(self, blocks: gr.Blocks) -> None:
        asked = [self.painter, self.seed, self.count, self.region_seed, self.photo]
        shown = [
            self.made,
            self.image,
            self.gallery,
            self.stages,
            self.save_image,
            self.save_all,
            self.status,
        ]
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        make: dict[str, Any] = {"fn": self.make, "inputs": asked, "outputs": shown, **quiet}
        make |= {"concurrency_id": "model"}
        make |= {"show_progress": "minimal", "show_progress_on": self.image}

        blocks.load(**make)
        self.generate.click(**make)
        # Of strokes that come while an image is made only the last counts.
        self.painter.stroke(**make, trigger_mode="always_last")
        for number in (self.seed, self.region_seed, self.count):
            number.submit(**make)
        for number, dice in ((self.seed, self.dice), (self.region_seed, self.region_dice)):
            dice.click(None, None, number, js=_NEW_SEED, **quiet).then(**make)
        self.gallery.select(self.inspect, self.made, shown, **quiet)
        self.stages.select(self.enlarge, self.made, self.image, **quiet)

        self.chooser.select(self.start_from, None, self.painter, **quiet)
        self.label_file.upload(self.open_map, self.label_file, self.painter, **quiet)
        styled = [self.photo, self.photo_shown, self.photo_drop]
        taken = self.photo_file.upload(self.open_photo, self.photo_file, styled, **quiet)
        taken.then(**make)
        self.photo_drop.click(self.drop_photo, None, styled, **quiet).then(**make)

    @told
    def make(
        self,
        value: object,
        seed: int | None,
        count: int | None,
        region_seed: int | None,
        photo: NDArray[np.uint8] | None,
    ) -> list[Any]:
        """Makes the samples of what is painted; returns values for ``made`` and all that shows."""
        values = len(self.model.classes) + self.void
        painting = Painting.decode(value, self.model.size, values)
        count = min(max(int(count or 1), 1), MOST_SAMPLES)
        request = Request(painting, int(seed or 0), count, int(region_seed or 0), photo)
        start = time.perf_counter()
        samples = list(studio.make_samples(self.model, request))
        seconds = time.perf_counter() - start
        made = Made(samples, studio.label_png(painting, self.model.classes))
        thumbnails = [(self._keep("sample", s.files[FINAL]), f"{s.seed}") for s in samples]
        gallery = gr.Gallery(thumbnails, visible=len(samples) > 1, selected_index=0)
        return self._show(made, gallery, f"{seconds:.2f} s")

    @told
    def inspect(self, made: Made | None, event: gr.SelectData) -> Any:
        """Shows the stages of another sample."""
        if made is None or not 0 <= event.index < len(made.samples):
            return gr.skip()
        return self._show(replace(made, index=event.index), gr.skip(), "")

    @told
    def enlarge(self, made: Made | None, event: gr.SelectData) -> Any:
        """Shows a stage in the place of the final image."""
        stages = [] if made is None else list(made.samples[made.index].files.values())[1:]
        return self._keep("stage", stages[event.index]) if event.index < len(stages) else gr.skip()

    @told
    def start_from(self, event: gr.SelectData) -> Any:
        """Puts an example on the canvas."""
        return self.examples[event.index].encode()

    @told
    def open_map(self, path: str) -> dict[str, str]:
        """Puts an uploaded label map on the canvas."""
        return read_label_map(Path(path), self.model.classes, self.model.size).encode()

    @told
    def open_photo(self, path: str) -> list[Any]:
        """Takes a photo for its style."""
        photo = read_photo(Path(path))
        return [photo, gr.Image(photo, visible=True), gr.Button(visible=True)]

    def drop_photo(self) -> list[Any]:
        """Takes styles from seeds again."""
        return [None, gr.Image(None, visible=False), gr.Button(visible=False)]

    def _show(self, made: Made, gallery: Any, took: str) -> list[Any]:
        """Values for all that shows."""
        sample = made.samples[made.index]
        stages = [(self._keep(n, png), n) for n, png in sample.files.items() if n != FINAL]
        named = sample.seed is not None
        stem = f"ecgan-seed{sample.seed}" if named else "ecgan"
        image = self._keep(stem, sample.files[FINAL])
        return [
            made,
            image,
            gallery,
            gr.Gallery(stages, selected_index=None),
            image,
            self._keep(stem, studio.archive(sample, made.labels), "zip"),
            " · ".join(filter(None, [f"seed {sample.seed}" if named else "", took])),
        ]

    def _keep(self, name: str, content: bytes, suffix: str = "png") -> str:
        """Writes a file where Gradio serves it and later deletes it."""
        return save_bytes_to_cache(content, f"{name}.{suffix}", self.blocks.GRADIO_CACHE)
