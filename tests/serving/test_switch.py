"""The plugins' entry points, which every engine process runs: off until asked for."""

import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from fused_sampler.serving import VLLM_SWITCH, register_sglang, register_vllm


def test_vllm_finds_the_entry_point():
    (found,) = (e for e in entry_points(group="vllm.general_plugins") if e.name == "fused_sampler")
    assert found.load() is register_vllm


def test_sglang_finds_the_entry_point():
    (found,) = (e for e in entry_points(group="sglang.srt.plugins") if e.name == "fused_sampler")
    assert found.load() is register_sglang


@pytest.mark.parametrize("value", [None, "0", ""])
def test_without_the_switch_no_engine_is_imported(value):
    environment = {**os.environ, VLLM_SWITCH: value or ""}
    if value is None:
        del environment[VLLM_SWITCH]
    code = (
        "import sys; from fused_sampler.serving import register_vllm; register_vllm();"
        "print([name for name in sys.modules if name.split('.')[0] == 'vllm'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_another_value_is_an_error(monkeypatch):
    monkeypatch.setenv(VLLM_SWITCH, "yes")
    with pytest.raises(ValueError, match="FUSED_SAMPLER_VLLM is 'yes'"):
        register_vllm()
