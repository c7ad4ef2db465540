"""Unseeded sampling under tensor parallelism: two processes that share the rows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the `hf` extra")

from tiny_transformers import tiny_llama  # noqa: E402

RANK = Path(__file__).parents[1] / "helpers" / "rank.py"


def test_ranks_of_a_tensor_parallel_model_draw_the_same(tmp_path):
    if transformers.__version__.startswith("4."):
        pytest.importorskip("accelerate", reason="transformers 4 shards with it")
    torch.manual_seed(0)
    tiny_llama().save_pretrained(tmp_path)
    ranks = [
        subprocess.Popen(
            [sys.executable, RANK, str(rank), "2", tmp_path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [rank.communicate(timeout=120) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    first, second = (json.loads(out.splitlines()[-1]) for out, _ in outputs)
    assert first["patched"] == second["patched"]
    assert first["plain"] != second["plain"], "without us they draw apart: the test can fail"
