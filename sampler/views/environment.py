"""What is installed, what there is to run on, and what is used of it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from .. import __version__, kernels
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
    return {
        "fused_sampler": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "numba": installed("numba") or _ABSENT,
        "triton": installed("triton") or _ABSENT,
        "transformers": installed("transformers") or _ABSENT,
        "devices": ", ".join(_devices()),
        "threads": str(torch.get_num_threads()),
        "auto_on_cpu": auto_backend("cpu"),
        "auto_on_gpu": auto_backend("cuda"),
        "embedded_model": _embedded_model(),
        "cache": str(embedded.cache_dir()),
    }


def auto_backend(device_type: str) -> str:
    """The backend that "auto" takes for tensors on "cpu" or "cuda", why, and what would be better.

    A ROCm device is "cuda" to PyTorch, too.
    """
    device = torch.device(device_type)
    chosen = choose_backend("auto", device)
    wanted, brings = _BRINGS[device_type]
    reason = kernels.unavailable(wanted, device)
    why = brings if reason is None else f"{reason} It brings {brings}: far faster than the textbook"
    if device_type == "cuda" and not torch.cuda.is_available():
        why += "; PyTorch sees no GPU here"
    return f"{chosen}: {why}"


_BRINGS = {
    "cpu": ("cpu", "kernels that Numba compiles, in about one read of the logits"),
    "cuda": ("triton", "kernels that Triton compiles, in two to five launches"),
}


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
