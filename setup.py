"""Builds the two packages and, where the tools are at hand, the compiled operators.

    pip install --no-build-isolation .        # or -e .; build isolation hides the installed torch
    python setup.py build_ext --inplace       # only the libraries, into the source tree

``ecgan_kernels/_C`` (schemas, CPU kernels) is built wherever torch and a C++ compiler (GCC or
Clang) are there, ``_C_cuda`` where nvcc is too and torch is a CUDA build. Whatever is missing is
named in one line and left out: the install succeeds, and the operators run as their references.

``ecgan_kernels/_host``, helpers on numpy arrays, is built where pybind11 is installed; it alone is
for one version of Python, and so is a wheel that holds it.

Both libraries use PyTorch's stable ABI alone, with 2.11 as the oldest torch, and no Python header,
so one build serves torch 2.11 and later under any Python. Kernels include no torch header: those
of sources.json under "cpu_simd" are compiled once per instruction set, those under "cuda" by nvcc.

Environment:
    CUDA_HOME             CUDA toolkit; else nvcc on PATH, else /usr/local/cuda.
    FORCE_CUDA            1: build _C_cuda beside a CPU torch too (which does not load it), or fail;
                          0: do not build it.
    TORCH_CUDA_ARCH_LIST  GPU architectures, such as "7.0;8.0;9.0+PTX". Default: all from sm_70 or,
                          with CUDA 13, which dropped it, from sm_75 on.
    DEBUG                 1: no optimisation, debug symbols.
    FORCE_ABI3            1: leave _host out, so that one wheel serves every Python from 3.10 on.
    SANITIZE              1: AddressSanitizer and UndefinedBehaviorSanitizer in all that runs on the
                          CPU; `make sanitize` says how such a build is run.
    SANITIZE_ISAS         best: only in the kernels of this processor's newest instruction set.
    MAX_JOBS              Parallel compiler processes.
    CXX                   C++ compiler.
"""

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup

CSRC = Path("csrc")
SOURCES = json.loads((CSRC / "sources.json").read_text())
DEBUG = os.environ.get("DEBUG") == "1"
SANITIZE = os.environ.get("SANITIZE") == "1"
CXX = shlex.split(os.environ.get("CXX", "c++"))
DEFINES = [("TORCH_TARGET_VERSION", "0x020b000000000000")]
# Not in "undefined" by itself: a float's conversion to an integer that cannot hold it.
SANITIZERS = ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
if SANITIZE:
    FLAGS = ["-O1", "-g1", "-fno-omit-frame-pointer", "-fno-wrapv", *SANITIZERS]
else:
    FLAGS = ["-O0", "-g"] if DEBUG else ["-O3", "-g0"]
# Kernels, which torch's own build does not compile: C++17 is what every toolkit here knows.
KERNEL_FLAGS = ["-std=c++17", "-fPIC", "-fvisibility=hidden", *FLAGS]

try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ImportError:
    torch = None


def sources(*groups: str) -> list[str]:
    return [str(CSRC / file) for group in groups for file in SOURCES[group]]


def cpu_problem() -> str | None:
    """Why the CPU library cannot be built; None if it can."""
    if torch is None:
        return "torch is not importable here (use `pip install --no-build-isolation`)"
    program = b"#include <string>\ntypedef float Vector __attribute__((vector_size(16)));\n"
    try:
        subprocess.run(
            [*CXX, "-std=c++17", "-fsyntax-only", "-x", "c++", "-"],
            input=program,
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return f"no working C++ compiler (`{shlex.join(CXX)}`): install g++ or clang++, or set CXX"
    return None


def find_nvcc() -> str | None:
    if "CUDA_HOME" in os.environ:
        nvcc = os.path.join(os.environ["CUDA_HOME"], "bin", "nvcc")
    else:
        nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    return nvcc if os.path.isfile(nvcc) else None


def cuda_problem(nvcc: str | None) -> str | None:
    """Why the CUDA library is not built; None if it is to be."""
    wish = os.environ.get("FORCE_CUDA")
    if wish == "0":
        return "FORCE_CUDA=0"
    if nvcc is None:
        if wish == "1":
            sys.exit("ecgan: FORCE_CUDA=1, but there is no nvcc: set CUDA_HOME to a CUDA toolkit")
        return "no nvcc: set CUDA_HOME to a CUDA toolkit"
    if wish != "1" and not torch.version.cuda:
        return f"torch {torch.__version__} is not a CUDA build (FORCE_CUDA=1 builds it even so)"
    return None


def gencode_flags(nvcc: str) -> list[str]:
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    major = int(re.search(r"release (\d+)", version)[1])
    default = "7.0;7.5;8.0;8.6;8.9;9.0+PTX" if major < 13 else "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"
    flags = []
    for arch in re.split(r"[;\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip() or default):
        parsed = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", arch)
        if not parsed:
            sys.exit(
                f"ecgan: TORCH_CUDA_ARCH_LIST: expected 8.0 or 9.0+PTX or the like, got {arch!r}"
            )
        number = parsed[1] + parsed[2]
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if parsed[3]:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def cuda_link_flags(nvcc: str) -> list[str]:
    # The static runtime, so that the toolkit's version need not be torch's; nvcc knows where it is.
    plan = subprocess.run(
        [nvcc, "-dryrun", "-x", "cu", os.devnull, "-o", os.devnull], capture_output=True, text=True
    )
    folders = re.search(r"LIBRARIES=(.*)", plan.stderr)
    runtime = ["-lcudart_static", "-ldl", "-lrt", "-lpthread"]
    return [*(shlex.split(folders[1]) if folders else []), *runtime]


def simd_flags(isa_flags: list[str]) -> list[str]:
    """Flags of the kernels of one instruction set."""
    cpu = Path("/proc/cpuinfo")
    known = cpu.read_text().split() if SANITIZE and cpu.exists() else []
    sets = [[flag.removeprefix("-m") for flag in flags] for flags in SOURCES["isa"].values()]
    runs = [one for one in sets if all(flag in known for flag in one)]
    attacked = runs[-1:] if os.environ.get("SANITIZE_ISAS") == "best" else runs
    if known and [flag.removeprefix("-m") for flag in isa_flags] not in attacked:
        # Checks cost most of the build, and here these kernels are linked but not attacked.
        return [*(flag for flag in KERNEL_FLAGS if flag not in FLAGS), "-O0", *isa_flags]
    return [*KERNEL_FLAGS, *isa_flags]


def simd_commands() -> list[tuple[str, list[str]]]:
    """Object name and compiler command, without the output, of each kernel and instruction set."""
    x86 = platform.machine() in ("x86_64", "AMD64")
    return [
        (
            f"{Path(source).stem}_{isa}.o",
            [*CXX, *simd_flags(flags), "-Wall", "-Wextra", f"-DECGAN_ISA={isa}", "-c", source],
        )
        for isa, flags in SOURCES["isa"].items()
        if x86 or isa == "baseline"
        for source in sources("cpu_simd")
    ]


def cuda_commands(nvcc: str) -> list[tuple[str, list[str]]]:
    host = [f for f in KERNEL_FLAGS if f.startswith("-f")]
    flags = ["-std=c++17", "-O0", "-G"] if DEBUG else ["-std=c++17", "-O3", "-lineinfo"]
    flags += ["-Xcompiler", ",".join(host), "--threads", "0", *gencode_flags(nvcc)]
    if "CXX" in os.environ:
        flags += ["-ccbin", CXX[-1]]
    return [(f"{Path(s).stem}.cu.o", [nvcc, *flags, "-c", s]) for s in sources("cuda")]


def compile_objects(commands: list[tuple[str, list[str]]], folder: Path) -> list[str]:
    """Runs the commands that changed, or whose object is older than anything in csrc."""
    folder.mkdir(parents=True, exist_ok=True)
    newest = max(file.stat().st_mtime for file in CSRC.rglob("*.*"))

    def compile_object(name: str, command: list[str]) -> str:
        target, record = folder / name, folder / f"{name}.command"
        line = shlex.join([*command, "-o", str(target)])
        done = record.exists() and record.read_text() == line and target.exists()
        if not done or target.stat().st_mtime < newest:
            print(line, flush=True)
            if subprocess.run(shlex.split(line), check=False).returncode:
                sys.exit(f"ecgan: the compiler failed: {line}")
            record.write_text(line)
        return str(target)

    jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda item: compile_object(*item), commands))


def extension(name: str, files: list[str], commands: list, libraries: list[str]) -> "CppExtension":
    result = CppExtension(
        f"ecgan_kernels.{name}",
        files,
        define_macros=DEFINES,
        depends=[str(path) for path in sorted(CSRC.rglob("*.*"))],
        extra_compile_args=["-fvisibility=hidden", *FLAGS],
        extra_link_args=[*libraries, *(SANITIZERS if SANITIZE else [])],
        py_limited_api=True,
    )
    result.commands = commands
    return result


def host_extension() -> "CppExtension | None":
    """The pybind11 module, which needs neither torch nor the other libraries."""
    if os.environ.get("FORCE_ABI3") == "1":
        print("ecgan: without ecgan_kernels._host: FORCE_ABI3=1", file=sys.stderr)
        return None
    try:
        import pybind11
    except ImportError:
        print("ecgan: without ecgan_kernels._host: pybind11 is not installed", file=sys.stderr)
        return None
    result = Extension(
        "ecgan_kernels._host",
        [*sources("host"), "csrc/cpu/label_index.cpp"],
        include_dirs=[pybind11.get_include()],
        depends=[str(path) for path in sorted(CSRC.rglob("*.*"))],
        extra_compile_args=["-std=c++17", "-fvisibility=hidden", *FLAGS],
        extra_link_args=SANITIZERS if SANITIZE else [],
        language="c++",
    )
    result.commands = []
    return result


def extensions() -> list:
    problem = cpu_problem()
    if problem:
        print(f"ecgan: pure Python, without compiled operators: {problem}", file=sys.stderr)
        return []
    found = [extension("_C", sources("ops", "cpu"), simd_commands(), [])]
    nvcc = find_nvcc()
    problem = cuda_problem(nvcc)
    if problem:
        print(f"ecgan: without CUDA operators: {problem}", file=sys.stderr)
    else:
        link = cuda_link_flags(nvcc)
        found.append(extension("_C_cuda", sources("ops_cuda"), cuda_commands(nvcc), link))
    host = host_extension()
    return found if host is None else [*found, host]


ext_modules = extensions()
options = {}
if ext_modules:

    class BuildKernels(BuildExtension):
        """Compiles the kernels by their own commands first, then the rest by torch's."""

        def finalize_options(self) -> None:
            super().finalize_options()
            # pip gives every build a new folder: objects stay here, so an editable install, a
            # wheel and a build in place compile them once.
            if self.get_finalized_command("build").build_base == "build":
                self.build_temp = str(Path("build", "debug" if DEBUG else "objects"))

        def build_extension(self, ext: Extension) -> None:
            # A folder each: ninja forgets what its last call did not build.
            folder, self.build_temp = self.build_temp, str(Path(self.build_temp, ext.name))
            super().build_extension(ext)
            self.build_temp = folder

        def build_extensions(self) -> None:
            self.force = True  # link even if no file is newer: flags may have changed
            for ext in self.extensions:
                ext.extra_objects = compile_objects(ext.commands, Path(self.build_temp, "kernels"))
            super().build_extensions()

    options = {"ext_modules": ext_modules, "cmdclass": {"build_ext": BuildKernels}}
    if all(ext.py_limited_api for ext in ext_modules):
        options["options"] = {"bdist_wheel": {"py_limited_api": "cp310"}}

setup(
    include_package_data=False,  # what package_data names, and nothing else
    packages=find_packages(".", include=["ecgan", "ecgan.*"]) + find_packages("kernels"),
    package_dir={"ecgan_kernels": "kernels/ecgan_kernels"},
    package_data={
        "ecgan": ["recipes/*.yaml"],
        "ecgan.demo": ["static/*"],
        "ecgan.pages": ["templates/*"],
        "ecgan_kernels": ["py.typed"],
    },
    **options,
)
