"""The sampler as a module that knows its parameters, its seed and its place in the sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from . import mirostat
from .after import Asked, check_asked
from .api import sample
from .contract.draws import Seed, seed_tensor
from .edits.arguments import EDITS, OF_CALLS
from .edits.records import NUMBERS
from .output import SampleOutput
from .params import (
    MIROSTAT_ETA,
    MIROSTAT_MU,
    MIROSTAT_TAU,
    PARAMETERS,
    Parameter,
    SamplingParams,
    check_names,
    check_number,
    check_tensor,
    is_on,
)

_KEEP: Any = object()
_EDITS = tuple(name for name in EDITS if name not in OF_CALLS)
_OWN = (*PARAMETERS, *_EDITS, *mirostat.NAMES)  # what a sampler holds by name


class FusedSampler(nn.Module):
    """`sampler(logits)` draws one token a row and moves on by one step.

    The parameters come as `SamplingParams` or by their names, each a number, a `[B]` tensor or None
    (off). With a seed (an integer, or an int64 `[B]` tensor with one for each row) the sequence of
    draws is reproducible: it depends on the seed and on `step`, which counts the calls. With
    `seed=None` every call takes a seed from PyTorch's default CPU generator, so
    `torch.manual_seed` decides.

    With `mirostat_tau` (bits a token; 0 or None is off) and `mirostat_eta` (how fast, from 0 on;
    None: 0.1), each a number or a `[B]` tensor, a row follows mirostat 2 in the place of all other
    filters. Each row then has a bound of its own in `mirostat_mu`, fp32 `[B]`, which moves with
    each call that advances the step; `reset` forgets it.

    Edits (masks, bias, penalties, by their names in `Edits`) may be the sampler's own or a call's;
    `history` is a call's.

    `state_dict` holds parameters, seed, step and bound; a sampler that is moved to another device
    takes along what lives in device memory.
    """

    mirostat_mu: Parameter
    step: torch.Tensor  # int64, 0-dimensional; in device memory, so that a CUDA graph advances it
    seed: torch.Tensor | None  # int64, 0-dimensional or [B]

    def __init__(
        self,
        params: SamplingParams | None = None,
        *,
        mirostat_tau: Parameter = None,
        mirostat_eta: Parameter = None,
        seed: Seed = None,
        backend: str = "auto",
        validate: bool = True,
        **values: Any,
    ):
        super().__init__()
        if of_calls := [name for name in OF_CALLS if name in values]:
            raise TypeError(f"{of_calls[0]} is another at each call; pass it there.")
        for name in _EDITS:
            setattr(self, name, values.pop(name, None))
        check_names(params, values)
        params = SamplingParams(**values) if params is None else params
        for name in PARAMETERS:
            setattr(self, name, getattr(params, name))
        self.mirostat_tau = MIROSTAT_TAU.off if mirostat_tau is None else mirostat_tau
        self.mirostat_eta = MIROSTAT_ETA.off if mirostat_eta is None else mirostat_eta
        for name in (*mirostat.NAMES, *NUMBERS):
            value = getattr(self, name)
            if value is not None and not isinstance(value, torch.Tensor):
                check_number(name, value)
        self.backend = backend
        self.validate = validate
        with torch.inference_mode(False):  # or the step could not be advanced outside of it
            self.register_buffer("step", torch.zeros((), dtype=torch.int64))
            self.register_buffer("seed", None, persistent=False)
            self.reset(seed)

    def forward(self, logits: torch.Tensor, **overrides: Any) -> torch.Tensor | SampleOutput:
        """Draw from logits `[B, V]` (tokens int64 `[B]`) or `[V]` (a scalar).

        Any keyword argument of `sample` overrides the sampler's own for this call; `params` all of
        its parameters. A call with a `step` of its own leaves the sampler's step where it is.
        """
        arguments: dict[str, Any] = {"backend": self.backend, "validate": self.validate}
        arguments["step"] = self.step
        arguments |= {name: getattr(self, name) for name in _EDITS}
        if overrides.get("params") is None:
            arguments |= {name: getattr(self, name) for name in PARAMETERS}
        if overrides.get("generator") is None:
            arguments["seed"] = self.seed
        arguments |= overrides
        if is_on(MIROSTAT_TAU.name, self.mirostat_tau) and "mirostat_mu" not in overrides:
            return self._follow(logits, arguments, advances="step" not in overrides)
        output = sample(logits, **arguments)
        if "step" not in overrides:
            self.step += 1
        return output

    def _follow(
        self, logits: torch.Tensor, arguments: dict[str, Any], advances: bool
    ) -> torch.Tensor | SampleOutput:
        """`forward` by mirostat."""
        if arguments.get("num_samples", 1) != 1:
            raise ValueError(
                f"num_samples is {arguments['num_samples']}, but mirostat follows one token a row; "
                "leave it out."
            )
        batch = 1 if logits.dim() == 1 else len(logits)
        for name in mirostat.NAMES:
            if isinstance(value := getattr(self, name), torch.Tensor):
                check_tensor(name, value, batch, arguments["validate"])
        mu = self.mirostat_mu
        if not isinstance(mu, torch.Tensor):
            mu = mirostat.first_bound(self.mirostat_tau, batch, logits.device)
        elif len(mu) != batch:
            raise ValueError(
                f"mirostat has followed {len(mu)} rows, but logits have {batch}; call reset() "
                "before another batch."
            )
        params = arguments.pop("params", None)
        values = {name: arguments.pop(name) for name in PARAMETERS if name in arguments}
        values = mirostat.without_filters(
            self.mirostat_tau, values if params is None else dict(vars(params))
        )
        wants_info = arguments.pop("return_info", False)
        asked = Asked(**{name: arguments[name] for name in Asked._fields if name in arguments})
        check_asked(asked, wants_info, batch, logits.shape[-1])
        output = sample(logits, **{**arguments, **values, "mirostat_mu": mu}, return_info=True)
        assert output.logprobs is not None
        if advances:
            moved = mirostat.next_bound(mu, self.mirostat_tau, self.mirostat_eta, output.logprobs)
            self._move_bound(moved)
            self.step += 1
        return output if wants_info else output.tokens

    def _move_bound(self, moved: torch.Tensor) -> None:
        """In place where it can be, so that a CUDA graph moves it as well."""
        with torch.inference_mode(False):
            if not isinstance(self.mirostat_mu, torch.Tensor):
                self.mirostat_mu = moved.clone()
            else:
                self.mirostat_mu.copy_(moved)

    def reset(self, seed: Seed = _KEEP) -> None:
        """Go back to step 0, with another seed if one is given (None: unseeded)."""
        self.step.zero_()
        if is_on(MIROSTAT_TAU.name, self.mirostat_tau):
            self.mirostat_mu = MIROSTAT_MU.off
        if seed is not _KEEP:
            self.seed = None if seed is None else seed_tensor(seed).to(self.step.device, copy=True)

    def extra_repr(self) -> str:
        given = [name for name in _EDITS if getattr(self, name) is not None]
        names = (*PARAMETERS, *given, *mirostat.NAMES, "seed", "step", "backend", "validate")
        return ", ".join(f"{name}={_show(getattr(self, name))}" for name in names)

    def get_extra_state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in (*_OWN, "seed")}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                value = value.to(self.step.device, copy=True)
            setattr(self, name, value)

    def _apply(self, fn: Any, recurse: bool = True) -> FusedSampler:
        super()._apply(fn, recurse)
        # Parameter tensors follow to the device but keep their dtype: half() must not round them.
        for name in _OWN:
            value = getattr(self, name)
            if isinstance(value, torch.Tensor):
                setattr(self, name, value.to(self.step.device))
        return self


def _show(value: Any) -> str:
    return repr(value.tolist() if isinstance(value, torch.Tensor) else value)
