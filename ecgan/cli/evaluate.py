"""``ecgan evaluate``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ecgan.cli.arguments import normalize
from ecgan.config import (
    DatasetConfig,
    EdgeConfig,
    EvaluateConfig,
    JudgeConfig,
    TrainConfig,
    parse_size,
)
from ecgan.errors import ConfigError
from ecgan.training.settings import instantiate, make_parser

if TYPE_CHECKING:
    import torch

    from ecgan.data import PairDataset
    from ecgan.evaluation.judge import Judge
    from ecgan.evaluation.protocol import Evaluation
    from ecgan.evaluation.systems import NetworkSystem, System

_DESCRIPTION = """Measures runs and other systems' images on the label maps of a data set: mIoU,
both pixel accuracies, IoU of each class and of Table 5's small objects, FID and KID, and for models
with a style the diversity of Table 4. Every number is written with its protocol, and the
segmenter's score on the real photos stands beside. Without Inception's weights nothing is called
FID.
"""
_EXAMPLES = """examples:
  ecgan evaluate runs/NAME                                    the run's own validation pairs
  ecgan evaluate B1=runs/A B6=runs/B --results spade=DIR      one table, a row each
  ecgan evaluate runs/NAME --segmenter.source MODEL --segmenter.label_map FILE
  ecgan evaluate --results ours=DIR --data DIR --size 256x512 --segmenter.source model.onnx
  ecgan evaluate runs/NAME --spade latest_net_G.pth --oasis best_EMA.pth
"""
_MOST_CLASSES_SHOWN = 40
_BASELINES = {"spade": "SPADE", "oasis": "OASIS"}


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see ``ecgan evaluate --help``."""
    parser = make_parser(
        EvaluateConfig,
        "ecgan evaluate",
        usage="ecgan evaluate [RUN|CHECKPOINT ...] [--results NAME=DIR ...] [--spade FILE] "
        "[--oasis FILE] [--data DIR] [--KEY VALUE ...]",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "source",
        nargs="*",
        default=[],
        metavar="RUN|CHECKPOINT",
        help="run folder or checkpoint, or NAME=PATH to name its row",
    )
    parser.add_argument(
        "--results",
        action="append",
        metavar="NAME=DIR",
        help="images of another system, named as the label maps; may be given several times",
    )
    for kind, title in _BASELINES.items():
        parser.add_argument(
            f"--{kind}",
            action="append",
            metavar="[NAME=]FILE",
            help=f"published generator of {title}, a row of its own; may be given several times",
        )
    namespace = parser.parse_args(normalize(arguments))
    cfg = instantiate(parser, EvaluateConfig, namespace)
    sources = [_named(text) for text in namespace.source or []]
    results = [_named(text, required=True) for text in namespace.results or []]
    baselines = [
        (kind, *_named(text)) for kind in _BASELINES for text in getattr(namespace, kind) or []
    ]
    if not sources and not results and not baselines:
        raise ConfigError(
            "nothing to evaluate: give a run folder, a checkpoint, --results, --spade or --oasis"
        )

    evaluation, out = _evaluate(cfg, sources, results, baselines)
    from ecgan.evaluation.protocol import write_evaluation

    written = write_evaluation(evaluation, out)
    _print(evaluation)
    print(f"\nwritten: {', '.join(map(str, written))}")
    return 0


def _evaluate(
    cfg: EvaluateConfig,
    sources: list[tuple[str, Path]],
    results: list[tuple[str, Path]],
    baselines: list[tuple[str, str, Path]],
) -> tuple[Evaluation, Path]:
    from ecgan.evaluation.baselines import load_baseline
    from ecgan.evaluation.diversity import build_distance
    from ecgan.evaluation.evaluate import Evaluator
    from ecgan.evaluation.features import build_features
    from ecgan.evaluation.systems import FolderSystem
    from ecgan.training.environment import choose_device

    device = choose_device(cfg.device)
    runs = [_load(name, path, device) for name, path in sources]
    first = runs[0].train if runs else None
    networks = [run.system for run in runs]
    if not cfg.size:
        if first is None:
            raise ConfigError("give --size HEIGHTxWIDTH: there is no run to take it from")
        cfg = dataclasses.replace(cfg, size=first.size)
    instances = any(network.cfg.instance_edges for network in networks)
    data = _open(cfg, first, cfg.split, instances)
    for kind, name, path in baselines:
        networks.append(
            load_baseline(kind, name or kind, path, data, cfg.label_order, device)  # type: ignore[arg-type]
        )
    if not instances and any(network.cfg.instance_edges for network in networks):
        data = _open(cfg, first, cfg.split, True)
    reference = None
    if cfg.reference not in ("split", cfg.split):
        reference = _open(cfg, first, cfg.reference, False)
    judge = _judge(cfg, runs, data.num_classes, device)
    measured = cfg.diversity.measure
    styled = any(network.cfg.style != "none" for network in networks)
    distance = None
    if networks and (measured == "on" or (measured == "auto" and styled)):
        wanted = cfg.diversity
        distance = build_distance(wanted.network, wanted.backbone, wanted.linear)
    systems: list[System] = [*networks, *(FolderSystem(name, path) for name, path in results)]
    with _Progress() as progress:
        evaluation = Evaluator(
            cfg,
            data,
            reference=reference,
            judge=judge,
            features=build_features(cfg.inception),
            distance=distance,
            device=device,
            progress=progress,
        ).run(systems)
    out = Path(cfg.out) if cfg.out else (runs[0].folder if runs else Path("evaluation"))
    return evaluation, out


@dataclasses.dataclass
class _Run:
    system: NetworkSystem
    train: TrainConfig
    folder: Path


def _load(name: str, path: Path, device: torch.device) -> _Run:
    from ecgan.evaluation.systems import NetworkSystem
    from ecgan.models.pretrained import file_sha256
    from ecgan.training import load_generator
    from ecgan.training.checkpoint_folder import find_checkpoint, generator_weights
    from ecgan.training.settings import load_config

    checkpoint = find_checkpoint(path)
    generator, classes = load_generator(checkpoint, device)
    weights = file_sha256(generator_weights(checkpoint))
    folder = checkpoint.resolve().parent
    folder = folder.parent if folder.name == "checkpoints" else path
    system = NetworkSystem(
        name or path.resolve().name, str(checkpoint), generator, weights, classes.names, device
    )
    return _Run(system, load_config(checkpoint / "config.yaml"), folder)


def _open(cfg: EvaluateConfig, run: TrainConfig | None, split: str, instances: bool) -> PairDataset:
    from ecgan.data import build_dataset

    data = cfg.data or (run.data if run else "")
    if not data:
        raise ConfigError("give --data DIR: there is no run to take it from")
    dataset, seed = DatasetConfig(), cfg.seed
    if run is not None:
        dataset, seed = run.dataset, run.seed
        if data != run.data and Path(data).resolve() != Path(run.data).resolve():
            # The layout on disk may be another; the classes must be the same anyway.
            dataset = dataclasses.replace(dataset, format="auto")
    changes: dict[str, object] = {"instance_edges": instances, "edges": EdgeConfig()}
    if cfg.format != "auto":
        changes["format"] = cfg.format
    if cfg.num_classes:
        changes["num_classes"] = cfg.num_classes
    dataset = dataclasses.replace(dataset, **changes)  # type: ignore[arg-type]
    assert split in ("train", "val")
    return build_dataset(dataset, data, parse_size(cfg.size), split, seed=seed)  # type: ignore[arg-type]


def _judge(
    cfg: EvaluateConfig, runs: list[_Run], num_classes: int, device: torch.device
) -> Judge | None:
    from ecgan.evaluation.judge import build_judge

    wanted = cfg.segmenter
    if wanted.source == "none":
        return None
    if wanted.source != "auto":
        return build_judge(wanted, num_classes, device)
    if not runs:
        raise ConfigError(
            "give --segmenter.source (or none for no mIoU and no Acc): there is no run to take "
            "the segmenter from"
        )
    source, label_map = _own_segmenter(runs[0])
    judge = build_judge(
        JudgeConfig(source, wanted.label_map or label_map, wanted.size, wanted.normalize),
        num_classes,
        device,
    )
    judge.remark = (
        f"The segmenter is the label generator of {runs[0].system.name}, trained on the run's "
        "training pairs: good for comparing systems here, no substitute for the published ones."
    )
    if runs[0].train.loss.similarity:
        judge.remark += " That run was trained with it in a loss, which may favour it."
    return judge


def _own_segmenter(run: _Run) -> tuple[str, str]:
    own = run.train.segmenter
    if own.source != "auto":
        return own.source, own.label_map
    folder = run.folder / "segmenter"
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{run.folder} holds no segmenter: make one with ecgan train-segmenter and give "
            "--segmenter.source, or none for no mIoU and no Acc"
        )
    return str(folder), ""


def _named(text: str, required: bool = False) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    # A path may hold an equals sign; a name holds no slash.
    if not equals or "/" in name or (not required and Path(text).exists()):
        if required:
            raise ConfigError(f"--results takes NAME=DIR, not {text!r}")
        return "", Path(text)
    if not name or not path:
        raise ConfigError(f"expected NAME=PATH, not {text!r}")
    return name, Path(path)


def _print(evaluation: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)

    def table(header: list[str], rows: list[list[str]]) -> None:
        view = Table()
        for index, title in enumerate(header):
            view.add_column(title, justify="right" if index else "left", overflow="fold")
        for row in rows:
            view.add_row(*row)
        console.print(view, markup=False)

    # Two tables: one would be too wide for most terminals.
    shares = {n.name for system in evaluation.systems for n in system.numbers if n.unit == "%"}
    for wanted in (True, False):
        columns = [name for name in evaluation.columns() if (name in shares) == wanted]
        if columns:
            table(*evaluation.table(columns))
    header, rows = evaluation.class_table()
    if 0 < len(rows) <= _MOST_CLASSES_SHOWN:
        table(header, rows)
        if evaluation.small_objects:
            console.print("* small-object group")
    for note in evaluation.footnotes():
        console.print(f"- {note}", markup=False)


class _Progress:
    """A bar for each stage on a terminal, a line for each elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._bar = Progress(console=Console(stderr=True), transient=True)
        self._live = self._bar.console.is_terminal
        self._stage = ""
        self._task = None if not self._live else self._bar.add_task("", total=None)

    def __enter__(self) -> _Progress:
        if self._live:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._task is not None:
            if stage != self._stage:
                self._bar.reset(self._task)
            self._bar.update(self._task, description=stage, completed=done, total=total)
        elif stage != self._stage:
            self._bar.console.print(f"{stage}: {total} label maps", markup=False, highlight=False)
        self._stage = stage
