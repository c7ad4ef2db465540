"""The numbers among the edits, in one record each."""

from __future__ import annotations

from ..filters import Axis, Parameter

_LARGE = 1e6  # beyond it nothing changes any more, and a count times it stays finite
_LONGEST = 2**22

REPETITION_PENALTY = Parameter(
    name="repetition_penalty",
    kind=float,
    low=1e-3,
    high=1e3,
    off=1.0,
    help="Divides the logits of tokens of prompt and output where positive, multiplies where not.",
    remedy="use a positive number, above 1 to discourage repetition; 1 switches it off",
    axis=Axis(0.5, 2.0),
)
FREQUENCY_PENALTY = Parameter(
    name="frequency_penalty",
    kind=float,
    low=-_LARGE,
    high=_LARGE,
    off=0.0,
    help="Is subtracted from a token's logit for each time that it is in the output.",
    remedy="use a number, usually from -2 to 2; 0 switches it off",
    axis=Axis(-2.0, 2.0),
)
PRESENCE_PENALTY = Parameter(
    name="presence_penalty",
    kind=float,
    low=-_LARGE,
    high=_LARGE,
    off=0.0,
    help="Is subtracted from the logits of tokens of the output, once.",
    remedy="use a number, usually from -2 to 2; 0 switches it off",
    axis=Axis(-2.0, 2.0),
)
DRY_MULTIPLIER = Parameter(
    name="dry_multiplier",
    kind=float,
    low=0.0,
    high=_LARGE,
    off=0.0,
    help="DRY: penalty of a token that would repeat a sequence of dry_allowed_length; 0 is off.",
    remedy="use a number from 0 on, such as 0.8; 0 switches it off",
    axis=Axis(0.0, 5.0),
)
DRY_BASE = Parameter(
    name="dry_base",
    kind=float,
    low=1.0,
    high=1e3,
    off=1.75,
    help="DRY: how much more for each token that the sequence is longer.",
    remedy="use a number from 1 on, such as 1.75",
    axis=Axis(1.0, 4.0),
    needs=DRY_MULTIPLIER.name,
)
DRY_ALLOWED_LENGTH = Parameter(
    name="dry_allowed_length",
    kind=int,
    low=1,
    high=_LONGEST,
    off=2,
    help="DRY: the shortest repeated sequence whose continuation is penalized.",
    remedy="use a number of tokens from 1 on, such as 2",
    axis=Axis(1, 20),
    needs=DRY_MULTIPLIER.name,
)
DRY_RANGE = Parameter(
    name="dry_range",
    kind=int,
    low=0,
    high=2**31 - 1,
    off=0,
    help="DRY: look at so many of the last tokens; 0 is all.",
    remedy="use a number of tokens; 0 is all",
    axis=Axis(0, 4096),
    needs=DRY_MULTIPLIER.name,
)
MIN_TOKENS = Parameter(
    name="min_tokens",
    kind=int,
    low=0,
    high=2**31 - 1,
    off=0,
    help="Bans the stop_ids while the output has fewer tokens.",
    remedy="use a number of tokens; 0 switches it off",
    axis=Axis(0, 100),
)
# In the order in which they apply.
NUMBERS = {
    record.name: record
    for record in (
        REPETITION_PENALTY,
        FREQUENCY_PENALTY,
        PRESENCE_PENALTY,
        DRY_MULTIPLIER,
        DRY_BASE,
        DRY_ALLOWED_LENGTH,
        DRY_RANGE,
        MIN_TOKENS,
    )
}
