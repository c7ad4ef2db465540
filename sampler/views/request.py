"""What a user asks for, checked before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..params import GREEDY_BELOW, SamplingParams, check_number


class FieldError(ValueError):
    """A value that cannot be used; `field` names it, None where no single one is to blame."""

    def __init__(self, field: str | None, message: str) -> None:
        super().__init__(message)
        self.field = field


def check_field(name: str, value: float) -> None:
    """Raise `FieldError` where the parameter's value is out of range."""
    try:
        check_number(name, value)
    except ValueError as error:
        raise FieldError(name, str(error)) from error


@dataclass(frozen=True)
class Request:
    """A prompt, a model (None: the embedded one) and how to sample. Raises `FieldError`.

    `sampling` holds plain numbers under the names of `SamplingParams`; those left out are off, and
    a request holds them all.
    """

    prompt: str
    model: str | None
    sampling: Mapping[str, Any]
    seed: int | None

    def __post_init__(self) -> None:
        if not self.prompt:
            raise FieldError("prompt", "the prompt is empty; give some text to continue")
        try:
            self.prompt.encode()
        except UnicodeEncodeError:
            raise FieldError("prompt", "the prompt is not valid UTF-8; give it in UTF-8") from None
        if self.model == "":
            raise FieldError("model", "it is empty; give a folder or a hub id, or leave it out")
        for name, value in self.sampling.items():
            check_field(name, value)
        object.__setattr__(self, "sampling", asdict(SamplingParams(**self.sampling)))

    @property
    def temperature(self) -> float:
        return self.sampling["temperature"]

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    def at(self, temperature: float) -> Request:
        """The same at another temperature."""
        return replace(self, sampling={**self.sampling, "temperature": temperature})
