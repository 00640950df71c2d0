"""Class names and colours of the data sets that ECGAN is trained on.

Order is the canonical one: class ``i`` of a label tensor is ``NAMES[i]``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgan.data.faults import shown
from ecgan.data.files import read_bytes
from ecgan.data.palette import pascal_palette, with_void
from ecgan.errors import DataError


@dataclass(frozen=True, eq=False)
class ClassTable:
    """The classes of a data set and how its files number them.

    Attributes:
        names: N class names in canonical order.
        colours: uint8 [N, 3], RGB.
        file_ids: the id that each class has in label files, in canonical order.
        void_ids: ids in label files that mean "no class".
    """

    names: tuple[str, ...]
    colours: NDArray[np.uint8]
    file_ids: tuple[int, ...]
    void_ids: tuple[int, ...]

    @cached_property
    def _table(self) -> NDArray[np.int64]:
        table = np.full(max((*self.file_ids, *self.void_ids)) + 1, -1, np.int64)
        table[list(self.void_ids)] = len(self.names)
        table[list(self.file_ids)] = np.arange(len(self.names))
        return table

    def __len__(self) -> int:
        return len(self.names)

    def to_values(self) -> dict[str, Any]:
        """The table as JSON has it; :meth:`from_values` reads it back."""
        return {
            "names": list(self.names),
            "colours": self.colours.tolist(),
            "file_ids": list(self.file_ids),
            "void_ids": list(self.void_ids),
        }

    @classmethod
    def from_values(cls, values: Any) -> ClassTable:
        """Reads what :meth:`to_values` gave.

        Raises:
            ValueError: it is anything else.
        """
        try:
            names = tuple(str(name) for name in values["names"])
            colours = np.array(values["colours"], np.uint8)
            file_ids = tuple(_integer(value) for value in values["file_ids"])
            void_ids = tuple(_integer(value) for value in values["void_ids"])
        except (LookupError, TypeError, OverflowError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        if not names or colours.shape != (len(names), 3) or len(file_ids) != len(names):
            raise ValueError("expected as many names, colours and file_ids, at least one")
        known = {*file_ids, *void_ids}
        if len(set(file_ids)) != len(names) or min(known) < 0 or max(known) > 65535:
            raise ValueError("expected different file_ids and ids from 0 to 65535")
        return cls(names, colours, file_ids, void_ids)

    @property
    def palette(self) -> NDArray[np.uint8]:
        """uint8 [N + 1, 3], void (black) last."""
        return with_void(self.colours)

    @property
    def expected(self) -> str:
        """The ids that a label file may hold, for messages."""
        ids = sorted(self.file_ids)
        contiguous = ids == list(range(ids[0], ids[0] + len(ids)))
        text = f"{ids[0]}..{ids[-1]}" if contiguous else list_values(ids)
        if self.void_ids:
            text += f" or {list_values(self.void_ids)} for void"
        return text

    def canonical(self, raw: NDArray[np.integer]) -> NDArray[np.int64]:
        """File ids to classes 0..N-1 and void N.

        Raises:
            DataError: an id that is neither a class nor void; the message names the ids, not the
                file, which the caller knows.
        """
        if raw.min() >= 0 and raw.max() < len(self._table):
            labels = self._table.take(raw, mode="clip")  # Lets other threads run, too.
            if labels.min() >= 0:
                return labels
        wrong = np.setdiff1d(raw, (*self.file_ids, *self.void_ids))
        raise DataError(
            f"class id{'s' if len(wrong) > 1 else ''} {list_values(wrong)} out of range: "
            f"expected {self.expected}"
        )


def list_values(values: Sequence[int] | NDArray[np.integer], limit: int = 8) -> str:
    """``"3, 5, 9"``, cut after ``limit`` values."""
    text = ", ".join(str(int(value)) for value in values[:limit])
    return text + f" and {len(values) - limit} more" if len(values) > limit else text


def plain_classes(num_classes: int, void_ids: Sequence[int] = (255,)) -> ClassTable:
    """Classes without names: ids 0..N-1, generated colours; void ids below N are classes."""
    return ClassTable(
        names=tuple(f"class {index}" for index in range(num_classes)),
        colours=pascal_palette(num_classes),
        file_ids=tuple(range(num_classes)),
        void_ids=tuple(value for value in void_ids if value >= num_classes),
    )


_MAX_JSON = 16 << 20
"""Bytes of a classes.json: all 65536 ids with long names stay below."""


def read_classes_json(path: Path) -> ClassTable:
    """Reads ``{"classes": [{"id": 0, "name": "sky", "color": [9, 9, 9]}, ...], "ignore_id": 255}``.

    Names and colours may be left out; ``ignore_id`` is an id, a list of ids or null.

    Raises:
        DataError: it is anything else.
    """
    text = read_bytes(path, _MAX_JSON, "a JSON file")
    try:
        content = json.loads(text.decode("utf-8-sig"))
        entries = content["classes"]
        ids = tuple(_integer(entry["id"]) for entry in entries)
        names = tuple(str(entry.get("name", entry["id"])) for entry in entries)
        ignore = content.get("ignore_id", 255)
        void = [] if ignore is None else ignore if isinstance(ignore, list) else [ignore]
        known = set(ids)
        void_ids = tuple(value for value in map(_integer, void) if value not in known)
        colours = pascal_palette(len(entries))
        for index, entry in enumerate(entries):
            if "color" in entry:
                red, green, blue = map(_integer, entry["color"])
                colours[index] = np.array((red, green, blue), np.uint8)
        count = _integer(content.get("num_classes", len(ids)))
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as e:
        reason = " ".join(shown(e).split())[:200]
        raise DataError(
            f'{shown(path)} cannot be used ({type(e).__name__}: {reason}): expected {{"classes": '
            '[{"id": 0, "name": "sky", "color": [128, 128, 128]}, ...], "ignore_id": 255}'
        ) from e
    if not ids or len(set(ids)) != len(ids) or min((*ids, *void_ids)) < 0:
        raise DataError(
            f"{shown(path)} has no, repeated or negative class ids: expected each id once"
        )
    if max((*ids, *void_ids)) > 65535 or count != len(ids):
        raise DataError(
            f"{shown(path)} has {len(ids)} classes, num_classes {count} and ids up to {max(ids)}: "
            "expected equal counts and 16-bit ids"
        )
    return ClassTable(names, colours, ids, void_ids)


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{str(value)[:80]!r} is no integer")
    return value


def _split(text: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in text.split(","))


# Cityscapes' labelIds; 34 is the licence plate, which the annotation files number -1 and which no
# label map holds. It is kept so that the class count is the 35 of the published models.
_CITYSCAPES = """
unlabeled 0 0 0, ego vehicle 0 0 0, rectification border 0 0 0, out of roi 0 0 0, static 0 0 0,
dynamic 111 74 0, ground 81 0 81, road 128 64 128, sidewalk 244 35 232, parking 250 170 160,
rail track 230 150 140, building 70 70 70, wall 102 102 156, fence 190 153 153,
guard rail 180 165 180, bridge 150 100 100, tunnel 150 120 90, pole 153 153 153,
polegroup 153 153 153, traffic light 250 170 30, traffic sign 220 220 0, vegetation 107 142 35,
terrain 152 251 152, sky 70 130 180, person 220 20 60, rider 255 0 0, car 0 0 142, truck 0 0 70,
bus 0 60 100, caravan 0 0 90, trailer 0 0 110, train 0 80 100, motorcycle 0 0 230,
bicycle 119 11 32, license plate 0 0 142
"""

_ADE20K = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person,
earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea,
mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion,
base, box, column, signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace,
refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door, stairway,
river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop, stove,
palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light,
truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane, dirt track,
apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship,
fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket,
waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot,
animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light,
tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock,
flag
"""

_COCO_STUFF = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
street sign, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear,
zebra, giraffe, hat, backpack, umbrella, shoe, eye glasses, handbag, tie, suitcase, frisbee, skis,
snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket,
bottle, plate, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli,
carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, mirror, dining table, window,
desk, toilet, door, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink,
refrigerator, blender, book, clock, vase, scissors, teddy bear, hair drier, toothbrush, hair brush,
banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet,
ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt,
door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog,
food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat,
metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other,
plastic, platform, playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea,
shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table,
tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel,
wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood
"""


def _cityscapes() -> ClassTable:
    entries = [entry.rsplit(" ", 3) for entry in _split(_CITYSCAPES)]
    return ClassTable(
        names=tuple(entry[0] for entry in entries),
        colours=np.array([[int(value) for value in entry[1:]] for entry in entries], np.uint8),
        file_ids=tuple(range(35)),
        void_ids=(255,),
    )


CITYSCAPES = _cityscapes()
"""35 labelIds; 255 is void."""

ADE20K = ClassTable(_split(_ADE20K), pascal_palette(150), tuple(range(1, 151)), (0,))
"""150 classes, 1..150 in the files, where 0 is "other": here 0..149 and void."""

COCO_STUFF = ClassTable(_split(_COCO_STUFF), pascal_palette(182), tuple(range(182)), (255,))
"""182 ids, of which COCO-Stuff uses 171; 255 is void."""
