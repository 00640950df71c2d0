"""Plants the faults of faults.yaml in the CUDA kernels, one at a time, and sees who catches them.

For each fault a copy of csrc/ gets it, the sources concerned are compiled from there, linked with
what the C++ tests' build has of everything else, and run: plain, under AddressSanitizer, under
ThreadSanitizer, until one notices. `make faults` writes the result into docs/verification.md.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
FAULTS = Path(__file__).with_name("faults.yaml")
BUILD = ROOT / "build" / "cpp-tests"
PAGE = ROOT / "docs" / "verification.md"
BEGIN, END = "<!-- written by make faults -->", "<!-- end -->"
VARIANTS = {"plain": "plain", "asan": "AddressSanitizer", "tsan": "ThreadSanitizer"}
# The environment's own scripts first: the dev extra brings cmake and ninja.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


@dataclass(frozen=True)
class Fault:
    """One change of a source below csrc/ that some C++ test has to notice."""

    file: str
    test: str
    kind: str
    what: str
    original: str
    replacement: str

    def plant(self, csrc: Path) -> None:
        """Changes the file in `csrc`, a copy.

        Raises:
            ValueError: the text to change does not stand there exactly once.
        """
        path = csrc / self.file
        text = path.read_text()
        if text.count(self.original) != 1:
            raise ValueError(f"{self.file}: {text.count(self.original)} times {self.original!r}")
        path.write_text(text.replace(self.original, self.replacement))

    def compiles(self, source: str) -> bool:
        """Whether `source` of sources.json has to be compiled anew."""
        if self.file.endswith(".cu"):
            return source == self.file
        return source in (f"cuda/{self.test}.cu", f"cuda/{self.test}_weight.cu")


def load() -> list[Fault]:
    entries = yaml.safe_load(FAULTS.read_text())
    return [
        Fault(*(e[key] for key in ("in", "test", "kind", "what", "from", "to"))) for e in entries
    ]


def build_tests(tests: set[str], jobs: int) -> None:
    """Builds the C++ tests of these operators, in every variant."""
    configure = ["cmake", "-G", "Ninja", "-S", ROOT, "-B", BUILD, "-DECGAN_TESTS=ON"]
    _run([*configure, "-DECGAN_CUDA=OFF", "-DCMAKE_INSTALL_LIBDIR=lib"])
    targets = [f"{test}_test_{variant}" for test in sorted(tests) for variant in VARIANTS]
    _run(["cmake", "--build", BUILD, "-j", str(jobs), "--target", *targets])


def catch(fault: Fault, variant: str, folder: Path) -> str:
    """Returns how the variant's test shows that it noticed the fault; empty if it did not."""
    csrc = folder / "csrc"
    if not csrc.exists():
        shutil.copytree(ROOT / "csrc", csrc)
        fault.plant(csrc)
    *commands, link = _commands(f"{fault.test}_test_{variant}")
    objects = []
    for command in commands:
        source = command[-1].removeprefix(f"{ROOT / 'csrc'}/")
        if not fault.compiles(source):
            continue
        objects.append(str(folder / f"{Path(source).name}.{variant}.o"))
        command = [part.replace(str(ROOT / "csrc"), str(csrc)) for part in command]
        _run(_with_output(command, objects[-1]))
    executable = str(folder / f"test_{variant}")
    # Before the archives, whose own object of this name is then left where it is.
    first = next(i for i, part in enumerate(link) if part.endswith(".a"))
    _run(_with_output([*link[:first], *objects, *link[first:]], executable))
    return _verdict([*_launcher(variant), executable])


def _commands(target: str) -> list[list[str]]:
    lines = _run(["ninja", "-C", BUILD, "-t", "commands", target]).splitlines()
    commands = [shlex.split(line.removeprefix(": && ").removesuffix(" && :")) for line in lines]
    compiler = commands[-1][0]
    return [command for command in commands if command[0] == compiler]


def _with_output(command: list[str], output: str) -> list[str]:
    """The same command with another output, and without the list of headers for ninja."""
    command = list(command)
    command[command.index("-o") + 1] = output
    for option, values in (("-MD", 0), ("-MT", 1), ("-MF", 1)):
        if option in command:
            at = command.index(option)
            del command[at : at + 1 + values]
    return command


def _launcher(variant: str) -> list[str]:
    """ThreadSanitizer wants its usual address layout, as in CMakeLists.txt."""
    fixed = ["setarch", os.uname().machine, "-R"]
    if variant != "tsan" or not shutil.which("setarch"):
        return []
    return fixed if subprocess.run([*fixed, "true"], capture_output=True).returncode == 0 else []


def _verdict(command: list[str]) -> str:
    options = {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "halt_on_error=1"}
    environment = {**os.environ, **options}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=300, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return "no end within 300 s"
    if done.returncode == 0:
        return ""
    said = done.stderr
    for pattern, verdict in (
        (r"ThreadSanitizer: (data race)", r"\1"),
        (r"AddressSanitizer: ([\w-]+)", r"\1"),
        (r"runtime error: (.+)", r"\1"),
        (r"what\(\):  (?:\S+: )?([^\[\n]+)", r"exception: \1"),
    ):
        if found := re.search(pattern, said):
            return found.expand(verdict).strip()
    if done.returncode < 0:
        return f"signal {-done.returncode}"
    if re.search(r"\b(is|got|,) -?nan\b", said):
        return "NaN"
    if "order of" in said and " is " not in said:
        return "depends on the order of threads"
    return "wrong result"


def _run(command: list) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=BUILD if BUILD.exists() else ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": PATH},
    )
    if done.returncode:
        raise RuntimeError(f"{shlex.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def try_out(fault: Fault) -> tuple[str, str]:
    """Returns the first variant that notices the fault, and how; two empty strings if none does."""
    with tempfile.TemporaryDirectory() as folder:
        for variant in VARIANTS:
            if how := catch(fault, variant, Path(folder)):
                return variant, how
    return "", ""


def row(fault: Fault, variant: str, how: str) -> str:
    caught = f"{VARIANTS[variant]}: {how}" if how else "**nothing**"
    return f"| `{Path(fault.file).name}` | {fault.kind} | {fault.what} | {caught} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--only", default="", help="faults whose file or words match; writes nothing"
    )
    options = parser.parse_args()
    faults = [f for f in load() if re.search(options.only, f"{f.file} {f.kind} {f.what}")]
    build_tests({fault.test for fault in faults}, options.jobs)
    rows, missed = [], 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for fault, (variant, how) in zip(faults, pool.map(try_out, faults), strict=True):
            rows.append(row(fault, variant, how))
            missed += not how
            print(rows[-1], flush=True)
    print(f"{len(faults)} faults, {missed} not caught")
    if not options.only:
        head, rest = PAGE.read_text().split(BEGIN)
        table = ["| file | kind | planted fault | caught by |", "|---|---|---|---|", *rows]
        tail = rest.split(END)[1]
        PAGE.write_text("\n".join([head + BEGIN, "", *table, "", END + tail]))
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
