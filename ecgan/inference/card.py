"""The model card: what a published model tells of its data, training, metrics and environment."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard

from ecgan import __version__

if TYPE_CHECKING:
    from ecgan.inference.model import ECGAN

_UNSTATED = "unknown"
_MOST_NAMES = 200


def model_card(model: ECGAN, license: str = _UNSTATED, license_link: str = "") -> ModelCard:
    """Writes the card of a model from what it knows of itself.

    Args:
        model: the model; its ``provenance`` may be empty.
        license: identifier of the weights' licence, as the hub spells it.
        license_link: where its text is.

    Returns:
        The card; ``save`` writes it as README.md.
    """
    known = model.provenance
    data = copy.deepcopy(model._hub_mixin_info.model_card_data)
    data.license = license
    if license_link:
        data.license_link = license_link
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# ECGAN, {known.get('data') or 'data not stated'}",
        "Makes a photo and an edge map from a label map: Tang et al., *Edge Guided GANs with "
        "Contrastive Learning for Semantic Image Synthesis*, ICLR 2023.",
        _usage(model),
        "## Licence",
        f"{license}{f' ({license_link})' if license_link else ''}. "
        + (
            "Whoever publishes these weights states their licence; it follows from the data and "
            "the pretrained networks that they were trained with."
            if license == _UNSTATED
            else "It is that of the weights; the code has its own."
        ),
        "## Data and classes",
        _data(model),
        "## Training",
        _table(known.get("training", {})) or "Not stated.",
        "## Metrics",
        _metrics(known.get("evaluation", {})),
        "## Environment",
        _environment(known.get("environment", {})),
    ]
    return ModelCard("\n\n".join(parts) + "\n", ignore_metadata_errors=True)


def _usage(model: ECGAN) -> str:
    height, width = model.size
    style = {
        "none": "It has no style: a label map always gives the same image.",
        "noise": "Style: 3D noise, drawn by `seed`, or given for every pixel.",
        "encoder": "Style: drawn by `seed`, or taken from a photo (`style=photo`); images have "
        f"{height}x{width} pixels only.",
    }[model.cfg.style]
    return (
        "```python\n"
        "from PIL import Image\n"
        "from ecgan import ECGAN, to_uint8\n\n"
        'model = ECGAN.from_pretrained("this folder or its hub id")\n'
        'images, edges = model.synthesize(Image.open("labels.png"), seed=1)\n'
        'Image.fromarray(to_uint8(images)[0]).save("image.png")\n'
        "```\n\n"
        f"Trained at {height}x{width} pixels; height and width must be multiples of "
        f"{model.multiple}. {style}"
    )


def _data(model: ECGAN) -> str:
    classes = model.classes
    ids = list(zip(classes.file_ids, classes.names, strict=True))
    named = ", ".join(f"{i} {name}" for i, name in ids[:_MOST_NAMES])
    if len(ids) > _MOST_NAMES:
        named += f" and {len(ids) - _MOST_NAMES} more"
    void = ", ".join(map(str, classes.void_ids)) or "none"
    instances = " Label maps come with instance maps." if model.cfg.instance_edges else ""
    return (
        f"{model.provenance.get('data') or 'Data not stated'}; {len(ids)} classes, by their id in "
        f"label files: {named}. Void: {void}.{instances}"
    )


def _metrics(evaluation: Mapping[str, Any]) -> str:
    numbers = [
        number for number in evaluation.get("numbers", []) if number.get("value") is not None
    ]
    if not numbers:
        return "Not measured: `ecgan evaluate` on the run, then saving again, puts them here."
    rows = []
    for number in numbers:
        protocol = "; ".join(f"{k}: {_short(v)}" for k, v in number.get("protocol", {}).items())
        rows.append([number["name"], f"{number['value']:.4g}{number.get('unit', '')}", protocol])
    text = _rows(["number", "value", "protocol"], rows)
    remarks = [str(remark) for remark in evaluation.get("remarks", [])]
    return "\n\n".join([text, *remarks])


def _environment(environment: Mapping[str, Any]) -> str:
    flat = {key: value for key, value in environment.items() if key != "packages"}
    packages = environment.get("packages")
    if isinstance(packages, Mapping):
        flat["packages"] = ", ".join(f"{k} {v}" for k, v in packages.items() if v)
    return "\n\n".join(part for part in (_table(flat), f"Card by ecgan {__version__}.") if part)


def _table(values: Mapping[str, Any]) -> str:
    return _rows(["", ""], [[key, str(value)] for key, value in values.items()]) if values else ""


def _rows(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(c.replace('|', '/') for c in line)} |" for line in lines)


def _short(value: Any) -> str:
    """A protocol's value: hashes cut, numbers to four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return text[:12] if len(text) == 64 and " " not in text else text
