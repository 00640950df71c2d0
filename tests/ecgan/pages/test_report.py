"""The report of a run: what it tells, what it survives, and how it behaves in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecgan.cli import main
from ecgan.errors import DataError
from ecgan.pages import write_report
from ecgan.pages.report import MAX_POINTS, MAX_SHEETS

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"


def data_of(page: Path) -> dict:
    text = page.read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_numbers_of_a_run(run_folder: Path):
    page = write_report(run_folder)
    assert page == run_folder / "report.html"
    assert not list(run_folder.glob(".*"))
    data = data_of(page)
    assert data["step"] == list(range(10, 201, 10))
    series = {entry["name"]: entry for entry in data["series"]}
    assert series["gan"]["mean"][0] == 0.1
    assert series["d_image"]["group"] == "Discriminator"
    text = page.read_text()
    for wanted in ("200 of 200", "1.20 GiB", "10 min 00 s", "B4", "2.13.0", "256x256"):
        assert wanted in text
    assert 'id="warnings"' not in text


def test_a_page_is_whole(run_folder: Path):
    """No address but those of the images inside."""
    text = write_report(run_folder).read_text()
    assert set(re.findall(r"https?://[^\"'\s]+", text)) == {"http://www.w3.org/2000/svg"}  # a name
    assert re.findall(r"(?:src|href)=\"(?!data:|#)", text) == []
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in html.unescape(text)


def test_warnings(run_folder: Path):
    metrics = run_folder / "metrics.csv"
    metrics.write_text(metrics.read_text().replace("0.001,4.5,1.15,0", "nan,4.5,1.15,3"))
    events = [
        {"time": "2026-01-01T00:00:00Z", "step": 7, "level": "warning", "message": "it got warm"},
        {"time": "2026-01-01T00:00:00Z", "step": 8, "level": "info", "message": "all is well"},
    ]
    torn = '{"time": "2026-01'
    (run_folder / "events.jsonl").write_text("\n".join([*map(json.dumps, events), torn]))
    text = write_report(run_folder).read_text()
    notes = text[text.index('<ul class="notes">') : text.index("</ul>")]
    assert "Step 7: it got warm" in notes
    assert "all is well" not in notes
    assert "lr_generator is not finite at step 150" in notes
    assert "Skipped steps so far: 3" in notes
    assert "events.jsonl has incomplete lines, which are left out: 1" in notes
    assert data_of(run_folder / "report.html")["series"][2]["mean"][14] is None


def no_metrics(run: Path) -> str:
    (run / "metrics.csv").unlink()
    return "metrics.csv is missing"


def only_a_header(run: Path) -> str:
    (run / "metrics.csv").write_text("step,seconds,gan\n")
    return "metrics.csv holds no row"


def torn_row(run: Path) -> str:
    with (run / "metrics.csv").open("a") as file:
        file.write("210,630,0.0")
    return "last line of metrics.csv is incomplete"


def rows_without_step(run: Path) -> str:
    with (run / "metrics.csv").open("a") as file:
        file.write(",1,2\nx,y\n220,1,2,3,4,5,6,7,8,9\n\0\n")
    return "rows without a step, which are left out"


def binary_metrics(run: Path) -> str:
    (run / "metrics.csv").write_bytes(bytes(range(256)) * 4)
    return "metrics.csv"


def no_environment(run: Path) -> str:
    (run / "environment.json").unlink()
    return "environment.json is missing"


def broken_environment(run: Path) -> str:
    (run / "environment.json").write_text('{"device": ')
    return "environment.json is no valid JSON"


def broken_config(run: Path) -> str:
    (run / "config.yaml").write_text("a: [1\nb: {")
    return "config.yaml is no valid YAML"


def broken_sample(run: Path) -> str:
    (run / "samples" / "step-000080.png").write_bytes(b"no image")
    return "A sample sheet is left out"


def no_samples(run: Path) -> str:
    shutil.rmtree(run / "samples")
    return "No sample sheet yet"


def going_on(run: Path) -> str:
    text = (run / "environment.json").read_text().replace("200", "1000")
    (run / "environment.json").write_text(text)
    return "has done 200 of 1,000 steps"


def alien_evaluation(run: Path) -> str:
    rows = [{"name": "ours", "fid": 12.25}, {"name": "other", "miou": None}]
    (run / "evaluation.json").write_text(json.dumps([1, "two", {"three": rows, "four": [[5, 6]]}]))
    return "12.25"


@pytest.mark.parametrize(
    "spoil",
    [
        no_metrics, only_a_header, torn_row, rows_without_step, binary_metrics, no_environment,
        broken_environment, broken_config, broken_sample, no_samples, going_on, alien_evaluation,
    ],
)  # fmt: skip
def test_a_damaged_or_unfinished_run(run_folder: Path, spoil):
    message = spoil(run_folder)
    page = write_report(run_folder)
    assert message in page.read_text()
    steps = data_of(page)["step"]
    assert 210 not in steps  # a torn row is never believed


def test_many_rows_and_sheets_stay_small(run_folder: Path, monkeypatch):
    monkeypatch.setattr("ecgan.pages.report.SHEETS_BYTES", 1_000_000)
    rows = [f"{step},{step},{step % 10}" for step in range(1, 25_001)]
    rows[12_000] = "12001,12001,1000"
    (run_folder / "metrics.csv").write_text("step,seconds,gan\n" + "\n".join(rows) + "\n")
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    for step in range(201, 261):
        Image.fromarray(noise).save(run_folder / "samples" / f"step-{step:06d}.png")
    page = write_report(run_folder)
    text = page.read_text()
    assert 1_000_000 < len(text) < 1_600_000  # as text a third more, and the curves
    steps = [int(step) for step in re.findall(r'data-step="(\d+)"', text)]
    assert len(steps) == MAX_SHEETS
    assert (steps[0], steps[-1]) == (40, 260)
    (gan,) = data_of(page)["series"]
    assert len(gan["mean"]) <= MAX_POINTS
    assert max(gan["high"]) == 1000  # an outlier is not averaged away
    assert np.mean(gan["mean"]) == pytest.approx(4.5 + 1000 / 25_000, rel=1e-3)


def test_what_is_no_run(tmp_path: Path, capsys):
    with pytest.raises(DataError, match="no run folder"):
        write_report(tmp_path)
    assert main(["report", str(tmp_path / "nope")]) == 2
    assert "nope is no run folder" in capsys.readouterr().err
    assert main(["report"]) == 2


def test_a_place_that_cannot_be_written(run_folder: Path, capsys):
    (run_folder / "file").write_text("")
    assert main(["report", str(run_folder), "--out", str(run_folder / "file" / "x.html")]) == 2
    assert "x.html cannot be written" in capsys.readouterr().err


def test_training_makes_it_and_survives_its_failure(
    tiny_arguments, tmp_path: Path, monkeypatch, capsys
):
    arguments = ["train", *tiny_arguments, "--preset=B1", "--optim.steps=1"]
    assert main([*arguments, f"--out={tmp_path / 'run'}"]) == 0
    assert (tmp_path / "run" / "report.html").is_file()

    def fail(folder: Path) -> None:
        raise RuntimeError("the disk\nis full")

    monkeypatch.setattr("ecgan.pages.write_report", fail)
    capsys.readouterr()
    assert main([*arguments, f"--out={tmp_path / 'run2'}"]) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "report" in line)
    assert line.endswith("the disk is full")
    assert (tmp_path / "run2" / "checkpoints" / "step-000001").is_dir()


def texts(browser, selector: str) -> list[str]:
    return [found.text for found in browser.find_elements("css selector", selector)]


@pytest.mark.parametrize("width", [375, 1280])
def test_in_a_browser(run_folder: Path, open_page, width):
    from selenium.webdriver.common.keys import Keys

    browser = open_page(write_report(run_folder), width)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    loaded = (
        "return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:'))"
    )
    assert browser.execute_script(loaded) == []

    shown = (
        "return [...document.querySelectorAll('.sample:not([hidden])')].map(s => s.dataset.step)"
    )
    assert browser.execute_script(shown) == ["200"]
    browser.find_element("id", "previous").click()
    browser.find_element("id", "slider").send_keys(Keys.ARROW_LEFT)
    assert browser.execute_script(shown) == ["120"]
    assert texts(browser, "#sample-step") == ["120"]
    sizes = "return [...document.querySelectorAll('.sample img')].map(i => i.naturalWidth)"
    assert browser.execute_script(sizes) == [90] * 5

    charts = browser.find_elements("css selector", ".chart svg")
    assert len(charts) == 6
    assert all(chart.find_elements("css selector", "path.smooth") for chart in charts)
    assert texts(browser, ".chart output")[0] == "0.005 · step 200"
    charts[0].send_keys(Keys.HOME)
    assert texts(browser, ".chart output")[0] == "0.1 · step 10"

    path = "return document.querySelector('path.smooth').getAttribute('d')"
    linear = browser.execute_script(path)
    browser.find_element("id", "log").click()
    logarithmic = browser.execute_script(path)
    assert logarithmic != linear
    browser.find_element("id", "smoothing").send_keys(Keys.HOME)
    assert browser.execute_script(path) != logarithmic
    browser.find_element("css selector", "#axis option[value=seconds]").click()
    assert texts(browser, ".chart output")[0] == "0.005 · min 10"
    # The counter of skipped steps has no value above 0 to show on a logarithmic axis.
    assert "no values to show here" in charts[-1].text
    assert browser.get_log("browser") == []


def test_zoom(run_folder: Path, open_page):
    from selenium.webdriver import ActionChains

    browser = open_page(write_report(run_folder))
    chart = browser.find_elements("css selector", ".chart svg")[1]
    actions = ActionChains(browser, duration=50)
    actions.move_to_element(chart).click_and_hold().move_by_offset(80, 0).release().perform()
    label = (
        "return [...document.querySelectorAll('.chart svg')].map(s => s.getAttribute('aria-label'))"
    )
    whole = "D: images: from 1.429 to 28.57, last 28.57"
    zoomed = browser.execute_script(label)
    assert zoomed[1] != whole
    button = browser.find_element("id", "whole")
    assert button.is_enabled()
    button.click()
    restored = browser.execute_script(label)
    assert restored[1] == whole
    assert restored[0] != zoomed[0]  # all charts share the range


def test_hostile_content_stays_text(run_folder: Path, open_page):
    document = {"name": HOSTILE, HOSTILE: [{HOSTILE: HOSTILE}]}
    for name in ("environment.json", "evaluation.json"):
        (run_folder / name).write_text(json.dumps({"steps": 1, "device": HOSTILE, "x": document}))
    (run_folder / "config.yaml").write_text(json.dumps({"preset": HOSTILE, "model": {HOSTILE: 1}}))
    event = {"level": "error", "message": HOSTILE, "step": 1, "time": HOSTILE}
    (run_folder / "events.jsonl").write_text(json.dumps(event) + "\n")
    metrics = run_folder / "metrics.csv"
    metrics.write_text(metrics.read_text().replace("gan", HOSTILE, 1))
    hostile_folder = run_folder.with_name("<img src=x onerror=window.hacked=1>")
    run_folder.rename(hostile_folder)
    browser = open_page(write_report(hostile_folder))
    assert browser.execute_script("return window.hacked") is None
    assert browser.execute_script("return document.scripts.length") == 2
    assert browser.find_element("tag name", "h1").text == hostile_folder.name
    assert HOSTILE in texts(browser, ".chart figcaption span")
    assert browser.get_log("browser") == []


def test_the_policy_refuses_a_foreign_script(run_folder: Path, open_page):
    page = write_report(run_folder)
    foreign = "<script>window.hacked=1</script></body>"
    page.write_text(page.read_text().replace("</body>", foreign))
    browser = open_page(page)
    assert browser.execute_script("return window.hacked") is None
    assert "Content Security Policy" in str(browser.get_log("browser"))
