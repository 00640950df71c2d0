from __future__ import annotations

import numpy as np
import pytest

from ecgan.demo.painting import Painting
from ecgan.errors import DataError

VALUE = {"labels": "0 4 2 2", "region": "0 5 1 1"}


def test_text_form():
    painting = Painting.decode(VALUE, (2, 3), 3)
    assert painting.labels.tolist() == [[0, 0, 0], [0, 2, 2]]
    assert painting.region.tolist() == [[False, False, False], [False, False, True]]
    assert painting.encode() == VALUE


def test_round_trip_of_noise():
    rng = np.random.default_rng(0)
    painting = Painting(rng.integers(0, 183, (37, 53)), rng.random((37, 53)) < 0.5)
    again = Painting.decode(painting.encode(), (37, 53), 183)
    assert (again.labels == painting.labels).all()
    assert (again.region == painting.region).all()


@pytest.mark.parametrize(
    "labels",
    [
        None,
        7,
        "",
        "0",
        "0 6 1",
        "0 5",
        "0 7",
        "0 -1 0 7",
        "0 0 0 6",
        "3 6",
        "-1 6",
        "0 6.0",
        "0 ٦",
        "0 6 ",
        "0x0 6",
        "nan 6",
        "0 " + "9" * 40,
        # Sums that wrap around to 6.
        "0 9223372036854775807 0 9223372036854775807 0 8",
        "0 1 " * 30 + "0 1",
    ],
)
def test_made_up_values_are_refused(labels):
    with pytest.raises(DataError, match=r"^the page sent "):
        Painting.decode({**VALUE, "labels": labels}, (2, 3), 3)
    with pytest.raises(DataError, match=r"^the page sent "):
        Painting.decode({**VALUE, "region": labels}, (2, 3), 3)


@pytest.mark.parametrize("value", [None, [], "0 6", 3, {}])
def test_no_painting_at_all(value):
    with pytest.raises(DataError, match="no label map of 2x3 pixels"):
        Painting.decode(value, (2, 3), 3)
