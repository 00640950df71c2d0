"""Nothing in the packages can run code from a file: told from their source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import ecgan_kernels
import pytest

import ecgan

# Names whose use is a fault wherever it stands. torch.load is looked at more closely.
FORBIDDEN = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "pickle.dump", "pickle.dumps",
    "pickle.Pickler", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal",
    "torch.save", "torch.jit.load", "torch.package", "torch.hub.load",
    "torch.hub.load_state_dict_from_url", "torch.utils.model_zoo", "torch.serialization",
    "torch.UntypedStorage.from_file", "numpy.lib.format", "pandas.read_pickle",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.unsafe_load_all",
    "yaml.Loader", "yaml.FullLoader", "yaml.UnsafeLoader", "jsonpickle", "eval", "exec",
    "shutil.unpack_archive", "tarfile",
}  # fmt: skip
METHODS = {"extractall", "save_state", "load_state", "read_pickle"}
# What transformers reads without weights.
WITHOUT_WEIGHTS = ("Config", "Processor", "Tokenizer")


def names_of(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value, names)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


def is_true(call: ast.Call, keyword: str) -> bool:
    return any(
        k.arg == keyword and isinstance(k.value, ast.Constant) and k.value.value is True
        for k in call.keywords
    )


def unsafe(source: str) -> Iterator[str]:
    """Everything in ``source`` that runs, or could run, code from a file."""
    tree = ast.parse(source)
    names = names_of(tree)
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            found = [f"{module}.{a.name}" if module else a.name for a in node.names]
        elif isinstance(node, ast.Name | ast.Attribute):
            found = [dotted(node, names)]
        else:
            continue
        for name in found:
            if any(name == word or name.startswith(f"{word}.") for word in FORBIDDEN):
                yield f"line {node.lineno}: {name}"
            if name == "torch.load" and not (
                id(node) in called and is_true(called[id(node)], "weights_only")
            ):
                yield f"line {node.lineno}: {name} without weights_only=True"
        if isinstance(node, ast.Attribute) and node.attr in METHODS:
            yield f"line {node.lineno}: .{node.attr}"
    for call in called.values():
        name = dotted(call.func, names)
        keywords = {k.arg for k in call.keywords}
        if "allow_pickle" in keywords or "trust_remote_code" in keywords:
            yield f"line {call.lineno}: {name} with allow_pickle or trust_remote_code"
        owner, _, method = name.rpartition(".")
        weights = owner.startswith("transformers.") and not owner.endswith(WITHOUT_WEIGHTS)
        if method == "from_pretrained" and weights and not is_true(call, "use_safetensors"):
            yield f"line {call.lineno}: {name} without use_safetensors=True"


SOURCES = {
    f"{package.__name__}/{path.relative_to(root).as_posix()}": path
    for package in (ecgan, ecgan_kernels)
    for root in [Path(package.__file__).parent]
    for path in sorted(root.rglob("*.py"))
}


@pytest.mark.parametrize("name", SOURCES)
def test_no_module_unpickles(name):
    assert list(unsafe(SOURCES[name].read_text(encoding="utf-8"))) == []


def test_all_modules_are_looked_at():
    assert len(SOURCES) > 80
    assert "ecgan/models/pretrained.py" in SOURCES


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=flag)",
        "import torch as t\nt.load(path)",
        "from torch import load as read\nread(path)",
        "import torch\nread = torch.load\nread(path, weights_only=True)",
        "import torch\ntorch.save(state, path)",
        "import torch.hub\ntorch.hub.load('a/b', 'c')",
        "import pickle\npickle.loads(data)",
        "import pickle as p\np.Unpickler(file).load()",
        "from pickle import load",
        "def f():\n import dill",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import yaml\nyaml.load(text, Loader=yaml.UnsafeLoader)",
        "from yaml import unsafe_load",
        "archive.extractall(path)",
        "eval(text)",
        "accelerator.load_state(path)",
        "from transformers import AutoModel\nAutoModel.from_pretrained(path)",
        "import transformers as t\nt.AutoModelForImageClassification.from_pretrained(path)",
        "from transformers import AutoConfig as A\nA.from_pretrained(p, trust_remote_code=True)",
    ],
)
def test_what_would_be_found(source):
    assert list(unsafe(source))


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path, map_location='cpu', weights_only=True)",
        "import pickle\ntry:\n pass\nexcept pickle.UnpicklingError:\n pass",
        "import yaml\nyaml.safe_load(text)",
        "from transformers import AutoConfig\nAutoConfig.from_pretrained(path)",
        "network.eval()",
        "import numpy as np\nnp.load(path)",
    ],
)
def test_what_is_allowed(source):
    assert list(unsafe(source)) == []
