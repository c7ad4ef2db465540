"""The text that the explorer continues: prompt and appended tokens, read once by the model."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any, NamedTuple

from ..models.load import LoadedModel
from ..models.prompt import Prompt
from ..models.vocabulary import spelled_ids
from ..views.next_token import NextToken
from ..views.request import Request
from .view import View, view_of

_TEXTS = 64  # whose logits are remembered


class Text(NamedTuple):
    """What the model and the tokenizer say of a text."""

    pieces: list[str]
    token: NextToken  # with its scores on the CPU


class Explorer:
    """Views of a model's next token, for any number of threads; the model reads a text once."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self._lock = threading.Lock()
        self._text = lru_cache(_TEXTS)(self._read)

    def view(
        self,
        request: Request,
        appended: tuple[int, ...] = (),
        samples: int = 0,
        ahead: int = 1,
    ) -> View:
        """The token after `request.prompt` and `appended`, and the counts of `samples` draws.

        The view holds `ahead` draws: the token's own, and those that follow while the text goes on.
        """
        view = self._view(request, appended, samples)
        while len(view.ahead) < ahead and not view.ahead[-1].last:
            ids = (*appended, *(draw.id for draw in view.ahead))
            view.ahead += self._view(request, ids).ahead
        return view

    def _view(self, request: Request, appended: tuple[int, ...], samples: int = 0) -> View:
        with self._lock:
            text = self._text(request.reading, appended)
            return view_of(text.token, request, text.pieces, samples)

    def _read(self, prompt: Prompt, appended: tuple[int, ...]) -> Text:
        for token in appended:
            known = token in spelled_ids(self.loaded.tokenizer)
            if not known or token >= self.loaded.vocabulary:
                raise ValueError(f"appended token {token} is no id of the tokenizer's")
        next_token = NextToken(self.loaded, prompt, appended, "cpu")
        ids = next_token.ids[0].tolist()
        return Text(_pieces(self.loaded.tokenizer, ids, len(appended)), next_token)


def _pieces(tokenizer: Any, ids: list[int], appended: int) -> list[str]:
    """What each of the last tokens adds to the decoded text; "" before a character is whole."""
    pieces, shown = [], 0
    for length in range(len(ids) - appended, len(ids) + 1):
        text = tokenizer.decode(ids[:length], clean_up_tokenization_spaces=False)
        whole = length == len(ids) - appended or not text.endswith("\ufffd")
        pieces.append(text[shown:] if whole else "")
        shown = len(text) if whole else shown
    return pieces[1:]
