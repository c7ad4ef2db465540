"""What a sampler is asked for, be it the package or its copy for the kernel hub.

Tests call it in their own process, and others run it with the folder of this file on the path.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import torch

LOGITS = torch.randn(3, 130, generator=torch.Generator().manual_seed(0)) * 3
FILTERS = {"top_k": 50, "top_p": 0.9, "min_p": 0.01, "seed": torch.tensor([7, 8, 9])}


def answers(sampler: ModuleType, backends: list[str]) -> dict[str, torch.Tensor]:
    """Tokens and more by this sampler, by name; of a compiled function, too."""
    torch.set_num_threads(1)
    found = {}
    for backend in backends:
        output = sampler.sample(LOGITS, 0.8, **FILTERS, return_info=True, backend=backend)
        found[f"{backend} tokens"] = output.tokens
        found[f"{backend} logprobs"] = output.logprobs
        found[f"{backend} masked"] = sampler.mask_logits(LOGITS, 0.8, top_p=0.9, backend=backend)
        found[f"{backend} softmax"] = sampler.softmax(LOGITS, 0.8, backend=backend)
        history = sampler.History(torch.arange(12).view(3, 4))
        edits = {"history": history, "repetition_penalty": 1.5, "logit_bias": {5: 9.0}}
        found[f"{backend} edited"] = sampler.sample(LOGITS, seed=3, **edits, backend=backend)
        found[f"{backend} compiled"] = compiled(sampler, backend)[0]
    return found


def compiled(sampler: ModuleType, backend: str) -> tuple[torch.Tensor, set[str]]:
    """Tokens of a compiled function, and the namespaces of the operators in its graph."""
    namespaces = set()

    def run(graph, _):
        targets = [node.target for node in graph.graph.nodes if node.op == "call_function"]
        namespaces.update(t.namespace for t in targets if isinstance(t, torch._ops.OpOverload))
        return graph.forward

    def draw(logits):
        return sampler.sample(logits * 2, 0.8, top_k=50, seed=7, backend=backend)

    torch.compiler.reset()
    tokens = torch.compile(draw, fullgraph=True, backend=run)(LOGITS)
    return tokens, namespaces


def load_variant(folder: str) -> ModuleType:
    """The variant for CPUs, as the package `kernels` imports it: the id names the module."""
    variant = Path(folder) / "build" / "torch-cpu"
    name = json.loads((variant / "metadata.json").read_text())["id"]
    spec = importlib.util.spec_from_file_location(name, variant / "__init__.py")
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(loader: str, folder: str) -> ModuleType:
    """The kernel in this folder."""
    if loader == "importlib":
        return load_variant(folder)
    from kernels import get_local_kernel

    return get_local_kernel(Path(folder))
