"""Which folder installs as which package; everything else is in `pyproject.toml`.

`sampler/` installs as `fused_sampler`; `kernels/` and `benchmarks/` below it. The mapping keeps
every folder from being importable under its own short name: `kernels` is Hugging Face's kernel-hub
package, which transformers imports.
"""

from setuptools import find_packages, setup

FOLDERS = {
    "fused_sampler": "sampler",
    "fused_sampler.kernels": "kernels",
    "fused_sampler.benchmarks": "benchmarks",
}
SUBPACKAGES = [
    f"{package}.{below}" for package, folder in FOLDERS.items() for below in find_packages(folder)
]

setup(packages=[*FOLDERS, *SUBPACKAGES], package_dir=FOLDERS)
