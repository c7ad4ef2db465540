"""Serving engines on the sampler: what they load by their plugin entry points, off until asked for.

An entry point runs in each process of an engine, so this module imports no engine: what it calls
does, in `vllm/` and `sglang/`. `docs/engines.md` says how to use it.
"""

from __future__ import annotations

import os

VLLM_SWITCH = "FUSED_SAMPLER_VLLM"


def register_vllm() -> None:
    """The entry point in `vllm.general_plugins`: ours where FUSED_SAMPLER_VLLM=1, else nothing."""
    asked = os.environ.get(VLLM_SWITCH, "0")
    if asked not in ("0", "1", ""):
        raise ValueError(f"{VLLM_SWITCH} is {asked!r}; use 1 for the fused sampler, 0 for vLLM's.")
    if asked == "1":
        from . import vllm

        vllm.install()


def register_sglang() -> None:
    """The entry point in `sglang.srt.plugins`: `fused_sampler` becomes a `--sampling-backend`."""
    from . import sglang

    sglang.register()
