"""What a user asks of `generate` and `inspect` alike, checked before any model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

import typer

from ..params import GREEDY_BELOW, SamplingParams


@dataclass(frozen=True)
class Request:
    """A prompt, a model (None: the embedded one) and how to sample. Raises typer.BadParameter."""

    prompt: str
    model: str | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int | None

    def __post_init__(self) -> None:
        if not self.prompt:
            raise typer.BadParameter("the prompt is empty; give some text to continue")
        try:
            self.prompt.encode()
        except UnicodeEncodeError:
            raise typer.BadParameter("the prompt is not valid UTF-8; give it in UTF-8") from None
        if self.model == "":
            raise typer.BadParameter(
                "it is empty; give a folder or a hub id, or leave it out", param_hint="'--model'"
            )
        try:
            SamplingParams(**self.sampling)
        except ValueError as error:  # what the library refuses beyond the options' own ranges
            raise typer.BadParameter(str(error)) from error

    @property
    def sampling(self) -> dict[str, float]:
        """The four values as `sample` and `model.generate` name them."""
        names = ("temperature", "top_k", "top_p", "min_p")
        return {name: getattr(self, name) for name in names}

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW
