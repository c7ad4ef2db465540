"""What the commands that run a model share: loading it, and reading a prompt."""

from __future__ import annotations

import sys

import torch
from rich.console import Console

from ..models.load import DOWNLOADING, EMBEDDED, LoadedModel, load_model


def load_for_command(name: str | None) -> LoadedModel:
    """The model, with a spinner on a terminal while it loads. The embedded one for None."""
    # Bound to this stream: unpacking the embedded model hides sys.stderr for a moment.
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        return load_model(name)
    with console.status(f"Loading {name or EMBEDDED}") as status:

        def report(line: str) -> None:
            if line.startswith(DOWNLOADING):  # its bars and a spinner would overwrite each other
                status.stop()
                console.print(line, highlight=False)
            else:
                status.update(line)

        return load_model(name, report)


def encode_prompt(
    loaded: LoadedModel, prompt: str, new_tokens: int, remedy: str = "shorten the prompt"
) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, `[1, S]`.

    ValueError with the `remedy` where `new_tokens` more than the prompt's do not fit.
    """
    encoded = loaded.tokenizer(prompt, return_tensors="pt").to(loaded.model.device)
    length = encoded["input_ids"].shape[1]
    if length == 0:
        raise ValueError(f"the prompt {prompt!r} holds no token of {loaded.name}; give other text")
    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    if limit is not None and length + new_tokens > limit:
        raise ValueError(
            f"the prompt has {length} tokens and {new_tokens} more are asked for, but "
            f"{loaded.name} holds {limit}; {remedy}"
        )
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}
