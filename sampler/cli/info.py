"""`fused-sampler info`: what is installed, what is used, and why."""

from __future__ import annotations

import json

from rich.console import Console
from rich.text import Text

from ..views import environment


def run_info(as_json: bool) -> None:
    """Print the facts as aligned lines, or as JSON."""
    facts = environment.facts()
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    console = Console(highlight=False, soft_wrap=True)
    for name, value in facts.items():
        console.print(Text.assemble((f"{name.replace('_', ' '):<16}", "bold"), value))
