"""``ecgan plan``."""

from __future__ import annotations

from collections.abc import Sequence

from ecgan.cli.arguments import normalize
from ecgan.cli.run_settings import parse_settings, settings_parser
from ecgan.errors import ConfigError

_DESCRIPTION = """Predicts the memory of a training step, before any GPU is taken.

A step of the run that the settings describe is carried out on tensors without numbers; its peak is
what the tensors of one process take at once. Library workspaces, the CUDA context (about 0.5 GiB)
and fragmentation come on top. With --budget it also looks for the largest size of the same shape
that fits. The label maps are those of the data set, where it is there, else drawn scenes.
"""
_EXAMPLES = """examples:
  ecgan plan --recipe cityscapes --data DIR --batch_size 1 --budget 16,32
  ecgan plan --recipe ade20k --batch_size 8 --precision fp16 --model.checkpointing true
"""
_PARTS = ("weights", "moments", "peak")


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see ``ecgan plan --help``."""
    arguments = normalize(arguments, short=True)
    parser = settings_parser(
        "ecgan plan",
        arguments,
        usage="ecgan plan [--budget GIB,GIB] [--recipe NAME] [--data DIR] [--size HxW] "
        "[--KEY VALUE ...]",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "--budget",
        type=str,
        default="",
        help="memory in GiB, or several separated by commas: find the largest size that fits",
    )
    cfg, namespace = parse_settings(parser, arguments, own={"budget"})
    budgets = _budgets(namespace.budget)

    from ecgan.training.plan import Layouts, largest, plan

    layouts = Layouts(cfg)
    result = plan(cfg, layouts)
    origin = "the data set's" if layouts.own else "drawn scenes, as there is no data set yet"
    print(f"layouts    {layouts.num_classes} classes; label maps are {origin}")
    print(result)
    for budget in budgets:
        fitting = largest(cfg, int(budget * 2**30), layouts, start=result)
        if fitting is None:
            print(f"{budget:g} GiB     no size of this shape fits with batch {cfg.batch_size}")
        else:
            height, width = fitting.size
            print(
                f"{budget:g} GiB     up to {height}x{width} with batch {cfg.batch_size}: "
                f"{fitting.peak / 2**30:.2f} GiB"
            )
    return 0


def _budgets(text: str) -> list[float]:
    try:
        budgets = [float(part) for part in text.split(",") if part]
    except ValueError:
        budgets = [0.0]
    if any(not 0 < budget < 1e6 for budget in budgets):
        raise ConfigError(f"--budget takes numbers of GiB such as 16 or 16,32, not {text!r}")
    return budgets
