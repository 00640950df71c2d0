import numpy as np
import torch

from ecgan.data.transforms import to_uint8
from ecgan.training.sheet import draw_sheet


def test_values_outside_are_clamped_for_display():
    image = torch.tensor([-1.7, -1.0, 0.0, 1.0, 1.7]).view(1, 1, 1, 5)
    assert to_uint8(image)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert to_uint8(image).shape == (1, 1, 5, 3)


def test_rows_are_pairs_and_columns_are_kinds():
    red = np.zeros((2, 96, 128, 3), np.uint8)
    red[..., 0] = 255
    blue = red[..., ::-1].copy()
    sheet = np.asarray(draw_sheet([("label", red), ("image", blue)]))
    height, width = sheet.shape[:2]
    assert width >= 2 * 192
    assert sheet[height // 2 + 20, width // 4].tolist() == [255, 0, 0]
    assert sheet[height // 2 + 20, 3 * width // 4].tolist() == [0, 0, 255]
    # Both titles are written.
    title = sheet[:24]
    assert (title[:, : width // 2] < 100).any()
    assert (title[:, width // 2 :] < 100).any()


def test_large_images_keep_their_size():
    image = np.zeros((1, 256, 512, 3), np.uint8)
    assert draw_sheet([("label", image)]).width < 512 + 10
