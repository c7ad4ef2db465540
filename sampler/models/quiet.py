"""Silence around transformers, which would write over a command's own output."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_transformers(bars: bool = False) -> Iterator[None]:
    """No warnings, and no progress bars unless `bars`, from transformers and the hub meanwhile."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    had_bars = logging.is_progress_bar_enabled()
    levels = [(log, log.get_verbosity()) for log in (logging, hub_logging)]
    if not bars:
        logging.disable_progress_bar()
    for log, _ in levels:
        log.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in levels:
            log.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()
