import numpy as np
import pytest
import torch
from PIL import Image

from ecgan.config import DatasetConfig
from ecgan.data import build_dataset
from ecgan.data.files import read_image
from ecgan.data.transforms import resize_bicubic, resize_nearest
from ecgan.errors import DataError
from ecgan.evaluation.pairs import EvaluationPairs, ResultsImages, resize, to_bytes, to_signed


@pytest.fixture
def dataset(pairs_folder):
    cfg = DatasetConfig(num_classes=3, resize="scale_crop", load_size="80x90")
    return build_dataset(cfg, str(pairs_folder), (20, 30), "train")


def save(folder, names, size=(20, 30)):
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        Image.fromarray(np.full((*size, 3), index, np.uint8)).save(folder / name)
    return folder


def test_pairs_are_neither_cropped_nor_mirrored(dataset):
    pairs = EvaluationPairs(dataset, (20, 30), layout_size=(16, 32))
    assert len(pairs) == len(dataset) == 5  # one of six is held out
    for position in range(5):
        item = pairs[position]
        files = dataset.source.pairs[position]
        photo = resize_bicubic(read_image(files.image), (20, 30))
        assert np.array_equal(item["image"].permute(1, 2, 0).numpy(), photo)
        raw = np.array(Image.open(files.labels)).astype(int)
        raw[raw == 255] = 3
        assert np.array_equal(item["labels"].numpy(), resize_nearest(raw, (20, 30)))
        assert np.array_equal(item["layout"].numpy(), resize_nearest(raw, (16, 32)))
        assert item["name"] == files.name


def test_a_limit_takes_pairs_evenly_spread(dataset):
    pairs = EvaluationPairs(dataset, (20, 30), limit=2)
    assert [pairs[i]["index"] for i in range(len(pairs))] == [0, 2]
    assert len(EvaluationPairs(dataset, (20, 30), limit=99)) == 5


def test_bytes_and_back():
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(to_signed(every)), every)
    assert to_bytes(torch.tensor([-1.7, 1.7])).tolist() == [0, 255]


def test_filters_differ():
    random = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    names = ("bicubic", "bilinear", "lanczos", "nearest")
    made = [resize(random, (20, 30), name) for name in names]
    assert all(not np.array_equal(a, b) for i, a in enumerate(made) for b in made[:i])
    assert np.array_equal(made[0], resize_bicubic(random, (20, 30)))


def test_results_are_found_by_any_of_their_names(tmp_path):
    names = [["a"], ["b c"], ["d", "d_gtFine", "d_photo"]]
    files = ["b c.jpg", "a.png", "d_photo.png", "extra.png"]
    for sub in ("", "images", "synthesized_image"):
        folder = save(tmp_path / f"x{sub}" / sub, files, (10, 15))
        if sub:
            save(tmp_path / f"x{sub}" / "edges", ["a.png"])
            folder = folder.parent
        results = ResultsImages("x", folder, names, (20, 30))
        assert [path.name for path in results.files] == ["a.png", "b c.jpg", "d_photo.png"]
        assert results.left_out == 1
        assert results.original_size() == (10, 15)
        assert results[0].shape == (3, 20, 30)
        assert results[0].unique().tolist() == [1]


def test_results_that_do_not_fit(tmp_path):
    names = [["a"], ["b"], ["c"]]
    with pytest.raises(DataError, match=r"results x: .*none is no folder"):
        ResultsImages("x", tmp_path / "none", names, (8, 8))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        ResultsImages("x", tmp_path / "empty", names, (8, 8))
    folder = save(tmp_path / "few", ["a.png", "z.png"])
    with pytest.raises(DataError, match=r"lack 2 of 3 images, .* b: expected b\.png .* 2 images"):
        ResultsImages("x", folder, names, (8, 8))
    save(tmp_path / "twice", ["a.png"])
    save(tmp_path / "twice" / "below", ["a.png"])
    with pytest.raises(DataError, match="two images named a"):
        ResultsImages("x", tmp_path / "twice", names[:1], (8, 8))
    (tmp_path / "few" / "a.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"a\.png cannot be read as an image"):
        ResultsImages("x", folder, names[:1], (8, 8))[0]
