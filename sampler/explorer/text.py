"""The text that the explorer continues: prompt and appended tokens, read once by the model."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from ..models.load import LoadedModel
from ..models.prompt import encode_prompt
from ..models.vocabulary import spelled_ids
from ..views.inspect import next_logits
from ..views.request import Request
from .view import View, view_of

_TEXTS = 64  # whose logits are remembered


class Text(NamedTuple):
    """What the model and the tokenizer say of a text."""

    prompt_tokens: int
    pieces: list[str]
    logits: torch.Tensor  # fp32 [V], on the CPU


class Explorer:
    """Views of a model's next token, for any number of threads; the model reads a text once."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self._lock = threading.Lock()
        self._text = lru_cache(_TEXTS)(self._read)

    def view(self, request: Request, appended: tuple[int, ...] = (), samples: int = 0) -> View:
        """The token after `request.prompt` and `appended`, and the counts of `samples` draws."""
        with self._lock:
            text = self._text(request.prompt, appended)
            return view_of(self.loaded, request, *text, samples)

    def _read(self, prompt: str, appended: tuple[int, ...]) -> Text:
        inputs = encode_prompt(self.loaded, prompt, new_tokens=len(appended) + 1)
        prompt_ids = inputs["input_ids"]
        for token in appended:
            if token not in spelled_ids(self.loaded.tokenizer):
                raise ValueError(f"appended token {token} is no id of the tokenizer's")
        more = prompt_ids.new_tensor([appended])
        inputs["input_ids"] = torch.cat([prompt_ids, more.to(prompt_ids.dtype)], dim=1)
        inputs["attention_mask"] = F.pad(inputs["attention_mask"], (0, len(appended)), value=1)
        logits = next_logits(self.loaded, inputs).cpu()
        pieces = _pieces(self.loaded.tokenizer, inputs["input_ids"][0].tolist(), len(appended))
        return Text(prompt_ids.shape[1], pieces, logits)


def _pieces(tokenizer: Any, ids: list[int], appended: int) -> list[str]:
    """What each of the last tokens adds to the decoded text; "" before a character is whole."""
    pieces, shown = [], 0
    for length in range(len(ids) - appended, len(ids) + 1):
        text = tokenizer.decode(ids[:length], clean_up_tokenization_spaces=False)
        whole = length == len(ids) - appended or not text.endswith("\ufffd")
        pieces.append(text[shown:] if whole else "")
        shown = len(text) if whole else shown
    return pieces[1:]
