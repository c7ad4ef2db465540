"""What is measured: sampling parameters, vocabulary sizes, batch sizes and logits."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Arguments of `sample`. The values of a tuple take turns by row, from the first row on.
COMMON: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature 0.8": {"temperature": 0.8},
    "min-p 0.05": {"min_p": 0.05},
    "top-k 50": {"top_k": 50},
    "top-k 50 + top-p 0.9": {"top_k": 50, "top_p": 0.9},
    "top-k 1000": {"top_k": 1000},
    "top-p 0.9": {"top_p": 0.9},
    "top-p 0.95 at temperature 1.4": {"temperature": 1.4, "top_p": 0.95},
    "mixed batch": {  # lengths without a common factor: 420 rows until one is met again
        "temperature": (0.7, 1.0, 0.0, 1.4, 0.5, 0.8, 1.2),
        "top_k": (50, 0, 20, 1000, 5),
        "top_p": (0.9, 1.0, 0.95, 0.8),
        "min_p": (0.0, 0.05, 0.1),
    },
}
RARE: dict[str, dict[str, Any]] = {  # filters that few samplers have
    "top-n-sigma 1": {"top_n_sigma": 1.0},
    "top-h 0.6": {"top_h": 0.6},
    "typical 0.9": {"typical_p": 0.9},
    "epsilon 3e-4": {"epsilon_cutoff": 3e-4},
    "eta 3e-4": {"eta_cutoff": 3e-4},
    "top-a 0.2": {"top_a": 0.2},
    "xtc above 0.1": {"xtc_probability": 1.0, "xtc_threshold": 0.1},
    "mirostat at mu 5": {"mirostat_mu": 5.0},
}
CASES = COMMON | RARE
VOCABS = (32_000, 50_257, 128_256, 151_936, 262_144)
BATCHES = (1, 8, 64, 256)
LOGITS = ("random", "real", "all equal")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

REAL_VOCAB = 49_152  # of the embedded model
_REAL_ROWS = Path(__file__).with_name("real_logits.npy")  # made by make_real_logits.py


def row_params(case: str, batch: int, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The arguments of `sample` for a batch: a number each, or a tensor [B] where rows differ."""

    def value(given: Any) -> Any:
        if not isinstance(given, tuple):
            return given
        return torch.tensor([given[row % len(given)] for row in range(batch)], device=device)

    return {name: value(given) for name, given in CASES[case].items()}


def make_logits(
    kind: str,
    batch: int,
    vocab: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Logits [batch, vocab]: "random" (normal x 3, always the same), "real" or "all equal".

    The first 20 real rows are a file beside this one; further ones are those of the embedded model
    while it writes (`ModelError` where it is not installed).
    """
    if kind == "real":
        if vocab != REAL_VOCAB:
            raise ValueError(f"real logits have a vocabulary of {REAL_VOCAB}, not {vocab}.")
        rows = torch.from_numpy(np.load(_REAL_ROWS))
        if (missing := batch - len(rows)) > 0:
            rows = torch.cat((rows, _written_logits(-(-missing // _PROMPTS_AT_ONCE))))
        return rows[:batch].to(device, dtype)
    if kind == "all equal":
        return torch.full((batch, vocab), 0.25, dtype=dtype, device=device)
    if kind != "random":
        raise ValueError(f"logits {kind!r} are unknown; choose from {', '.join(LOGITS)}.")
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, vocab, generator=generator).mul_(3).to(device, dtype)


_PROMPTS = (
    "The sky is",
    "After the rain had stopped, the old fisherman walked down to the harbour and",
    "Three things decide how fast a program runs on a modern machine:",
    "def fibonacci(n):\n    ",
    "Shopping list:\n- apples\n-",
    "Il était une fois, dans un petit village au bord de la mer,",
    "The history of mathematics begins with",
    "<|im_start|>user\nTell me a short story.<|im_end|>\n<|im_start|>assistant\n",
)
_PROMPTS_AT_ONCE = len(_PROMPTS)


@functools.lru_cache(maxsize=1)
def _written_logits(steps: int) -> torch.Tensor:
    """fp16 logits [8 * steps, V] of as many decoding steps of the embedded model, on the CPU."""
    from ..hf import fused_generate
    from ..models.load import load_model

    loaded = load_model()
    loaded.tokenizer.padding_side = "left"
    inputs = loaded.tokenizer(list(_PROMPTS), return_tensors="pt", padding=True)
    output = loaded.model.generate(
        **inputs.to(loaded.model.device),
        do_sample=True,
        seed=0,
        min_new_tokens=steps,
        max_new_tokens=steps,
        custom_generate=fused_generate,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.cat(output.logits).half().cpu()
