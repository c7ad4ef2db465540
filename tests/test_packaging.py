"""What is importable, from where, and at what price. Each check runs in a fresh interpreter."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _python(code, folder):
    """Standard output of `code`, run from `folder` (which Python then puts on its path)."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


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
    heavy = {"triton", "transformers", "numpy", "scipy", "typer", "rich", "gguf"}
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
