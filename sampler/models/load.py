"""Load a language model and its tokenizer: a folder, a hub id, or the embedded default."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .embedded import EMBEDDED, embedded_folder
from .errors import ModelError, brief, require
from .quiet import quiet_transformers

DOWNLOADING = "Downloading"  # how the report of a download begins; bars on the terminal follow


class LoadedModel(NamedTuple):
    """`model` is a transformers causal language model in evaluation mode, on `model.device`."""

    name: str
    model: Any
    tokenizer: Any

    @property
    def vocabulary(self) -> int:
        """How many ids the model has logits for."""
        return self.model.config.get_text_config().vocab_size


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
    require("transformers", "hf")
    if not _is_hub_id(name):
        raise ModelError(f"model folder {name!r} does not exist; give an existing folder or hub id")
    return LoadedModel(name, *_load_hub_id(name, report))


def _load_embedded(report: Callable[[str], None]) -> tuple[Any, Any]:
    folder = embedded_folder(report)
    try:
        return _load(str(folder), local=True)
    except Exception as error:
        remedy = "delete that folder to have it made anew"
        raise ModelError(f"cannot load {str(folder)!r} ({brief(error)}); {remedy}") from error


def _load_folder(name: str, folder: Path) -> tuple[Any, Any]:
    if not (folder / "config.json").is_file():
        raise ModelError(f"model folder {name!r} holds no config.json; give a folder that does")
    require("transformers", "hf")
    _check_generation_config(folder / "generation_config.json")
    try:
        return _load(str(folder), local=True)
    except Exception as error:  # transformers raises many kinds
        remedy = "give a folder with a causal language model and its tokenizer"
        raise ModelError(f"cannot load model folder {name!r} ({brief(error)}); {remedy}") from error


def _check_generation_config(path: Path) -> None:
    """Refuse what transformers would blame the model for, or pass over where it is no JSON."""
    from transformers import GenerationConfig

    if path.is_file():
        try:
            with quiet_transformers():
                GenerationConfig.from_pretrained(path.parent, local_files_only=True)
        except Exception as error:
            raise ModelError(
                f"cannot use {str(path)!r} ({brief(error)}); mend it, or delete it"
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
        raise ModelError(f"cannot load model {name!r} ({brief(error)}); {remedy}") from error


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


def _print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
