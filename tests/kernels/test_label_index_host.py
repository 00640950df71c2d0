"""ecgan_kernels._host: the label-patch index on numpy arrays."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from ecgan_kernels import _windows
from ecgan_kernels.reference.label_index import neighbourhoods

host = pytest.importorskip("ecgan_kernels._host")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_windows(k, dtype):
    labels = np.random.default_rng(0).integers(0, 3, (2, 7, 9)).repeat(2, 2).astype(dtype)
    for map_ in (labels, labels[:, ::-1].copy(order="F")[:, ::-1]):
        windows, inverse = host.label_windows(map_, 4, k)
        assert windows.dtype == inverse.dtype == np.int32
        expected, places = neighbourhoods(torch.from_numpy(labels).long(), 3, None, k)
        assert len(windows) == len(expected)
        assert np.array_equal(windows[inverse], expected[places].numpy())


def test_equals_the_operator():
    codes = torch.randint(0, 4, (2, 8, 30), dtype=torch.int32).repeat_interleave(3, 2)
    for ours, theirs in zip(
        host.label_windows(codes.numpy(), 4, 3), _windows.find(codes, 4, 3), strict=True
    ):
        if _windows._native(codes):
            assert np.array_equal(ours, theirs.numpy())
    _, inverse = host.label_windows(codes.numpy(), 4, 3)
    walk, bounds = host.label_segments(inverse, 16)
    assert bounds[-1] == len(walk)
    assert np.abs(walk[:, 1]).sum() == codes.numel()


def test_empty():
    windows, inverse = host.label_windows(np.zeros((0, 4, 4), np.int32), 1, 3)
    assert windows.shape == (0, 9)
    assert inverse.shape == (0, 4, 4)
    walk, bounds = host.label_segments(inverse, 16)
    assert walk.shape == (0, 2)
    assert bounds.tolist() == [0]


def test_threads_run_at_once():
    labels = np.random.default_rng(1).integers(0, 99, (4, 100, 100)).astype(np.int32)
    expected = host.label_windows(labels, 99, 3)
    found = [None] * 4

    def work(i: int) -> None:
        found[i] = host.label_windows(labels, 99, 3)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in found:
        assert all(map(np.array_equal, result, expected))


def test_needs_no_torch():
    script = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('_host', sys.argv[1])\n"
        "host = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(host)\n"
        "import numpy as np\n"
        "assert len(host.label_windows(np.zeros((1, 5, 5), np.uint8), 1, 3)[0]) == 9\n"
        "assert 'torch' not in sys.modules\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, host.__file__], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (TypeError, "map must be an array of integers", lambda: host.label_windows(MAP / 2, 1, 3)),
        (ValueError, "map must have shape", lambda: host.label_windows(MAP[0], 1, 3)),
        (
            ValueError,
            "kernel_size must be odd and at most 255, not 2",
            lambda: host.label_windows(MAP, 1, 2),
        ),
        (ValueError, "shortest must be at least 1", lambda: host.label_segments(MAP, 0)),
    ],
)
def test_errors(error, words, call):
    with pytest.raises(error, match=words):
        call()


MAP = np.zeros((1, 2, 2), np.int32)
