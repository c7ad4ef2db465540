"""What SGLang's engine needs on a CPU, line by line, in SGLang's own versions.

The rest of what it names is for GPUs, or for models and services that no test uses.
"""

from importlib.metadata import requires

from packaging.requirements import Requirement

NEEDED = {
    "aiohttp",
    "apache-tvm-ffi",
    "compressed-tensors",
    "distro",
    "easydict",
    "einops",
    "fastapi",
    "gguf",
    "interegular",
    "IPython",
    "llguidance",
    "msgspec",
    "numba",
    "numpy",
    "openai",
    "orjson",
    "partial_json_parser",
    "pillow",
    "prometheus-client",
    "psutil",
    "pybase64",
    "pydantic",
    "python-dateutil",
    "python-multipart",
    "pyzmq",
    "regex",
    "requests",
    "scipy",
    "sentencepiece",
    "setproctitle",
    "soundfile",
    "tiktoken",
    "tqdm",
    "transformers",
    "uvicorn",
    "uvloop",
    "watchfiles",
    "xgrammar",
    "xxhash",
    "zstandard",
}

for line in requires("sglang"):
    needed = Requirement(line)
    if needed.name in NEEDED and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
        print(f"{needed.name}{needed.specifier}")
