"""llama.cpp's sampler chain, as its users run it: one thread, one row at a time, on the CPU.

The library is the one that the package `xllamacpp` carries; its C functions are called as they are.
What a user of it pays for each token is timed: filling the array of candidates, then the chain.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from ctypes import POINTER, Structure, c_bool, c_float, c_int32, c_int64, c_size_t, c_uint32
from ctypes import c_void_p as pointer
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...params import RECORDS
from .base import Draw, Params, Peer, not_installed

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class CandidateArray(Structure):
    """`llama_token_data_array`"""

    _fields_ = (
        ("data", pointer),
        ("size", c_size_t),
        ("selected", c_int64),  # a place in `data`
        ("sorted", c_bool),
    )


class ChainParams(Structure):
    """`llama_sampler_chain_params`"""

    _fields_ = (("no_perf", c_bool),)


class LlamaCpp(Peer):
    name = "llama.cpp"
    title = "llama.cpp (1 thread)"
    has = (
        *Peer.has,
        *("top_n_sigma", "typical_p", "xtc_probability", "xtc_threshold", "mirostat_mu"),
    )

    def unavailable(self, device: torch.device) -> str | None:
        if device.type != "cpu":
            return "runs on the CPU only; use --device cpu"
        return not_installed("xllamacpp", "--only-binary :all: xllamacpp")

    def countable(self, device: torch.device) -> bool:
        return False

    def prepare(self, params: Params) -> Draw:
        chains = _chains(params, draws=True)

        def draw(logits: torch.Tensor) -> torch.Tensor:
            tokens = []
            for chain, row in zip(cycle(chains), logits.float().numpy(), strict=False):
                left, place = chain(row)
                tokens.append(int(left["id"][place]))
            return torch.tensor(tokens)

        return draw

    def mask(self, logits: torch.Tensor, params: Params) -> torch.Tensor:
        kept = torch.zeros(logits.shape, dtype=torch.bool)
        rows = zip(cycle(_chains(params, draws=False)), kept, logits.float().numpy(), strict=False)
        for chain, own, row in rows:
            left, _ = chain(row)
            left = left[left["logit"] > -np.inf]  # top-n-sigma leaves what it drops
            own[torch.from_numpy(left["id"].astype(np.int64))] = True
        return kept


def _chains(params: Params, draws: bool) -> list[_Chain]:
    """A chain for each row, or one for all where their parameters are the same."""
    counts = [len(value) for value in params.values() if isinstance(value, torch.Tensor)]
    return [_Chain(_of_row(params, row), draws) for row in range(max(counts, default=1))]


class _Chain:
    """Logits to the candidates that are left and the place of the selected one among them.

    Temperature comes after top-k, which it cannot change, and before the filters that it does.
    """

    def __init__(self, params: Params, draws: bool):
        self.lib = lib = _library()
        self.chain = lib.llama_sampler_chain_init(ChainParams(no_perf=True))
        makers: dict[str, Callable[[Any], Any]] = {
            "top_k": lib.llama_sampler_init_top_k,
            "temperature": lib.llama_sampler_init_temp,
            "top_p": lambda p: lib.llama_sampler_init_top_p(p, 1),
            "min_p": lambda p: lib.llama_sampler_init_min_p(p, 1),
            "top_n_sigma": lib.llama_sampler_init_top_n_sigma,
            "typical_p": lambda p: lib.llama_sampler_init_typical(p, 1),
            "xtc_probability": lambda p: lib.llama_sampler_init_xtc(
                p, params.get("xtc_threshold", 0.1), 1, 0
            ),
            # It draws, too, and starts at twice the surprise it is given; at rate 0 it stays there.
            "mirostat_mu": lambda mu: lib.llama_sampler_init_mirostat_v2(0, mu / 2, 0.0),
        }
        if params.get("temperature") != 0:
            samplers = [make(params[name]) for name, make in makers.items() if name in params]
            if draws and "mirostat_mu" not in params:
                samplers.append(lib.llama_sampler_init_dist(0))
        elif draws:
            samplers = [lib.llama_sampler_init_greedy()]
        else:
            samplers = [lib.llama_sampler_init_top_k(1)]  # greedy selects, and leaves all
        for sampler in samplers:
            lib.llama_sampler_chain_add(self.chain, sampler)
        self.candidates = np.empty(0, CANDIDATE)

    def __call__(self, logits: np.ndarray) -> tuple[np.ndarray, int]:
        if len(self.candidates) != len(logits):
            self.candidates = np.empty(len(logits), CANDIDATE)
            self.ids = np.arange(len(logits), dtype=np.int32)
        candidates = self.candidates
        candidates["id"], candidates["logit"], candidates["p"] = self.ids, logits, 0
        array = CandidateArray(candidates.ctypes.data, len(candidates), -1, False)
        self.lib.llama_sampler_apply(self.chain, ctypes.byref(array))
        left = (ctypes.c_char * (array.size * CANDIDATE.itemsize)).from_address(array.data)
        return np.frombuffer(left, CANDIDATE), array.selected

    def __del__(self) -> None:
        self.lib.llama_sampler_free(self.chain)


def _of_row(params: Params, row: int) -> Params:
    """Plain numbers, without those that are off."""
    values = {
        name: value[row].item() if isinstance(value, torch.Tensor) else value
        for name, value in params.items()
    }
    return {name: value for name, value in values.items() if value != RECORDS[name].off}


@functools.cache
def _library() -> ctypes.CDLL:
    spec = find_spec("xllamacpp")
    assert spec is not None and spec.submodule_search_locations
    lib = ctypes.CDLL(str(next(Path(spec.submodule_search_locations[0]).glob("*.so"))))
    signatures = {
        "chain_init": (pointer, ChainParams),
        "chain_add": (None, pointer, pointer),
        "apply": (None, pointer, POINTER(CandidateArray)),
        "free": (None, pointer),
        "init_greedy": (pointer,),
        "init_dist": (pointer, c_uint32),
        "init_temp": (pointer, c_float),
        "init_top_k": (pointer, c_int32),
        "init_top_p": (pointer, c_float, c_size_t),
        "init_min_p": (pointer, c_float, c_size_t),
        "init_top_n_sigma": (pointer, c_float),
        "init_typical": (pointer, c_float, c_size_t),
        "init_xtc": (pointer, c_float, c_float, c_size_t, c_uint32),
        "init_mirostat_v2": (pointer, c_uint32, c_float, c_float),
    }
    for name, (result, *arguments) in signatures.items():
        function = getattr(lib, f"llama_sampler_{name}")
        function.restype, function.argtypes = result, arguments
    return lib
