"""Which of Hugging Face's processors become edits of the draw, and what a loop keeps for them.

The sampler adds biases, then penalizes, and bans tokens; all of it before temperature and filters.
So only what stands before the warpers can be taken from a list, and what is left there of that part
runs first. Each processor is looked at from the last to the first, and taken where the scores stay
the same to the last bit. Bans may change places with everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from transformers.generation import logits_process as hf
from transformers.generation.logits_process import LogitsProcessor, LogitsProcessorList

from .. import params
from ..edits import bitmask
from ..edits.dry import checked_breakers
from ..edits.history import History
from ..edits.records import DRY_MULTIPLIER, REPETITION_PENALTY
from ..params import check_number, check_tensor
from . import warpers

LOGIT_BIAS, DRY_BREAKERS = "logit_bias", "dry_breakers"
# The edits that transformers does not know, as arguments of `generate`: in their order.
OWN = (
    LOGIT_BIAS,
    "frequency_penalty",
    "presence_penalty",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_range",
    DRY_BREAKERS,
)
_PENALTIES = (
    REPETITION_PENALTY.name,
    "frequency_penalty",
    "presence_penalty",
    DRY_MULTIPLIER.name,
)


class AllowedTokens(LogitsProcessor):
    """Lets a function choose which tokens may come next, as a grammar engine does.

    >>> masks = LogitsProcessorList([AllowedTokens(choose)])
    >>> model.generate(**inputs, do_sample=True, logits_processor=masks, seed=7)

    In a plain model it sets the scores of all others to -inf; the fused sampler reads the bits as
    it draws.

    Args:
        choose: is given the tokens so far, int64 `[rows, length]`, once a step. It returns int32
            `[rows, words]`, token i being bit `i % 32` of word `i // 32`, or bool `[rows, V]`;
            without the rows for all of them. Tokens beyond its width are banned: a model's logits
            may be wider than its tokenizer's vocabulary. Rows that have ended are in it, too, and
            may be given anything.
    """

    def __init__(self, choose: Callable[[torch.Tensor], torch.Tensor]):
        self.choose = choose

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        allowed = bitmask.unpacked(self.bits(input_ids, *scores.shape), scores.shape[1])
        return scores.masked_fill(~allowed, -math.inf)

    def bits(self, input_ids: torch.Tensor, rows: int, vocab: int) -> torch.Tensor:
        """int32 `[rows, words]` or `[1, words]`, as wide as the vocabulary, beside `input_ids`.

        Raises TypeError or ValueError for what is no such mask of these rows.
        """
        given = self.choose(input_ids)
        if not isinstance(given, torch.Tensor) or given.dtype not in (torch.int32, torch.bool):
            found = given.dtype if isinstance(given, torch.Tensor) else repr(given)
            raise TypeError(f"AllowedTokens takes an int32 or bool tensor, got {found}.")
        if given.dim() not in (1, 2) or (given.dim() == 2 and len(given) not in (1, rows)):
            raise ValueError(
                f"AllowedTokens was given a mask of shape {list(given.shape)} for {rows} rows; "
                f"choose for [{rows}, V], or [V] for all of them."
            )
        given = given.to(input_ids.device).reshape(-1, given.shape[-1])
        bits = bitmask.packed(given) if given.dtype == torch.bool else given
        return torch.nn.functional.pad(bits, (0, bitmask.words(vocab) - bits.shape[1]))


class _Ban(NamedTuple):
    """Ids that are banned while prompt and text together have `first` to `last` tokens."""

    ids: tuple[int, ...]
    first: float = 0
    last: float = math.inf


# These only ban, whatever the scores are. PrefixConstrainedLogitsProcessor looks whether others
# have banned all that it allows, and then lifts their bans.
_BANNING = (
    hf.NoRepeatNGramLogitsProcessor,
    hf.EncoderNoRepeatNGramLogitsProcessor,
    hf.NoBadWordsLogitsProcessor,
    hf.MinLengthLogitsProcessor,
    hf.MinNewTokensLengthLogitsProcessor,
    hf.SuppressTokensLogitsProcessor,
    hf.SuppressTokensAtBeginLogitsProcessor,
    AllowedTokens,
)


@dataclass
class Taken:
    """What processors that left a list said. Each one taken stands before those taken earlier."""

    prompt: torch.Tensor  # int64 [rows, T]
    seen: torch.Tensor | None = None  # the same with -1 where no penalty looks; None if all may
    has_bias: bool = False  # another cannot be added before it and give the same rounding
    penalty: float | None = None
    bias: dict[int, float] = field(default_factory=dict)
    bans: list[_Ban] = field(default_factory=list)
    choosers: list[AllowedTokens] = field(default_factory=list)

    def take(self, processor: Any) -> bool:
        """Whether the processor is one of these, by its class and not by a subclass."""
        kind = type(processor)
        if kind is hf.RepetitionPenaltyLogitsProcessor:
            return self._take_penalty(processor)
        if kind in (hf.SequenceBiasLogitsProcessor, hf.NoBadWordsLogitsProcessor):
            return self._take_bias(processor.sequence_bias)
        if kind is AllowedTokens:
            self.choosers.insert(0, processor)
            return True
        ban = _ban(processor)
        if ban is not None:
            self.bans.append(ban)
        return ban is not None

    def _take_penalty(self, processor: Any) -> bool:
        known = ("penalty", "prompt_ignore_length")
        others = [value for name, value in vars(processor).items() if name not in known]
        is_plain = all(value is None for value in others)  # what continuous batching sets
        in_range = REPETITION_PENALTY.low <= processor.penalty <= REPETITION_PENALTY.high
        if self.has_bias or self.penalty is not None or not (is_plain and in_range):
            return False
        if self.prompt.device.type != "cpu":
            return False  # PyTorch then multiplies by 1 / penalty, which may round otherwise
        seen = _without_first(self.prompt, getattr(processor, "prompt_ignore_length", None))
        if seen is None or (self.seen is not None and not torch.equal(seen, self.seen)):
            return False  # one history cannot show two texts
        self.penalty, self.seen = processor.penalty, seen
        return True

    def _take_bias(self, sequences: Mapping[tuple[int, ...], float]) -> bool:
        is_ban = all(value == -math.inf for value in sequences.values())
        fits = all(len(ids) == 1 and value < math.inf for ids, value in sequences.items())
        if not fits or (self.has_bias and not is_ban):
            return False
        self.has_bias |= not is_ban
        for (token,), value in sequences.items():
            self.bias[int(token)] = self.bias.get(int(token), 0.0) + value
        return True


def _without_first(prompt: torch.Tensor, ignored: Any) -> torch.Tensor | None:
    """The prompt with -1 where a penalty ignores so many first tokens, a number or one a row.

    None where Hugging Face would ignore new tokens as well, or raise an error.
    """
    if ignored is None:
        return prompt
    lengths = torch.as_tensor(ignored).reshape(-1)
    rows, length = prompt.shape
    if (lengths > length).any() or (isinstance(ignored, torch.Tensor) and len(lengths) != rows):
        return None
    places = torch.arange(length, device=prompt.device)
    return prompt.masked_fill(places < lengths.to(prompt.device)[:, None], -1)


def _ban(processor: Any) -> _Ban | None:
    """What the processor bans, if that is certain ids at certain lengths."""
    kind = type(processor)
    if kind is hf.SuppressTokensLogitsProcessor:
        return _Ban(tuple(processor.suppress_tokens.tolist()))
    if kind is hf.SuppressTokensAtBeginLogitsProcessor:
        begin = processor.begin_index
        return _Ban(tuple(processor.begin_suppress_tokens.tolist()), begin, begin)
    if kind is hf.MinLengthLogitsProcessor:
        return _Ban(_eos(processor), last=processor.min_length - 1)
    if kind is hf.MinNewTokensLengthLogitsProcessor:
        length = processor.prompt_length_to_skip + processor.min_new_tokens
        return _Ban(_eos(processor), last=length - 1)
    return None


def _eos(processor: Any) -> tuple[int, ...]:
    return tuple(processor.eos_token_id.reshape(-1).tolist())


def split(processors: Iterable[LogitsProcessor], taken: Taken) -> LogitsProcessorList:
    """The processors that stay; `taken` learns what the others said.

    Of those that stay, what stands before the first warper of ours now runs before all edits.
    """
    left = LogitsProcessorList(processors)
    names = [warpers.fused_name(processor) for processor in left]
    head = next((i for i, name in enumerate(names) if name is not None), len(left))
    for i in reversed(range(head)):
        if taken.take(left[i]):
            del left[i]
        elif type(left[i]) not in _BANNING:
            break
    return left


class LoopEdits:
    """The edits of the draws of one decoding loop: of processors that were taken, and `own`.

    The output, which frequency and presence look at, begins with the loop.
    """

    def __init__(self, own: Mapping[str, Any], taken: Taken):
        prompt = taken.prompt if taken.seen is None else taken.seen
        self._numbers = {name: value for name, value in own.items() if name != LOGIT_BIAS}
        if taken.penalty is not None:
            self._numbers[REPETITION_PENALTY.name] = taken.penalty
        self._history = None
        if any(name in self._numbers for name in _PENALTIES):
            self._history = self._numbers["history"] = History(prompt)
        bias = dict(taken.bias)
        for token, value in own.get(LOGIT_BIAS, {}).items():
            bias[token] = bias.get(token, 0.0) + value
        self._largest = max(bias, default=-1)
        if bias:
            values = torch.tensor(list(bias.values()), dtype=torch.float32, device=prompt.device)
            self._numbers[LOGIT_BIAS] = torch.tensor(list(bias), device=prompt.device), values
        self._bans, self._choosers = taken.bans, taken.choosers
        self._banned: dict[tuple, torch.Tensor] = {}  # masks that were made before

    def __bool__(self) -> bool:
        return bool(self._numbers or self._bans or self._choosers)

    def of_step(self, input_ids: torch.Tensor, scores: torch.Tensor) -> dict[str, Any]:
        """Arguments of `sample` or `mask_logits` for scores [rows, V] of the token to come.

        Raises ValueError where a bias is of a token that the scores lack.
        """
        rows, vocab = scores.shape
        if self._largest >= vocab:
            raise ValueError(
                f"a bias or ban is of token {self._largest}; token ids go from 0 to {vocab - 1}."
            )
        masks = [chooser.bits(input_ids, rows, vocab) for chooser in self._choosers]
        length = input_ids.shape[1]
        if now := tuple(ban for ban in self._bans if ban.first <= length <= ban.last):
            if (now, vocab) not in self._banned:
                self._banned[now, vocab] = _all_but(now, vocab, input_ids.device)
            masks.append(self._banned[now, vocab])
        if not masks:
            return self._numbers
        allowed = masks[0]
        for mask in masks[1:]:
            allowed = allowed & mask
        return {**self._numbers, "allowed": allowed}

    def append(self, tokens: torch.Tensor) -> None:
        """Note what was drawn, int64 [rows]."""
        if self._history is not None:
            self._history.append(tokens)


def _all_but(bans: Sequence[_Ban], vocab: int, device: torch.device) -> torch.Tensor:
    """int32 [1, words]: the tokens that none of these ban."""
    allowed = torch.ones(1, vocab, dtype=torch.bool, device="cpu")
    for ban in bans:
        allowed[:, [token for token in ban.ids if 0 <= token < vocab]] = False
    return bitmask.packed(allowed).to(device)


def edits_apart(
    processors: LogitsProcessorList,
    own: Mapping[str, Any],
    prompt: torch.Tensor,
    attention_mask: Any,
    do_sample: bool,
) -> tuple[LogitsProcessorList, LoopEdits]:
    """The processors that stay in a loop's list, and the edits of its draws.

    Greedy decoding, whose list ends with its processors, keeps all. `own`: the caller's edits.
    `attention_mask`: that of the decoder's own tokens, if it has one.
    """
    taken = Taken(prompt, has_bias=LOGIT_BIAS in own)
    if DRY_MULTIPLIER.name in own:  # a repeated sequence is none of padding
        taken.seen = _without_padding(prompt, attention_mask)
    if do_sample:
        processors = split(processors, taken)
    return processors, LoopEdits(own, taken)


def _without_padding(input_ids: torch.Tensor, attention_mask: Any) -> torch.Tensor:
    """The prompt with -1 where the mask of its tokens has 0; as it is where there is none."""
    if getattr(attention_mask, "shape", None) != input_ids.shape:
        return input_ids
    return input_ids.masked_fill(attention_mask.to(input_ids.device) == 0, -1)


# What a caller gives


def checked(name: str, value: Any) -> Any:
    """A parameter or edit as it is kept; raises TypeError or ValueError for one that is none."""
    if name == LOGIT_BIAS:
        return _checked_bias(value)
    if name == DRY_BREAKERS:
        return checked_breakers(value)
    if isinstance(value, torch.Tensor):
        check_tensor(name, value, value.numel(), validate=True)
    else:
        check_number(name, value)
    return value


def is_on(name: str, value: Any) -> bool:
    """Whether the value of a parameter or an edit may change a draw."""
    if name in (LOGIT_BIAS, DRY_BREAKERS):
        return value is not None and not (isinstance(value, Sized) and len(value) == 0)
    return params.is_on(name, value)


def _checked_bias(given: Any) -> dict[int, float]:
    if not isinstance(given, Mapping):
        raise TypeError(f"logit_bias must be {{token: bias}}, got {given!r}.")
    bias = {}
    for token, value in given.items():
        # A generation config that was saved has its keys as text.
        key = int(token) if isinstance(token, str) and token.isdecimal() else token
        if not isinstance(key, int) or isinstance(key, bool) or key < 0:
            raise TypeError(f"logit_bias has {token!r} as a token; pass ids from 0 on.")
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise TypeError(f"logit_bias of token {key} is {value!r}; pass a number.")
        if not value < math.inf:
            raise ValueError(
                f"logit_bias of token {key} is {value}; pass a finite number, or -inf to ban it."
            )
        bias[key] = float(value)
    return bias
