"""``ecgan ablate``."""

from __future__ import annotations

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, cast, get_args

from ecgan.cli.arguments import CheckProgress, normalize
from ecgan.cli.run_settings import parse_settings, settings_parser
from ecgan.config import Preset, SegmenterTrainConfig, TrainConfig
from ecgan.errors import ConfigError, ECGANError, Stopped
from ecgan.training.settings import to_yaml

if TYPE_CHECKING:
    from ecgan.evaluation.ablation import Ablation

_DESCRIPTION = """Trains and evaluates rows of the paper's Table 3 from one configuration: the same
settings, steps and seeds for each, one run after another, and writes the table with mean and
deviation as Markdown, CSV and LaTeX.

Every argument of `ecgan train` is taken. Runs go to OUT/runs; the same command goes on after an
interruption, leaves out what is done, and continues a run from its newest checkpoint. All runs are
measured by one segmenter that took no part in their training.
"""
_EXAMPLES = """examples:
  ecgan ablate --data DIR --out ablation --steps 2000 --seeds 1,2,3
  ecgan ablate --recipe cityscapes --data DIR --out ablation --judge nvidia/segformer-b5-...
  ecgan ablate --data DIR --out ablation --launcher "torchrun --standalone --nproc-per-node 8 -m"
"""
_OWN = {"presets", "seeds", "judge", "judge_label_map", "judge_steps", "launcher", "limit"}


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see ``ecgan ablate --help``."""
    arguments = normalize(arguments, short=True)
    parser = settings_parser(
        "ecgan ablate",
        arguments,
        usage="ecgan ablate --out DIR [--presets B1,B2] [--seeds 1,2] [--KEY VALUE ...]",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
    )
    own = parser.add_argument_group("The ablation")
    own.add_argument("--presets", type=str, default="B1,B2,B3,B4,B5,B6", help="rows to make")
    own.add_argument("--seeds", type=str, default="", help="seeds of each row; default: --seed")
    own.add_argument(
        "--judge",
        type=str,
        default="",
        help="segmenter that measures mIoU and Acc, as for ecgan evaluate; default: one that is "
        "trained on the training pairs first, apart from that of the losses",
    )
    own.add_argument("--judge_label_map", type=str, default="", help="its label map")
    own.add_argument("--judge_steps", type=int, default=0, help="default: twice segmenter.steps")
    own.add_argument("--limit", type=int, default=0, help="validation pairs to measure; 0: all")
    own.add_argument("--launcher", type=str, default="", help="command that starts a training")
    cfg, given = parse_settings(parser, arguments, own=_OWN)
    if not cfg.out:
        raise ConfigError("give --out: the folder of the ablation")
    if given.judge_steps < 0:
        raise ConfigError(f"--judge_steps must be at least 0, not {given.judge_steps}")
    presets = _presets(given.presets)
    seeds = _seeds(given.seeds, cfg.seed)
    if cfg.data != "scenes" and Path(cfg.data).is_dir():
        cfg = dataclasses.replace(cfg, data=str(Path(cfg.data).resolve()))

    study = _Study(cfg, Path(cfg.out), shlex.split(given.launcher))
    study.settle()
    judge = given.judge or study.segmenter(
        "judge", cfg.seed + 1, given.judge_steps or 2 * cfg.segmenter.steps
    )
    for seed in seeds:
        for preset in presets:
            study.train(preset, seed)
            study.evaluate(preset, seed, judge, given.judge_label_map, given.limit)
    ablation = study.read([(preset, seed) for preset in presets for seed in seeds])
    _print(ablation, study.out)
    return 0


class _Study:
    """The folder of an ablation and what is done in it."""

    def __init__(self, cfg: TrainConfig, out: Path, launcher: Sequence[str]) -> None:
        self.cfg = dataclasses.replace(cfg, out="")
        self.out = out
        self.base = out / "config.yaml"
        self.launcher = list(launcher) or [sys.executable, "-m"]

    def settle(self) -> None:
        """Writes the settings, or compares them with those of the folder.

        Raises:
            ConfigError: the folder holds something else.
        """
        text = to_yaml(self.cfg)
        if self.base.is_file():
            if self.base.read_text(encoding="utf-8") != text:
                raise ConfigError(
                    f"{self.out} holds an ablation with other settings ({self.base}): choose "
                    "another --out or give the same settings"
                )
            return
        if self.out.exists() and any(self.out.iterdir()):
            raise ConfigError(
                f"{self.out} is not empty and holds no ablation: choose another --out"
            )
        self.out.mkdir(parents=True, exist_ok=True)
        temporary = self.out / ".config.yaml.writing"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self.base)

    def segmenter(self, name: str, seed: int, steps: int) -> str:
        """A small segmenter in ``OUT/name``, trained once."""
        folder = self.out / name
        if not (folder / "config.json").is_file():
            from ecgan.training import train_segmenter

            own = self.cfg.segmenter
            print(f"training the segmenter {folder} ({steps} steps)", flush=True)
            train_segmenter(
                SegmenterTrainConfig(
                    data=self.cfg.data,
                    size=self.cfg.size,
                    steps=steps,
                    batch_size=own.batch_size,
                    lr=own.lr,
                    out=str(folder),
                    seed=seed,
                    device=self.cfg.device,
                    dataset=self.cfg.dataset,
                ),
                CheckProgress(),
            )
        return str(folder)

    def run(self, preset: Preset, seed: int) -> Path:
        """Folder of a run."""
        return self.out / "runs" / f"{preset}-{seed}"

    def evaluation(self, preset: Preset, seed: int) -> Path:
        """Folder of its evaluation."""
        return self.out / "evaluations" / f"{preset}-{seed}"

    def train(self, preset: Preset, seed: int) -> None:
        """Trains a run, or goes on with it, unless it has been evaluated."""
        if (self.evaluation(preset, seed) / "evaluation.json").is_file():
            return
        own = self.cfg.segmenter
        source = own.source
        if source == "auto":  # one for all runs, trained as a run by itself would
            source = self.segmenter("segmenter", self.cfg.seed, own.steps)
        print(f"training {preset}, seed {seed}", flush=True)
        _start(
            [
                *self.launcher,
                "ecgan",
                "train",
                f"--config={self.base}",
                f"--preset={preset}",
                f"--seed={seed}",
                f"--segmenter.source={source}",
                f"--out={self.run(preset, seed)}",
                "--resume=auto",
            ]
        )

    def evaluate(self, preset: Preset, seed: int, judge: str, label_map: str, limit: int) -> None:
        """Evaluates a run once."""
        out = self.evaluation(preset, seed)
        if (out / "evaluation.json").is_file():
            return
        _start(
            [
                sys.executable,
                "-m",
                "ecgan",
                "evaluate",
                f"{preset}-{seed}={self.run(preset, seed)}",
                f"--segmenter.source={judge}",
                f"--segmenter.label_map={label_map}",
                "--diversity.measure=off",
                f"--limit={limit}",
                f"--device={self.cfg.device}",
                f"--out={out}",
            ]
        )

    def read(self, runs: Sequence[tuple[Preset, int]]) -> Ablation:
        """The table of the runs."""
        from ecgan.evaluation.ablation import read_ablation

        cfg = self.cfg
        length = f"{cfg.optim.steps} steps" if cfg.optim.steps else (
            f"{cfg.optim.epochs} + {cfg.optim.decay_epochs} epochs"
        )  # fmt: skip
        note = (
            f"Every row: {length} of {cfg.batch_size * cfg.optim.accumulate} images a process at "
            f"{cfg.size} on {Path(cfg.data).name}, the same settings, data order and seeds."
        )
        files: Mapping[tuple[Preset, int], Path] = {
            key: self.evaluation(*key) / "evaluation.json" for key in runs
        }
        metrics = {key: self.run(*key) / "metrics.csv" for key in runs}
        return read_ablation(files, metrics, [note])


def _start(command: Sequence[str]) -> None:
    """Runs a command of ours; passes requests to stop on to it.

    Raises:
        ECGANError: it failed, having said why.
        Stopped: it was asked to stop.
    """
    process = subprocess.Popen(command)
    asked: list[str] = []

    def forward(number: int, _: FrameType | None) -> None:
        asked.append(signal.Signals(number).name)
        if number != signal.SIGINT:  # which the terminal sends to the whole group
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        raise Stopped(asked[0], "ablation stopped; the same command goes on with it")
    if status != 0:
        raise ECGANError(f"the ablation stops as {' '.join(command[2:4])} ended with {status}")


def _presets(text: str) -> list[Preset]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = get_args(Preset)
    wrong = [name for name in names if name not in known]
    if wrong or not names or len(set(names)) < len(names):
        raise ConfigError(f"--presets takes different ones of {','.join(known)}, not {text!r}")
    return [cast(Preset, name) for name in names]


def _seeds(text: str, default: int) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if any(not part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise ConfigError(f"--seeds takes different numbers such as 1,2,3, not {text!r}")
    return [int(part) for part in parts] or [default]


def _print(ablation: Ablation, out: Path) -> None:
    from ecgan.evaluation.ablation import to_markdown, write_ablation

    written = write_ablation(ablation, out)
    print(to_markdown(ablation))
    print(f"written: {', '.join(map(str, written))}")
