"""The preference study: the page in a browser, its key, and the scores."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecgan.cli import main
from ecgan.errors import ConfigError, DataError
from ecgan.pages import score_answers, write_study
from ecgan.pages.score import table_row, wilson


@pytest.fixture
def study(systems, tmp_path: Path):
    return write_study(*systems, tmp_path / "study.html", questions=8, names=("Ours", "Theirs"))


def answers(path: Path, key: Path, choices: list[str], **changes) -> Path:
    """An answer file: one choice a question; `first` and `second` mean the systems."""
    solution = json.loads(key.read_text())
    other = {"left": "right", "right": "left"}
    rows = []
    for index, choice in enumerate(choices):
        first = solution["questions"][index]["first_is"]
        choice = {"first": first, "second": other[first]}.get(choice, choice)
        rows.append({"question": index, "choice": choice, "seconds": 1.5})
    document = {"format": 1, "kind": "ecgan study answers", "study": solution["study"]}
    document |= {"rater": path.stem, "answers": rows, **changes}
    path.write_text(json.dumps(document))
    return path


def test_sides_are_drawn_and_hidden(systems, study, tmp_path: Path):
    assert (study.questions, study.unpaired) == (8, 2)
    key = json.loads(study.key.read_text())
    assert {question["first_is"] for question in key["questions"]} == {"left", "right"}
    assert len({question["name"] for question in key["questions"]}) == 8
    page = study.page.read_text()
    for word in ("Ours", "Theirs", "ours", "theirs", "first_is", str(tmp_path)):
        assert word not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page).replace("yours", "")
    again = write_study(*systems, tmp_path / "b.html", questions=8, names=("Ours", "Theirs"))
    assert again.key.read_text() == study.key.read_text()
    other = write_study(
        *systems, tmp_path / "c.html", questions=8, names=("Ours", "Theirs"), seed=2
    )
    assert other.key.read_text() != study.key.read_text()


def test_image_names_are_hidden_too(systems, tmp_path: Path):
    for folder in (systems[0] / "images", systems[1]):
        (folder / "3.png").rename(folder / "telling-name.png")
    made = write_study(*systems, tmp_path / "study.html")
    assert made.questions == 12
    assert "telling-name" not in made.page.read_text()
    assert "telling-name" in made.key.read_text()


def colour(browser, side: str) -> tuple[int, int]:
    """Channel (0 red: the first system, 2 blue) and brightness of an image in the browser."""
    pixel = browser.execute_script(
        "const i = document.querySelector(arguments[0]), c = document.createElement('canvas');"
        "const x = c.getContext('2d'); x.drawImage(i, 0, 0);"
        "return [...x.getImageData(5, 5, 1, 1).data]",
        f"#{side} img",
    )[:3]
    return int(np.argmax(pixel)), max(pixel)


def settle(browser) -> None:
    browser.execute_async_script(
        "const done = arguments[0]; Promise.all([...document.querySelectorAll('.choice img')]"
        ".map(i => i.decode())).then(() => setTimeout(done, 200))"
    )


@pytest.mark.parametrize("width", [375, 1280])
def test_a_rater_in_a_browser(study, open_page, tmp_path: Path, width):
    from selenium.webdriver.common.keys import Keys

    browser = open_page(study.page, width, 740)
    browser.execute_script("localStorage.clear()")
    browser.refresh()
    browser.find_element("id", "begin").click()
    seen = []
    for index in range(8):
        settle(browser)
        assert browser.find_element("id", "position").text == f"{index + 1} of 8"
        (left, bright), (right, bright2) = colour(browser, "left"), colour(browser, "right")
        assert {left, right} == {0, 2}
        assert bright == bright2  # the same name on both sides
        seen.append(bright)
        ours = "left" if left == 0 else "right"
        if index == 2:  # by keys, wrongly, and back
            key = {"left": Keys.ARROW_RIGHT, "right": Keys.ARROW_LEFT}[ours]
            browser.find_element("tag name", "body").send_keys(key)
            settle(browser)
            assert browser.find_element("id", "position").text == "4 of 8"
            browser.find_element("id", "back").click()
            settle(browser)
        browser.find_element("id", ours).click()
        if index == 3:  # a reload loses nothing and goes on with the same order
            browser.refresh()
            assert browser.find_element("id", "begin").text == "Go on"
            browser.find_element("id", "begin").click()
        if index == 4:  # stopping early can be undone
            settle(browser)
            browser.find_element("id", "stop").click()
            assert "5 of 8" in browser.find_element("id", "summary").text
            browser.find_element("id", "resume").click()
        size = browser.execute_script(
            "const d = document.documentElement; return [d.scrollWidth, d.scrollHeight]"
        )
        assert size[0] <= width
        assert size[1] <= 740
    assert len(set(seen)) == 8
    assert "all 8 questions" in browser.find_element("id", "summary").text
    browser.find_element("id", "download").click()
    deadline = time.monotonic() + 20
    while not (files := list(tmp_path.glob("answers-*.json"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    score = score_answers(files)
    assert (score.pooled.wins, score.pooled.answers) == (8, 8)
    assert json.loads(files[0].read_text())["complete"] is True
    assert browser.get_log("browser") == []


def test_damaged_storage_starts_anew(study, open_page):
    browser = open_page(study.page)
    place = "ecgan-study-" + json.loads(study.key.read_text())["study"]
    for kept in ("{", '"x"', '{"rater": "a", "order": [0, 0], "answers": []}', "null"):
        browser.execute_script("localStorage.setItem(...arguments)", place, kept)
        browser.refresh()
        assert browser.find_element("id", "begin").text == "Start"
        assert browser.get_log("browser") == []


@pytest.mark.parametrize(
    ("wins", "n", "low", "high"),
    [(0, 10, 0, 0.2775), (8, 10, 0.4902, 0.9433), (10, 10, 0.7225, 1), (81, 263, 0.2553, 0.3662)],
)  # fmt: skip
def test_wilson_against_published_values(wins, n, low, high):
    # The last row is Newcombe's (1998) example, Table I; the others are in any textbook.
    assert wilson(wins, n) == pytest.approx((low, high), abs=5e-5)


def test_scores(study, tmp_path: Path, capsys):
    a = answers(tmp_path / "a.json", study.key, ["first"] * 6 + ["second"] * 2)
    b = answers(tmp_path / "b.json", study.key, ["first"] * 2)
    score = score_answers([a, b])
    assert (score.pooled.wins, score.pooled.answers) == (8, 10)
    assert score.raters[str(b)].share == 1.0
    assert score.spread == pytest.approx(np.std([0.75, 1.0], ddof=1))
    assert table_row(score) == "Ours vs. Theirs: 80.0 ± 22.7"
    left = answers(tmp_path / "l.json", study.key, ["left"] * 8)
    assert score_answers([left]).left.share == 1.0
    assert main(["study", "--score", str(a), str(b), "--key", str(study.key)]) == 0
    printed = capsys.readouterr().out
    for wanted in ("75.0", "80.0", "49.0 to 94.3", "Ours vs. Theirs: 80.0 ± 22.7"):
        assert wanted in printed


def test_the_key_is_found_by_its_study(systems, study, tmp_path: Path):
    write_study(*systems, tmp_path / "another.html", questions=3)
    (tmp_path / "damaged.key.json").write_text("{")
    (tmp_path / "returned").mkdir()
    a = answers(tmp_path / "returned" / "a.json", study.key, ["first"])
    assert score_answers([a]).names == ("Ours", "Theirs")
    study.key.unlink()
    with pytest.raises(DataError, match="no key of study"):
        score_answers([a])


def test_refused_answers(systems, study, tmp_path: Path):
    a = answers(tmp_path / "a.json", study.key, ["first", "second"])
    good = json.loads(a.read_text())["answers"]
    other = write_study(
        *systems, tmp_path / "other.html", questions=8, names=("Ours", "Theirs"), seed=2
    )
    foreign = answers(tmp_path / "f.json", other.key, ["first"])
    same = answers(tmp_path / "s.json", study.key, ["first"], rater="a")
    with pytest.raises(DataError, match=r"f\.json belongs to another study than .*a\.json"):
        score_answers([a, foreign])
    with pytest.raises(DataError, match=r"s\.json and .*a\.json come from the same rater"):
        score_answers([a, same])
    with pytest.raises(DataError, match="same rater"):
        score_answers([a, a])
    with pytest.raises(DataError, match=r"key .*another study"):
        score_answers([a], other.key)
    with pytest.raises(DataError, match="is no key of"):
        score_answers([a], a)
    for name, wrong, message in [
        ("twice", {"answers": good + good[:1]}, "question 0 twice"),
        ("beyond", {"answers": [{"question": 8, "choice": "left"}]}, "question 8: there are 8"),
        ("odd", {"answers": [{"question": 0, "choice": "both"}]}, "'both': expected left or right"),
        ("strange", {"answers": [5]}, "question None"),
        ("empty", {"answers": []}, "holds no answers"),
        ("old", {"format": 0}, "format 0: expected 1"),
    ]:
        path = answers(tmp_path / f"{name}.json", study.key, ["first"], **wrong)
        with pytest.raises(DataError, match=message):
            score_answers([path])
    with pytest.raises(DataError, match="cannot be read"):
        score_answers([tmp_path / "nope.json"])


def test_refused_folders(systems, tmp_path: Path, capsys):
    out = tmp_path / "study.html"
    with pytest.raises(DataError, match="nope is no folder"):
        write_study(tmp_path / "nope", systems[1], out)
    with pytest.raises(ConfigError, match="results of two systems"):
        write_study(systems[1], systems[1], out)
    with pytest.raises(ConfigError, match="at least 1"):
        write_study(*systems, out, questions=0)
    with pytest.raises(ConfigError, match="two different names"):
        write_study(*systems, out, names=("A", "A"))
    with pytest.raises(ConfigError, match="an HTML file"):
        write_study(*systems, tmp_path / "study")
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match="no label map for 0"):
        write_study(*systems, out, labels=tmp_path / "labels")
    image = systems[1] / "4.png"
    image.write_bytes(image.read_bytes()[:60])
    with pytest.raises(DataError, match=r"4\.png cannot be read"):
        write_study(*systems, out)
    Image.new("RGB", (24, 32)).save(image)
    with pytest.raises(DataError, match="images of one shape"):
        write_study(*systems, out)
    assert not list(tmp_path.glob("study*"))
    for arguments in (["study"], ["study", "a"], ["study", "--score", "x", "--out", "y"]):
        assert main(arguments) == 2
        assert capsys.readouterr().err.startswith("ecgan: ")


def test_sizes_are_made_equal_and_label_maps_shown(systems, tmp_path: Path, open_page):
    (tmp_path / "labels").mkdir()
    for index in range(12):
        path = systems[1] / f"{index}.png"
        Image.open(path).resize((64, 48)).save(path)
        ids = Image.fromarray(np.full((24, 32), 255 if index % 2 else 1, np.uint8))
        ids.save(tmp_path / "labels" / f"{index}.png")
    made = write_study(*systems, tmp_path / "study.html", labels=tmp_path / "labels")
    browser = open_page(made.page)
    browser.execute_script("localStorage.clear()")
    browser.refresh()
    browser.find_element("id", "begin").click()
    settle(browser)
    widths = "return [...document.querySelectorAll('main img')].map(i => i.naturalWidth)"
    assert browser.execute_script(widths) == [32, 32, 32]
