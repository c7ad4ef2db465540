"""Who imports whom: no circles, and nothing below the command line knows of it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

import fused_sampler

ROOT = Path(fused_sampler.__file__).parent
FILES = {
    ".".join(("fused_sampler", *path.relative_to(ROOT).with_suffix("").parts)): path
    for path in ROOT.rglob("*.py")
}
FRONT = tuple(f"fused_sampler.{name}" for name in ("cli", "explorer", "models", "views"))
MODULES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}


def imported(module: str) -> Iterator[str]:
    """The package's modules that `module` imports when it is itself imported."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {
        node
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.If))  # later, or for mypy alone
        for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and node not in inner:
            source = resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                found = whole if whole in MODULES else source
                if found in MODULES and found != module:
                    yield found


def test_no_module_imports_itself_by_way_of_others():
    assert "fused_sampler.params" in set(imported("fused_sampler.views.request"))
    front = {module for module in MODULES if module.startswith(FRONT)}
    graph = {module: front.intersection(imported(module)) for module in front}
    while ready := [module for module, wanted in graph.items() if not wanted]:
        graph = {m: wanted - set(ready) for m, wanted in graph.items() if m not in ready}
    assert graph == {}


@pytest.mark.parametrize("folder", ["explorer", "models", "views"])
def test_needs_no_command_line(folder):
    modules = [name for name in MODULES if f".{folder}" in name]
    assert len(modules) > 4
    code = (
        "import sys, importlib\n"
        "sys.modules['typer'] = sys.modules['fused_sampler.cli'] = None\n"
        f"for name in {modules}: importlib.import_module(name)"
    )
    for package in ("transformers", "matplotlib"):
        pytest.importorskip(package)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
