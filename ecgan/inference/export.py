"""Export of the generator to ONNX and torch.export, plain operators only, checked as written."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from ecgan import __version__
from ecgan.config import ModelConfig, parse_size
from ecgan.errors import ConfigError
from ecgan.inference.model import ECGAN
from ecgan.inference.plain import PlainGenerator
from ecgan.models.resolve import style_length

OPSET = 20
"""Default version of ONNX's operators; older runtimes want less, 18 is the least."""
_OLDEST = 18
_LARGEST = 2**31
"""Bytes of weights from which on ONNX wants a file beside."""


@dataclass(frozen=True)
class Input:
    """One input of an exported generator."""

    name: str
    """``labels``: int64 [B, H, W], classes 0 to N - 1, anything else void (class indices, not the
    ids of label files). ``instance_edges``: float [B, 1, H, W], nonzero at boundaries. ``style``:
    float [B, Z], for 3D noise [B, Z, H, W]."""
    axes: tuple[str, ...]


def inputs(cfg: ModelConfig) -> list[Input]:
    """The inputs that the generator of ``cfg`` takes, in order."""
    found = [Input("labels", ("batch", "height", "width"))]
    if cfg.instance_edges:
        found.append(Input("instance_edges", ("batch", "1", "height", "width")))
    if style_length(cfg):
        axes = ("batch", "z", "height", "width") if cfg.style == "noise" else ("batch", "z")
        found.append(Input("style", axes))
    return found


def outputs(cfg: ModelConfig) -> list[str]:
    """Names of the outputs, float [B, 3, H, W] in [-1, 1]."""
    return ["image", "edge"] if cfg.edge_branch else ["image"]


def example(cfg: ModelConfig, batch: int, size: tuple[int, int], seed: int = 0) -> list[Tensor]:
    """Random inputs of a size: labels in patches with void, edges, noise."""
    random = torch.Generator().manual_seed(seed)
    height, width = size
    coarse = torch.randint(
        0, cfg.num_classes + 1, (batch, -(-height // 8), -(-width // 8)), generator=random
    )
    labels = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :height, :width].contiguous()
    tensors = [labels]
    if cfg.instance_edges:
        tensors.append((torch.rand(batch, 1, height, width, generator=random) < 0.1).float())
    if length := style_length(cfg):
        shape = (batch, length, height, width) if cfg.style == "noise" else (batch, length)
        tensors.append(torch.randn(shape, generator=random))
    return tensors


def to_program(model: ECGAN) -> ExportedProgram:
    """The generator as a torch.export program with free batch, height and width.

    Height and width are multiples of the model's, from twice it to 8192 pixels; with
    ``style: encoder`` those of the training.
    """
    cfg, multiple = model.cfg, model.multiple
    plain = PlainGenerator(model.generator).float().cpu().eval()
    dims: dict[str, object] = {"batch": Dim("batch", min=1, max=1024)}
    if cfg.style != "encoder":
        dims["height"] = multiple * Dim("rows", min=2, max=8192 // multiple)
        dims["width"] = multiple * Dim("columns", min=2, max=8192 // multiple)
    shapes = [
        {i: dims[axis] for i, axis in enumerate(each.axes) if axis in dims} for each in inputs(cfg)
    ]
    size = parse_size(cfg.size)
    if cfg.style != "encoder":
        # Sides that differ from each other and from any count of channels: torch.export takes
        # equal numbers for one.
        size = (3 * multiple, 5 * multiple)
    tensors = example(cfg, 2, size)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(
            plain,
            tuple(tensors),
            dynamic_shapes=(shapes[0], tuple(shapes[1:])) if shapes[1:] else (shapes[0],),
            strict=False,
        )


def save_program(model: ECGAN, path: Path) -> None:
    """Writes the program as ``.pt2``; ``torch.export.load(path).module()`` runs it."""
    torch.export.save(to_program(model), path, extra_files={"ecgan.json": _metadata(model)})


def save_onnx(model: ECGAN, path: Path, *, opset: int = OPSET) -> None:
    """Writes the generator as ONNX of standard operators, checked by ONNX's own checker.

    The file names its opset and carries classes, ids and sizes as metadata (``ecgan.json``).

    Args:
        model: the model.
        path: the file; weights above 2 GiB go to a second one beside it.
        opset: version of ONNX's operators.

    Raises:
        ConfigError: an opset before 18.
    """
    if opset < _OLDEST:
        raise ConfigError(f"opset must be at least {_OLDEST}, not {opset}")
    import onnx

    # It tells of every torchvision operator that it does not find.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = to_program(model)
    weights = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = torch.onnx.export(
            program,
            input_names=[each.name for each in inputs(model.cfg)],
            output_names=outputs(model.cfg),
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert converted is not None
    converted.model.metadata_props["ecgan.json"] = _metadata(model)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".ecgan-") as folder:
        made = Path(folder) / path.name
        converted.save(made, external_data=weights >= _LARGEST)
        onnx.checker.check_model(made, full_check=True)
        foreign = {
            n.op_type for n in onnx.load(made, load_external_data=False).graph.node if n.domain
        }
        assert not foreign, f"operators that are not ONNX's own: {foreign}"
        for file in Path(folder).iterdir():
            file.replace(path.parent / file.name)


def check_onnx(model: ECGAN, path: Path, sizes: Sequence[tuple[int, int]] = ()) -> float:
    """Largest difference between onnxruntime's outputs and torch's, over sizes and batches.

    Args:
        model: what was exported.
        path: the ONNX file.
        sizes: heights and widths; none: three of them (style encoder: the one there is).
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in inputs(model.cfg)]
    worst = 0.0
    for number, size in enumerate(sizes or check_sizes(model)):
        tensors = example(model.cfg, 1 + number % 2, size, seed=number)
        with torch.inference_mode():
            expected = _fused(model, tensors)
        feeds = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        for ours, theirs in zip(expected, session.run(None, feeds), strict=True):
            worst = max(worst, float((ours - torch.from_numpy(theirs)).abs().max()))
    return worst


def check_program(model: ECGAN, path: Path, sizes: Sequence[tuple[int, int]] = ()) -> float:
    """The same of a ``.pt2`` file."""
    run = torch.export.load(path).module()
    worst = 0.0
    for number, size in enumerate(sizes or check_sizes(model)):
        tensors = example(model.cfg, 1 + number % 2, size, seed=number)
        with torch.inference_mode():
            expected, found = _fused(model, tensors), run(*tensors)
        for ours, theirs in zip(expected, found, strict=True):
            worst = max(worst, float((ours - theirs).abs().max()))
    return worst


def check_sizes(model: ECGAN) -> list[tuple[int, int]]:
    """Training size, the smallest there is and a long one."""
    multiple, size = model.multiple, model.size
    if model.cfg.style == "encoder":
        return [size]
    return [size, (2 * multiple, 3 * multiple), (5 * multiple, 2 * multiple)]


def _fused(model: ECGAN, tensors: list[Tensor]) -> list[Tensor]:
    """What the model itself makes of the exported generator's inputs, by the fused operators."""
    from ecgan.models import Layout

    given = tensors[1:]
    cfg = model.cfg
    edges = given.pop(0) if cfg.instance_edges else None
    z = given.pop(0) if style_length(cfg) else None
    layout = Layout(
        tensors[0], cfg.num_classes, void_channel=cfg.void_channel, instance_edges=edges
    )
    out = model.generator(layout, z)
    return [out.final.clamp(-1, 1), *([] if out.edge is None else [out.edge])]


def _metadata(model: ECGAN) -> str:
    cfg = model.cfg
    return json.dumps(
        {
            "library": f"ecgan {__version__}",
            "inputs": {each.name: list(each.axes) for each in inputs(cfg)},
            "outputs": outputs(cfg),
            "multiple": model.multiple,
            "size": cfg.size,
            "style_length": style_length(cfg),
            "classes": model.classes.to_values(),
        }
    )
