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
    parser.add_argument("source", metavar="RUN|CHECKPOINT", type=Path)
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
        "--instances",
        type=Path,
        metavar="DIR|FILE",
        help="instance maps, for a model with instance edges",
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    given = parser.parse_args(arguments)

    from ecgan.training.environment import choose_device
    from ecgan.training.synthesis import synthesize

    written = synthesize(
        given.source,
        given.labels,
        given.out,
        instances=given.instances,
        size=given.size,
        seed=given.seed,
        samples=given.n,
        device=choose_device(given.device),
    )
    print(f"{len(written)} images in {given.out / 'images'}, their edges in {given.out / 'edges'}")
    return 0
