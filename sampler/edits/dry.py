"""DRY: a penalty for tokens that would go on repeating what is in the text already.

After the text `.. a b c d .. a b c`, `d` would repeat three tokens. Which `d` and how long follows
from one number for each place: how long the text up to there agrees with the text's own end. A
token more makes each number that of the place before and 1, or 0 where another token stands.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from .history import History


def agreement(tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """How many tokens up to each place are those at the text's end, int32 [B, m].

    For texts [B, m] of these lengths [B]; 0 from the last token on, which would agree with itself.
    """
    places = torch.arange(tokens.shape[1], device=tokens.device)
    found = torch.zeros_like(tokens)
    agrees = (places < lengths[:, None] - 1) & (tokens >= 0)
    for back in range(tokens.shape[1]):
        last = tokens.gather(1, (lengths[:, None] - 1 - back).clamp(min=0))
        behind = torch.nn.functional.pad(tokens, (back, -back), value=-1) if back else tokens
        agrees = agrees & (behind == last) & (places >= back)
        if not agrees.any():
            break
        found += agrees
    return found


def repeated_lengths(
    history: History, breakers: torch.Tensor | None, window: torch.Tensor
) -> torch.Tensor:
    """How many tokens each of the history's different ids would repeat, int32 [B, n].

    `breakers`: ids [B, b] that are in no repeated sequence, -1 for none. `window`: int64 [B], the
    last tokens that count; 0 is all.
    """
    tokens, lengths = history.tokens, history.lengths[:, None]
    if history.repeats is None:
        history.repeats = agreement(tokens, history.lengths)
    places = torch.arange(tokens.shape[1], device=tokens.device)
    first = (lengths - window[:, None]).clamp(min=0)  # the first token that counts
    first = torch.where(window[:, None] > 0, first, 0)
    longest = (places - first + 1).clamp(min=0)
    if breakers is not None:
        breaks = (tokens[..., None] == breakers[:, None, :]).any(-1) & (tokens >= 0)
        newest = torch.where(breaks, places, -1).amax(1, keepdim=True)
        longest = torch.minimum(longest, lengths - 1 - newest)
    repeats = torch.minimum(history.repeats, longest.int())
    follows = tokens.roll(-1, dims=1)  # what stood behind each place
    place = torch.searchsorted(history.ids, follows.clamp(min=0).contiguous())
    place = place.clamp(max=history.ids.shape[1] - 1)
    return torch.zeros_like(history.ids).scatter_reduce_(1, place, repeats, "amax")


def dry_penalty(
    lengths: torch.Tensor, multiplier: torch.Tensor, base: torch.Tensor, allowed: torch.Tensor
) -> torch.Tensor:
    """`multiplier * base ** (length - allowed)` where a length [B, n] is allowed or more, else 0.

    fp32. The others are columns [B]. A power is a product of one factor after the other.
    """
    device = lengths.device
    multiplier, base, allowed = (
        column.to(device)[:, None] for column in (multiplier, base, allowed)
    )
    more = lengths - allowed
    table = _powers(tuple(base[:, 0].tolist()), lengths.shape[1]).to(device)
    power = table.gather(1, more.clamp(0, table.shape[1] - 1).long())
    penalty = multiplier * power
    return penalty.masked_fill((more < 0) | (multiplier == 0), 0.0)


@functools.lru_cache(maxsize=16)
def _powers(bases: tuple[float, ...], longest: int) -> torch.Tensor:
    """`base ** n` for n up to `longest`, fp32 [B, longest + 1]; fewer if more change nothing."""
    base = torch.tensor(bases, dtype=torch.float32, device="cpu")
    powers = [torch.ones_like(base)]
    for _ in range(longest):
        powers.append(powers[-1] * base)
        if torch.equal(powers[-1], powers[-2]):
            break
    return torch.stack(powers, dim=1)


def checked_breakers(given: Any) -> list[int]:
    """Token ids as a list, from a list, a tuple or a tensor; raises TypeError."""
    ids = given.tolist() if isinstance(given, torch.Tensor) else given
    if not isinstance(ids, (list, tuple)) or not all(
        isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in ids
    ):
        raise TypeError(f"dry_breakers must be a list of token ids, got {given!r}.")
    return list(ids)
