"""No file we read can run code: nothing outside the tests holds a pickle, eval, shell or unsafe loader."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

MODULES = {
    "pickle", "_pickle", "cPickle", "pickletools", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve",
    "torchvision", "torch.package", "torch.hub",
}  # fmt: skip
# Forbidden wherever they are named, called or not, so that no other name can hide them.
NAMES = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput",
    "subprocess.getstatusoutput", "torch.load", "torch.save", "torch.serialization.load", "torch.jit.load",
    "torch.export.load", "torch.distributed.checkpoint.load", "torch.distributed.checkpoint.load_state_dict",
    "torch.distributed.checkpoint.FileSystemReader", "yaml.load", "yaml.load_all", "yaml.unsafe_load",
    "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all", "yaml.Loader", "yaml.FullLoader",
    "yaml.UnsafeLoader", "yaml.CLoader", "numpy.lib.format.read_array", "sqlalchemy.PickleType",
    "huggingface_hub.load_torch_model", "huggingface_hub.load_state_dict_from_file",
    "importlib.util.spec_from_file_location", "runpy.run_path", "runpy.run_module",
}  # fmt: skip
# Forbidden as methods of anything: they read or exchange pickles whatever they belong to.
METHODS = {
    "read_pickle", "to_pickle", "PickleType", "load_state", "save_state", "all_gather_object",
    "gather_object", "broadcast_object_list", "scatter_object_list", "send_object_list", "recv_object_list",
}  # fmt: skip
ARGUMENTS = {
    "shell": True,
    "allow_pickle": True,
    "trust_remote_code": True,
    "weights_only": False,
    "use_safetensors": False,
    "safe_serialization": False,
}
# A class that a folder chooses may come with code of its own; left unsaid, the library asks the user to run it.
AUTOMATIC = {"AutoTokenizer", "AutoModel", "AutoConfig", "AutoProcessor", "AutoImageProcessor", "DiffusionPipeline"}


def dotted(node: ast.expr) -> str:
    """Return ``a.b.c`` of an attribute chain; empty where it does not start at a name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def forbidden_module(name: str) -> bool:
    """Say whether ``name`` is, or lies in, a forbidden module."""
    parts = name.split(".")
    return any(".".join(parts[:count]) in MODULES for count in range(1, len(parts) + 1))


def full_name(node: ast.expr, aliases: dict[str, str]) -> str:
    """Return the dotted name of ``node`` with the first part as it was imported."""
    head, dot, rest = dotted(node).partition(".")
    return aliases.get(head, head) + dot + rest


def call_findings(node: ast.Call, called: str) -> list[str]:
    """Return what is forbidden in how something is called."""
    found = []
    given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
    for argument, value in given.items():
        if argument in ARGUMENTS and value is ARGUMENTS[argument]:
            found.append(f"line {node.lineno}: {argument}={value}")
    owner, _, method = called.rpartition(".")
    if (
        method == "from_pretrained"
        and owner.rpartition(".")[2] in AUTOMATIC
        and given.get("trust_remote_code") is not False
    ):
        found.append(f"line {node.lineno}: {called}() without trust_remote_code=False")
    texts = {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    if called == "getattr" and texts & (METHODS | {"load", "save"}):
        found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def findings(source: str) -> list[str]:
    """Return what is forbidden in ``source``, following ``import x as y``."""
    tree = ast.parse(source)
    aliases: dict[str, str] = {}
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                aliases[name.asname or name.name.partition(".")[0]] = (
                    name.name if name.asname else name.name.partition(".")[0]
                )
                if forbidden_module(name.name):
                    found.append(f"line {node.lineno}: import {name.name}")
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
            aliases |= names
            found += [
                f"line {node.lineno}: from {node.module} import {name.rpartition('.')[2]}"
                for name in names.values()
                if forbidden_module(name) or name in NAMES or name.rpartition(".")[2] in METHODS
            ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            named = full_name(node, aliases)
            # an attribute of something that has no name, as in f(x).load_state, counts by its last part
            last = node.attr if isinstance(node, ast.Attribute) else ""
            if named in NAMES or last in METHODS:
                found.append(f"line {node.lineno}: {named or last}")
        if isinstance(node, ast.Call):
            found += call_findings(node, full_name(node.func, aliases))
    return found


def test_source_runs_no_code_from_data(root: Path) -> None:
    files = [
        path for place in ("src", "tools", "benchmarks", "examples") for path in sorted((root / place).rglob("*.py"))
    ]
    assert files
    found = {str(path.relative_to(root)): findings(path.read_text(encoding="utf-8")) for path in files}
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "import pickle as p",
        "from joblib import load",
        "import torch\ntorch.load('x')",
        "import torch as t\nt.load('x')",
        "from torch import load\nload('x')",
        "from torch import load as read\nread('x')",
        "eval('1')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import yaml\nyaml.load('x', Loader=yaml.Loader)",
        "import os\nos.system('ls')",
        "Model.from_pretrained('x', trust_remote_code=True)",
        "AutoTokenizer.from_pretrained('x')",
        "import transformers\ntransformers.AutoModel.from_pretrained('x', trust_remote_code=flag)",
        "import torch\nread = torch.load\nread('x')",
        "import torch\n[torch.load]",
        "import torch\nmap(torch.load, paths)",
        "import torch\ngetattr(torch, 'load')('x')",
        "from torch import package",
        "import torch.hub",
        "from torch.hub import load_state_dict_from_url",
        "from yaml import FullLoader",
        "import yaml as y\ny.load('x', Loader=y.CLoader)",
        "import torch.distributed.checkpoint as dcp\ndcp.load(state)",
        "import torch.distributed as dist\ndist.all_gather_object(found, x)",
        "from torch.distributed import broadcast_object_list",
        "accelerator.load_state('x')",
        "self.accelerator.load_state('x')",
        "pandas.read_pickle('x')",
        "frames().to_pickle('x')",
        "from sqlalchemy import PickleType",
        "model.save_pretrained('x', safe_serialization=False)",
        "import numpy as np\nnp.lib.format.read_array(file)",
    ],
)
def test_planted_code_is_found(planted: str) -> None:
    assert findings(planted)


@pytest.mark.parametrize(
    "harmless",
    [
        "import yaml\nyaml.safe_load('x')",
        "import re\nre.compile('x')",
        "model.eval()",
        "import json\njson.load(file)",
        "class Settings:\n    compile: bool = False",
        "settings.compile",
        "optimizer.load_state_dict(state)",
        "getattr(model, 'denoiser')",
        "AutoTokenizer.from_pretrained('x', trust_remote_code=False)",
    ],
)
def test_harmless_code_passes(harmless: str) -> None:
    assert findings(harmless) == []
