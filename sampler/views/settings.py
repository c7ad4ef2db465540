"""The parameters of a draw as a user sets them: what may be typed, and what switches each off."""

from __future__ import annotations

from typing import NamedTuple

from .numbers import Number


class Setting(NamedTuple):
    """A parameter of `sample`."""

    name: str
    number: Number
    off: float
    help: str
    slider: float  # its highest value

    @property
    def label(self) -> str:
        """The name as it is shown, and as an option spells it."""
        return self.name.replace("_", "-")


TEMPERATURE = Setting(
    "temperature", Number(float, 0, hint="0 is greedy"), 1.0, "Divides the logits; 1 is off.", 5
)
FILTERS = (
    Setting(
        "top_k",
        Number(int, 0, hint="0 is off"),
        0,
        "Keep the k best tokens, and ties; 0 is off.",
        100,
    ),
    Setting(
        "top_p",
        Number(float, 0, 1, "1 is off"),
        1.0,
        "Keep the best tokens that hold this share of the probability; 1 is off.",
        1,
    ),
    Setting(
        "min_p",
        Number(float, 0, 1, "0 is off"),
        0.0,
        "Keep tokens at least this many times as probable as the best; 0 is off.",
        1,
    ),
)
SETTINGS = (TEMPERATURE, *FILTERS)
