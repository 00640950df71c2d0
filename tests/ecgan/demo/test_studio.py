from __future__ import annotations

import dataclasses
import io
import time
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from ecgan.data.classes import plain_classes
from ecgan.data.scenes import render_scene
from ecgan.demo.painting import Painting
from ecgan.demo.studio import (
    FINAL,
    Request,
    archive,
    label_png,
    make_samples,
    seconds_an_image,
)
from ecgan.inference import to_uint8

LABELS = render_scene(3, (32, 64)).labels
PAINTING = Painting.of(LABELS)
STAGES = ["Edges I'_e", "Attention", "Coarse I'", "Refined I''", "By class I_g"]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def images(model, **request: object) -> list[np.ndarray]:
    made = make_samples(model, Request(PAINTING, **request))
    return [pixels(sample.files[FINAL]) for sample in made]


def test_samples_take_the_seeds_from_the_first_on(model):
    samples = list(make_samples(model, Request(PAINTING, seed=4, samples=3)))
    assert [sample.seed for sample in samples] == [4, 5, 6]
    for sample in samples:
        wanted = to_uint8(model.synthesize(LABELS, seed=sample.seed).images)[0]
        assert (pixels(sample.files[FINAL]) == wanted).all()
    assert samples[0].files[FINAL] != samples[1].files[FINAL]


def test_a_region_takes_the_other_seeds_style(model):
    everywhere = dataclasses.replace(PAINTING, region=np.ones((32, 64), bool))
    [sample] = make_samples(model, Request(everywhere, seed=1, region_seed=9))
    assert (pixels(sample.files[FINAL]) == images(model, seed=9)[0]).all()
    assert not (pixels(sample.files[FINAL]) == images(model, seed=1)[0]).all()


def test_a_photo_fixes_the_style(make_model):
    model = make_model(style="encoder")
    photo = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    found = images(model, photo=photo, samples=4)
    assert len(found) == 1
    wanted = to_uint8(model.synthesize(LABELS, style=model.encode_style(photo)).images)[0]
    assert (found[0] == wanted).all()
    assert len(images(model, samples=2)) == 2


def test_without_style_there_is_one_sample(make_model):
    assert len(images(make_model(), samples=4)) == 1


@pytest.mark.parametrize(
    ("off", "missing"),
    [
        ({}, set()),
        ({"class_branch": False}, {"By class I_g"}),
        ({"class_branch": False, "semantic_preserving": False}, {"By class I_g", "Refined I''"}),
        ({"edge_branch": False, "edge_transfer": False}, {"Edges I'_e", "Attention"}),
    ],
)
def test_stages_that_a_model_lacks_are_absent(make_model, off, missing):
    [sample] = make_samples(make_model(**off), Request(PAINTING))
    assert list(sample.files) == [FINAL, *(name for name in STAGES if name not in missing)]


def test_attention_is_brighter_where_the_edge_is_stronger(model):
    [sample] = make_samples(model, Request(PAINTING))
    strength = model.stages(LABELS, seed=0).edge[0].sigmoid().mean(0).cpu().numpy()
    brightness = pixels(sample.files["Attention"]).astype(int).sum(-1)
    low, high = np.quantile(strength, [0.1, 0.9])
    assert brightness[strength > high].min() > brightness[strength < low].max()


def test_instance_edges_are_the_boundaries_of_classes(make_model):
    model = make_model(instance_edges=True)
    wanted = to_uint8(model.synthesize(LABELS, instances=LABELS).images)[0]
    assert (images(model)[0] == wanted).all()


def test_the_label_map_keeps_the_ids_of_the_files():
    labels = np.array([[0, 1, 2]])
    classes = dataclasses.replace(plain_classes(2), file_ids=(7, 300), void_ids=(255,))
    assert pixels(label_png(Painting.of(labels), classes)).tolist() == [[7, 300, 255]]
    assert (pixels(label_png(PAINTING, plain_classes(12))) == LABELS).all()


def test_the_archive_holds_every_stage(model):
    [sample] = make_samples(model, Request(PAINTING))
    with zipfile.ZipFile(io.BytesIO(archive(sample, b"labels"))) as zipped:
        assert zipped.testzip() is None
        contents = {name: zipped.read(name) for name in zipped.namelist()}
    assert sorted(contents.values()) == sorted([*sample.files.values(), b"labels"])


def test_a_second_is_enough_for_the_quickstarts_networks(make_model):
    model = make_model(size="96x128", ngf=16, spade_hidden=32, projection_dim=64)
    painting = Painting.of(render_scene(3, (96, 128)).labels)
    torch.manual_seed(0)
    # 0.1 s on an idle core; the best of a few, since others may use the machine.
    end = time.monotonic() + 20
    while (seconds := seconds_an_image(model, painting)) > 1:
        assert time.monotonic() < end, f"{seconds:.2f} s an image"
