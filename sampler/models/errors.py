"""Why a model cannot be loaded, in one sentence."""

from __future__ import annotations

from importlib.util import find_spec


class ModelError(ValueError):
    """The model cannot be loaded; the message is one sentence that says why and what to do."""


def brief(error: Exception) -> str:
    """The first line of an error whose message may have many."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def require(package: str, extra: str) -> None:
    if find_spec(package) is None:
        raise ModelError(f"{package} is not installed; run pip install 'fused-sampler[{extra}]'")
