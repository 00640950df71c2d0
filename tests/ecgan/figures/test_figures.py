"""The paper's figures: that they show what they say, and what they say where they cannot."""

from __future__ import annotations

import dataclasses
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ecgan.cli import main
from ecgan.config import TrainConfig
from ecgan.data import colorize
from ecgan.errors import ConfigError, DataError
from ecgan.figures import FIGURES, draw_figures
from ecgan.figures.canvas import Panel, Scale, Sheet, draw, save
from ecgan.figures.catalogue import MissingError
from ecgan.models import Layout


class Seer(nn.Module):
    """A label generator whose answer is the class of the photo's brightness; 4 times smaller."""

    def forward(self, image):
        level = ((image.mean(1, keepdim=True) + 1) * 6).clamp(0, 11)
        small = nn.functional.avg_pool2d(level, 4)
        return -(small - torch.arange(12.0).view(1, 12, 1, 1)).abs()


def titled(sheet: Sheet, title: str) -> list[Panel]:
    column = sheet.titles.index(title)
    return [row[column] for row in sheet.rows]


def test_material_is_what_the_generator_makes(material, make_generator, scenes):
    made, generator = material.pairs[1], make_generator()
    item = next(i for i in scenes if i["name"] == made.name)
    with torch.inference_mode():
        out = generator(Layout(item["labels"][None], 12), inspect=True)
    edge, raw = out.edge[0], out.raw_image[0]
    assert out.image[0].abs().max() > 1
    # Equation 1: I' - I'_i = sigmoid(I'_e) I'_i.
    expected = (edge.sigmoid() * raw).abs().mean(0).numpy()
    np.testing.assert_allclose(made.change, expected, atol=1e-5)
    assert len(made.attention) == 4
    np.testing.assert_allclose(made.attention[0], edge.sigmoid().mean(0).numpy(), atol=1e-6)
    np.testing.assert_allclose(
        made.attention[3], out.edge_features[2][0].sigmoid().mean(0).numpy(), atol=1e-6
    )
    shown = ((out.refined[0].clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(made.refined, shown.astype(np.uint8))
    assert not np.array_equal(made.image, made.raw)
    assert made.final is made.refined


def test_features_finds_the_channel_of_a_class(material):
    pairs = []
    for made in material.pairs:
        preserved = np.random.default_rng(0).normal(0, 1, made.preserved.shape)
        preserved[5] = np.where(made.labels == 3, 2.0, -1.0)
        preserved[9] = np.where(made.labels == 3, -9.0, 1.0)  # the opposite does not stand out
        pairs.append(dataclasses.replace(made, preserved=preserved.astype(np.float32)))
    planted = dataclasses.replace(material, pairs=pairs, chosen=[3])
    name = material.classes.names[3]
    sheet = FIGURES["features"].lay_out(planted)
    for panel, made in zip(titled(sheet, name), pairs, strict=True):
        np.testing.assert_array_equal(panel.pixels, made.preserved[5])
        assert panel.scale == name
    assert sheet.scales[name].column == 1
    # Another class does not take the same channel again.
    other = dataclasses.replace(planted, chosen=[3, *(set(range(3)) - {3})])
    columns = FIGURES["features"].lay_out(other).rows[0][1:-1]
    assert len({panel.pixels.tobytes() for panel in columns}) == len(columns)


def test_attention_and_transfer_share_a_scale(material):
    for name, column in (("attention", "attention"), ("transfer", "change")):
        sheet = FIGURES[name].lay_out(material)
        maps = [p.pixels for row in sheet.rows for p in row if p.pixels.ndim == 2]
        assert {p.scale for row in sheet.rows for p in row if p.pixels.ndim == 2} == {column}
        scale = sheet.scales[column]
        assert scale.high == max(float(one.max()) for one in maps)
        limits = {
            image.get_clim()
            for axes in draw(sheet).axes
            for image in axes.images
            if image.get_array().ndim == 2
        }
        assert limits == {(scale.low, scale.high)}


def test_segmentations(gather_scenes):
    material = gather_scenes(segmenter=Seer())
    sheet = FIGURES["segmentations"].lay_out(material)
    assert len(sheet.titles) == 5
    made = material.pairs[0]
    panel = sheet.rows[0][2]
    seen = made.segmented["image"]
    assert seen.shape == made.labels.shape
    np.testing.assert_array_equal(panel.pixels, colorize(seen, material.classes.palette))
    share = (seen == made.labels)[made.labels < 12].mean()
    assert panel.note == f"{share:.0%} right"
    truth = dataclasses.replace(made, segmented={"image": made.labels, "refined": seen})
    sheet = FIGURES["segmentations"].lay_out(dataclasses.replace(material, pairs=[truth]))
    assert sheet.rows[0][2].note == "100% right"
    shown = {name for name, _ in sheet.legend}
    assert shown >= {material.classes.names[i] for i in np.unique(seen)}


def test_multimodal(gather_scenes):
    material = gather_scenes(model={"style": "noise", "z_dim": 8})
    sheet = FIGURES["multimodal"].lay_out(material)
    assert len(sheet.rows) == 6  # images and edges of three label maps
    images, edges = sheet.rows[0][1:], sheet.rows[1][1:]
    assert len({panel.pixels.tobytes() for panel in images}) == 5
    assert len({panel.pixels.tobytes() for panel in edges}) == 5
    again = gather_scenes(model={"style": "noise", "z_dim": 8})
    np.testing.assert_array_equal(again.pairs[0].samples[4][0], material.pairs[0].samples[4][0])
    other = gather_scenes(model={"style": "noise", "z_dim": 8}, seed=2)
    assert not np.array_equal(other.pairs[0].samples[4][0], material.pairs[0].samples[4][0])


def test_small_objects(material):
    sheet = FIGURES["small-objects"].lay_out(material)
    assert sheet.titles[1] == "Label map"
    areas = []
    for row in sheet.rows:
        name, box = row[1].note, row[0].box
        index = material.classes.names.index(name)
        made = next(m for m in material.pairs if np.array_equal(m.photo, row[0].pixels))
        top, left, tall, wide = box
        assert min(top, left) >= 0
        assert top + tall <= 32
        assert left + wide <= 64
        assert abs(tall * 2 - wide) <= 1  # the images' shape, in whole pixels
        inside = made.labels[top : top + tall, left : left + wide] == index
        assert inside.sum() >= 12
        np.testing.assert_array_equal(row[-1].pixels, made.photo[top : top + tall, left:][:, :wide])
        areas.append(sum(int((m.labels == index).sum()) for m in material.pairs))
    assert areas == sorted(areas)  # the rarest first
    chosen = dataclasses.replace(material, chosen=[0])
    sheet = FIGURES["small-objects"].lay_out(chosen)
    assert [row[1].note for row in sheet.rows] == [material.classes.names[0]]


def test_edges(material):
    def hed(photo):
        return np.full(photo.shape[:2], 0.2, np.float32)

    sheet = FIGURES["edges"].lay_out(dataclasses.replace(material, hed=hed))
    assert (titled(sheet, "HED")[0].pixels == 51).all()
    assert set(np.unique(titled(sheet, "Canny")[0].pixels)) == {0, 255}


def test_side_by_side(gather_scenes, material, tmp_path: Path):
    folder = tmp_path / "theirs" / "images"
    folder.mkdir(parents=True)
    for index, made in enumerate(material.pairs):
        image = np.full((16, 32, 3), 50 * index, np.uint8)
        Image.fromarray(image).save(folder / f"{made.name}.png")
    others = {"Their $model": tmp_path / "theirs"}
    sheet = FIGURES["side-by-side"].lay_out(gather_scenes(others=others))
    assert sheet.titles == ["Label map", r"Their \$model", "Ours", "Real photo"]
    assert [int(row[1].pixels.mean()) for row in sheet.rows] == [0, 50, 100]
    assert sheet.rows[0][1].pixels.shape == (32, 64, 3)
    draw(sheet)
    (folder / f"{material.pairs[1].name}.png").unlink()
    with pytest.raises(DataError, match=f"hold no image of {material.pairs[1].name}"):
        gather_scenes(others=others)


@pytest.mark.parametrize(
    ("preset", "figure", "message"),
    [
        ("B1", "attention", "no edge branch"),
        ("B2", "transfer", "no edge transfer"),
        ("B3", "features", "no semantic preserving module"),
        ("B6", "segmentations", "no segmenter"),
        ("B6", "multimodal", "no style"),
        ("B6", "edges", "no weights of HED"),
        ("B6", "side-by-side", "no other results"),
    ],
)
def test_what_is_missing_is_said(gather_scenes, tmp_path: Path, preset, figure, message):
    material = gather_scenes(preset, count=1)
    with pytest.raises(MissingError, match=message):
        FIGURES[figure].lay_out(material)
    with pytest.raises(ConfigError, match=f"figure {figure} cannot be drawn: .*{message}"):
        draw_figures(material, tmp_path / "out", [figure])
    assert not (tmp_path / "out").exists()


def test_all_that_can_be_drawn_is(gather_scenes, tmp_path: Path):
    written, left_out = draw_figures(gather_scenes("B1", count=2), tmp_path / "out")
    assert {path.name for path in written} == {"small-objects.pdf", "small-objects.png"}
    assert len(left_out) == len(FIGURES) - 1
    assert any("attention is left out: the model has no edge branch" in one for one in left_out)


def test_wrong_choices(gather_scenes, material, tmp_path: Path):
    with pytest.raises(ConfigError, match="no class 'moon'"):
        gather_scenes(chosen=["moon"])
    with pytest.raises(DataError, match="no validation pair nobody"):
        gather_scenes(names=["nobody"])
    with pytest.raises(ConfigError, match="no figure 'fig9'"):
        draw_figures(material, tmp_path, ["fig9"])


def test_files_are_fit_for_print(material, tmp_path: Path):
    sheet = FIGURES["attention"].lay_out(material)
    pdf, png = save(draw(sheet), tmp_path / "new", "attention")
    content = pdf.read_bytes()
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL)
    text = content
    for stream in streams:
        try:
            text += zlib.decompress(stream)
        except zlib.error:
            text += stream
    assert b"/Type3" not in text
    assert b"/FontFile2" in text  # TrueType: text stays text
    with Image.open(png) as image:
        assert image.width == 1650
        assert np.asarray(image)[0, 0].min() == 255
    again, _ = save(draw(sheet), tmp_path / "again", "attention")
    assert again.read_bytes() == content
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written to"):
        save(draw(sheet), tmp_path / "file", "attention")


def test_many_classes_and_odd_shapes():
    legend = [(f"class number {i}", np.zeros(3, np.uint8)) for i in range(183)]
    tall = Panel(np.zeros((40, 10, 3), np.uint8))
    flat = Panel(np.zeros((10, 40), np.float32), scale="s", note="below", box=(1, 1, 5, 5))
    scale = {"s": Scale.of("all alike", [flat.pixels])}
    figure = draw(Sheet(["a", "b"], [[tall, flat], [flat, tall]], scale, legend))
    (box,) = figure.legends
    assert box.get_texts()[-1].get_text() == "and 143 more"
    renderer = figure.canvas.get_renderer()
    extent = box.get_window_extent(renderer)
    assert extent.x0 >= 0
    assert extent.x1 <= figure.bbox.width
    lowest = min(axes.get_tightbbox(renderer).y0 for axes in figure.axes)
    assert extent.y1 <= lowest  # the legend covers nothing


@pytest.mark.slow
def test_command(tiny_layer, tmp_path: Path, capsys):
    from ecgan.training import train
    from ecgan.training.settings import compose

    layer = {**tiny_layer, "optim.steps": 1, "dataset.scenes": 40}
    run = train(compose([layer, {"preset": "B5", "out": str(tmp_path / "run")}], TrainConfig))
    capsys.readouterr()
    out = tmp_path / "out"
    assert main(["figures", str(run), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "5 figures" in printed
    assert "figure multimodal is left out: the model has no style" in printed
    assert {path.name for path in out.iterdir()} >= {"attention.pdf", "segmentations.png"}

    def fails(*arguments: str) -> str:
        assert main(["figures", str(run), "--out", str(tmp_path / "none"), *arguments]) == 2
        assert not (tmp_path / "none").exists()
        return capsys.readouterr().err

    assert "no figure 'fig1'" in fails("--figure", "fig1")
    assert "the model has no style" in fails("--figure", "multimodal")
    assert "--other takes NAME=DIR" in fails("--other", "folder")
    assert "nowhere is no folder" in fails("--other", "x=nowhere")
    assert "no validation pair moon" in fails("--images", "moon")
    assert "does not exist" in fails("--segmenter", "./nowhere")
    assert "nowhere.pth" in fails("--hed-weights", "nowhere.pth")
    assert main(["figures", str(tmp_path), "--out", str(out)]) == 2
