"""The sampler as a module that knows its parameters, its seed and its place in the sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .api import sample
from .contract.draws import Seed, seed_tensor
from .output import SampleOutput
from .params import PARAMETERS, Parameter, SamplingParams, check_names

_KEEP: Any = object()


class FusedSampler(nn.Module):
    """`sampler(logits)` draws one token a row and moves on by one step.

    The parameters come as `SamplingParams` or by their names, each a number, a `[B]` tensor or None
    (off). With a seed (an integer, or an int64 `[B]` tensor with one for each row) the sequence of
    draws is reproducible: it depends on the seed and on `step`, which counts the calls. With
    `seed=None` every call takes a seed from PyTorch's default CPU generator, so
    `torch.manual_seed` decides.

    `state_dict` holds parameters, seed and step; `.to()` moves what lives in device memory.
    """

    step: torch.Tensor  # int64, 0-dimensional; in device memory, so that a CUDA graph advances it
    seed: torch.Tensor | None  # int64, 0-dimensional or [B]

    def __init__(
        self,
        params: SamplingParams | None = None,
        *,
        seed: Seed = None,
        backend: str = "auto",
        validate: bool = True,
        **values: Parameter,
    ):
        super().__init__()
        check_names(params, values)
        params = SamplingParams(**values) if params is None else params
        for name in PARAMETERS:
            setattr(self, name, getattr(params, name))
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
        if overrides.get("params") is None:
            arguments |= {name: getattr(self, name) for name in PARAMETERS}
        if overrides.get("generator") is None:
            arguments["seed"] = self.seed
        output = sample(logits, **{**arguments, **overrides})
        if "step" not in overrides:
            self.step += 1
        return output

    def reset(self, seed: Seed = _KEEP) -> None:
        """Go back to step 0, with another seed if one is given (None: unseeded)."""
        self.step.zero_()
        if seed is not _KEEP:
            self.seed = None if seed is None else seed_tensor(seed).to(self.step.device, copy=True)

    def extra_repr(self) -> str:
        names = (*PARAMETERS, "seed", "step", "backend", "validate")
        return ", ".join(f"{name}={_show(getattr(self, name))}" for name in names)

    def get_extra_state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in (*PARAMETERS, "seed")}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                value = value.to(self.step.device, copy=True)
            setattr(self, name, value)

    def _apply(self, fn: Any, recurse: bool = True) -> FusedSampler:
        super()._apply(fn, recurse)
        # Parameter tensors follow to the device but keep their dtype: half() must not round them.
        for name in PARAMETERS:
            value = getattr(self, name)
            if isinstance(value, torch.Tensor):
                setattr(self, name, value.to(self.step.device))
        return self


def _show(value: Any) -> str:
    return repr(value.tolist() if isinstance(value, torch.Tensor) else value)
