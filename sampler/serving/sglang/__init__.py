"""SGLang on the fused sampler: a sampling backend, `--sampling-backend fused_sampler`.

SGLang keeps its batches, its edits of the logits and its log-probabilities. Ours stands where
SGLang divides, sorts and draws: one call of `sample` for all rows of a batch, each with seed and
step of its own. What a row draws follows from its logits, seed and step alone, so a seeded request
has the same tokens in any batch that gives it the same logits.

Where the backend is not asked for, SGLang knows one more name for it, and nothing else changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from sglang.srt.arg_groups.model_override_base import model_config_of
from sglang.srt.arg_groups.overrides import declare_resolution, resolving_view
from sglang.srt.layers.sampler import register_sampler_backend
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from sglang.srt.runtime_context import get_device, get_server_args

from ..ahead import compile_ahead
from .backend import FusedSampler
from .batch import note_requests

logger = logging.getLogger("sglang.fused_sampler")

BACKEND = "fused_sampler"


def register() -> None:
    """Make the backend known to SGLang, in each of its processes."""
    register_sampler_backend(BACKEND, make_sampler)
    settings = "sglang.srt.arg_groups"
    for target, ours in (
        (f"{settings}.platform_hook.handle_cpu_backends", _keep_on_cpu),
        (f"{settings}.overrides._deterministic_sampling_backend", _keep_where_deterministic),
    ):
        HookRegistry.register(target, ours, HookType.AROUND)


def make_sampler() -> FusedSampler:
    """What SGLang calls in each process that has a model, before it loads it."""
    vocab = model_config_of(get_server_args()).vocab_size
    compile_ahead(vocab, torch.device(get_device().device))
    note_requests()
    logger.info("The fused sampler draws the tokens (--sampling-backend %s).", BACKEND)
    return FusedSampler()


def _keep_on_cpu(original: Callable[..., None], server_args: Any) -> None:
    """On a CPU SGLang puts its own backend in the place of any other; not in that of ours."""
    asked = resolving_view(server_args).sampling_backend
    original(server_args)
    if asked == BACKEND:
        declare_resolution(server_args, BACKEND, sampling_backend=BACKEND)


def _keep_where_deterministic(original: Callable[..., dict], view: Any) -> dict:
    """The same for deterministic inference, but for a trainer's target, whose draws are its own."""
    if view.sampling_backend == BACKEND and view.rl_on_policy_target is None:
        return {}
    return original(view)
