"""No file we read can run code: the source holds no pickle, eval, shell or unsafe loader."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "torchvision"}
CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "torch.save", "torch.hub.load",
    "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "pandas.read_pickle",
    "subprocess.getoutput", "subprocess.getstatusoutput",
}  # fmt: skip
ARGUMENTS = {
    "shell": True,
    "allow_pickle": True,
    "trust_remote_code": True,
    "weights_only": False,
    "use_safetensors": False,
}


def dotted(node: ast.expr) -> str:
    """Return ``a.b.c`` of an attribute chain; empty where it does not start at a name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


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
                if name.name.partition(".")[0] in MODULES:
                    found.append(f"line {node.lineno}: import {name.name}")
        elif isinstance(node, ast.ImportFrom) and node.module:
            aliases |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
            if node.module.partition(".")[0] in MODULES:
                found.append(f"line {node.lineno}: from {node.module}")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        head, dot, rest = dotted(node.func).partition(".")
        called = aliases.get(head, head) + dot + rest
        if called in CALLS:
            found.append(f"line {node.lineno}: {called}()")
        for keyword in node.keywords:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            if keyword.arg in ARGUMENTS and value is ARGUMENTS[keyword.arg]:
                found.append(f"line {node.lineno}: {keyword.arg}={value}")
    return found


def test_source_runs_no_code_from_data(root: Path) -> None:
    files = sorted((root / "src").rglob("*.py"))
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
    ],
)
def test_planted_code_is_found(planted: str) -> None:
    assert findings(planted)


@pytest.mark.parametrize(
    "harmless",
    ["import yaml\nyaml.safe_load('x')", "import re\nre.compile('x')", "model.eval()", "import json\njson.load(file)"],
)
def test_harmless_code_passes(harmless: str) -> None:
    assert findings(harmless) == []
