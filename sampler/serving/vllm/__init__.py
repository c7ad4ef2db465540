"""vLLM on the fused sampler: penalties, temperature, filters and the draw.

vLLM keeps its batches, its other logits processors and its log-probabilities. Ours stands where
vLLM counts tokens for penalties, sorts for top-k and top-p, and draws with noise: one call of
`sample` for all rows of a step, each with parameters, seed and step of its own. What a row draws
follows from its logits, seed and step alone, so a seeded request has the same tokens in any batch
that gives it the same logits.

Methods of vLLM's classes are replaced, not the classes: other modules of vLLM have imported those
by name. What is not ours goes on to the method that was there before.
"""

from __future__ import annotations

from typing import Any

from vllm.logger import init_logger
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.sample import logits_processor
from vllm.v1.sample.sampler import Sampler
from vllm.v1.worker.gpu.sample.sampler import Sampler as SamplerV2
from vllm.v1.worker.gpu_input_batch import InputBatch

from ..methods import wrap
from . import v1, v2
from .ahead import let_vllm_look_at_llvmlite
from .asked import check_request
from .batch import Requests, asks_for_tokens

logger = init_logger("vllm.fused_sampler")  # below vLLM's own, so that its handlers show it


def install() -> None:
    """Put the sampler in place, once in a process."""
    if logits_processor.BUILTIN_LOGITS_PROCESSORS.count(Requests):
        return
    logits_processor.BUILTIN_LOGITS_PROCESSORS.append(Requests)
    wrap(Sampler, "apply_logits_processors", v1.apply_processors)
    wrap(Sampler, "sample", v1.sample_batch)
    wrap(InputProcessor, "_validate_params", _validate_params)
    wrap(SamplerV2, "add_request", v2.add_request)
    wrap(SamplerV2, "sample", v2.sample_batch)
    asks_for_tokens(InputBatch)
    let_vllm_look_at_llvmlite()
    logger.info("The fused sampler draws the tokens (FUSED_SAMPLER_VLLM=1).")


def _validate_params(plain: Any, processor: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
    """vLLM's check of a request, and ours: the server answers 400 where it raises."""
    result = plain(params, *args, **kwargs)
    check_request(params, processor.vllm_config)
    return result
