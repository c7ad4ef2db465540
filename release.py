"""Builds what is released, in dist/, and checks it: `make dist`.

    python release.py [--oldest PYTHON] [--newest PYTHON]

The source archive is made of the files that git knows, and the wheel of the archive; a wheel of the
files themselves must be the same. Then the wheel is installed in two fresh environments, with the
oldest of all that is supported and with the newest there is. Outside of the checkout, the command
must run there, and the archive's tests must give the contract's vectors on every backend.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
DIST = ROOT / "dist"
LEFT_OUT = (".ci/", ".github/", ".gitignore")  # of the repository alone
OLDEST = ("torch==2.8.*", "triton==3.4.*", "numba==0.61.*", "numpy<2.3", "transformers==4.57.*")
EXTRAS = "cli,triton"
TESTS = ("pytest>=8", "hypothesis>=6")
VECTORS = "test_vectors or test_edited_logits or test_what_is_told or test_draws_without"

# Run with -I, which keeps the working folder and PYTHONPATH off the path.
PLACE = """
import importlib.metadata, platform, sys
import fused_sampler, numba, torch, triton
root, environment, version = sys.argv[1:]
assert fused_sampler.__file__.startswith(environment), fused_sampler.__file__
assert not [path for path in sys.path if path.startswith(root)], sys.path
found = fused_sampler.__version__, importlib.metadata.version("fused-sampler")
assert found == (version, version), found
numbers = [f"{m.__name__} {m.__version__}" for m in (torch, triton, numba)]
print(f"Python {platform.python_version()},", ", ".join(numbers))
"""


def run(command: Sequence[object], folder: Path, **variables: str) -> str:
    """Standard output of a command that must succeed; what it says is shown where it does not."""
    environment = {n: v for n, v in os.environ.items() if n not in ("PYTHONPATH", "VIRTUAL_ENV")}
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=folder, env=environment | variables, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def known_files() -> set[str]:
    """Of the working tree: those that git knows, and new ones that it does not ignore."""
    listed = run(["git", "ls-files", "-z", "-co", "--exclude-standard"], ROOT).split("\0")
    return {name for name in listed if name and (ROOT / name).is_file()}


def build(folder: Path) -> tuple[Path, Path]:
    """The source archive and, of it, the wheel, in dist/. Raises SystemExit where they differ."""
    source, again = folder / "source", folder / "again"
    names = known_files()
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    shutil.rmtree(DIST, ignore_errors=True)
    run([sys.executable, "-m", "build", "--outdir", DIST, source], folder)
    shutil.rmtree(source / "build", ignore_errors=True)
    run([sys.executable, "-m", "build", "--wheel", "--outdir", again, source], folder)
    (archive,), (wheel,), (other,) = DIST.glob("*.tar.gz"), DIST.glob("*.whl"), again.glob("*.whl")
    if contents(wheel) != contents(other):
        raise SystemExit(f"{wheel.name} is another when it is built of the source archive.")
    with tarfile.open(archive) as file:
        held = {name.partition("/")[2] for name in file.getnames() if not name.endswith("/")}
    wanted = {name for name in names if not name.startswith(LEFT_OUT)}
    if missing := sorted(wanted - held):
        raise SystemExit(f"{archive.name} lacks {', '.join(missing)}; see MANIFEST.in.")
    return archive, wheel


def contents(wheel: Path) -> dict[str, bytes]:
    """Names and bytes of all files."""
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


def usable(python: str) -> str:
    """Itself, where it can be run; else the Python that runs this, and a line that says so."""
    try:
        subprocess.run([python, "-c", ""], check=True, capture_output=True)
        return python
    except (OSError, subprocess.CalledProcessError):
        print(f"  {python} is not to be had here, so {sys.executable} is taken", file=sys.stderr)
        return sys.executable


def check(archive: Path, wheel: Path, python: str, pins: Sequence[str], folder: Path) -> None:
    """Install the wheel in an environment of `python` with these versions, and use it there."""
    environment = folder / "environment"
    run([usable(python), "-m", "venv", environment], folder)
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    install = [scripts / "python", "-m", "pip", "install", "--quiet"]
    run([*install, f"{wheel}[{EXTRAS}]", *pins, *TESTS], folder)
    with tarfile.open(archive) as file:
        file.extractall(folder / "archive")
    (source,) = (folder / "archive").iterdir()
    version = source.name.rpartition("-")[2]
    place = [scripts / "python", "-I", "-c", PLACE, ROOT, environment, version]
    print(f"  {run(place, folder).strip()}")
    program = scripts / "fused-sampler"
    assert version in run([program, "info"], folder)
    assert "--temperature" in run([program, "generate", "--help"], folder)
    pytest = [scripts / "pytest", "-p", "no:cacheprovider", "tests/contract/test_contract.py"]
    said = run([*pytest, "-k", VECTORS], source, TRITON_INTERPRET="1")
    print(f"  vectors of the contract: {said.strip().splitlines()[-1]}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--oldest", default="python3.10", metavar="PYTHON")
    options.add_argument("--newest", default="python3.13", metavar="PYTHON")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        archive, wheel = build(Path(name).resolve())
        print(f"{archive.name}, {wheel.name}: the archive is whole, and gives the wheel")
    print(run([sys.executable, "-m", "twine", "check", "--strict", archive, wheel], ROOT).strip())
    for what, python, pins in (("oldest", chosen.oldest, OLDEST), ("newest", chosen.newest, ())):
        print(f"With the {what}:", flush=True)
        with tempfile.TemporaryDirectory() as name:
            check(archive, wheel, python, pins, Path(name).resolve())


if __name__ == "__main__":
    main()
