"""The table of an ablation, and the command that fills it."""

import csv
import json
from pathlib import Path

import pytest

from ecgan.cli import main
from ecgan.errors import DataError
from ecgan.evaluation.ablation import read_ablation, to_csv, to_latex, to_markdown


def number(name: str, value: float | None, unit: str = "%", higher: bool = True, **protocol):
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "higher_is_better": higher,
        "protocol": {"size": "32x64", **protocol},
    }


def write(folder: Path, miou: float, distance: float | None, seconds: float, **protocol):
    folder.mkdir()
    real = {"name": "real photos", "numbers": [number("miou", 70.0, **protocol)]}
    own = {
        "name": folder.name,
        "numbers": [
            number("miou", miou, **protocol),
            number("frechet_efficientnet_lite0", distance, "", False),
        ],
    }
    document = {"systems": [real, own], "table": {"notes": ["10 label maps."]}}
    (folder / "evaluation.json").write_text(json.dumps(document))
    (folder / "metrics.csv").write_text(f"step,seconds\n1,1\n2,{seconds}\n")


@pytest.fixture
def collected(tmp_path: Path):
    values = {
        ("B1", 1): (20, 0.5),
        ("B1", 2): (23, 0.7),
        ("B6", 1): (30, 0.2),
        ("B6", 2): (36, 0.1),
    }
    for (preset, seed), (miou, distance) in values.items():
        write(tmp_path / f"{preset}-{seed}", miou, distance, 60 * seed)
    folders = {key: tmp_path / f"{key[0]}-{key[1]}" for key in values}

    def read():
        return read_ablation(
            {key: folder / "evaluation.json" for key, folder in folders.items()},
            {key: folder / "metrics.csv" for key, folder in folders.items()},
            ["Every row: 2 steps."],
        )

    return read


def test_means_and_deviations_by_hand(collected):
    ablation = collected()
    assert [row.name for row in ablation.rows] == ["B1", "B6", "real photos"]
    first, last, real = ablation.rows
    assert first.cells["miou"].mean == 21.5
    assert first.cells["miou"].deviation == pytest.approx(2.1213203)  # sqrt(2 * 1.5^2 / 1)
    assert last.cells["frechet_efficientnet_lite0"].mean == pytest.approx(0.15)
    assert first.cells["minutes"].mean == 1.5
    assert real.cells["miou"].values == [70.0]
    assert real.cells["miou"].deviation is None


def test_the_three_forms(collected):
    ablation = collected()
    text = to_markdown(ablation)
    assert "| B1 | E + G_i | 21.5 ± 2.1 | 0.6000 ± 0.1414 | 1.5 ± 0.7 |" in text
    assert "mIoU ↑" in text
    assert "↓" in text
    assert "- Every row: 2 steps.\n- Seeds 1, 2: mean and sample standard deviation" in text
    assert text.count("10 label maps.") == 1
    rows = list(csv.DictReader(to_csv(ablation).splitlines()))
    assert float(rows[1]["miou"]) == 33
    assert float(rows[0]["miou_std"]) == pytest.approx(2.1213203)
    assert (rows[0]["seeds"], rows[2]["miou_std"]) == ("1 2", "")
    latex = to_latex(ablation)
    assert r"B1 & E + G\_i & 21.5 $\pm$ 2.1" in latex
    assert latex.count(r"\midrule") == 2


def test_numbers_of_different_protocols_do_not_mix(collected, tmp_path):
    path = tmp_path / "B6-2" / "evaluation.json"
    path.write_text(path.read_text().replace("32x64", "64x64"))
    with pytest.raises(DataError, match=r"B6-2.*under another protocol"):
        collected()


def test_what_could_not_be_measured_is_a_dash(collected, tmp_path):
    for seed in (1, 2):
        path = tmp_path / f"B6-{seed}" / "evaluation.json"
        path.write_text(path.read_text().replace("0.2", "null").replace("0.1", "null"))
    assert "| 33.0 ± 4.2 | – |" in to_markdown(collected())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --out"),
        (["--out=x", "--presets=B7"], "--presets takes different ones of B1,B2"),
        (["--out=x", "--seeds=1,1"], "--seeds takes different numbers"),
        (["--out=x", "--seeds=a"], "--seeds takes different numbers"),
        (["--out=x", "--judge_steps=-1"], "--judge_steps must be at least 0"),
        (["--out=x", "--stepz=1"], "unknown configuration key 'stepz'"),
    ],
)
def test_what_a_user_gets_wrong(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["ablate", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_an_ablation_goes_on_where_it_stopped(tiny_arguments, tmp_path, capfd):
    out = tmp_path / "study"
    command = ["ablate", *tiny_arguments, f"--out={out}", "--limit=2", "--judge_steps=2"]
    assert main([*command, "--presets=B1", "--steps=1"]) == 0
    # A further row reuses the first one's evaluation and both segmenters.
    kept = [out / "judge" / "config.json", out / "evaluations" / "B1-3" / "evaluation.json"]
    before = [path.stat().st_mtime_ns for path in kept]
    assert main([*command, "--presets=B1,B5", "--steps=1"]) == 0
    assert [path.stat().st_mtime_ns for path in kept] == before
    rows = list(csv.DictReader((out / "ablation.csv").read_text().splitlines()))
    assert [row["preset"] for row in rows] == ["B1", "B5", "real photos"]
    assert all(0 <= float(row["miou"]) <= 100 for row in rows)
    assert "B4 + similarity loss" in (out / "ablation.md").read_text()
    assert (out / "ablation.tex").is_file()
    assert main([*command, "--presets=B1", "--steps=2"]) == 2
    assert "holds an ablation with other settings" in capfd.readouterr().err
