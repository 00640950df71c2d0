import csv
from pathlib import Path

import pytest

from ecgan.errors import ConfigError
from ecgan.training.run_folder import RunFolder, check_free, default_run_folder


def rows(run: RunFolder) -> list[dict[str, str]]:
    with (run.path / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def started(path: Path, step: int = 0) -> RunFolder:
    run = RunFolder(path)
    run.start(step)
    return run


def test_rows_and_late_columns(tmp_path: Path):
    run = started(tmp_path / "run")
    run.log({"step": 10, "seconds": 1.5, "gan": 0.25})
    run.log({"step": 20, "seconds": 3.0, "gan": 0.5, "contrast": 2.0})
    run.close()
    assert rows(run) == [
        {"step": "10", "seconds": "1.5", "gan": "0.25", "contrast": ""},
        {"step": "20", "seconds": "3", "gan": "0.5", "contrast": "2"},
    ]
    assert any((run.path / "tensorboard").iterdir())


def test_going_on_drops_later_rows(tmp_path: Path):
    run = started(tmp_path)
    for step in (1, 2, 3):
        run.log({"step": step, "seconds": 10.0 * step})
    run.close()
    run = started(tmp_path, step=2)
    assert run.seconds == 20
    run.log({"step": 3, "seconds": 35.0})
    run.close()
    assert [(r["step"], r["seconds"]) for r in rows(run)] == [("1", "10"), ("2", "20"), ("3", "35")]


def test_opening_alone_drops_nothing(tmp_path: Path):
    run = started(tmp_path)
    run.log({"step": 1, "seconds": 1.0})
    run.close()
    assert len(rows(RunFolder(tmp_path))) == 1


def test_large_steps_stay_whole(tmp_path: Path):
    run = started(tmp_path)
    run.log({"step": 1234567, "seconds": 1.0})
    run.close()
    assert rows(run)[0]["step"] == "1234567"


def test_a_folder_in_use_is_refused(tmp_path: Path):
    check_free(tmp_path)
    check_free(tmp_path / "new")
    (tmp_path / "file").write_text("x")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(ConfigError, match="exists already"):
            check_free(taken)


def test_default_names_are_free(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = default_run_folder("some/where/camvid/", "B6")
    assert first.parts[0] == "runs"
    assert first.name.startswith("camvid-B6-")
    first.mkdir(parents=True)
    assert not default_run_folder("some/where/camvid", "B6").exists()
