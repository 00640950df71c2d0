"""``ecgan check-data``: every fault of a data set in one table."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecgan.cli import main
from ecgan.data.faults import COLUMNS, KINDS, MEANING


@pytest.fixture
def run(capsys):
    """Runs the command; status, standard output and the one sentence on standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = main(["check-data", *map(str, arguments)])
        printed = capsys.readouterr()
        assert printed.err.count("\n") == (status != 0)
        return status, printed.out, printed.err

    return run


@pytest.fixture
def spoiled(pairs_folder: Path) -> Path:
    """Seven faults, at least one of each kind that a file can have."""
    images, labels = pairs_folder / "images", pairs_folder / "labels"
    whole = (images / "pair_0.png").read_bytes()
    (images / "pair_0.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.full((30, 60), 9, np.uint8)).save(labels / "pair_1.png")
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(labels / "pair_2.png")
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(images / "pair_3.bmp")
    (labels / "pair_4.png").rename(labels / 'say "a, b"\nand c.png')
    return pairs_folder


def kinds(rows) -> list[tuple[str, str]]:
    return sorted((row["kind"], row["pair"]) for row in rows)


EXPECTED = [
    ("ambiguous", ""), ("labels", "pair_1"), ("mode", "pair_2"), ("size", "pair_1"),
    ("unpaired", ""), ("unpaired", ""), ("unreadable", "pair_0"),
]  # fmt: skip


def test_a_sound_data_set(run, pairs_folder, tmp_path):
    out = tmp_path / "faults.csv"
    status, text, _ = run("--data", pairs_folder, "--num-classes", 3, "--out", out)
    assert status == 0
    assert "folder layout, 6 pairs decoded (5 train, 1 val) in" in text
    assert "no faults" in text
    # A table without rows takes the place of an older one.
    assert out.read_bytes() == b"kind,split,pair,file,message\r\n"


@pytest.mark.parametrize("workers", [1, 3])
def test_every_fault_is_in_the_table(run, spoiled, tmp_path, workers):
    out = tmp_path / "faults.csv"
    out.write_text("older")
    status, text, error = run(
        "--data", spoiled, "--num_classes=3", "--out", out, "--workers", workers
    )
    assert status == 2
    assert "has 7 faults, in 3 of 4 pairs and 3 files or folders outside of pairs" in error
    assert f"they are listed in {out}" in error
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert kinds(rows) == EXPECTED
    assert all(Path(row["file"]).exists() for row in rows)
    assert all("\n" not in row["message"] for row in rows)
    assert all(row["split"] in ("train", "val") for row in rows)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["faults.csv"]
    for kind in ("ambiguous", "unpaired", "unreadable", "mode", "size", "labels"):
        assert f"{kind} " in text


def test_the_table_as_json(run, spoiled, tmp_path):
    out = tmp_path / "faults.json"
    assert run("--data", spoiled, "--num_classes=3", "--out", out)[0] == 2
    rows = json.loads(out.read_text(encoding="utf-8"))
    assert kinds(rows) == EXPECTED
    assert {Path(row["file"]).name for row in rows} >= {'say "a, b"\nand c.png', "pair_3.png"}


def test_without_a_file_every_fault_is_printed(run, spoiled):
    status, text, error = run("--data", spoiled, "--num_classes=3")
    assert status == 2
    assert "they are listed above" in error
    listed = [line for line in text.splitlines() if line.split(":")[0] in KINDS]
    assert sorted(line.split(":")[0] for line in listed) == [kind for kind, _ in EXPECTED]
    assert any("class id 9 out of range: expected 0..2 or 255" in line for line in listed)


def test_names_that_are_no_text_reach_both_tables(run, pairs_folder, tmp_path):
    os.link(pairs_folder / "images" / "pair_0.png", os.fsencode(pairs_folder) + b"/images/\xff.png")
    for suffix in ("csv", "json"):
        out = tmp_path / f"faults.{suffix}"
        assert run("--data", pairs_folder, "--num_classes=3", "--out", out)[0] == 2
        assert "\\udcff.png" in out.read_text(encoding="utf-8")
    (row,) = json.loads(out.read_text(encoding="utf-8"))
    assert os.path.exists(row["file"])


def test_broken_classes_and_empty_folders_do_not_end_the_search(run, pairs_folder, tmp_path):
    (pairs_folder / "classes.json").write_text("{")
    (pairs_folder / "labels" / "pair_5.png").write_bytes(b"")
    val = pairs_folder / "val" / "images"
    val.mkdir(parents=True)
    out = tmp_path / "faults.json"
    _, text, _ = run("--data", pairs_folder, "--out", out)
    rows = json.loads(out.read_text())
    assert [(row["kind"], row["split"]) for row in rows] == [
        ("classes", ""), ("folder", "val"), ("folder", "val"), ("unreadable", "train"),
    ]  # fmt: skip
    assert "6 pairs decoded (6 train, 0 val)" in text
    # Ids are not compared where no one knows them, and are where the number is given.
    Image.fromarray(np.full((40, 60), 77, np.uint8)).save(pairs_folder / "labels" / "pair_4.png")
    for arguments, count in ((), 4), (("--num_classes", 3), 5):
        run("--data", pairs_folder, "--out", out, *arguments)
        assert len(json.loads(out.read_text())) == count
    run("--data", pairs_folder, "--out", out, "--split", "val")
    assert [row["kind"] for row in json.loads(out.read_text())] == ["classes", "folder", "folder"]


def test_instance_maps_are_wanted_where_asked_for(run, pairs_folder, tmp_path):
    out = tmp_path / "faults.csv"
    arguments = ("--data", pairs_folder, "--num_classes=3", "--out", out)
    assert run(*arguments)[0] == 0
    assert run(*arguments, "--instance-edges=true")[0] == 2
    assert "instance maps are needed" in out.read_text()
    (pairs_folder / "instances").mkdir()
    for index in range(6):
        Image.fromarray(np.zeros((40, 60 + (index == 2)), np.uint16)).save(
            pairs_folder / "instances" / f"pair_{index}.png"
        )
    assert run(*arguments, "--instance-edges=true")[0] == 2
    (row,) = csv.DictReader(out.open(newline=""))
    assert (row["kind"], row["pair"]) == ("size", "pair_2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: --data"),
        (["--data", "nowhere"], "nowhere does not exist: expected the folder of a data set"),
        (["--data", "scenes", "--format", "scenes"], "'scenes' (choose from"),
        (["--data", "."], "holds no known data set"),
        (["--data", "pairs"], "no classes.json: set --num_classes or add the file"),
        (["--data", "pairs", "--num_classes", "-1"], "--num_classes must be at least 0, not -1"),
        (["--data", "pairs", "--num_classes", "many"], "invalid int value: 'many'"),
        (["--data", "pairs", "--workers", "-2"], "--workers must be at least 0, not -2"),
        (["--data", "pairs", "--out", "faults.txt"], "faults.txt must end in .csv or .json"),
        (["--data", "pairs", "--out", "no/faults.csv"], "lies in no, which does not exist"),
        (["--data", "pairs", "--split", "test"], "'test' (choose from"),
    ],
)  # fmt: skip
def test_wrong_arguments(run, pairs_folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, text, error = run(*arguments)
    assert (status, text) == (2, "")
    assert message in error


def test_a_table_that_cannot_be_written_is_told(run, pairs_folder, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    status, _, error = run("--data", pairs_folder, "--num_classes=3", "--out", tmp_path / "f.csv")
    assert status == 2
    assert "f.csv cannot be written: No space left on device" in error
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["check-data", "--help"])
    assert stop.value.code == 0
    assert "table of every fault, .csv or .json" in capsys.readouterr().out


def test_every_kind_is_explained():
    assert set(MEANING) == set(KINDS)


def test_real_pairs_are_sound(run, test_data):
    assert run("--data", test_data("coco_stuff"), "--instance_edges=true")[0] == 0
    assert run("--data", test_data("facades"))[0] == 0
