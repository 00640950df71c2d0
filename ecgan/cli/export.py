"""``ecgan export``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ecgan.cli.arguments import Parser
from ecgan.errors import ConfigError

if TYPE_CHECKING:
    from ecgan.inference import ECGAN

_FORMATS = {".onnx": "onnx", ".pt2": "torch", "": "pretrained"}
_TOLERANCE = 1e-4


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see ``ecgan export --help``."""
    parser = Parser(
        prog="ecgan export",
        description="Writes the generator of a run for others: a folder that "
        "ECGAN.from_pretrained loads (safetensors, JSON, model card), ONNX of standard operators, "
        "or a torch.export program. ONNX and torch.export files are run and compared with the "
        "model before they are called done.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "source",
        metavar="RUN|MODEL",
        help="run folder, checkpoint, folder of a saved model, or hub id",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PATH", help="folder, NAME.onnx or NAME.pt2"
    )
    parser.add_argument(
        "--format",
        choices=("auto", *_FORMATS.values()),
        default="auto",
        help="auto: as the end of --out says",
    )
    parser.add_argument("--opset", type=int, help="of ONNX's operators (default: 20, least: 18)")
    parser.add_argument(
        "--license",
        default="unknown",
        help="licence of the weights for the model card, as the hub spells it, such as cc-by-4.0",
    )
    parser.add_argument(
        "--push", metavar="USER/NAME", help="upload the folder to the Hugging Face hub, too"
    )
    parser.add_argument("--private", action="store_true", help="make that repository private")
    given = parser.parse_args(arguments)
    kind = given.format
    if kind == "auto":
        kind = _FORMATS.get(given.out.suffix, "pretrained")
    if given.push and kind != "pretrained":
        raise ConfigError("--push uploads a folder of --format pretrained, not a single file")
    if given.out.exists() and (given.out.is_file() or any(given.out.iterdir())):
        raise ConfigError(f"{given.out} exists already; choose another --out")

    from ecgan.inference import ECGAN

    model = ECGAN.from_pretrained(given.source)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pretrained":
        card = {"license": given.license}
        model.save_pretrained(given.out, model_card_kwargs=card)
        print(f"{given.out}: ECGAN.from_pretrained({str(given.out)!r}) loads it")
        if given.push:
            url = model.push_to_hub(
                given.push, private=given.private or None, model_card_kwargs=card
            )
            print(f"pushed: {url}")
        return 0
    return _single_file(model, kind, given.out, given.opset)


def _single_file(model: ECGAN, kind: str, out: Path, opset: int | None) -> int:
    from ecgan.inference import export

    if kind == "onnx":
        opset = opset or export.OPSET
        export.save_onnx(model, out, opset=opset)
        worst = export.check_onnx(model, out)
        what = f"ONNX, opset {opset}"
    else:
        export.save_program(model, out)
        worst = export.check_program(model, out)
        what = "torch.export"
    sizes = ", ".join(f"{h}x{w}" for h, w in export.check_sizes(model))
    print(f"{out}: {what}; differs from the model by at most {worst:.1e} at {sizes}")
    for each in export.inputs(model.cfg):
        print(f"  input {each.name} [{', '.join(each.axes)}]")
    print(f"  outputs {', '.join(export.outputs(model.cfg))} [batch, 3, height, width]")
    if worst > _TOLERANCE:
        raise ConfigError(f"{out} differs from the model by over {_TOLERANCE:g}: do not use it")
    return 0
