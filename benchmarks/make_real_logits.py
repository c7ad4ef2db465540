"""Write `real_logits.npy`: next-token logits of the embedded model after 20 fixed prompts.

    python -m fused_sampler.benchmarks.make_real_logits benchmarks/real_logits.npy

`[20, 49152]` fp16, one row a prompt, in the order below; the logits of the last position. Tests and
benchmarks read it as "real model logits", next to random ones. Needs `fused-sampler[demo]`.

Running it again, or on another CPU, may move a logit by its last fp16 bit: matrix products differ.
"""

from pathlib import Path

import numpy as np
import torch

from ..models.load import load_model
from ..views.files import writing
from . import command

# From nearly certain to wide open, in several kinds of text.
PROMPTS = [
    "The sky is",
    "After the rain had stopped, the old fisherman walked down to the harbour and",
    "Three things decide how fast a program runs on a modern machine: memory traffic,",
    'She opened the letter, read it twice, and said: "',
    "The capital of France is the city of",
    "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday,",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1",
    "To be, or not to",
    "The scientific name of the blue whale is Balaenopt",
    "My favourite",
    "\n",
    "<|im_start|>",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fib",
    '#include <stdio.h>\n\nint main(void) {\n    printf("',
    '{"name": "Ada", "age": 36, "languages": ["English",',
    "<|im_start|>user\nGive me an unusual name for a cat.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWhat is 7 times 8?<|im_end|>\n<|im_start|>assistant\n7 times 8 is ",
    "Shopping list:\n- apples\n- bread\n-",
    "Il était une fois, dans un petit village au bord de la mer,",
    "Die Hauptstadt von Deutschland ist",
]


@torch.inference_mode()
def last_logits(model, tokenizer, prompt: str) -> np.ndarray:
    """`[V]` fp16 logits of the token after `prompt`."""
    ids = tokenizer(prompt, return_tensors="pt").input_ids.to(model.device)
    return model(ids).logits[0, -1].half().cpu().numpy()


def main() -> None:
    options = command.Options(
        prog=f"python -m {__spec__.name}", description=__doc__.splitlines()[0]
    )
    options.add_argument("file", type=Path, metavar="FILE", help="where to write")
    output = options.parse_args().file
    loaded = load_model()
    rows = []
    for prompt in PROMPTS:
        rows.append(last_logits(loaded.model, loaded.tokenizer, prompt))
        token = loaded.tokenizer.decode([int(rows[-1].argmax())])
        print(f"{prompt[-60:]!r} -> {token!r}")
    logits = np.stack(rows)
    assert np.isfinite(logits).all()
    with writing(output, remedy="give another file"):
        np.save(output, logits)
    print(f"{output}: {logits.shape} {logits.dtype}, {output.stat().st_size:,} bytes")


if __name__ == "__main__":
    command.run(main)
