"""Draw the picture in the README: the terminal after a command, as SVG.

python docs/make_picture.py
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from rich.ansi import AnsiDecoder
from rich.console import Console

COMMAND = (
    'fused-sampler inspect "The sky is" --temperature 0.8 --top-k 50 --top-p 0.9 --seed 2 --top 20'
)
WIDTH = 98


def main() -> None:
    program, *arguments = shlex.split(COMMAND)
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH)}
    path = Path(sys.executable).with_name(program)
    output = subprocess.run(
        [path, *arguments], env=environment, capture_output=True, text=True, check=True
    ).stdout
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(f"$ {COMMAND}", highlight=False)
    for line in AnsiDecoder().decode(output):
        console.print(line)
    svg = console.export_svg(title="fused-sampler inspect")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # fonts from the network
    Path(__file__).with_name("inspect.svg").write_text(svg)


if __name__ == "__main__":
    main()
