from pathlib import Path

import pytest
import yaml

from ecgan.config import SegmenterTrainConfig, TrainConfig, parse_size, preset_values
from ecgan.errors import ConfigError
from ecgan.training.settings import (
    check_keys,
    compose,
    load_config,
    read_file,
    read_recipe,
    recipe_names,
    to_yaml,
)


def test_presets_add_components_one_by_one():
    on = [sum(map(bool, preset_values(p).values())) for p in ("B1", "B2", "B3", "B4", "B5", "B6")]
    assert on == [0, 1, 2, 3, 4, 7]


def test_the_last_preset_is_the_default():
    assert compose([{"preset": "B6"}], TrainConfig) == TrainConfig()


@pytest.mark.parametrize(("text", "size"), [("256x512", (256, 512)), (" 8X16 ", (8, 16))])
def test_size(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "256", "0x4", "-1x4", "256*512", "256x512x3", "1.5x2"])
def test_bad_size(text):
    with pytest.raises(ConfigError, match="HEIGHTxWIDTH"):
        parse_size(text)


def test_later_layers_are_stronger():
    recipe = {"optim.lr": 0.1, "optim.steps": 5, "size": "32x32"}
    cfg = compose([recipe, {"optim.lr": 0.2}, {"size": "64x64"}], TrainConfig)
    assert (cfg.optim.lr, cfg.optim.steps, cfg.size) == (0.2, 5, "64x64")
    assert cfg.optim.beta2 == TrainConfig().optim.beta2


def test_a_preset_yields_to_the_keys_beside_it():
    cfg = compose([{"preset": "B4", "model.edge_transfer": False}], TrainConfig)
    assert not cfg.model.edge_transfer
    assert cfg.model.semantic_preserving
    assert cfg.loss.similarity == 0


def test_a_later_preset_holds_against_a_complete_file():
    complete = {"preset": "B6", "model.class_branch": True, "loss.contrast": 1.0}
    cfg = compose([complete, {"preset": "B2"}], TrainConfig)
    assert cfg.model.edge_branch
    assert not cfg.model.class_branch
    assert cfg.loss.contrast == 0


def test_yaml_round_trip(tmp_path: Path):
    cfg = compose([read_recipe("quickstart"), {"data": "späße", "preset": "B3"}], TrainConfig)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(cfg), encoding="utf-8")
    assert load_config(path) == cfg


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_sound(name):
    cfg = compose([read_recipe(name)], TrainConfig)
    assert min(parse_size(cfg.size)) >= 96
    assert cfg.preset == "B6"


def test_the_recipes():
    assert recipe_names() == ["ade20k", "cityscapes", "coco_stuff", "quickstart"]
    with pytest.raises(ConfigError, match=r"recipe 'nope'.*quickstart"):
        read_recipe("nope")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {stepz: 3}", r"unknown configuration key 'optim.stepz' in .*did you mean.*optim"),
        ("steps: 3", r"unknown configuration key 'steps' .*optim.steps"),
        ("optim: {steps: many}", r'"optim.steps": expected int, got many'),
        ("preset: B7", r"preset.*B1.*got B7"),
        ("optim: 3", r"'optim' is a group"),
        ("size: [", "no valid YAML"),
        ("- 1", "must hold keys and values"),
    ],
)
def test_a_faulty_file_is_named(tmp_path: Path, text, message):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        read_file(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nope\.yaml cannot be read"):
        read_file(tmp_path / "nope.yaml")


def test_keys_of_the_segmenter_are_its_own():
    check_keys(["steps", "dataset.edges.low"], SegmenterTrainConfig, "here")
    with pytest.raises(ConfigError, match=r"'optim.steps' in here; did you mean steps"):
        check_keys(["optim.steps"], SegmenterTrainConfig, "here")


def test_files_hold_no_python_objects(tmp_path: Path):
    path = tmp_path / "evil.yaml"
    path.write_text("data: !!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="no valid YAML"):
        read_file(path)
    assert yaml.safe_load(to_yaml(TrainConfig()))["preset"] == "B6"
