"""What is installed, what there is to run on, and what is used of it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from .. import kernels  # type: ignore[attr-defined]  # setup.py maps the folder
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
        "fused_sampler": version("fused-sampler"),
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
    if not torch.cuda.is_available():
        return "torch", "no CUDA or ROCm device"
    reason = kernels.unavailable(torch.device("cuda"))
    if reason is None:
        return "triton", "for tensors on a CUDA or ROCm device (torch for those on the CPU)"
    return "torch", reason


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
