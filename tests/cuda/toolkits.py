"""The CUDA compilers of a check: the nvcc at hand, and one that still knows sm_70.

CUDA 13 dropped sm_70. Debian 12 packages nvcc 11.8, whose tools alone (84 MB) are taken from its
package, without installing it, and the headers that belong to it from PyPI.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "cuda-11.8"
PACKAGE = "nvidia-cuda-toolkit"
WHEELS = (
    "nvidia-cuda-nvcc-cu11==11.8.89",
    "nvidia-cuda-runtime-cu11==11.8.89",
    "nvidia-cuda-cccl-cu11==11.8.89.post1",
)
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Where nvcc finds its parts in the folder that `_lay_out` makes.
PROFILE = """\
TOP = $(_HERE_)/..
NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice
PATH += $(TOP)/nvvm/bin:$(_HERE_):
INCLUDES += "-I$(TOP)/include" $(_SPACE_)
"""


class MissingError(Exception):
    """A toolkit cannot be had here; the message is one sentence that says why."""


@dataclass(frozen=True)
class Toolkit:
    """A compiler for some architectures, and what reads its machine code."""

    nvcc: Path
    disassembler: Path
    release: tuple[int, int]

    @property
    def name(self) -> str:
        return "nvcc {}.{}".format(*self.release)


def find_nvcc() -> Path | None:
    """Returns the nvcc of CUDA_HOME, /usr/local/cuda or PATH."""
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    places = [str(Path(home, "bin")) for home in homes if home]
    found = shutil.which("nvcc", path=os.pathsep.join([*places, os.environ["PATH"]]))
    return Path(found) if found else None


def find_disassembler(nvcc: Path | None = None) -> Path | None:
    """Returns the nvdisasm beside nvcc, else the one that Triton's package brings."""
    spec = importlib.util.find_spec("triton")
    places = [nvcc.parent] if nvcc else []
    if spec and spec.origin:
        places.append(Path(spec.origin).parent / "backends" / "nvidia" / "bin")
    return next((p / "nvdisasm" for p in places if (p / "nvdisasm").is_file()), None)


def local_toolkit() -> Toolkit:
    """Returns the nvcc at hand.

    Raises:
        MissingError: there is none, or no nvdisasm.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise MissingError("there is no nvcc in CUDA_HOME, /usr/local/cuda or PATH")
    disassembler = find_disassembler(nvcc)
    if disassembler is None:
        raise MissingError(
            "there is no nvdisasm beside nvcc, and Triton, which brings one, is absent"
        )
    return Toolkit(nvcc, disassembler, _release(nvcc))


def volta_toolkit() -> Toolkit:
    """Returns an nvcc for sm_70: that of CUDA12_HOME, the one at hand, or 11.8, fetched once.

    Raises:
        MissingError: none of them is to be had.
    """
    homes = [Path(home) for home in [os.environ.get("CUDA12_HOME")] if home]
    local = find_nvcc()
    if local and _release(local) < (13, 0):
        homes.append(local.parents[1])
    if not homes:
        if not (CACHE / "bin" / "nvcc").exists():
            _fetch()
        homes.append(CACHE)
    nvcc = homes[0] / "bin" / "nvcc"
    disassembler = nvcc.parent / "nvdisasm"  # a newer one refuses sm_70
    if not disassembler.is_file():
        raise MissingError(f"there is no nvdisasm beside {nvcc}, and newer ones refuse sm_70")
    return Toolkit(nvcc, disassembler, _release(nvcc))


def _release(nvcc: Path) -> tuple[int, int]:
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"release (\d+)\.(\d+),", text)
    assert release, text
    return int(release[1]), int(release[2])


def _fetch() -> None:
    scratch = CACHE.with_suffix(".part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        _fetch_tools(scratch)
        _fetch_headers(scratch)
        _lay_out(scratch, scratch / "toolkit")
        shutil.rmtree(CACHE, ignore_errors=True)
        (scratch / "toolkit").rename(CACHE)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run(what: str, *command: str | Path, cwd: Path) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    except FileNotFoundError:
        raise MissingError(f"{what}: there is no {command[0]} here") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise MissingError(f"{what}: {lines[-1] if lines else f'{command[0]} failed'}")
    return done.stdout


def _fetch_tools(scratch: Path) -> None:
    """Unpacks Debian's package below `scratch`, from the archive that this machine uses anyway."""
    listed = _run(
        "Debian's archive",
        "apt-get",
        "indextargets",
        "--format",
        "$(REPO_URI) $(RELEASE)",
        "Created-By: Packages",
        "Component: main",
        "Origin: Debian",
        cwd=scratch,
    )
    archives = [line for line in listed.splitlines() if line.endswith(" bookworm")]
    if not archives:
        raise MissingError(
            "nvcc 11.8 is a package of Debian 12, which this is not: set CUDA12_HOME"
        )
    sources = scratch / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {archives[0]} non-free\n")
    # Lists and cache of its own: nothing of the machine's apt is touched.
    for folder in ("lists/partial", "archives/partial"):
        (scratch / folder).mkdir(parents=True)
    options = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": scratch / "lists",
        "Dir::Cache": scratch,
    }
    apt = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items())]
    _run("Debian's non-free packages", *apt, "update", cwd=scratch)
    _run("Debian's non-free packages", *apt, "download", PACKAGE, cwd=scratch)
    package = next(scratch.glob(f"{PACKAGE}_*.deb"))
    _run(package.name, "dpkg-deb", "-x", package, scratch / "package", cwd=scratch)


def _fetch_headers(scratch: Path) -> None:
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")
    _run("CUDA 11.8's headers", *pip, *WHEELS, cwd=scratch)
    for wheel in scratch.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch / "wheels")


def _lay_out(scratch: Path, toolkit: Path) -> None:
    tools, library = scratch / "package/usr/bin", scratch / "package/usr/lib/nvidia-cuda-toolkit"
    for folder in ("bin", "nvvm/bin", "include"):
        (toolkit / folder).mkdir(parents=True)
    for tool in ("cudafe++", "ptxas", "fatbinary", "nvlink", "bin2c", "nvdisasm"):
        shutil.copy2(tools / tool, toolkit / "bin")
    shutil.copy2(library / "bin/nvcc", toolkit / "bin")  # that in tools is a script
    shutil.copytree(library / "bin/crt", toolkit / "bin/crt")
    shutil.copy2(library / "bin/cicc", toolkit / "nvvm/bin")
    shutil.copytree(library / "libdevice", toolkit / "nvvm/libdevice")
    for include in (scratch / "wheels/nvidia").glob("*/include"):
        shutil.copytree(include, toolkit / "include", dirs_exist_ok=True)
    (toolkit / "bin/nvcc.profile").write_text(PROFILE)
