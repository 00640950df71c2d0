"""The folder of one run: configuration, environment, metrics, samples and checkpoints."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from ecgan.config import TrainConfig
from ecgan.errors import ConfigError
from ecgan.training.settings import to_yaml


def default_run_folder(data: str, kind: str) -> Path:
    """``runs/DATA-KIND-TIME``, a name not taken yet."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    base = Path("runs") / f"{Path(data).resolve().name if data else 'run'}-{kind}-{stamp}"
    path, number = base, 2
    while path.exists():
        path, number = base.with_name(f"{base.name}-{number}"), number + 1
    return path


def check_free(path: Path) -> None:
    """Refuses a folder that holds something already.

    Raises:
        ConfigError: the path is a file or a folder that is not empty.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path} exists already; choose another --out or continue with --resume")


class RunFolder:
    """Files of one run.

    Layout::

        config.yaml        complete configuration, readable by --config
        environment.json   versions, device, frozen networks, operator implementations
        metrics.csv        one row every log_every steps
        tensorboard/       the same as events
        samples/           sample sheets
        checkpoints/       step-NNNNNN folders
        segmenter/         label generator, where the run trained it

    Args:
        path: the folder; made when missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"
        self.segmenter = path / "segmenter"
        self.samples.mkdir(parents=True, exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        self._metrics = path / "metrics.csv"
        self._columns: list[str] = []
        self._events: SummaryWriter | None = None
        self.seconds = 0.0
        """Training time before the step that the run goes on from."""

    def start(self, step: int) -> None:
        """Opens the logs; rows of metrics.csv and events after ``step`` are dropped."""
        if self._metrics.exists():
            rows = self._rows()
            self._columns = list(rows[0]) if rows else []
            rows = [row for row in rows if float(row["step"]) <= step]
            self.seconds = float(rows[-1]["seconds"]) if rows else 0.0
            self._rewrite(rows)
        self._events = SummaryWriter(self.path / "tensorboard", purge_step=step + 1)

    def write_config(self, cfg: TrainConfig) -> None:
        """Writes config.yaml."""
        _write(self.path / "config.yaml", to_yaml(cfg))

    def write_environment(self, environment: Mapping[str, object]) -> None:
        """Writes environment.json."""
        _write(self.path / "environment.json", json.dumps(environment, indent=1))

    def log(self, row: Mapping[str, float]) -> None:
        """Appends a row, whose key ``step`` is required, to metrics.csv and TensorBoard."""
        new = [name for name in row if name not in self._columns]
        if new:  # the first row, or a loss whose warm-up has ended
            rows = self._rows()
            self._columns += new
            self._rewrite(rows)
        with self._metrics.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(
                {k: int(v) if k == "step" else f"{v:.6g}" for k, v in row.items()}
            )
        assert self._events is not None, "start() comes first"
        for name, value in row.items():
            if name != "step":
                self._events.add_scalar(name, value, int(row["step"]))

    def save_sample(self, sheet: Image.Image, step: int) -> Path:
        """Writes a sample sheet and returns its path."""
        path = self.samples / f"step-{step:06d}.png"
        sheet.save(path)
        return path

    def close(self) -> None:
        """Ends the event file."""
        if self._events is not None:
            self._events.close()

    def _rows(self) -> list[dict[str, str]]:
        if not self._metrics.exists():
            return []
        with self._metrics.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        temporary = self._metrics.with_suffix(".writing")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, self._metrics)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
