"""``ecgan synthesize``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ecgan.cli.arguments import Parser


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see ``ecgan synthesize --help``."""
    parser = Parser(
        prog="ecgan synthesize",
        description="Makes an image and an edge map for each label map; needs no photo.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "source",
        metavar="RUN|MODEL",
        help="run folder, checkpoint, folder of a saved model, or hub id",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        required=True,
        metavar="DIR|FILE",
        help="label maps of one channel, in the ids of the training data",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for images/ and edges/"
    )
    parser.add_argument("--n", type=int, default=1, help="samples per label map (default: 1)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the styles (default: 1)")
    parser.add_argument("--size", default="", metavar="HxW", help="default: as in training")
    parser.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="compute in square tiles of this side, for images larger than memory",
    )
    parser.add_argument(
        "--instances",
        type=Path,
        metavar="DIR|FILE",
        help="instance maps, for a model with instance edges",
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument(
        "--half", action="store_true", help="compute in float16: half the memory on a GPU"
    )
    given = parser.parse_args(arguments)

    import torch

    from ecgan.inference import ECGAN
    from ecgan.inference.files import synthesize_files
    from ecgan.training.environment import choose_device

    model = ECGAN.from_pretrained(
        given.source,
        device=choose_device(given.device),
        dtype=torch.float16 if given.half else torch.float32,
    )
    written = synthesize_files(
        model,
        given.labels,
        given.out,
        instances=given.instances,
        size=given.size,
        seed=given.seed,
        samples=given.n,
        tile=given.tile,
    )
    print(f"{len(written)} images in {given.out / 'images'}, their edges in {given.out / 'edges'}")
    return 0
