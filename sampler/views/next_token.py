"""The token after a text: what the model says of it, and what a request draws it from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..api import mask_logits
from ..hf import warpers
from ..models.generation import apply_processors, next_processors
from ..models.load import LoadedModel
from ..models.prompt import Prompt, encode_prompt
from ..models.quiet import quiet_transformers
from .parameters import EDITS, LOGIT_BIAS, TRANSFORMERS, is_on
from .request import Request

_PROCESSORS = tuple(record for record in EDITS if record.name in TRANSFORMERS)


class NextToken:
    """The token after a prompt and the ids appended to it, as `generate` would draw it.

    raw: what the model says, fp32 [V] on `device` (default: the model's), as are all scores here.
    logits: after the processors of the generation config that come before the temperature, and
        -inf for what the tokenizer cannot spell.
    step: how many ids were appended to the `prompt_tokens`.

    Raises ValueError for a prompt that the model cannot read, and as `next_processors` does.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        prompt: Prompt,
        appended: Sequence[int] = (),
        device: str | None = None,
    ) -> None:
        self.loaded = loaded
        self.step = len(appended)
        self._device = device or loaded.model.device
        inputs = encode_prompt(loaded, prompt, new_tokens=self.step + 1)
        prompt_ids = inputs["input_ids"]
        self.prompt_tokens = prompt_ids.shape[1]
        more = prompt_ids.new_tensor([list(appended)], dtype=prompt_ids.dtype)
        self.ids = torch.cat([prompt_ids, more], dim=1)
        mask = F.pad(inputs["attention_mask"], (0, self.step), value=1)
        with torch.inference_mode(), quiet_transformers():
            raw = loaded.model(input_ids=self.ids, attention_mask=mask).logits[:, -1].float()
        # What a `guidance_scale` guides away from: the prompt's last token and what followed.
        without_prompt = self.ids[:, self.prompt_tokens - 1 :]
        self._inputs = {**inputs, "negative_prompt_ids": without_prompt}
        self.raw = raw[0].to(self._device)
        self.logits = self._processed()

    def edits(self, request: Request) -> dict[str, Any]:
        """All edits, those that are off too, as they apply to this token."""
        values: dict[str, Any] = {record.name: record.off for record in EDITS}
        return values | self._own_edits | {LOGIT_BIAS: {}} | dict(request.edits)

    def processed(self, request: Request) -> torch.Tensor:
        """`logits` after those of the request's edits that are processors of transformers'.

        They take the place of the generation config's own.
        """
        values, own = self.edits(request), self._own_edits
        changed = (record for record in _PROCESSORS if values[record.name] != own[record.name])
        given = {TRANSFORMERS[r.name]: r.kind(values[r.name]) for r in changed}
        return self._processed(**given) if given else self.logits

    def edited(self, request: Request) -> torch.Tensor:
        """`logits` after the request's edits, as `generate` has them; unchanged if all are off.

        Transformers' processors come before the others.
        """
        request.check_vocabulary(len(self.logits))
        values, logits = self.edits(request), self.processed(request)
        bias = values.pop(LOGIT_BIAS)
        ours = (record for record in EDITS if record not in _PROCESSORS)
        on = {record.name: values[record.name] for record in ours if is_on(record, values)}
        if not on and not bias:
            return logits
        prompt, output = self.ids.split([self.prompt_tokens, self.step], dim=1)
        return mask_logits(
            logits, **on, logit_bias=bias or None, prompt_ids=prompt, output_ids=output
        )

    @property
    def _own_edits(self) -> dict[str, Any]:
        """What the model's generation config says of them."""
        config = self.loaded.model.generation_config
        own = {r: getattr(config, TRANSFORMERS[r.name], None) for r in _PROCESSORS}
        return {r.name: r.off if value is None else value for r, value in own.items()}

    def _processed(self, **arguments: float) -> torch.Tensor:
        """What the model says after the processors before the temperature, and `arguments`."""
        before, _ = next_processors(self.loaded, self._inputs, {"do_sample": False, **arguments})
        scores = self.raw[None].to(self.ids.device, copy=True)
        return apply_processors(self.loaded, before, self.ids, scores)[0].to(self._device)

    def stages(self, request: Request) -> tuple[list[warpers.Stage], dict[str, Any]]:
        """What `run` does to `logits`, and the parameters with which `sample` draws from that.

        No stages: the parameters are the request's. Most generation configs have nothing to say
        after the temperature.
        """
        _, after = next_processors(self.loaded, self._inputs, request.drawing)
        stages, params = warpers.split(after, request.sampling)
        if request.greedy:
            return stages, dict(request.sampling)
        return stages, dict(vars(params))

    def run(self, stages: Sequence[warpers.Stage], scores: torch.Tensor) -> torch.Tensor:
        """Scores [V] after the stages."""
        if not stages:
            return scores
        moved = scores[None].to(self.ids.device)
        with torch.inference_mode(), quiet_transformers():
            return warpers.run(stages, self.ids, moved)[0].to(self._device)
