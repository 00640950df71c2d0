"""Foreign weights files: plain tensors, or one sentence; no code of theirs ever runs."""

import contextlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from ecgan.errors import WeightsError
from ecgan.models.pretrained import read_state_dict

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([7, 8])}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """The current folder, where a trap that is sprung leaves a mark."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "sprung").exists(), "the file's code ran"


def refused(path: Path, text: str) -> None:
    with pytest.raises(WeightsError, match=text) as caught:
        read_state_dict(path, "HED")
    sentence = str(caught.value)
    assert path.name in sentence
    assert "\n" not in sentence
    assert "weights_only" not in sentence, "advises to run the file's code"


NO_TENSORS = "the weights file of HED is no plain dictionary of tensors"
UNREADABLE = "cannot read the weights file of HED"


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


class Subtle(nn.Module):
    """A whole module, as older publications saved it."""


def test_what_torch_and_safetensors_write_is_read(folder):
    torch.save(STATE, "new.pth")
    torch.save(STATE, "old.pth", _use_new_zipfile_serialization=False)
    torch.save({k: nn.Parameter(v.float()) for k, v in STATE.items()}, "parameters.pt")
    save_file(STATE, "safe.safetensors")
    save_file(STATE, "renamed.pth")
    for path in Path().iterdir():
        got = read_state_dict(path, "HED")
        assert all(torch.equal(got[key].detach(), STATE[key].to(got[key].dtype)) for key in STATE)
    tied = torch.zeros(100)
    torch.save({str(i): tied for i in range(50)}, "tied.pth")
    assert len(read_state_dict("tied.pth", "HED")) == 50


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_pickle_does_not_run(folder, zipped, protocol):
    for number, content in enumerate(
        ({"a": Trap()}, Trap(), {"a": torch.zeros(2), "b": [Trap()]}, {Trap(): torch.zeros(1)})
    ):
        path = folder / f"{number}.pth"
        torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
        refused(path, NO_TENSORS)


def test_bare_pickles_and_modules_do_not_run(folder):
    (folder / "bare.pth").write_bytes(pickle.dumps({"a": Trap()}, 2))
    (folder / "os.pth").write_bytes(b"cos\nmkdir\n(S'sprung'\ntR.")
    (folder / "eval.pth").write_bytes(
        b'c__builtin__\neval\n(S\'__import__("os").mkdir("sprung")\'\ntR.'
    )
    torch.save(Subtle(), folder / "module.pth")
    for name in ("bare.pth", "os.pth", "eval.pth", "module.pth"):
        refused(folder / name, NO_TENSORS)
    # The trap works where it is let: this test could fail.
    assert (
        subprocess.run(
            [sys.executable, "-c", "import pickle; pickle.load(open('os.pth', 'rb'))"]
        ).returncode
        == 0
    )
    (folder / "sprung").rmdir()


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_refused_without_advice(folder):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), "script.pth")
    refused(folder / "script.pth", NO_TENSORS)


def test_the_tar_format_of_2016_is_refused_without_advice(folder):
    with tarfile.open("old.pth", "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps({"a": Trap()} if name == "pickle" else 0, 2)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    refused(folder / "old.pth", NO_TENSORS)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"a": 1.0}, {1: torch.zeros(1)}, None,
                                     {"model": {"a": torch.zeros(1)}}])  # fmt: skip
def test_other_content_is_refused(folder, content):
    torch.save(content, "a.pth")
    refused(folder / "a.pth", NO_TENSORS)


def rewrite(source: Path, target: Path, rename=lambda name: name, **options) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        for entry in old.infolist():
            new.writestr(rename(entry.filename), old.read(entry))


@pytest.mark.parametrize("prefix", ["../../", "..\\", "a/../../"])
def test_paths_in_a_zip_file_write_nothing(folder, prefix):
    torch.save(STATE, "good.pth")
    inner = folder / "inner" / "most"
    inner.mkdir(parents=True)
    rewrite(folder / "good.pth", inner / "tricky.pth", lambda name: prefix + name)
    before = sorted(folder.rglob("*"))
    with contextlib.suppress(WeightsError):  # Reading its tensors would do no harm.
        read_state_dict(inner / "tricky.pth", "HED")
    assert sorted(folder.rglob("*")) == before


def test_a_zip_bomb_is_not_unpacked(folder):
    torch.save({"a": torch.zeros(20_000_000)}, "large.pth")
    rewrite(folder / "large.pth", folder / "bomb.pth", compression=zipfile.ZIP_DEFLATED)
    assert (folder / "bomb.pth").stat().st_size < 200_000
    refused(folder / "bomb.pth", r"a zip file of [\d,]+ bytes that claims to hold 80,0")


def safetensors(header: object, data: bytes = b"\0" * 64, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape, offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BAD_SAFETENSORS = {
    "absurd shape": safetensors({"a": entry([2**40, 2**40], [0, 64])}),
    "absurd offsets": safetensors({"a": entry([2**50], [0, 2**52])}),
    "overlap": safetensors({"a": entry([8], [0, 32]), "b": entry([8], [16, 48])}, b"\0" * 48),
    "hole": safetensors({"a": entry([4], [0, 16]), "b": entry([4], [32, 48])}, b"\0" * 48),
    "backwards": safetensors({"a": entry([4], [16, 0])}, b"\0" * 16),
    "negative": safetensors({"a": entry([-4], [0, 16])}, b"\0" * 16),
    "size and offsets differ": safetensors({"a": entry([5], [0, 16])}, b"\0" * 16),
    "unknown type": safetensors({"a": entry([4], [0, 16], "F33")}, b"\0" * 16),
    "data left over": safetensors({"a": entry([4], [0, 16])}, b"\0" * 17),
    "absurd header": safetensors({"a": entry([16], [0, 64])}, length=2**60),
    "header of gigabytes": safetensors({"a": entry([16], [0, 64])}, length=2**31),
    "deep header": safetensors(b'{"a":' * 50_000),
    "no JSON": safetensors(b"{{{{{{{{"),
    "list": safetensors([1, 2]),
    "bytes": b"\0" * 7,
    "nothing": b"",
}


@pytest.mark.parametrize("name", BAD_SAFETENSORS)
def test_broken_safetensors_are_refused(folder, name):
    (folder / "a.safetensors").write_bytes(BAD_SAFETENSORS[name])
    refused(folder / "a.safetensors", UNREADABLE)


def test_a_pickle_under_the_other_suffix_is_not_unpickled(folder):
    torch.save({"a": Trap()}, "a.safetensors")
    refused(folder / "a.safetensors", UNREADABLE)
    (folder / "b.safetensors").write_bytes(b"cos\nmkdir\n(S'sprung'\ntR.")
    refused(folder / "b.safetensors", UNREADABLE)


def test_tensors_larger_than_their_file_are_refused(folder):
    one = torch.zeros(1)
    torch.save({"a": one.expand(2**40)}, "views.pth")
    torch.save({"a": torch.empty(2**40, device="meta")}, "meta.pth")
    torch.save({"a": torch.zeros(2**14, 2**14).to_sparse()}, "sparse.pth")
    for name in ("views.pth", "meta.pth", "sparse.pth"):
        refused(folder / name, r"does not hold all numbers of tensor 'a', \[")


def test_a_pipe_and_a_folder_are_no_files(folder):
    os.mkfifo(folder / "pipe.pth")
    (folder / "folder.pth").mkdir()
    for name in ("pipe.pth", "folder.pth", "missing.pth"):
        refused(folder / name, "the weights file of HED does not exist")


VALID: dict[str, bytes] = {}


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """A valid file with bytes overwritten, cut out or cut off."""
    if not VALID:
        for name, zipped in (("new.pth", True), ("old.pth", False)):
            buffer = io.BytesIO()
            torch.save(STATE, buffer, _use_new_zipfile_serialization=zipped)
            VALID[name] = buffer.getvalue()
        VALID["safe.safetensors"] = safetensors({"a": entry([4, 4], [0, 64])})
    name = draw(st.sampled_from(sorted(VALID)))
    content = bytearray(VALID[name])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        what = draw(st.sampled_from(["byte", "word", "cut", "end"]))
        if what == "byte":
            content[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif what == "word":
            content[at : at + 4] = draw(st.sampled_from([b"\0" * 4, b"\xff\xff\xff\x7f"]))
        else:
            del content[at : at + draw(st.integers(1, 16)) if what == "cut" else len(content)]
    return name, bytes(content)


@pytest.mark.filterwarnings("ignore")
@settings(
    max_examples=int(os.environ.get("ECGAN_FUZZ", "200")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(file=damaged())
def test_damaged_files_give_tensors_or_a_sentence(tmp_path, file):
    path = tmp_path / file[0]
    path.write_bytes(file[1])
    state, text = {}, path.name
    try:
        state = read_state_dict(path, "HED")
    except WeightsError as error:
        text = str(error)
    assert path.name in text
    assert "\n" not in text
    for tensor in state.values():
        assert tensor.numel() * tensor.element_size() <= len(file[1])
        tensor.sum()
