"""Compiled code on disk: found by the next process, made anew for other sources, done without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fused_sampler
from fused_sampler import kernels

pytest.importorskip("numba", reason="needs the `cpu` extra")

DRAW = """
import sys, torch
from fused_sampler import sample
print(int(sample(torch.tensor([[0.0, 3.0]]), 0.0, backend="cpu")))
from fused_sampler.kernels.cpu.rows import sample_rows
stats = sample_rows.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""
KEY = """
from fused_sampler.kernels.cpu.rows import sample_rows
key = sample_rows._cache._index_key((), sample_rows.targetctx.codegen())
print(int(key[-1][-1], 16))
"""
# The folders as they install, wherever they are.
FIND = """
import importlib.util, os, sys
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in FOLDERS:
            place = FOLDERS[name]
            return importlib.util.spec_from_file_location(
                name, os.path.join(place, "__init__.py"), submodule_search_locations=[place])
sys.meta_path.insert(0, Finder)
"""
NOWHERE = """
import numba.core.caching as caching
def none(cls, function, path):
    return None
for locator in caching.CacheImpl._locator_classes:
    locator.from_function = classmethod(none)
"""
FULL = """
import errno
from numba.core.caching import IndexDataCacheFile
def full(self, *_):
    raise OSError(errno.ENOSPC, "No space left on device")
IndexDataCacheFile._save_data = full
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A copy of the package."""
    root = tmp_path_factory.mktemp("copy")
    places = {}
    for name, package in (("fused_sampler", fused_sampler), ("fused_sampler.kernels", kernels)):
        places[name] = str(root / name)
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(Path(package.__file__).parent, places[name], ignore=ignored)
    return places


def run(folders, before="", cache=None, code=DRAW):
    """What the call drew; how often its code was found on disk, and how often not."""
    environment = {**os.environ, **({"NUMBA_CACHE_DIR": str(cache)} if cache else {})}
    program = f"FOLDERS = {folders!r}\n{FIND}\n{before}\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def test_compiled_code_is_kept_for_the_next_process(folders, tmp_path):
    assert run(folders, cache=tmp_path) == [1, 0, 1]
    assert run(folders, cache=tmp_path) == [1, 1, 0]


@pytest.mark.parametrize(
    "package, file",
    [
        ("fused_sampler.kernels", "cpu/write.py"),
        ("fused_sampler", "contract/mass.py"),
        ("fused_sampler", "params.py"),
    ],
)
def test_other_sources_make_another_key(folders, package, file):
    """Numba looks at the file of the entry alone; what it compiles comes from others as well."""
    before = run(folders, code=KEY)
    with (Path(folders[package]) / file).open("a") as source:
        source.write("\n# changed\n")
    assert run(folders, code=KEY) != before


@pytest.mark.parametrize("nowhere", [NOWHERE, FULL], ids=["no folder", "a full disk"])
def test_where_nothing_can_be_written_it_works_all_the_same(folders, tmp_path, nowhere):
    assert run(folders, before=nowhere, cache=tmp_path)[0] == 1
    assert not list(tmp_path.rglob("*.nbc"))
