import json
from pathlib import Path

import numpy as np
import pytest

from ecgan.config import DatasetConfig
from ecgan.data import build_dataset
from ecgan.data.classes import ADE20K, CITYSCAPES, COCO_STUFF, plain_classes
from ecgan.data.formats import find_root, recognise
from ecgan.errors import ConfigError, DataError

SIZE = (12, 16)
PHOTO = np.full((12, 16, 3), 90, np.uint8)


def build(root, split="train", strict=True, **settings):
    return build_dataset(DatasetConfig(**settings), str(root), SIZE, split, strict=strict)


def test_folder_with_splits_and_classes(tmp_path: Path, pairs):
    pairs(tmp_path / "train", ["b", "a", "sub dir/ä 東"])
    pairs(tmp_path / "val", ["v"])
    (tmp_path / "classes.json").write_text(
        json.dumps(
            {
                "num_classes": 5,
                "ignore_id": 255,
                "classes": [{"id": i, "name": f"n{i}", "color": [i, 2, 3]} for i in range(5)],
            }
        )
    )
    data = build(tmp_path)
    assert [data[i]["name"] for i in range(3)] == ["a", "b", "sub dir/ä 東"]
    assert (data.num_classes, data.class_names) == (5, ["n0", "n1", "n2", "n3", "n4"])
    assert data.palette.tolist() == [[i, 2, 3] for i in range(5)] + [[0, 0, 0]]
    assert data.name == tmp_path.name
    assert [item["name"] for item in build(tmp_path, "val")] == ["v"]


def test_class_ids_of_classes_json_may_be_any(tmp_path: Path, save):
    save(tmp_path / "images" / "a.png", PHOTO)
    raw = np.full((12, 16), 7, np.uint8)
    raw[:6] = 30
    raw[0] = 200
    save(tmp_path / "labels" / "a.png", raw)
    classes = {"classes": [{"id": 30, "name": "x"}, {"id": 7}], "ignore_id": [200, 201]}
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    data = build(tmp_path, "val")
    assert data[0]["labels"][:, 0].tolist() == [2] + [0] * 5 + [1] * 6
    assert data.class_names == ["x", "7"]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"classes": 3}',
        '{"classes": []}',
        '{"classes": [{"name": "x"}]}',
        '{"classes": [{"id": 0}, {"id": 0}]}',
        '{"classes": [{"id": -1}]}',
        '{"classes": [{"id": 99999999}]}',
        '{"classes": [{"id": 0, "color": [300, 0, 0]}]}',
        '{"classes": [{"id": 0}], "num_classes": 2}',
        '{"classes": [{"id": 0}], "num_classes": "1"}',
        '{"classes": [{"id": 0.5}]}',
        '{"classes": [{"id": true}]}',
        '{"classes": [{"id": "0"}]}',
        '{"classes": [{"id": 1e999}]}',
        '{"classes": [{"id": 0, "color": [1, 2]}]}',
        '{"classes": [{"id": 0, "color": [1.5, 0, 0]}]}',
        '{"classes": [{"id": 0, "color": "#ff0000"}]}',
        '{"classes": [{"id": 0}], "ignore_id": [[255]]}',
        '{"classes": [{"id": ' + "9" * 5000 + "}]}",
        '{"classes": ' + "[" * 100_000 + "]" * 100_000 + "}",
        b'{"classes": "\xff\xfe"}',
        b"",
    ],
)
def test_broken_classes_json(tmp_path: Path, pairs, content):
    pairs(tmp_path)
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "classes.json").write_bytes(content)
    with pytest.raises(DataError, match=r"classes\.json .*(expected|it is empty)") as caught:
        build(tmp_path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_a_huge_classes_json_is_not_read(tmp_path: Path, pairs):
    pairs(tmp_path)
    with (tmp_path / "classes.json").open("wb") as file:
        file.truncate(1 << 40)  # Takes no room on disk.
    with pytest.raises(DataError, match=r"classes\.json has 1,099,511,627,776 bytes: expected at"):
        build(tmp_path)


@pytest.mark.timeout(20)
def test_many_classes_and_void_ids_are_read_at_once(tmp_path: Path, pairs):
    pairs(tmp_path)
    content = {"classes": [{"id": i} for i in range(65_536)], "ignore_id": [65_535] * 65_536}
    (tmp_path / "classes.json").write_text("\ufeff" + json.dumps(content))  # As Windows writes it.
    assert build(tmp_path).num_classes == 65_536


def test_num_classes_is_needed_or_must_agree(tmp_path: Path, pairs):
    pairs(tmp_path)
    with pytest.raises(ConfigError, match=r"no classes\.json: set dataset\.num_classes"):
        build(tmp_path)
    data = build(tmp_path, num_classes=5)
    assert data.num_classes == 5
    assert len(np.unique(data.palette, axis=0)) == 6
    (tmp_path / "classes.json").write_text('{"classes": [{"id": 0}]}')
    with pytest.raises(ConfigError, match=r"num_classes is 5, but .* has 1 classes"):
        build(tmp_path, num_classes=5)
    with pytest.raises(ConfigError, match="num_classes is 5, but scenes has 12"):
        build("scenes", num_classes=5)


def test_folder_without_split_holds_a_tenth_out(tmp_path: Path, pairs):
    names = pairs(tmp_path, [f"p{i:02d}" for i in range(25)])
    train = {item["name"] for item in build(tmp_path, num_classes=5)}
    val = {item["name"] for item in build(tmp_path, "val", num_classes=5)}
    assert len(val) == 2
    assert train | val == set(names)
    assert not train & val


def test_folder_with_train_only_holds_out_of_it(tmp_path: Path, pairs):
    pairs(tmp_path / "train", [f"p{i}" for i in range(4)])
    assert len(build(tmp_path, num_classes=5)) == 3
    assert len(build(tmp_path, "val", num_classes=5)) == 1


def test_single_pair_serves_both_splits(tmp_path: Path, pairs):
    pairs(tmp_path, ["only"])
    assert [len(build(tmp_path, split, num_classes=5)) for split in ("train", "val")] == [1, 1]


def write_cityscapes(root, save, city="aachen", frame="000000_000019", split="train"):
    base = f"{split}/{city}/{city}_{frame}"
    save(root / "leftImg8bit" / f"{base}_leftImg8bit.png", PHOTO)
    labels = np.full((12, 16), 7, np.uint8)
    labels[0], labels[1], labels[2] = 255, 34, 0
    save(root / "gtFine" / f"{base}_gtFine_labelIds.png", labels)
    save(root / "gtFine" / f"{base}_gtFine_color.png", PHOTO)
    instances = np.full((12, 16), 26001, np.uint16)
    # Differs in the high byte alone: 26001 = 0x6591, 0x6691.
    instances[:, 8:] = 26001 + 256
    save(root / "gtFine" / f"{base}_gtFine_instanceIds.png", instances)


def test_cityscapes(tmp_path: Path, save):
    write_cityscapes(tmp_path, save)
    write_cityscapes(tmp_path, save, "zürich")
    write_cityscapes(tmp_path, save, split="val")
    data = build(tmp_path, instance_edges=True, flip=False)
    data.validate()
    assert len(data) == 2
    assert data.num_classes == 35
    item = data[0]
    assert item["name"] == "aachen/aachen_000000_000019"
    assert item["labels"][:4, 0].tolist() == [35, 34, 0, 7]
    assert item["instance_edges"].shape == (1, 12, 16)
    assert item["instance_edges"][0, 5].tolist() == [0] * 7 + [1, 1] + [0] * 7
    assert data.class_names[7] == "road"
    assert data.palette[26].tolist() == [0, 0, 142]


@pytest.mark.parametrize("name", ["aachen_000000_000019_leftImg8bit", "aachen_000000_000019"])
def test_cityscapes_edges_are_paired_by_name(tmp_path: Path, save, name):
    write_cityscapes(tmp_path, save)
    edges = np.zeros((12, 16), np.uint8)
    edges[3] = 255
    save(tmp_path / "edge" / "train" / "aachen" / f"{name}.png", edges)
    item = build(tmp_path, flip=False)[0]
    assert item["edge"][0, :, 0].tolist() == [-1.0] * 3 + [1.0] + [-1.0] * 8


@pytest.mark.parametrize("inner", ["", "ADEChallengeData2016"])
def test_ade20k(tmp_path: Path, save, inner):
    for part, short in (("training", "train"), ("validation", "val")):
        save(tmp_path / inner / "images" / part / f"ADE_{short}_00000001.jpg", PHOTO)
        labels = np.zeros((12, 16), np.uint8)
        labels[1], labels[2] = 1, 150
        save(tmp_path / inner / "annotations" / part / f"ADE_{short}_00000001.png", labels)
    data = build(tmp_path, "val")
    assert data[0]["labels"][:3, 0].tolist() == [150, 0, 149]
    assert data[0]["name"] == "ADE_val_00000001"
    assert (data.num_classes, data.class_names[0], data.class_names[149]) == (150, "wall", "flag")
    assert build(tmp_path)[0]["name"] == "ADE_train_00000001"
    with pytest.raises(DataError, match="none in ADE20K"):
        build(tmp_path, instance_edges=True)


def test_coco_stuff(tmp_path: Path, save):
    labels = np.zeros((12, 16), np.uint8)
    labels[1], labels[2] = 181, 255
    instances = np.arange(192, dtype=np.uint8).reshape(12, 16) // 48
    for part in ("train_{}", "train_{}_portrait", "val_{}"):
        for role, array in (("img", PHOTO), ("label", labels), ("inst", instances)):
            suffix = "jpg" if role == "img" else "png"
            save(tmp_path / part.format(role) / f"000000000009.{suffix}", array)
    data = build(tmp_path, instance_edges=True)
    data.validate()
    assert [item["name"] for item in data] == ["000000000009", "portrait/000000000009"]
    assert data[0]["labels"][:3, 0].tolist() == [0, 181, 182]
    assert data[0]["instance_edges"][0, :, 0].tolist() == [0, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 0]
    assert len(build(tmp_path, "val")) == 1
    assert (data.num_classes, data.class_names[0], data.class_names[181]) == (182, "person", "wood")


def test_tables_are_whole():
    for table, count in ((CITYSCAPES, 35), (ADE20K, 150), (COCO_STUFF, 182)):
        assert len(table.names) == len(table.colours) == len(table.file_ids) == count
        assert all(name and name == name.strip() for name in table.names)
        assert table.palette[-1].tolist() == [0, 0, 0]
    assert plain_classes(300).void_ids == ()
    assert plain_classes(300).canonical(np.array([255, 299])).tolist() == [255, 299]


def test_recognition_lists_what_it_looked_for(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError) as caught:
        recognise(tmp_path)
    for word in ("leftImg8bit+gtFine", "annotations/training", "train_img+train_label",
                 "images+labels", "(folder)", str(tmp_path)):  # fmt: skip
        assert word in str(caught.value)


def test_root_must_be_a_folder(tmp_path: Path):
    with pytest.raises(DataError, match="nowhere does not exist: expected the folder"):
        find_root(str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        find_root(str(tmp_path / "file"))


def test_named_format_without_its_folders(tmp_path: Path):
    with pytest.raises(DataError, match="leftImg8bit/train does not exist"):
        build(tmp_path, format="cityscapes")


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("labels/b.png", r"image .*images/b\.png has no label map: expected .*labels/b\.png"),
        ("images/b.png", r"label map .*labels/b\.png has no image: expected .*images/b\.\*"),
    ],
)
def test_unpaired_files(tmp_path: Path, pairs, gone, message):
    pairs(tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(DataError, match=message):
        build(tmp_path, num_classes=5)
    lenient = build(tmp_path, num_classes=5, strict=False)
    assert [fault.kind for fault in lenient.faults()] == ["unpaired"]
    with pytest.raises(DataError, match=message):
        lenient.validate()


def test_order_never_pairs(tmp_path: Path, pairs):
    pairs(tmp_path)
    (tmp_path / "labels" / "b.png").rename(tmp_path / "labels" / "b2.png")
    data = build(tmp_path, num_classes=5, strict=False)
    assert {fault.file.name for fault in data.faults()} == {"b.png", "b2.png"}
    assert all(pair.image.stem == pair.labels.stem for pair in data.source.pairs)


@pytest.mark.parametrize("role", ["instances", "edges"])
def test_incomplete_extra_maps(tmp_path: Path, pairs, save, role):
    pairs(tmp_path)
    for name in ("a", "c"):
        save(tmp_path / role / f"{name}.png", np.zeros((12, 16), np.uint8))
    with pytest.raises(DataError, match=rf"b\.png has no {role[:4]}\w* map"):
        build(tmp_path, num_classes=5, instance_edges=True) if role == "instances" else build(
            tmp_path, num_classes=5
        )


def test_missing_instances_folder(tmp_path: Path, pairs):
    pairs(tmp_path)
    with pytest.raises(DataError, match=r"dataset\.instance_edges, but there is no folder"):
        build(tmp_path, num_classes=5, instance_edges=True)


def test_two_files_of_one_name_and_lossy_labels(tmp_path: Path, pairs, save):
    pairs(tmp_path)
    save(tmp_path / "images" / "a.jpg", PHOTO)
    with pytest.raises(DataError, match=r"a\.png has the same name as a\.jpg"):
        build(tmp_path, num_classes=5)
    (tmp_path / "images" / "a.jpg").unlink()
    (tmp_path / "labels" / "b.png").unlink()
    save(tmp_path / "labels" / "b.jpg", np.zeros((12, 16), np.uint8))
    with pytest.raises(DataError, match=r"b\.jpg is in a lossy format: expected one of \.png"):
        build(tmp_path, num_classes=5)


@pytest.mark.parametrize("empty", ["images", "labels"])
def test_empty_folders(tmp_path: Path, pairs, empty):
    pairs(tmp_path)
    for file in (tmp_path / empty).iterdir():
        file.unlink()
    (tmp_path / empty / ".hidden.png").write_text("")
    (tmp_path / empty / "notes.txt").write_text("")
    with pytest.raises(DataError, match=f"{empty} is empty: expected images"):
        build(tmp_path, num_classes=5)
