"""A prompt as a model reads it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .errors import brief
from .load import LoadedModel


class Prompt(NamedTuple):
    """A text to continue; or, with `chat`, what a user says to the model after `system`."""

    text: str
    chat: bool = False
    system: str | None = None


def encode_prompt(
    loaded: LoadedModel, prompt: Prompt, new_tokens: int, remedy: str = "shorten the prompt"
) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, int64 `[1, S]`, on the model's device.

    Raises ValueError, with the `remedy` where `new_tokens` more than the prompt's do not fit.
    """
    if prompt.chat:
        encoded = _encode_chat(loaded, prompt)
    else:
        encoded = loaded.tokenizer(prompt.text, return_tensors="pt")
    encoded = encoded.to(loaded.model.device)
    length = encoded["input_ids"].shape[1]
    if length == 0:
        raise ValueError(
            f"the prompt {prompt.text!r} holds no token of {loaded.name}; give other text"
        )
    if not fits(loaded, length + new_tokens):
        raise ValueError(
            f"the prompt has {length} tokens and {new_tokens} more are asked for, but "
            f"{loaded.name} holds {_limit(loaded)}; {remedy}"
        )
    _check_ids(loaded, encoded["input_ids"][0])
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def fits(loaded: LoadedModel, tokens: int) -> bool:
    """Whether the model holds a text of so many tokens."""
    limit = _limit(loaded)
    return limit is None or tokens <= limit


def _limit(loaded: LoadedModel) -> int | None:
    return getattr(loaded.model.config, "max_position_embeddings", None)


def _encode_chat(loaded: LoadedModel, prompt: Prompt) -> Any:
    """The prompt in the model's chat template, up to where the model's answer begins."""
    if not loaded.tokenizer.chat_template:
        raise ValueError(
            f"{loaded.name} has no chat template; leave --chat out, or give a model that has one"
        )
    messages = [{"role": "user", "content": prompt.text}]
    if prompt.system is not None:
        messages.insert(0, {"role": "system", "content": prompt.system})
    try:
        return loaded.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    except Exception as error:  # the template is a program of the model's author
        options = "--chat" if prompt.system is None else "--system, or --chat as well,"
        raise ValueError(
            f"the chat template of {loaded.name} fails ({brief(error)}); leave {options} out"
        ) from error


def _check_ids(loaded: LoadedModel, ids: torch.Tensor) -> None:
    """Refuse ids that only the tokenizer has: the model could not look them up."""
    beyond = ids[ids >= loaded.vocabulary].tolist()
    if beyond:
        raise ValueError(
            f"the prompt holds {loaded.tokenizer.decode(beyond[:1])!r}, which is id {beyond[0]} of "
            f"the tokenizer, but {loaded.name} has {loaded.vocabulary} ids; leave it out, or give "
            "a model with the tokenizer that it was trained with"
        )
