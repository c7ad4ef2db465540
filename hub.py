"""Builds what `kernels.get_kernel` loads from the Hugging Face hub: `make hub`.

    python hub.py [FOLDER]    # build/hub

The folder is a repository of the hub's type "kernel": a variant for each of PyTorch's backends that
is served. All hold the same files, the modules that `fused_sampler` itself imports, the kernels
among them. The loader knows no package of that name: it names a variant by its id, which has a hash
of the content, and loads several versions side by side. So imports become relative, and the
operators for `torch.compile` take their namespace from the module's name (`sampler/compiled.py`).
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PACKAGE = "fused_sampler"
NAME = "fused-sampler"
FOLDERS = {f"{PACKAGE}.kernels": "kernels", PACKAGE: "sampler"}
BACKENDS = ("cpu", "cuda", "rocm")
ABSOLUTE = re.compile(rf"^(\s*from ){PACKAGE}\b\.?([\w.]*)(?= import\b)", re.MULTILINE)

CARD = f"""\
---
library_name: kernels
license: apache-2.0
---

# {NAME}

Temperature, top-k, top-p, min-p and the draw of language-model tokens, fused and exact.

```python
import torch
from kernels import get_kernel

sampler = get_kernel("ORGANIZATION/{NAME}", version=VERSION, trust_remote_code=True)
logits = torch.randn(4, 1000)
tokens = sampler.sample(logits, temperature=0.8, top_p=0.9, seed=7)
```

A GPU needs Triton 3.4, which PyTorch brings; a CPU wants Numba 0.61 (`pip install numba`). Where
either is missing, the tokens are the same by plain PyTorch, slowly.
"""


def modules() -> dict[str, Path]:
    """What the package imports of itself, at once or when it is called: names and files."""
    found: dict[str, Path] = {}
    todo = [PACKAGE]
    while todo:
        name = todo.pop()
        path = None if name in found else file_of(name)
        if path is not None:
            found[name] = path
            todo += [name.rpartition(".")[0], *imported(name, path)]
    return found


def file_of(name: str) -> Path | None:
    """The file of a module by its installed name; None for any other name."""
    for package, folder in FOLDERS.items():
        if name == package or name.startswith(f"{package}."):
            path = ROOT.joinpath(folder, *name[len(package) :].split(".")[1:])
            files = (path / "__init__.py", path.with_suffix(".py"))
            return next((file for file in files if file.is_file()), None)
    return None


def imported(name: str, path: Path) -> Iterator[str]:
    """The names that a module imports, and of `from a import b` both `a` and `a.b`."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level]
            origin = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def contents() -> dict[str, str]:
    """The files of a variant: paths below it, and texts."""
    files = {}
    for name, path in sorted(modules().items()):
        place = "/".join(name.split(".")[1:])
        place = f"{place}/{path.name}".lstrip("/") if path.name == "__init__.py" else f"{place}.py"
        files[place] = relative(path.read_text(), place)
    return files


def relative(text: str, place: str) -> str:
    """The text with imports of the package as seen from the file at `place`."""
    dots = "." * len(place.split("/"))
    text = ABSOLUTE.sub(lambda found: found[1] + dots + found[2], text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [str(node.module)]
        else:
            continue
        if any(name.split(".")[0] == PACKAGE for name in names):
            raise ValueError(f"{place}:{node.lineno}: write `from {PACKAGE}... import ...`")
    return text


def version() -> int:
    """The major version: the hub's only one. At 0 it promises no stable interface, as ours."""
    text = (ROOT / "sampler" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "(\d+)\.', text, re.MULTILINE)
    assert found is not None
    return int(found[1])


def metadata(backend: str, content: str) -> dict[str, object]:
    """What the loader reads. It names the module by the id, which no other content has."""
    return {
        "name": NAME,
        "id": f"_{PACKAGE}_{backend}_{content}",
        "version": version(),
        "license": "Apache-2.0",
        "python-depends": [],  # only what the loader has on a list; it knows no Numba
        "backend": {"type": backend},
    }


def build(folder: Path) -> None:
    """Write the repository; an earlier one is replaced."""
    files = contents()
    content = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:12]
    shutil.rmtree(folder / "build", ignore_errors=True)
    for backend in BACKENDS:
        variant = folder / "build" / f"torch-{backend}"
        written = files | {"metadata.json": json.dumps(metadata(backend, content), indent=2) + "\n"}
        for place, text in written.items():
            path = variant / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    (folder / "README.md").write_text(CARD.replace("VERSION", str(version())))
    shutil.copy(ROOT / "LICENSE", folder)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if sys.argv[1:] else ROOT / "build" / "hub"
    build(target)
    print(f"{target}: {', '.join(f'torch-{backend}' for backend in BACKENDS)}")
