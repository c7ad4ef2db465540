"""The kernel for the Hugging Face hub: what `hub.py` writes, where the package is not installed."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import hub_calls
import pytest
import torch

import fused_sampler

ROOT = Path(__file__).resolve().parents[1]
HUB = ROOT / ".venv-hub" / "bin" / "python"  # has the package `kernels`, and not ours


def run(command, folder, **environment):
    """Standard output of a command that must succeed."""
    names = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": "", **environment}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=names, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(folder, script=ROOT / "hub.py"):
    """The repository of the kernel, and the id of its variant for CPUs."""
    run([sys.executable, script, folder], folder.parent)
    return json.loads((folder / "build" / "torch-cpu" / "metadata.json").read_text())["id"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    build(folder)
    return folder


def loaders():
    """The import that `kernels` makes, and `kernels` itself, where `make test-hub` installed it."""
    return ["importlib", "kernels"] if (ROOT / ".venv-hub" / "ready").exists() else ["importlib"]


def python(loader, code, folder, *arguments, path=()):
    """Standard output of code, run by the interpreter that has the loader."""
    interpreter = sys.executable if loader == "importlib" else HUB
    places = os.pathsep.join(map(str, [ROOT / "tests" / "helpers", *path]))
    return run([interpreter, "-c", code, loader, *arguments], folder, PYTHONPATH=places)


def parsed(repository):
    """Each Python file of the kernel, by its path in a variant, with its syntax tree."""
    variant = repository / "build" / "torch-cuda"
    for path in variant.rglob("*.py"):
        yield path.relative_to(variant), ast.parse(path.read_text())


def test_it_holds_the_sampler_and_its_kernels_alone(repository):
    variants = repository / "build"
    assert {path.name for path in variants.iterdir()} == {"torch-cpu", "torch-cuda", "torch-rocm"}
    held = {path for path, _ in parsed(repository)}
    folders = {path.parts[0] for path in held if len(path.parts) > 1}
    assert folders == {"contract", "edits", "filters", "kernels"}
    assert {p for p in held if p.parts[0] == "kernels"} == {
        path.relative_to(ROOT) for path in (ROOT / "kernels").rglob("*.py")
    }
    assert (repository / "LICENSE").exists() and (repository / "README.md").exists()


def test_it_imports_itself_by_relative_names(repository):
    for path, tree in parsed(repository):
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            roots = {name.split(".")[0] for name in names}
            assert "fused_sampler" not in roots, path
            if path.parts[:1] != ("kernels",):  # imported at once, so by what the hub allows
                assert roots <= {"torch", *sys.stdlib_module_names}, path


def copied_sources(folder):
    """A copy of all that the kernel is built from; its build script."""
    for name in ("sampler", "kernels"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "LICENSE", folder)
    return shutil.copy(ROOT / "hub.py", folder)


def append(path, line):
    with path.open("a") as file:
        file.write(f"{line}\n")


def test_another_content_has_another_name(tmp_path):
    script = copied_sources(tmp_path)
    first = build(tmp_path / "first", script)
    assert re.fullmatch("_fused_sampler_cpu_[0-9a-f]{12}", first)
    assert first == build(tmp_path / "second", ROOT / "hub.py")
    append(tmp_path / "kernels" / "gpu" / "draw.py", "# another line")
    assert first != build(tmp_path / "first", script)


def test_an_import_that_cannot_become_relative_is_named(tmp_path):
    script = copied_sources(tmp_path)
    append(tmp_path / "sampler" / "params.py", "import fused_sampler.output")
    with pytest.raises(AssertionError, match=r"params\.py:\d+: write `from fused_sampler"):
        build(tmp_path / "kernel", script)


ALONE = """
import importlib.util, sys, torch
loader, folder = sys.argv[1:]
if loader == "kernels":
    assert importlib.util.find_spec("fused_sampler") is None
sys.modules["fused_sampler"] = None  # what Python leaves for a module known to be missing
import hub_calls
kernel = hub_calls.load(loader, folder)
torch.save(hub_calls.answers(kernel, BACKENDS), "answers.pt")
_, namespaces = hub_calls.compiled(kernel, "torch")
print(kernel.__name__, *namespaces)
"""


def backends():
    """Those that can be had here."""
    return [name for name in ("torch", "cpu", "triton") if available(name)]


def available(name):
    return not fused_sampler.dispatch.kernels.unavailable(name, torch.device("cpu"))


TOGETHER = """
import sys, torch
loader, folder = sys.argv[1:]
import fused_sampler, hub_calls
kernel = hub_calls.load(loader, folder)
assert kernel.sample is not fused_sampler.sample
theirs, ours = (hub_calls.compiled(each, "torch") for each in (kernel, fused_sampler))
assert torch.equal(theirs[0], ours[0])
assert theirs[1] == {kernel.__name__} and ours[1] == {"fused_sampler"}, (theirs[1], ours[1])
for backend in BACKENDS:
    tokens = [each.sample(hub_calls.LOGITS, **hub_calls.FILTERS, backend=backend)
              for each in (kernel, fused_sampler, kernel)]
    assert torch.equal(tokens[0], tokens[1]) and torch.equal(tokens[1], tokens[2])
"""


def test_it_draws_as_the_package_does_without_it_and_beside_it(repository, tmp_path):
    # One test, so that Numba compiles once, some 40 seconds, however many processes run the tests.
    wanted = hub_calls.answers(fused_sampler, backends())
    for loader in loaders():
        folder = tmp_path / loader
        folder.mkdir()
        name, *namespaces = python(loader, spelled(ALONE), folder, repository).split()
        assert namespaces == [name] and name.startswith("_fused_sampler_cpu_")
        found = torch.load(folder / "answers.pt")
        assert found.keys() == wanted.keys()
        wrong = [what for what, value in wanted.items() if not torch.equal(found[what], value)]
        assert not wrong, loader
        link_package(folder)
        python(loader, spelled(TOGETHER), folder, repository, path=[folder])


def spelled(code):
    return code.replace("BACKENDS", repr(backends()))


def link_package(folder):
    """The package as it installs, by links."""
    package = folder / "fused_sampler"
    package.mkdir()
    for path in (*(ROOT / "sampler").iterdir(), ROOT / "kernels"):
        (package / path.name).symlink_to(path)


def test_the_cards_code_runs(repository, tmp_path):
    if "kernels" not in loaders():
        pytest.skip("needs the package `kernels`: make test-hub")
    card = (repository / "README.md").read_text()
    [code] = re.findall("^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    [place] = re.findall(r'get_kernel\("([^"]+)"', code)
    kernels = f"{place}={repository}"
    code += "print(tokens.shape == (4,), sampler.__name__)"
    flag, name = run([HUB, "-c", code], tmp_path, LOCAL_KERNELS=kernels, HF_HUB_OFFLINE="1").split()
    assert flag == "True" and name.startswith("_fused_sampler_cpu_")
