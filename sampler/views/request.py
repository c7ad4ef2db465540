"""What a user asks for, checked before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..models.prompt import Prompt
from ..params import GREEDY_BELOW, SamplingParams, check_number
from .parameters import LOGIT_BIAS, OFFERED, TRANSFORMERS


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


def check_text(name: str, text: str) -> None:
    """Raise `FieldError` for text that no tokenizer could read."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FieldError(name, f"the {name} is not valid UTF-8; give it in UTF-8") from None


@dataclass(frozen=True)
class Request:
    """A prompt, a model (None: the embedded one) and how to sample. Raises `FieldError`.

    `sampling` holds plain numbers under the names of `SamplingParams`; those left out are off, and
    a request holds them all. `chat` makes the prompt a user's message, after the message `system`.
    `edits` holds numbers and `logit_bias`, a mapping, under the names of `Edits`; those left out
    are off, or what the model's own generation config says.
    """

    prompt: str
    model: str | None
    sampling: Mapping[str, Any]
    seed: int | None
    chat: bool = False
    system: str | None = None
    edits: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.prompt:
            raise FieldError("prompt", "the prompt is empty; give some text to continue")
        check_text("prompt", self.prompt)
        if self.system is not None:
            if not self.chat:
                raise FieldError("system", "it goes with --chat alone; add --chat or leave it out")
            check_text("system", self.system)
        if self.model == "":
            raise FieldError("model", "it is empty; give a folder or a hub id, or leave it out")
        for name, value in {**self.sampling, **self.numbers}.items():
            check_field(name, value)
        values = asdict(SamplingParams(**self.sampling))
        offered = {record.name: values[record.name] for record in OFFERED}
        object.__setattr__(self, "sampling", offered)

    @property
    def temperature(self) -> float:
        return self.sampling["temperature"]

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    @property
    def drawing(self) -> dict[str, Any]:
        """How to draw, as transformers' `generate` takes it.

        Every value is given, so that none comes from the model's own generation config.
        """
        return {"do_sample": False} if self.greedy else {"do_sample": True, **self.sampling}

    @property
    def numbers(self) -> dict[str, Any]:
        """Of the edits, those that are numbers."""
        return {name: value for name, value in self.edits.items() if name != LOGIT_BIAS}

    @property
    def editing(self) -> dict[str, Any]:
        """The edits, as transformers' `generate` and our loop take them."""
        return {TRANSFORMERS.get(name, name): value for name, value in self.edits.items()}

    def check_vocabulary(self, vocabulary: int) -> None:
        """Raise `FieldError` for a token of the bias that is none of the model's."""
        for token in self.edits.get(LOGIT_BIAS, ()):
            if token >= vocabulary:
                message = f"logit_bias names token {token}; the model's ids end at {vocabulary - 1}"
                raise FieldError(LOGIT_BIAS, message)

    @property
    def reading(self) -> Prompt:
        """What the model reads."""
        return Prompt(self.prompt, self.chat, self.system)

    def at(self, **values: Any) -> Request:
        """The same with other values of `sampling`."""
        return replace(self, sampling={**self.sampling, **values})
