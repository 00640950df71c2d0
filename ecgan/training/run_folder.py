"""The folder of one run: configuration, environment, metrics, samples and checkpoints."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Literal

from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from ecgan.config import TrainConfig
from ecgan.errors import ConfigError
from ecgan.training.checkpoint_folder import tidy
from ecgan.training.settings import to_yaml

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_STARTING = (".lock", ".config.yaml.writing")


def default_run_folder(data: str, kind: str) -> Path:
    """``runs/DATA-KIND-TIME``, a name not taken yet."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    base = Path("runs") / f"{Path(data).resolve().name if data else 'run'}-{kind}-{stamp}"
    path, number = base, 2
    while path.exists():
        path, number = base.with_name(f"{base.name}-{number}"), number + 1
    return path


def check_free(path: Path) -> None:
    """Refuses a folder that holds something already, but for what a killed start left.

    Raises:
        ConfigError: the path is a file or a folder with files.
    """
    if path.is_dir():
        files = (file for file in path.rglob("*") if file.is_file() and file.name not in _STARTING)
        taken = next(files, None) is not None
    else:
        taken = path.exists()
    if taken:
        raise ConfigError(f"{path} exists already; choose another --out or continue with --resume")


class RunFolder:
    """Files of one run.

    Layout::

        config.yaml        complete configuration, readable by --config; there from the start
        environment.json   versions, device, frozen networks, operator implementations
        metrics.csv        one row every log_every steps
        events.jsonl       what happened besides: skipped steps, checkpoints that failed, stops
        tensorboard/       the same as metrics.csv, as events
        samples/           sample sheets
        checkpoints/       step-NNNNNN folders
        segmenter/         label generator, where the run trained it
        bad-step.json      numbers of the step at which a run gave up
        faults.csv         what is wrong with the data, with dataset.faults skip

    A disk that is full or read-only costs rows and sheets, never the training: each method that
    writes them says what failed, once for each kind, and goes on.

    Args:
        path: the folder; made when missing.
        say: shows a line to the user.
    """

    def __init__(self, path: Path, say: Callable[[str], None] = print) -> None:
        self.path = path
        self.say = say
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"
        self.segmenter = path / "segmenter"
        self._metrics = path / "metrics.csv"
        self._columns: list[str] = []
        self._events: SummaryWriter | None = None
        self._failed: set[str] = set()
        self._lock: IO[str] | None = None
        self.seconds = 0.0
        """Training time before the step that the run goes on from."""

    def begin(self, cfg: TrainConfig) -> None:
        """Makes the folder, or takes over that of a run whose process has ended.

        Raises:
            ConfigError: another process is training there.
            OSError: the folder cannot be written.
        """
        self.samples.mkdir(parents=True, exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        self._take_lock()
        if not (self.path / "config.yaml").is_file():
            self.write_config(cfg)
        tidy(self.checkpoints)

    def write_config(self, cfg: TrainConfig) -> None:
        """Writes config.yaml."""
        _write(self.path / "config.yaml", to_yaml(cfg))

    def start(self, step: int) -> None:
        """Opens the logs; rows of metrics.csv and events after ``step`` are dropped."""
        with self._tolerant("metrics.csv"):
            rows = self._rows()
            self._columns = list(rows[0]) if rows else []
            rows = [row for row in rows if float(row["step"]) <= step]
            self.seconds = float(rows[-1]["seconds"]) if rows else 0.0
            if self._metrics.exists():
                self._rewrite(rows)
        with self._tolerant("tensorboard"):
            self._events = SummaryWriter(self.path / "tensorboard", purge_step=step + 1)

    def write_environment(self, environment: Mapping[str, object]) -> None:
        """Writes environment.json."""
        with self._tolerant("environment.json"):
            _write(self.path / "environment.json", json.dumps(environment, indent=1))

    def log(self, row: Mapping[str, float]) -> None:
        """Appends a row, whose key ``step`` is required, to metrics.csv and TensorBoard."""
        with self._tolerant("metrics.csv"):
            new = [name for name in row if name not in self._columns]
            if new:  # the first row, or a loss whose warm-up has ended
                rows = self._rows()
                self._columns += new
                self._rewrite(rows)
            with self._metrics.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(
                    {k: int(v) if k == "step" else f"{v:.6g}" for k, v in row.items()}
                )
        if self._events is None:
            return
        with self._tolerant("tensorboard"):
            for name, value in row.items():
                if name != "step":
                    self._events.add_scalar(name, value, int(row["step"]))

    def event(
        self, step: int, message: str, level: Literal["info", "warning", "error"] = "warning"
    ) -> None:
        """Shows a message and appends it to events.jsonl."""
        self.say(message)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        entry = {"time": now, "step": step, "level": level, "message": message}
        with (
            self._tolerant("events.jsonl"),
            (self.path / "events.jsonl").open("a", encoding="utf-8") as file,
        ):
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def save_sample(self, sheet: Image.Image, step: int) -> None:
        """Writes a sample sheet."""
        path = self.samples / f"step-{step:06d}.png"
        with self._tolerant("samples"):
            temporary = path.with_name(f".{path.name}")
            sheet.save(temporary, format="PNG")
            os.replace(temporary, path)

    def save_report(self, text: str) -> None:
        """Writes bad-step.json."""
        with self._tolerant("bad-step.json"):
            _write(self.path / "bad-step.json", text)

    def close(self) -> None:
        """Ends the event file and lets other processes use the folder."""
        if self._events is not None:
            with self._tolerant("tensorboard"):
                self._events.close()
        if self._lock is not None:
            self._lock.close()

    @contextlib.contextmanager
    def _tolerant(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if name not in self._failed:
                self._failed.add(name)
                reason = error.strerror or error
                self.say(f"{self.path / name} cannot be written ({reason}); training goes on")

    def _take_lock(self) -> None:
        if fcntl is None:
            return
        # A record lock: it ends with this process however that ends, and, unlike flock's, is not
        # inherited by data-loading processes that outlive it.
        self._lock = (self.path / ".lock").open("w")
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise ConfigError(f"{self.path} is in use: another process trains there") from None
            # Some network disks know no locks.

    def _rows(self) -> list[dict[str, str]]:
        if not self._metrics.exists():
            return []
        lines = self._metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        # A kill may have cut the last row short: 12 of 120 would pass for a row of step 12.
        whole = [line for line in lines if line.endswith("\n")]
        return list(csv.DictReader(whole))

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
