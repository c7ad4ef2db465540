"""What several tests share: the published vectors, logits of every kind, calls of a backend."""

from __future__ import annotations

import importlib
import json
import struct
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from fused_sampler.contract.draws import NO_DRAWS, Draws, resolve_draws
from fused_sampler.output import Drawn, RowState
from fused_sampler.params import resolve_rows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # where the kernels' tests run
DATA = Path(__file__).parents[1] / "data"
VECTORS = json.loads((DATA / "contract_vectors.json").read_text())
NINE_WORDS = [4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79]


def load_backend(name: str) -> ModuleType:
    """An implementation of the contract; the kernels are imported only when they are asked for."""
    modules = {
        "torch": "contract.reference",
        "cpu": "kernels.cpu.launch",
        "triton": "kernels.gpu.launch",
    }
    backend = importlib.import_module(f"fused_sampler.{modules[name]}")
    return OnGPU(backend) if name == "triton" and DEVICE == "cuda" else backend


class OnGPU:
    """The kernels for tests whose tensors are on the CPU."""

    def __init__(self, backend: ModuleType):
        self.backend = backend

    def sample(self, logits, rows, draws, info):
        moved = rows.to(DEVICE), draws
        output = self.backend.sample(logits.to(DEVICE), *moved, info)
        state = None if output.state is None else RowState(*(v.cpu() for v in output.state))
        return Drawn(*(v if v is None else v.cpu() for v in output[:4]), state)

    def softmax(self, logits, rows):
        return self.backend.softmax(logits.to(DEVICE), rows.to(DEVICE)).cpu()

    def mask_logits(self, logits, rows, draws=NO_DRAWS):
        moved = rows.to(DEVICE), draws
        return self.backend.mask_logits(logits.to(DEVICE), *moved).cpu()


def vector_row(name: str) -> torch.Tensor:
    """The logits [1, V] of a vector."""
    words = b"".join(bytes.fromhex(word) for word in VECTORS["rows"][name])
    return torch.tensor([struct.unpack(f">{len(words) // 4}f", words)])


def vector_draws(seed: int, step: int, stream: int, draw: int) -> Draws:
    """Draws 0..draw of one row."""
    return Draws(seed, step, stream, num_samples=draw + 1)


def real_logits() -> torch.Tensor:
    """Next-token logits of the embedded model, fp16 [N, 49152]."""
    return torch.from_numpy(np.load(DATA.parents[1] / "benchmarks" / "real_logits.npy"))


def logits_of(kind: str, batch: int, vocab: int, seed: int = 0) -> torch.Tensor:
    """Logits fp32 [batch, vocab] of a kind that stresses something."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, vocab, generator=generator) * 3
    if kind == "random":
        return x
    if kind == "flat":  # a nucleus of most of the vocabulary
        return x * 0.01
    if kind == "all equal":
        return torch.full_like(x, 0.25)
    if kind == "tied":
        return x.round()
    if kind == "one-hot":
        return torch.zeros_like(x).scatter_(
            1, torch.randint(vocab, (batch, 1), generator=generator), 40
        )
    if kind == "forbidden":
        x[torch.rand(x.shape, generator=generator) < 0.7] = -torch.inf
        x[:, vocab // 2] = 0.5
        return x
    if kind == "few allowed":
        y = torch.full_like(x, -torch.inf)
        y[:, :: max(1, vocab // 3)] = x[:, :: max(1, vocab // 3)]
        return y
    if kind == "every other forbidden":
        x[:, ::2] = -torch.inf
        return x if vocab > 1 else x.fill_(0.5)
    if kind == "equal but one":
        y = torch.zeros_like(x)
        y[:, vocab // 2] = -0.01
        return y
    if kind == "light where sampled":  # strides of a sample, for V of 4,096 and above
        y = x * 0.01
        for stride in (2, 3, 4, 15, 62):
            y[:, :: stride * 7] -= 3
        y[:, :: max(1, vocab // 2048)] = -20
        return y if vocab > 1 else x
    if kind == "descending":
        return x.sort(descending=True).values
    if kind == "masked by a number":  # as some models do it, instead of by -inf
        x[torch.rand(x.shape, generator=generator) < 0.4] = -65504.0
        return x
    if kind == "negligible where sampled":
        y = x * 0.01
        y[:, :: max(1, vocab // 2048)] -= 60
        return y
    if kind == "extreme":  # differences that overflow fp32
        return (x * 1e38).clamp(-3.4e38, 3.4e38)
    if kind == "invalid":
        x[0], x[-1, -1], x[batch // 2, 0] = -torch.inf, torch.nan, torch.inf
        return x
    raise ValueError(kind)


KINDS = [
    "random",
    "flat",
    "all equal",
    "tied",
    "one-hot",
    "forbidden",
    "few allowed",
    "every other forbidden",
    "equal but one",
    "light where sampled",
    "descending",
    "masked by a number",
    "negligible where sampled",
    "extreme",
    "invalid",
]

PARAMS = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8},
    "hot": {"temperature": 5.0},
    "top-k 1": {"top_k": 1},
    "top-k 50": {"top_k": 50, "temperature": 0.8},
    "top-k 1000": {"top_k": 1000},
    "top-p 1e-9": {"top_p": 1e-9},
    "top-p 0.9": {"top_p": 0.9},
    "top-p 0.9999": {"top_p": 0.9999, "temperature": 1.4},
    "min-p": {"min_p": 0.05},
    "min-p 1": {"min_p": 1.0},
    "all": {"temperature": 0.7, "top_k": 40, "top_p": 0.95, "min_p": 0.02},
    "top-p and min-p": {"top_p": 0.95, "min_p": 0.01},
    "epsilon": {"epsilon_cutoff": 3e-4},
    "epsilon after top-k": {"top_k": 40, "epsilon_cutoff": 0.03},
    "top-n-sigma": {"top_n_sigma": 1.5},
    "top-n-sigma before top-p": {"top_n_sigma": 2.5, "top_p": 0.9, "temperature": 1.4},
    "eta": {"eta_cutoff": 3e-3},
    "eta after top-k": {"top_k": 40, "eta_cutoff": 0.05},
    "top-a": {"top_a": 0.2},
    "top-a after top-p": {"top_p": 0.9, "top_a": 0.1, "temperature": 1.4},
    "top-h": {"top_h": 0.6},
    "top-h and top-p": {"top_h": 0.9, "top_p": 0.8, "temperature": 1.4},
    "typical": {"typical_p": 0.9},
    "typical and cutoffs": {"typical_p": 0.4, "eta_cutoff": 0.1, "top_a": 0.3},
    "xtc": {"xtc_probability": 0.7, "xtc_threshold": 0.05},
    "temperature last": {"temperature_last": True, "temperature": 1.7, "top_p": 0.9},
    "mirostat": {"mirostat_mu": 4.0},
    "every filter": {
        "temperature": 1.2,
        "temperature_last": True,
        "top_n_sigma": 3.0,
        "top_h": 0.95,
        "top_k": 60,
        "top_p": 0.97,
        "min_p": 0.001,
        "typical_p": 0.95,
        "epsilon_cutoff": 0.002,
        "eta_cutoff": 0.05,
        "top_a": 0.1,
        "xtc_probability": 0.5,
    },
}


def run(
    backend: ModuleType,
    logits: torch.Tensor,
    seed: int | torch.Tensor = 0,
    num_samples: int = 2,
    info: bool = True,
    **params,
) -> Drawn:
    """What a backend says of the draws of a batch; its tokens alone without `info`."""
    rows = resolve_rows(logits, **params)
    draws = resolve_draws(seed, 3, num_samples, None, len(logits), logits.device)
    return backend.sample(logits, rows, draws, info)


def assert_same(backend: ModuleType, oracle: ModuleType, logits: torch.Tensor, **params) -> None:
    """Tokens, log-probabilities, kept counts and kept sets are equal, bit for bit."""
    ours, theirs = run(backend, logits, **params), run(oracle, logits, **params)
    for name, one, other in zip(ours._fields[:4], ours[:4], theirs[:4], strict=True):
        assert torch.equal(one.nan_to_num(7), other.nan_to_num(7)), name
    rows = resolve_rows(
        logits, **{k: v for k, v in params.items() if k not in ("seed", "num_samples")}
    )
    draws = resolve_draws(params.get("seed", 0), 3, 1, None, len(logits), logits.device)
    masked = (module.mask_logits(logits, rows, draws) for module in (backend, oracle))
    assert torch.equal(*(m.nan_to_num(7) for m in masked))
