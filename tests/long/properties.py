"""What holds for every call of the public functions, whatever its arguments.

Right arguments are served, the same by every backend; others are refused by a TypeError or a
ValueError that names the argument. Nothing else may happen: no other error, no token out of range,
no token that the filters dropped, no argument written to.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from calls import Call

from fused_sampler import FusedSampler, History, SampleOutput, mask_logits, replay, sample, softmax

NAMES = [name for name in inspect.signature(sample).parameters if name != "logits"]
_OF_SOFTMAX = set(inspect.signature(softmax).parameters)
_OF_MASK = set(inspect.signature(mask_logits).parameters)
_OF_CALL = {"history", "prompt_ids", "output_ids"}
_NOT_OF_MODULE = set(NAMES) - _OF_MASK | _OF_CALL | {"step", "slots"}  # for its call
# Right arguments are refused where their values together leave nothing to draw.
_NOTHING_LEFT = ("ban every token", "different tokens", "makes a logit infinite", "logits row")


class Broken(AssertionError):
    """What should hold does not."""


def check(call: Call, backends: Sequence[str]) -> str:
    """Raise `Broken` unless all of the above holds; "served" or "refused"."""
    before = _values(call)
    first, *others = ([_outcome(c, call, name) for c in CALLS] for name in backends)
    _require(_same(before, _values(call)), "an argument was written to", call)
    for name, found in zip(backends[1:], others, strict=True):
        for function, one, other in zip(CALLS, first, found, strict=True):
            says = f"{function.__name__}: {backends[0]} gives {one}, {name} {other}"
            agree = _close if function is _softmax else _same
            _require(agree(one, other), says, call)
    for function, result in zip(CALLS, first, strict=True):
        if isinstance(result, Exception):
            _require(_names_it(str(result), call), f"{function.__name__}: {result}", call)
    drawn, masked = first[:2]
    if isinstance(drawn, Exception):
        return "refused"
    _require(_possible(drawn, call), f"tokens {drawn}", call)
    if isinstance(masked, torch.Tensor) and call.arguments.get("replacement", True) is True:
        tokens = _tokens(drawn)
        tokens = tokens[..., None] if tokens.dim() < masked.dim() else tokens
        chosen = masked.gather(-1, tokens.clamp(min=0)) > -torch.inf
        chosen |= tokens < 0
        # Divided by a small temperature it may be -inf, as everywhere.
        chosen |= call.logits.gather(-1, tokens.clamp(min=0)) < -1e33
        _require(bool(chosen.all()), f"a dropped token in {tokens}", call)
    return "served"


def _sample(x: Any, arguments: dict[str, Any]) -> Any:
    return sample(x, **arguments)


def _mask_logits(x: Any, arguments: dict[str, Any]) -> Any:
    return mask_logits(x, **{n: v for n, v in arguments.items() if n in _OF_MASK})


def _softmax(x: Any, arguments: dict[str, Any]) -> Any:
    """It takes no slots."""
    if "slots" in arguments:
        return None
    return softmax(x, **{n: v for n, v in arguments.items() if n in _OF_SOFTMAX})


def _module(x: Any, arguments: dict[str, Any]) -> Any:
    """What a `FusedSampler` draws: the same as `sample`, by step."""
    own = {n: v for n, v in arguments.items() if n not in _NOT_OF_MODULE}
    of_call = {n: v for n, v in arguments.items() if n in _NOT_OF_MODULE}
    return FusedSampler(**own)(x, **of_call)


def _replay(x: Any, arguments: dict[str, Any]) -> Any:
    """The log-probabilities of the tokens that are drawn: those that `sample` returned.

    It takes no slots, and by XTC no draw whose seed nobody knows.
    """
    if "slots" in arguments or (arguments.get("seed") is None and "xtc_probability" in arguments):
        return None
    arguments = {**arguments, "num_samples": 1, "return_info": True}
    output = sample(x, **arguments)
    own = {n: v for n, v in arguments.items() if n in _OF_MASK - {"slots", "validate"}}
    replayed = replay(x, output.tokens, **own)
    if not _same(output[1:3], tuple(replayed)):
        raise Broken(f"replay gives {replayed} of {output.tokens}, sample {output[1:3]}")
    return replayed


CALLS: list[Callable[[Any, dict[str, Any]], Any]]
CALLS = [_sample, _mask_logits, _softmax, _module, _replay]


def _outcome(function: Callable[..., Any], call: Call, backend: str) -> Any:
    """What a call returns, or the error by which it refuses. Another error is `Broken`."""
    torch.manual_seed(0)  # for seed=None
    try:
        return function(call.logits, {"backend": backend, **call.arguments})
    except (TypeError, ValueError) as error:
        return error
    except Exception as error:
        what = f"{function.__name__} by {backend}: {type(error).__name__}: {error}"
        raise Broken(f"{what}\n{_shown(call)}") from error


def _require(holds: bool, what: str, call: Call) -> None:
    if not holds:
        raise Broken(f"{what}\n{_shown(call)}")


def _shown(call: Call) -> str:
    return f"logits = {call.logits!r}\narguments = {call.arguments!r}\nreplaced: {call.replaced}"


def _names_it(message: str, call: Call) -> bool:
    """Whether an error says which argument it is about: with slots, that tables do not fit."""
    slots = ["slots", "but logits have"] if "slots" in call.arguments else []
    return any(words in message for words in (*call.replaced, *_NOTHING_LEFT, *slots))


def _tokens(drawn: torch.Tensor | SampleOutput) -> torch.Tensor:
    return drawn if isinstance(drawn, torch.Tensor) else drawn.tokens


def _possible(drawn: torch.Tensor | SampleOutput, call: Call) -> bool:
    """Whether all tokens are ids, -1 only where nobody asked for a check."""
    tokens = _tokens(drawn)
    lowest = -1 if "validate" in call.arguments and not call.arguments["validate"] else 0
    fits = (tokens >= lowest) & (tokens < call.logits.shape[-1])
    return tokens.dtype == torch.int64 and bool(fits.all())


def _values(call: Call) -> tuple[Any, ...]:
    """Copies of all tensors that a call is given."""
    found: list[torch.Tensor] = []

    def collect(value: Any) -> None:
        if isinstance(value, History):
            found.extend((value.ids, value.counts, value.tokens, value.lengths))
        elif isinstance(value, (tuple, list)):
            for item in value:
                collect(item)
        elif isinstance(value, torch.Tensor) and not (value.is_meta or value.is_sparse):
            found.append(value)

    collect([call.logits, *call.arguments.values()])
    return tuple(tensor.detach().clone() for tensor in found)


def _same(one: Any, other: Any) -> bool:
    """Equal, bit for bit: tensors, tuples of them, or errors."""
    if isinstance(one, Exception) or isinstance(other, Exception):
        return type(one) is type(other) and str(one) == str(other)
    if isinstance(one, torch.Tensor):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return alike and torch.equal(_without_nan(one), _without_nan(other))
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return one is other


def _close(one: Any, other: Any) -> bool:
    """Of `softmax`, whose quotients are floats: both within 1.1e-6 of the exact one (contract)."""
    if not (isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)):
        return _same(one, other)
    return one.shape == other.shape and torch.allclose(one, other, 0, 2.2e-6, equal_nan=True)


def _without_nan(x: torch.Tensor) -> torch.Tensor:
    return (
        torch.where(x.isnan(), torch.full_like(x, 7), x)
        if x.dtype.is_floating_point or x.is_complex()
        else x
    )
