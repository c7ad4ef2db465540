"""What a request asks for, and what is refused of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vllm.exceptions import VLLMValidationError

from ...contract.draws import signed_word
from ...edits.records import FREQUENCY_PENALTY, NUMBERS, PRESENCE_PENALTY, REPETITION_PENALTY
from ..extras import EXTRA_FILTERS, take_extras

GREEDY_BELOW = 1e-5  # vLLM's, and ours
REPETITION = REPETITION_PENALTY.name
# Those of vLLM by their names in its metadata, where they are columns.
PENALTIES = {
    REPETITION: "repetition_penalties",
    FREQUENCY_PENALTY.name: "frequency_penalties",
    PRESENCE_PENALTY.name: "presence_penalties",
}


def filters_and_dry(params: Any) -> tuple[dict[str, float], dict[str, Any]]:
    """Ours of the `extra_args` of vLLM's SamplingParams: of a greedy request DRY alone.

    Raises TypeError or ValueError for a wrong value.
    """
    given = take_extras(params.extra_args or {})
    filters = {name: value for name, value in given.items() if name in EXTRA_FILTERS}
    dry = {name: value for name, value in given.items() if name not in EXTRA_FILTERS}
    greedy = params.temperature < GREEDY_BELOW
    return {} if greedy else filters, dry if dry.get("dry_multiplier") else {}


def check_request(params: Any, config: Any) -> None:
    """Raise vLLM's error where `extra_args` are wrong, or ask for what this engine cannot do."""
    try:
        given = take_extras(getattr(params, "extra_args", None) or {})
    except (TypeError, ValueError) as error:
        raise VLLMValidationError(str(error)) from error
    if given and config.speculative_config is not None:
        raise VLLMValidationError(
            f"{next(iter(given))} does not go with speculative decoding, whose draws are vLLM's "
            "own; leave it out of extra_args."
        )


@dataclass(eq=False)
class Request:
    """What one row of vLLM's batch draws with, beside the columns that vLLM has."""

    seed: int  # a signed word
    filters: dict[str, float]  # min_p and those of `extra_args`, where they are on
    dry: dict[str, Any]  # where it is on
    looks: bool  # at its tokens: it has DRY or a penalty
    fits: bool  # its penalties are within the range of ours
    prompt: Sequence[int]  # empty where nothing looks at it
    output: Sequence[int]  # vLLM's own list, which grows
    min_p_first: bool  # it has top-p too, which in vLLM sees what min-p left
    noted: int = 0  # how many tokens of the output have been read

    def is_cut(self) -> bool:
        """Whether tokens that have been read are not in the output any more."""
        return self.noted > len(self.output)

    def read(self) -> Sequence[int]:
        """The tokens of the output that have not been read; none where nothing looks at them."""
        if not self.looks:
            return ()
        tokens = self.output[self.noted :]
        if any(token < 0 for token in tokens):  # a place that vLLM has not filled yet
            raise RuntimeError("vLLM gave no token where penalties need one; report this version.")
        self.noted = len(self.output)
        return tokens


def request(params: Any, prompt: Sequence[int] | None, output: Sequence[int], seed: int) -> Request:
    """From vLLM's SamplingParams and its token ids; no prompt where it was given as embeddings."""
    filters, dry = filters_and_dry(params)
    if params.min_p and params.temperature >= GREEDY_BELOW:
        filters["min_p"] = params.min_p
    penalties = {name: getattr(params, name) for name in PENALTIES}
    on = [name for name, value in penalties.items() if value != NUMBERS[name].off]
    of_prompt = bool(dry) or REPETITION in on
    return Request(
        seed=signed_word("seed", seed),
        filters=filters,
        dry=dry,
        looks=bool(dry or on),
        fits=all(NUMBERS[n].low <= penalties[n] <= NUMBERS[n].high for n in on)
        and not (REPETITION in on and prompt is None),
        prompt=prompt if of_prompt and prompt is not None else (),
        output=output,
        min_p_first="min_p" in filters and params.top_p < 1,
    )
