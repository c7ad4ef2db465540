"""Token sampling for language models: one call from logits to token, the same on every device."""

from .api import mask_logits, sample, softmax
from .edits.arguments import Edits
from .edits.history import History
from .module import FusedSampler
from .output import SampleOutput
from .params import SamplingParams
from .replay import Replayed, replay
from .warmup import warmup

__all__ = [
    "Edits",
    "FusedSampler",
    "History",
    "Replayed",
    "SampleOutput",
    "SamplingParams",
    "mask_logits",
    "replay",
    "sample",
    "softmax",
    "warmup",
]
__version__ = "0.2.0.dev0"
