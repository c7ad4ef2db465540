"""What a command says while its user waits for kernels that are compiled."""

import time

import pytest
import torch

pytest.importorskip("typer", reason="needs the `cli` extra")
pytest.importorskip("transformers", reason="needs the `hf` extra")

from fused_sampler.cli import main, waiting

CPU = torch.device("cpu")
LINE = "Compiling the CPU kernels, once per machine\n"


@pytest.fixture
def draws(monkeypatch):
    """What kernels are compiled for, slowly; a backend that compiles."""
    seen = []

    def slow(vocabulary, dtype, device):
        seen.append((vocabulary, dtype))
        time.sleep(0.3)

    monkeypatch.setattr(waiting, "warmup", slow)
    monkeypatch.setattr(waiting, "choose_backend", lambda name, device: "cpu")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich: as on a terminal
    monkeypatch.delenv("NO_COLOR", raising=False)
    return seen


@pytest.mark.parametrize(("patience", "shown"), [(0.05, LINE), (2.0, "")])
def test_a_long_wait_is_explained(draws, monkeypatch, capsys, patience, shown):
    monkeypatch.setattr(waiting, "PATIENCE", patience)
    waiting.compile_kernels(CPU, 300, torch.bfloat16)
    assert capsys.readouterr().err == shown
    assert draws == [(300, torch.bfloat16)]


def test_a_file_gets_no_explanation(draws, monkeypatch, capsys):
    monkeypatch.setattr(waiting, "PATIENCE", 0.05)
    monkeypatch.delenv("FORCE_COLOR")
    waiting.compile_kernels(CPU, 300, torch.float32)
    assert capsys.readouterr().err == ""


def test_the_textbook_compiles_nothing(draws, monkeypatch):
    monkeypatch.setattr(waiting, "choose_backend", lambda name, device: "torch")
    waiting.compile_kernels(CPU, 300, torch.float32)
    assert draws == []


@pytest.mark.parametrize(
    ("arguments", "dtypes"),
    [
        (["generate", "--max-new-tokens", "1", "--seed", "1"], [torch.float32]),
        (["generate", "--max-new-tokens", "1", "--temperature", "0"], []),
        (["inspect"], [torch.float32]),
    ],
)
def test_commands_compile_before_they_show_anything(draws, folder, capsys, arguments, dtypes):
    assert main([*arguments, "The sky is", "--model", folder]) == 0
    assert draws == [(257, dtype) for dtype in dtypes]
