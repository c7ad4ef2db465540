"""What is installed, what there is to run on, and what is used of it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from .. import __version__, kernels  # type: ignore[attr-defined]  # setup.py maps the folder
from ..dispatch import choose_backend
from ..models import embedded

_ABSENT = "not installed"


def installed(package: str) -> str | None:
    """The version of a package, None where it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def facts() -> dict[str, str]:
    """Each fact's name and its value."""
    backend, why = auto_backend()
    return {
        "fused_sampler": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "triton": installed("triton") or _ABSENT,
        "transformers": installed("transformers") or _ABSENT,
        "devices": ", ".join(_devices()),
        "threads": str(torch.get_num_threads()),
        "auto_backend": f"{backend}: {why}",
        "embedded_model": _embedded_model(),
        "cache": str(embedded.cache_dir()),
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
    if installed("transformers") is None:
        return "needs transformers; run pip install 'fused-sampler[demo]'"
    if embedded.is_complete(embedded.cached_folder()):
        return f"{embedded.EMBEDDED}, ready"
    if embedded.embedded_file() is not None:
        return f"{embedded.EMBEDDED}, installed; unpacked at first use"
    return "not installed; run pip install 'fused-sampler[demo]'"
