"""What is released: versions agree, wheel and sdist are whole, and work in a clean environment."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import ecgan

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the git repository")


def run(*command: object, **options) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def tracked() -> list[str]:
    """The repository's files, those about to be added included."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sdist and wheel, as ``make dist`` builds and checks them; once for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "dist"
    with (folder.parent / "dist.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            make_dist(folder)
    return folder


def make_dist(folder: Path) -> None:
    programs = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    # This environment as it is, whatever make thinks of its age.
    as_it_is = ("-o", ".venv/.dev")
    given = (f"DIST={folder}", f"BIN={programs}")
    said = run("make", *as_it_is, "dist", *given, cwd=ROOT, env=environment)
    assert said.count("PASSED") == 2, said  # twine's word for each file


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


def test_versions_agree():
    version = ecgan.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()
    assert f"VERSION {version} " in (ROOT / "CMakeLists.txt").read_text()
    consumer = (ROOT / "tests/cpp/consumer/CMakeLists.txt").read_text()
    assert f"find_package(ecgan_kernels {version.rpartition('.')[0]} " in consumer
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == version


def test_the_wheel_is_for_every_python_from_3_10_on(wheel: Path):
    assert wheel.name.startswith(f"ecgan-{ecgan.__version__}-cp310-abi3-linux_")


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path):
    tracked = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    expected = {"ecgan_kernels/_C.abi3.so"}
    for name in tracked.split():
        if not (ROOT / name).is_file() or (
            name.endswith("py.typed") and not name.startswith("kern")
        ):
            continue
        if name.startswith("ecgan/") or name.startswith("kernels/ecgan_kernels/"):
            expected.add(name.removeprefix("kernels/"))
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    # Objects of a CUDA toolkit, where this machine has built them.
    assert held - {"ecgan_kernels/_C_cuda.abi3.so"} == expected


def test_the_sdist_holds_what_a_build_needs(dist: Path):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("csrc/", "ecgan/", "kernels/")
    files = ("setup.py", "pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE", "CHANGELOG.md",
             "CITATION.cff")  # fmt: skip
    needed = {name for name in tracked() if name.startswith(folders) or name in files}
    assert needed - held == set()
    assert not [name for name in held if name.endswith((".so", ".pyc"))]


def requirements(names: list[str], extras: frozenset[str] = frozenset()) -> Iterator[str]:
    """Distributions that ``names`` need at run time, themselves included."""
    seen, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        yield name
        for line in importlib.metadata.requires(name) or ():
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                waiting.append(wanted.name)


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with the wheel and what it requires: torch and numpy."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    for name in requirements(["torch", "numpy"]):
        distribution = importlib.metadata.distribution(name)
        for top in {Path(file).parts[0] for file in distribution.files or ()} - {".."}:
            source = Path(str(distribution.locate_file(top)))
            if source.exists() and top not in ("__pycache__", "bin"):
                (packages / top).symlink_to(source)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps",
        "--quiet", wheel)  # fmt: skip
    return python


def test_an_operator_runs_from_a_clean_install(clean: Path, tmp_path: Path):
    code = (
        "import sys, torch, ecgan_kernels\n"
        "from ecgan_kernels import edge_transfer\n"
        "assert 'site-packages' in ecgan_kernels.__file__, ecgan_kernels.__file__\n"
        "x, e = torch.randn(2, 1, 3, 8, 8).requires_grad_().unbind()\n"
        "y = edge_transfer(x, e, impl='cpu')\n"
        "torch.testing.assert_close(y, x * (1 + e.sigmoid()))\n"
        "y.sum().backward()\n"
        "from ecgan.models import Generator, Layout\n"
        "from ecgan.config import ModelConfig\n"
        "cfg = ModelConfig(num_classes=3, size='32x32', ngf=8, spade_hidden=8)\n"
        "print(Generator(cfg).eval()(Layout(torch.zeros(1, 32, 32, dtype=int), 3)).final.shape)\n"
    )
    assert "[1, 3, 32, 32]" in run(clean, "-c", code, cwd=tmp_path)


def test_the_command_tells_what_it_lacks(clean: Path, tmp_path: Path):
    command = clean.with_name("ecgan")
    assert "_C" in run(command, "info", cwd=tmp_path)
    assert f"ecgan {ecgan.__version__}" in run(command, "--version", cwd=tmp_path)
    for arguments, extra in ((["train"], "train"), (["demo", "runs/none"], "demo")):
        done = subprocess.run([command, *arguments], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2
        sentence = rf"ecgan: package \w+ is not installed: pip install 'ecgan\[{extra}\]'\n"
        assert re.fullmatch(sentence, done.stderr), done.stderr
