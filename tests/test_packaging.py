"""What is importable, from where, and at what price; what the wheel holds and can do.

Each check runs in a fresh interpreter.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import torch

import fused_sampler
from fused_sampler import sample
from fused_sampler.cli import main

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"sampler": "", "kernels": "kernels/", "benchmarks": "benchmarks/"}


def _output(command, folder):
    """Standard output of a command that is run in `folder` and must succeed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _python(code, folder):
    """Standard output of `code`, run from `folder` (which Python then puts on its path)."""
    return _output([sys.executable, "-c", code], folder)


WHERE = """
import importlib.util
spec = importlib.util.find_spec({name!r})
print(None if spec is None else spec.origin or list(spec.submodule_search_locations))
"""


@pytest.mark.parametrize("name", ["kernels", "sampler"])
def test_our_folders_are_no_top_level_packages(name, tmp_path):
    found = _python(WHERE.format(name=name), tmp_path)
    assert str(ROOT / name) not in found, f"import {name} finds this repository: {found}"


def test_the_package_is_found_from_anywhere(tmp_path):
    out = _python("import fused_sampler, fused_sampler.kernels as k; print(k.__name__)", tmp_path)
    assert out.strip() == "fused_sampler.kernels"


GENERATE = """
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from fused_sampler.hf import fused_generate
config = GPT2Config(vocab_size=32, n_positions=16, n_embd=8, n_layer=1, n_head=1,
                    bos_token_id=1, eos_token_id=None, pad_token_id=0)
model = GPT2LMHeadModel(config).eval()
prompt = torch.tensor([[1, 2, 3]])
for loop in (None, fused_generate):
    out = model.generate(prompt, do_sample=True, max_new_tokens=2, custom_generate=loop)
    print(tuple(out.shape))
"""


def test_transformers_works_where_our_kernels_folder_is_on_the_path():
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("needs the `hf` extra")
    found = _python(WHERE.format(name="kernels"), ROOT)
    assert str(ROOT / "kernels") in found, "the repository's root should shadow the name here"
    assert _python(GENERATE, ROOT).split("\n")[:2] == ["(1, 5)", "(1, 5)"]


IMPORT = """
import json, sys, time
start = time.perf_counter()
import torch
middle = time.perf_counter()
before = set(sys.modules)
import fused_sampler
end = time.perf_counter()
new = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
print(json.dumps({"torch": middle - start, "ours": end - middle, "new": new}))
"""


def test_import_is_light(tmp_path):
    report = json.loads(_python(IMPORT, tmp_path))
    heavy = {"triton", "numba", "llvmlite", "transformers", "numpy", "scipy", "typer", "rich"}
    heavy |= {"gguf", "matplotlib"}
    assert not heavy & set(report["new"]), report["new"]
    # "Well under a second" where importing torch takes one to five; relative, for slow machines.
    assert report["ours"] < 0.3 * report["torch"], report


MISSING = """
import sys
sys.modules["transformers"] = None  # what Python itself leaves for a module known to be missing
import fused_sampler
try:
    import fused_sampler.hf
except ImportError as error:
    print(error)
"""


def test_without_transformers_the_error_says_what_to_install(tmp_path):
    out = _python(MISSING, tmp_path)
    assert out.strip() == (
        "fused_sampler.hf needs transformers 4.57 or newer: pip install 'fused-sampler[hf]'"
    )


BUILD = """
import sys
from setuptools import build_meta
print(build_meta.build_wheel(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built of a copy: nothing is left in the checkout, and no old build gets in."""
    pytest.importorskip("setuptools", minversion="77")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    for folder in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    name = _output([sys.executable, "-c", BUILD, target], source).split()[-1]
    return target / name


def test_the_wheel_holds_every_module_and_its_data(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    held = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    wanted = {
        f"fused_sampler/{below}{path.relative_to(ROOT / folder).as_posix()}"
        for folder, below in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not {"__pycache__", "speed"} & set(path.parts)
    }
    assert held == wanted
    assert {"fused_sampler/py.typed", "fused_sampler/explorer/web/page.html"} < held
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The scripts' folder of a fresh environment with the wheel in it, outside of the checkout.

    All other packages are those of the environment that the tests run in. What a `.pth` file there
    would do, such as putting the checkout on the path, Python leaves undone.
    """
    if importlib.util.find_spec("pip") is None:
        pytest.skip("needs pip")
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=os.name != "nt")
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    _output([sys.executable, "-m", "pip", "--python", python, *install], folder)
    print_path = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(_output([python, "-c", print_path], folder).strip())
    others = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (own / "others.pth").write_text("\n".join(others))
    return scripts


SAMPLE = """
import fused_sampler, torch
from importlib.metadata import version
x = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
tokens = fused_sampler.sample(x, temperature=0.8, top_k=50, top_p=0.9, seed=7)
print(fused_sampler.__file__, fused_sampler.__version__, version("fused-sampler"), tokens.tolist())
"""


def test_the_wheel_samples(installed, tmp_path):
    place, number, of_metadata, tokens = _output(
        [installed / "python", "-c", SAMPLE], tmp_path
    ).split(maxsplit=3)
    assert Path(place).is_relative_to(installed.parent)
    assert number == of_metadata == fused_sampler.__version__
    x = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    ours = sample(x, temperature=0.8, top_k=50, top_p=0.9, seed=7)
    assert json.loads(tokens) == ours.tolist()


def test_the_wheel_generates(installed, folder, tmp_path, capsys):
    pytest.importorskip("typer")
    command = ["generate", "ab", "--model", folder, "--seed", "7", "--max-new-tokens", "8"]
    text = _output([installed / "fused-sampler", *command], tmp_path)
    assert text.startswith("ab") and len(text) > 3
    assert main(command) == 0
    assert text == capsys.readouterr().out


def test_the_wheel_measures(installed, tmp_path):
    for package in ("typer", "matplotlib"):
        pytest.importorskip(package)
    before = _files(installed.parent)
    command = ["bench", "--quick", "--peers", "hugging-face", "--out", "results"]
    table = _output([installed / "fused-sampler", *command], tmp_path)
    assert "random, V=128,256" in table and "real, V=49,152" in table
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert results["run"]["commit"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert _files(installed.parent) == before


def _files(folder):
    """All files of the environment and when they were changed, but for what Python caches."""
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
