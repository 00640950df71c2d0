import numpy as np
import torch

from ecgan.data.palette import colorize, pascal_palette, with_void


def test_pascal_colours():
    # The first colours of PASCAL VOC after black.
    assert pascal_palette(5).tolist() == [
        [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128]]  # fmt: skip
    assert len(np.unique(with_void(pascal_palette(300)), axis=0)) == 301


def test_colorize():
    palette = with_void(np.array([[1, 2, 3], [4, 5, 6]], np.uint8))
    labels = [[0, 1, 2], [255, -1, 0]]
    want = [[[1, 2, 3], [4, 5, 6], [0, 0, 0]], [[0, 0, 0], [0, 0, 0], [1, 2, 3]]]
    assert colorize(np.array(labels), palette).tolist() == want
    assert colorize(torch.tensor([labels]), palette).tolist() == [want]
