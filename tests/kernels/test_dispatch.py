"""The table of implementations: what "auto" takes, what a name refuses, what info says."""

from __future__ import annotations

import warnings

import ecgan_kernels
import pytest
import torch
from ecgan_kernels import _dispatch, _library, edge_transfer


@pytest.fixture
def without(monkeypatch):
    """Makes a compiled library absent."""

    def remove(name: str) -> None:
        library = _library.Library(name, None, f"{name} was not built")
        monkeypatch.setattr(_library, {"_C": "CPU", "_C_cuda": "CUDA"}[name], library)

    monkeypatch.setattr(_dispatch, "_warned", set())
    return remove


@pytest.fixture
def with_everything(monkeypatch):
    """Makes every implementation present."""
    for attribute, name in (("CPU", "_C"), ("CUDA", "_C_cuda")):
        monkeypatch.setattr(_library, attribute, _library.Library(name, None, None))
    monkeypatch.setattr(_dispatch.importlib.util, "find_spec", lambda name: object())
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def choose_on(device: str, dtype: torch.dtype = torch.float32, impl: str = "auto") -> str:
    return _dispatch._choose("edge_transfer", impl, device, 0, dtype)


@pytest.mark.parametrize("capability", [(7, 0), (7, 5), (8, 0), (9, 0), (12, 0)])
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.float32, "cuda"), (torch.bfloat16, "cuda"), (torch.float64, "reference")],
)
def test_auto_on_gpus(capability, dtype, expected, with_everything, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_on("cuda", dtype) == expected


def test_auto_elsewhere(with_everything):
    assert choose_on("cpu") == "cpu"
    assert choose_on("cpu", torch.float64) == "cpu"
    assert choose_on("mps") == "reference"
    assert choose_on("meta") == "reference"


def test_gpu_without_the_library_takes_triton(without, monkeypatch):
    without("_C_cuda")
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(_dispatch.importlib.util, "find_spec", lambda name: object())
    with pytest.warns(UserWarning, match="without its cuda implementation"):
        assert choose_on("cuda") == "triton"


def test_fallback_works_and_is_told_once(without):
    without("_C")
    x = torch.randn(3, requires_grad=True)
    with pytest.warns(UserWarning, match="without its cpu implementation, slower: _C was not"):
        out = edge_transfer(x, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(edge_transfer(x, x), out)
    out.sum().backward()
    assert torch.equal(out, ecgan_kernels.reference.edge_transfer(x, x))


def test_explicit_names_never_fall_back(without, monkeypatch):
    x = torch.ones(2)
    without("_C")
    with pytest.raises(RuntimeError, match=r"edge_transfer: impl='cpu' cannot .* _C was not built"):
        edge_transfer(x, x, impl="cpu")
    with pytest.raises(RuntimeError, match=r"impl='cuda' .* a tensor on cuda, got one on cpu"):
        edge_transfer(x, x, impl="cuda")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match=r"impl='triton' .* a tensor on cuda, got one on cpu"):
        edge_transfer(x, x, impl="triton")
    with pytest.raises(RuntimeError, match="it takes float32, float16, bfloat16, got float64"):
        choose_on("cuda", torch.float64, "cuda")
    monkeypatch.setattr(_dispatch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="triton is not installed"):
        choose_on("cuda", impl="triton")
    with pytest.raises(ValueError, match="impl must be one of 'auto', 'cpu'"):
        edge_transfer(x, x, impl="eager")
    monkeypatch.setitem(_dispatch._ORDERS, "another", {"cpu": ("reference",)})
    with pytest.raises(RuntimeError, match="another has no such implementation"):
        _dispatch._choose("another", "cpu", "cpu", None, torch.float32)


def test_a_context_rules_what_auto_stands_for(with_everything, without):
    x = torch.zeros(2)
    chosen = _dispatch.choose("edge_transfer", "auto", x)
    with ecgan_kernels.implementation("reference"):
        assert _dispatch.choose("edge_transfer", "auto", x) == "reference"
        with ecgan_kernels.implementation("auto"):
            assert _dispatch.choose("edge_transfer", "auto", x) == chosen
        with pytest.raises(RuntimeError, match="impl='cuda' cannot run here"):
            _dispatch.choose("edge_transfer", "cuda", x)
    with (
        ecgan_kernels.implementation("cuda"),
        pytest.raises(RuntimeError, match="needs a tensor on cuda"),
    ):
        edge_transfer(x, x)
    assert _dispatch.choose("edge_transfer", "auto", x) == chosen
    with pytest.raises(ValueError, match="impl must be one of"), ecgan_kernels.implementation("x"):
        pass


def test_triton_interpreter_takes_cpu_tensors(with_everything, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose_on("cpu", impl="triton") == "triton"
    assert choose_on("cpu") == "cpu"


def test_choice_is_a_constant_under_compile(without):
    def step(x: torch.Tensor) -> torch.Tensor:
        return edge_transfer(x, x) + 1

    x = torch.randn(4)
    expected = step(x)
    compiled = torch.compile(step, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected)
    without("_C")
    torch.compiler.reset()
    with pytest.warns(UserWarning, match="without its cpu implementation"):
        torch.testing.assert_close(compiled(x), expected)


def test_info_lists_every_operator_and_the_reasons(without):
    without("_C")
    without("_C_cuda")
    rows = {(row.op, row.device): row for row in ecgan_kernels.info()}
    operators = {op for op, _ in rows}
    assert operators == {
        "edge_transfer",
        "edge_transfer_lrelu",
        "similarity_bce",
        "pixel_contrast",
        "label_conv2d",
        "label_spade",
        "class_conv2d",
    }
    assert len(rows) == 4 * len(operators)
    cpu = rows["edge_transfer", "cpu"]
    assert cpu.order == ("cpu", "reference")
    assert cpu.problems == {"cpu": "_C was not built"}
    assert cpu.chosen == "reference"
    assert rows["edge_transfer", "sm_70"].problems["cuda"] == "_C_cuda was not built"
    assert all(row.order[-1] == "reference" for row in rows.values())


def test_libraries_say_what_is_loaded():
    cpu, cuda = ecgan_kernels.libraries()
    assert (cpu.name, cuda.name) == ("_C", "_C_cuda")
    assert (ecgan_kernels.cpu_isa() in ("baseline", "avx2", "avx512")) == cpu.loaded
    if not torch.version.cuda:
        assert not cuda.loaded
        assert cuda.problem
