"""What the pages say is what the rows say."""

from __future__ import annotations

import copy
import json

import pytest

from benchmarks import tables
from benchmarks.targets import TARGETS

pytestmark = pytest.mark.skipif(not tables.PAGES[0].is_file(), reason="needs the source tree")


@pytest.fixture(scope="module")
def measured():
    return tables.devices()


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda path: path.name)
def test_pages_agree_with_the_rows(page, measured):
    text = page.read_text()
    assert "<!-- table " in text
    assert tables.fill(text, measured) == text, "python -m benchmarks.tables writes it anew"


def test_other_rows_make_other_pages(measured):
    changed = copy.deepcopy(measured)
    for row in changed[0].files["similarity_bce"]["rows"]:
        row["seconds"]["median"] *= 3 if row["implementation"] == "eager" else 1
        row["peak_bytes"] *= 2
    text = tables.PAGES[0].read_text()
    assert tables.fill(text, changed) != text


def test_every_line_has_its_rows(measured):
    cpu = measured[0]
    assert cpu.device == "cpu"
    for name, line in tables.LINES.items():
        assert cpu.row(line), f"{name}: no row of ours"
        if name != "similarity, all pixels":  # 64 GiB a matrix
            assert cpu.row(line, line.eager), f"{name}: no row of eager's"


def test_every_target_on_a_cpu_is_measured_or_excused(measured):
    for target in TARGETS:
        if target.device == "cpu":
            value = target.measure(measured[0])
            assert value is not None, target.work
            met = value >= target.goal if target.at_least else value <= target.goal
            assert met or target.reason, f"{target.work}: {value} misses {target.goal}, unexplained"
        else:
            assert target.reason, target.work


def test_a_line_is_the_row_of_its_case_only():
    def row(**other):
        return {
            "implementation": "cpu",
            "elements": 8192,
            "direction": "both",
            "case": {"temperature": 0.07},
            **other,
        }

    rows = [row(elements=4096), row(direction="forward"), row(case={"temperature": 0.01}), row()]
    device = tables.Measured("cpu", {"pixel_contrast": {"rows": rows}})
    assert device.row(tables.LINES["contrast"]) is rows[3]
    assert device.row(tables.LINES["contrast"], "eager") is None
    assert device.row(tables.LINES["contrast"], direction="forward") is rows[1]


@pytest.mark.parametrize(
    ("value", "text"), [(12.34, "12.3 s"), (0.05, "50 ms"), (2e-5, "20 µs"), (3e-9, "3 ns")]
)
def test_seconds(value, text):
    assert tables.seconds(value) == text


def test_rows_hold_what_a_reader_needs(measured):
    for device in measured:
        for name, content in device.files.items():
            facts = content["environment"]
            assert {"device", "torch", "commit", "date"} <= facts.keys(), name
            assert json.dumps(content)
