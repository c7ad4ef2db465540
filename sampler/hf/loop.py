"""The decoding loop behind `model.generate`, with the draw done by `sample`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.streamers import BaseStreamer
from transformers.generation.utils import GenerateNonBeamOutput

from .. import mirostat
from ..api import keyword_parameters, mask_logits, sample
from ..params import SamplingParams
from . import processors, protocol, warpers
from .call import OWN, Call, own_settings


def fused_generate(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    synced_gpus: bool = False,
    streamer: BaseStreamer | None = None,
    seed: int | torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    sampler: Callable[..., Any] = sample,
    **model_kwargs: Any,
) -> GenerateNonBeamOutput | torch.Tensor:
    """Decode with the fused sampler. Hand it to `generate`, which fills in the rest:

    >>> model.generate(**inputs, do_sample=True, top_p=0.9, seed=7, custom_generate=fused_generate)

    Args:
        seed: None takes one from PyTorch's default CPU generator, so `torch.manual_seed` decides;
            the ranks of a tensor-parallel model take that of the first.
            An integer gives each row a stream by its place in the batch. An int64 tensor gives
            each prompt its own seed, so that it continues the same way in any batch. With
            `num_return_sequences=n` it holds one seed a returned row, or one a prompt: the first
            sequence of a prompt is then the one that n = 1 returns, and the others use seeds
            derived from it. Greedy decoding draws nothing, and warns of a seed. Where it is left
            out, a `seed` of the generation config takes its place.
        generator: a CPU generator to take the seed from.
        sampler: draws each token in the place of `sample`, which it may call, to time it or to
            choose its backend. It is given scores fp32 | bf16 | fp16 `[rows, V]` and, by keyword,
            `params`, `seed`, `step`, `validate=False` and edits by their names in `Edits`, where
            there are any; and returns int64 `[rows]`, -1 for a row that cannot be drawn from; with
            mirostat it is given `return_info=True` too, and returns a `SampleOutput`. Greedy
            decoding does not call it.
        model_kwargs: what the model takes; and the parameters that transformers does not know, by
            their names in `SamplingParams`, and edits by theirs in `Edits` (`frequency_penalty`,
            `presence_penalty` and DRY's): a number, or a tensor with one a prompt or one a returned
            row. `logit_bias` is `{token: bias}`, `dry_breakers` a list of ids. Where one is left
            out, a generation config may hold it.

    Processors that penalize repetition, add a bias to single tokens or ban some leave the list and
    become edits of the draw, where that gives the same scores (docs/hugging-face.md).

    The token at position i of the new text is drawn with `step=i`. `scores` are the processed
    logits through `mask_logits`, `logits` the untouched ones, both fp32 `[rows, V]`.

    Returns what `generate` does: int64 `[rows, length]`, or the output object that
    `return_dict_in_generate` asks for.

    Raises ValueError for a decoding mode other than sampling and greedy, for a seed, a parameter or
    an edit that fits neither prompts nor rows, and when an unfinished row cannot be drawn from
    (greedy: holds a NaN); TypeError or ValueError for a parameter or an edit that is none.
    """
    lost = protocol.lost_arguments(model)
    streamer = lost.get("streamer") if streamer is None else streamer
    synced_gpus = synced_gpus or lost.get("synced_gpus", False)
    with ended_by_errors(streamer):
        _check_mode(generation_config, lost.get("assistant_model"))
        values = own_settings(generation_config)
        given = {name: model_kwargs.pop(name) for name in values if name in model_kwargs}
        values |= {name: value for name, value in given.items() if value is not None}
        call = Call(seed, generator, values)
        if call.by_row and protocol.places_in_outer_call(model) is not None:
            raise ValueError(
                f"{call.by_row} cannot go on from one piece of a recording to the next in a "
                "callable custom_generate; patch(model) and call plain model.generate(...)."
            )
        output = decode(
            call,
            model,
            input_ids,
            logits_processor,
            stopping_criteria,
            generation_config,
            synced_gpus,
            streamer,
            sampler,
            **model_kwargs,
        )
    call.close()
    return output


def _name_what_transformers_does_not_know() -> None:
    """`generate` hands on the arguments that the callable's signature names, and no others."""
    signature = inspect.signature(fused_generate)
    *named, rest = signature.parameters.values()
    parameters = [*named, *keyword_parameters(OWN, "Any"), rest]
    fused_generate.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]


_name_what_transformers_does_not_know()


@contextmanager
def ended_by_errors(streamer: BaseStreamer | None) -> Iterator[None]:
    """An error ends the streamer too: a reader in another thread would wait for ever."""
    try:
        yield
    except BaseException:
        if streamer is not None:
            with suppress(Exception):  # the first error is the one to tell
                streamer.end()
        raise


def decode(
    call: Call,
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    synced_gpus: bool = False,
    streamer: BaseStreamer | None = None,
    sampler: Callable[..., Any] = sample,
    **model_kwargs: Any,
) -> GenerateNonBeamOutput | torch.Tensor:
    """One decoding loop of `call`; the rest is as `fused_generate` takes it and returns it."""
    device, rows = input_ids.device, input_ids.shape[0]
    do_sample = generation_config.do_sample
    with call.loop(model, rows, generation_config, device) as draws:
        follower = None
        is_encoder_decoder = model.config.is_encoder_decoder
        mask = model_kwargs.get(("decoder_" if is_encoder_decoder else "") + "attention_mask")
        left, edits = processors.edits_apart(
            logits_processor, draws.edits, input_ids, mask, do_sample
        )
        if do_sample:
            surprise, values = mirostat.apart(draws.values)
            stages, params = warpers.split(left, values)
            if surprise:
                follower = mirostat.Follower(surprise, params, rows, device)
        else:
            stages, params = [left, warpers.OFF] if edits else [left], warpers.OFF
        early = late = None  # the edits belong to the first warpers of ours
        if edits:
            is_early = any(isinstance(stage, SamplingParams) for stage in stages)
            early, late = (edits.of_step, None) if is_early else (None, edits.of_step)
        step = draws.first_step

        record = protocol.Record(generation_config, is_encoder_decoder)
        pad: Any = generation_config._pad_token_tensor
        pads_finished = any(hasattr(criteria, "eos_token_id") for criteria in stopping_criteria)
        unfinished = torch.ones(rows, dtype=torch.bool, device=device)
        all_finished = False

        outputs, model_kwargs = protocol.prefill(model, input_ids, generation_config, model_kwargs)
        forward = protocol.decode_forward(model, generation_config, model_kwargs)
        with protocol.decode_mode(model):
            while model._has_unfinished_sequences(all_finished, synced_gpus, device=device):
                if outputs is None:
                    inputs = protocol.decode_inputs(model, input_ids, model_kwargs)
                    outputs = forward(**inputs, return_dict=True)
                model_kwargs = model._update_model_kwargs_for_generation(
                    outputs, model_kwargs, is_encoder_decoder=is_encoder_decoder
                )
                if all_finished:  # under synced_gpus the other peers still need our forward pass
                    outputs = None
                    continue

                logits = outputs.logits[:, -1].to(device)
                if stages or "scores" in record or "logits" in record or not _is_drawn(logits):
                    # A copy: processors may write into it, and a view kept would keep `outputs`.
                    logits = logits.to(torch.float32, copy=True)
                scores = warpers.run(stages, input_ids, logits, early)
                tokens: Any
                draw: dict[str, Any]
                if follower is not None:
                    params = follower.params
                draw = {"params": params, "seed": draws.seed, "step": step, "validate": False}
                given = {} if late is None else late(input_ids, scores)
                draw |= given
                if follower is not None:
                    output = sampler(scores, **draw, return_info=True)
                    tokens = output.tokens
                    follower.move(output.logprobs)
                elif do_sample:
                    tokens = sampler(scores, **draw)
                else:
                    tokens = argmax(scores)
                if "scores" in record and (given or params is not warpers.OFF):
                    scores = mask_logits(scores, **draw)
                record.add(outputs, logits, scores)
                outputs = None  # the prompt's logits can be large

                invalid = unfinished & (tokens < 0)
                tokens = tokens.clamp(min=0)  # an id that stopping criteria can look up
                if pads_finished:
                    tokens = torch.where(unfinished, tokens, pad.to(device))
                edits.append(tokens)
                input_ids = torch.cat([input_ids, tokens[:, None]], dim=1)
                draws.lengths += unfinished
                unfinished = unfinished & ~stopping_criteria(input_ids, record.scores)

                # One look at the device a step, as in transformers' own loop.
                any_unfinished, any_invalid = torch.stack(
                    [unfinished.any(), invalid.any()]
                ).tolist()
                if any_invalid:
                    _raise_invalid(invalid, step)
                if streamer is not None:
                    streamer.put(tokens.cpu())
                all_finished = not any_unfinished
                step = step + 1

    if streamer is not None:
        streamer.end()
    return record.result(input_ids, model_kwargs)


def _is_drawn(logits: torch.Tensor) -> bool:
    """Whether `sample` takes them as they are."""
    return logits.dtype in (torch.float32, torch.bfloat16, torch.float16)


def _check_mode(generation_config: GenerationConfig, assistant_model: Any) -> None:
    mode = generation_config.get_generation_mode(assistant_model)
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise ValueError(
            f"fused_generate samples or decodes greedily, but these arguments ask for "
            f"{mode.value.replace('_', ' ')}; call plain model.generate(...) without "
            "custom_generate for that."
        )


def argmax(scores: torch.Tensor) -> torch.Tensor:
    """The lowest index of each row's maximum, -1 for a row with a NaN (which argmax then picks)."""
    tokens = scores.argmax(dim=1)
    best = scores.gather(1, tokens[:, None])[:, 0]
    return tokens.masked_fill(best.isnan(), -1)


def _raise_invalid(invalid: torch.Tensor, step: torch.Tensor) -> None:
    row = int(invalid.nonzero()[0])
    raise ValueError(
        f"row {row} cannot be sampled at new token {int(step.expand(len(invalid))[row])}: its "
        "scores hold a NaN or +inf, or forbid every token; mend the model or the logits "
        "processors, or pass remove_invalid_values=True to replace NaN and inf."
    )
