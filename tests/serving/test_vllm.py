"""vLLM with our draws: one call on made-up batches, the real engine, the server.

The engine runs on the CPU with the demo's model; `make test-vllm` has the environment.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("vllm", reason="needs vLLM; `make test-vllm` installs it")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

import vllm.plugins
import vllm.v1.sample.sampler
from embedded import load_embedded
from scipy.stats import chisquare
from vllm import LLM, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.sample import logits_processor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessors, MoveDirectionality
from vllm.v1.sample.logits_processor.builtin import LogitBiasLogitsProcessor, MinPLogitsProcessor
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler
from vllm.v1.worker.gpu_input_batch import InputBatch

from fused_sampler import History, mask_logits, sample
from fused_sampler.serving import vllm as plugin
from fused_sampler.serving.vllm.asked import PENALTIES

VOCAB = 1000
CPU = torch.device("cpu")
CONFIG = SimpleNamespace(
    model_config=SimpleNamespace(seed=0, get_vocab_size=lambda: VOCAB),
    parallel_config=SimpleNamespace(data_parallel_rank=0),
    scheduler_config=SimpleNamespace(max_num_seqs=64),
)
OFF = {"repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
PROMPTS = ["The sky is", "Name a river in France.", "Once upon a time", "def add(a, b):", "1 2 3 4"]


@pytest.fixture(scope="module", autouse=True)
def installed():
    plugin.install()
    plugin.install()  # a second time changes nothing


# One call of vLLM's Sampler on made-up batches.


class Halve(logits_processor.LogitsProcessor):
    """A custom one that leaves the best token the best."""

    def __init__(self, *_):
        pass

    def is_argmax_invariant(self):
        return True

    def update_state(self, batch_update):
        pass

    def apply(self, logits):
        return logits.mul_(0.5)


def batch_of(requests, custom=(), ours=True, **more):
    """Metadata and processors as vLLM makes them for `(params, prompt, output)`."""
    added = [(i, *request) for i, request in enumerate(requests)]
    size = len(requests)
    kinds = [plugin.Requests] if ours else []
    known = (LogitBiasLogitsProcessor, MinPLogitsProcessor)
    processors = [kind(CONFIG, CPU, False) for kind in (*known, *custom, *kinds)]
    for processor in processors:
        processor.update_state(BatchUpdate(size, [], added, []))
    params = [request[0] for request in requests]
    top_k = torch.tensor([p.top_k if p.top_k > 0 else VOCAB for p in params], dtype=torch.int32)
    top_p = torch.tensor([p.top_p for p in params])
    greedy = [p.temperature == 0 for p in params]
    penalties = {
        column: torch.tensor([getattr(p, name) for p in params])
        for name, column in PENALTIES.items()
    }
    longest = max(len(prompt) for _, prompt, _ in requests)
    prompts = [prompt + [VOCAB] * (longest - len(prompt)) for _, prompt, _ in requests]
    outputs = [output for _, _, output in requests]
    return SamplingMetadata(
        temperature=torch.tensor([p.temperature for p in params]),
        all_greedy=all(greedy),
        all_random=not any(greedy),
        top_p=top_p if (top_p < 1).any() else None,
        top_k=top_k if (top_k < VOCAB).any() else None,
        generators={},
        **{"max_num_logprobs": None, **more},
        no_penalties=all(getattr(p, name) == off for p in params for name, off in OFF.items()),
        prompt_token_ids=torch.tensor(prompts),
        **penalties,
        output_token_ids=outputs,
        allowed_token_ids_mask=None,
        bad_words_token_ids={},
        logitsprocs=LogitsProcessors(processors),
    )


def request(output=(), prompt=(1, 2), **values):
    return SamplingParams(**values), list(prompt), list(output)


def logits_of(rows, seed=0):
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def draw(logits, metadata, mode="raw_logprobs"):
    output = Sampler(logprobs_mode=mode)(logits.clone(), metadata)
    return output.sampled_token_ids[:, 0].long(), output.logprobs_tensors


MIXED = [
    dict(temperature=0.8, top_p=0.9, seed=11),
    dict(temperature=0),
    dict(temperature=1.3, top_k=50, seed=12),
    dict(temperature=0.7, min_p=0.05, seed=13),
    dict(temperature=0.7, top_k=5, top_p=0.8, seed=14, extra_args={"top_n_sigma": 1.5}),
    dict(temperature=1.0, seed=2**63 - 1, extra_args={"typical_p": 0.6}),
    dict(temperature=1.0, seed=16, extra_args={"xtc_threshold": 0.02, "xtc_probability": 0.5}),
]


def test_a_row_draws_what_sample_draws():
    x = logits_of(len(MIXED))
    outputs = [[7] * n for n in (0, 1, 2, 3, 40, 5, 6)]
    metadata = batch_of([request(o, **m) for o, m in zip(outputs, MIXED, strict=True)])
    tokens, _ = draw(x, metadata)
    for row, (values, output) in enumerate(zip(MIXED, outputs, strict=True)):
        flat = {**values, **values.get("extra_args", {})}
        flat.pop("extra_args", None)
        alone = sample(x[row], **{"seed": 0, **flat}, step=len(output))
        assert tokens[row] == alone, values


def test_a_row_is_the_same_alone_and_at_any_place():
    x = logits_of(len(MIXED))
    together, _ = draw(x, batch_of([request([5] * 3, **m) for m in MIXED]))
    order = [6, 2, 0, 5, 1, 4, 3]
    moved, _ = draw(x[order], batch_of([request([5] * 3, **MIXED[i]) for i in order]))
    assert moved.tolist() == together[order].tolist()
    for row, values in enumerate(MIXED):
        alone, _ = draw(x[row : row + 1], batch_of([request([5] * 3, **values)]))
        assert alone[0] == together[row]


@pytest.mark.parametrize("custom", [(), (Halve,)])
def test_greedy_rows_are_vllms(custom):
    x = logits_of(8)
    x[3, 7] = x[3, 900] = x[3].amax() + 1  # a tie
    rows = [request(temperature=0) if i % 2 else request(temperature=1) for i in range(8)]
    tokens, _ = draw(x, batch_of(rows, custom))
    plain = Sampler.greedy_sample(x)
    assert tokens[1::2].tolist() == plain[1::2].tolist()


@pytest.mark.parametrize("more", [{}, {"presence_penalty": 1.0}], ids=str)
@pytest.mark.parametrize("temperature", [0.9, 0])
def test_rows_that_cannot_be_drawn_from_get_a_token(temperature, more):
    x = logits_of(4)
    x[1], x[2, 5], x[3, 6] = -torch.inf, torch.nan, torch.inf
    rows = [request([3], temperature=temperature, **more) for _ in range(4)]
    tokens, _ = draw(x, batch_of(rows))
    assert ((tokens >= 0) & (tokens < VOCAB)).all()
    assert tokens[3] == 6


FILTERED = [
    dict(temperature=0.7, top_p=0.9),
    dict(temperature=1.2, top_k=40),
    dict(temperature=0.8, min_p=0.03),
    dict(temperature=0),
    dict(temperature=1.5, top_k=60, top_p=0.95),
    dict(temperature=1.5, min_p=0.02, top_p=0.8),  # vLLM's top-p sees what min-p left
    dict(temperature=0.9, min_p=0.02, top_p=0.8, top_k=20),
    dict(temperature=1.0),
]


@pytest.mark.parametrize("custom", [(), (Halve,)])
@pytest.mark.parametrize("mode", ["processed_logits", "processed_logprobs"])
def test_what_is_kept_is_what_vllm_keeps(mode, custom):
    for seed in range(5):
        x = logits_of(len(FILTERED), seed)
        kept = []
        for ours in (True, False):
            rows = [request(seed=1, **values) for values in FILTERED]
            metadata = batch_of(rows, custom, ours, max_num_logprobs=-1)
            tokens, tensors = draw(x, metadata, mode)
            kept.append(tensors.logprobs)
            assert kept[-1].gather(1, tokens[:, None]).isfinite().all()
        assert torch.equal(kept[0].isfinite(), kept[1].isfinite())
        torch.testing.assert_close(kept[0], kept[1], rtol=1e-5, atol=1e-5)


def test_raw_logprobs_are_vllms_own():
    x = logits_of(len(FILTERED))
    for mode in ("raw_logprobs", "raw_logits"):
        rows = [request(seed=1, **values) for values in FILTERED]
        tokens, ours = draw(x, batch_of(rows, max_num_logprobs=5), mode)
        plain = x.log_softmax(-1) if mode == "raw_logprobs" else x
        assert torch.equal(ours.logprob_token_ids[:, 0].long(), tokens)
        assert torch.equal(ours.logprobs[:, 0], plain.gather(1, tokens[:, None])[:, 0])
        assert torch.equal(ours.logprobs[:, 1:], plain.topk(5).values)


def test_a_custom_processor_stays_where_vllm_has_it():
    x = logits_of(1)
    values = dict(temperature=0.8, top_p=0.9, seed=5)
    tokens, _ = draw(x, batch_of([request(**values)], (Halve,)))
    assert tokens[0] == sample((x[0] / torch.tensor(0.8)).mul(0.5), top_p=0.9, seed=5)


def test_dry_looks_at_prompt_and_output():
    x = logits_of(2)
    dry = {"dry_multiplier": 2.0, "dry_allowed_length": 1, "dry_breakers": [9]}
    output = [3, 4, 5]
    metadata = batch_of(
        [
            request(output, prompt=[1, 2, 3, 4, 5, 6], temperature=0, extra_args=dry),
            request(temperature=1.0, seed=3),
        ]
    )
    x[0, 6] = x[0].amax() + 1  # would repeat three tokens: 2 * 1.75**2 less
    tokens, _ = draw(x, metadata)
    history = History(torch.tensor([[1, 2, 3, 4, 5, 6]]), torch.tensor([output]))
    expected = mask_logits(x[:1], **dry, history=history)
    assert tokens[0] == expected.argmax() != 6
    assert tokens[1] == sample(x[1], seed=3)


PENALIZED = [
    dict(temperature=0.8, repetition_penalty=1.4, seed=1),
    dict(temperature=0, repetition_penalty=0.7, presence_penalty=-1.5),
    dict(temperature=1.2, frequency_penalty=0.6, presence_penalty=0.4, top_p=0.9, seed=2),
    dict(temperature=0.9, seed=3),
    dict(temperature=0.9, frequency_penalty=-0.5, top_k=30, seed=4, logit_bias={7: 2.0, 8: -3.0}),
    dict(temperature=0),
]


def penalized_requests(seed=0, **more):
    """With prompts and outputs of few different tokens, which repeat."""
    draws = torch.Generator().manual_seed(seed)
    texts = torch.randint(0, 40, (len(PENALIZED), 2, 30), generator=draws).tolist()
    return [
        request(output[: 5 * i], prompt=prompt[: 6 + 4 * i], **{**PENALIZED[i], **more})
        for i, (prompt, output) in enumerate(texts)
    ]


@pytest.mark.parametrize("custom", [(), (Halve,)])
@pytest.mark.parametrize("more", [{}, {"min_p": 0.01, "top_p": 0.95}, {"temperature": 0}], ids=str)
def test_penalties_are_vllms(more, custom):
    """To its fp32: it multiplies by the inverse of a repetition penalty, and subtracts twice."""
    for seed in range(3):
        x = logits_of(len(PENALIZED), seed)
        kept = []
        for ours in (True, False):
            metadata = batch_of(penalized_requests(seed, **more), custom, ours, max_num_logprobs=-1)
            tokens, tensors = draw(x, metadata, "processed_logits")
            kept.append(tensors.logprobs)
        assert torch.equal(kept[0].isfinite(), kept[1].isfinite())
        torch.testing.assert_close(kept[0], kept[1], rtol=3e-7, atol=1e-6)
        unchanged = [i for i, p in enumerate(PENALIZED) if not p.keys() & PENALTIES.keys()]
        assert torch.equal(kept[0][unchanged], kept[1][unchanged])
        if not custom and "temperature" in more:
            assert tokens.tolist() == kept[0].argmax(-1).tolist()


def test_penalties_are_part_of_the_draw(monkeypatch):
    def refuse(*_):
        raise AssertionError("vLLM counted the tokens of a batch")

    monkeypatch.setattr(vllm.v1.sample.sampler, "apply_all_penalties", refuse)
    x, requests = logits_of(len(PENALIZED)), penalized_requests()
    tokens, _ = draw(x, batch_of(requests))
    for row, (params, prompt, output) in enumerate(requests):
        values = {name: getattr(params, name) for name in (*PENALTIES, "temperature", "top_p")}
        history = History(torch.tensor([prompt]), torch.tensor([output], dtype=torch.int64))
        biased = x[row].clone()
        for token, bias in (params.logit_bias or {}).items():
            biased[token] += bias
        alone = sample(
            biased[None],
            **values,
            top_k=max(params.top_k, 0),
            seed=torch.tensor([params.seed or 0]),
            step=len(output),
            history=history,
        )
        assert tokens[row] == alone


def test_raw_logprobs_are_those_before_the_penalties():
    x = logits_of(len(PENALIZED))
    tokens, ours = draw(x, batch_of(penalized_requests(), max_num_logprobs=3))
    plain = x.log_softmax(-1)
    assert torch.equal(ours.logprobs[:, 0], plain.gather(1, tokens[:, None])[:, 0])
    assert torch.equal(ours.logprobs[:, 1:], plain.topk(3).values)


@pytest.mark.parametrize(
    "of_vllm",
    [{"repetition_penalty": 2000.0}, {"prompt": None}, {"thinking": True}],
    ids=str,
)
def test_penalties_that_are_not_ours_are_vllms_own(of_vllm, monkeypatch):
    seen = []
    plain = vllm.v1.sample.sampler.apply_all_penalties

    def seeing(*args):
        seen.append(True)
        return plain(*args)

    monkeypatch.setattr(vllm.v1.sample.sampler, "apply_all_penalties", seeing)
    first = request([3, 3], [4, 5], temperature=0, repetition_penalty=1.5)
    holder = None
    if "repetition_penalty" in of_vllm:
        first[0].repetition_penalty = of_vllm["repetition_penalty"]
    if "thinking" in of_vllm:
        holder = SimpleNamespace(
            has_tracked_requests=lambda: True,
            update_state=lambda *_, **__: None,
            apply_to_logits=lambda logits, *_: logits,
        )
    metadata = batch_of([first], thinking_budget_state_holder=holder)
    if "prompt" in of_vllm:
        (ours,) = (p for p in metadata.logitsprocs.all if isinstance(p, plugin.Requests))
        ours.update_state(BatchUpdate(1, [], [(0, first[0], None, first[2])], []))
    x = logits_of(1)
    x[0, 3] = x[0].amax() + 1
    x[0, 4] = x[0, 3] + 1
    tokens, _ = draw(x, metadata)
    assert seen and tokens[0] not in (3, 4)


def test_histories_follow_a_batch_that_changes():
    """Requests come, go, change places, are preempted and cut: scores as if counted anew."""
    state = plugin.Requests(CONFIG, CPU, False)
    draws = torch.Generator().manual_seed(5)

    def some(high, size=()):
        return torch.randint(high, size, generator=draws).tolist()

    def new():
        values = [dict(repetition_penalty=1.3), dict(frequency_penalty=0.5), {}][some(3)]
        dry = {"dry_multiplier": 0.5, "dry_breakers": [2]} if some(3) == 0 else None
        params = SamplingParams(temperature=1.0, seed=some(99), extra_args=dry, **values)
        return [params, some(20, (some(30) + 1,)), some(20, (some(5),))]

    batch, sizes = [], set()
    for _ in range(80):
        removed, added, moved = [], [], []
        action = some(5)
        if batch and action == 0:  # the last takes the place of one that leaves
            gone, last = some(len(batch)), len(batch) - 1
            removed = [gone]
            if gone < last:
                moved = [(last, gone, MoveDirectionality.UNIDIRECTIONAL)]
            batch[gone] = batch[last]
            batch.pop()
        elif batch and action == 1:  # a new one does
            added = [(some(len(batch)), *new())]
            batch[added[0][0]] = added[0][1:]
        elif action < 4:
            added = [(len(batch), *new())]
            batch.append(added[0][1:])
        if len(batch) > 1 and some(3) == 0:
            one, other = 0, len(batch) - 1
            batch[one], batch[other] = batch[other], batch[one]
            moved.append((one, other, MoveDirectionality.SWAP))
        changed = removed or added or moved
        state.update_state(BatchUpdate(len(batch), removed, added, moved) if changed else None)
        if not batch:
            continue
        if some(9) == 0:
            del batch[0][2][-2:]  # vLLM discards what it cannot compute again
        columns = [
            torch.tensor([getattr(params, name) for params, _, _ in batch]) for name in PENALTIES
        ]
        metadata = SimpleNamespace(
            no_penalties=False,
            thinking_budget_state_holder=None,
            **dict(zip(PENALTIES.values(), columns, strict=True)),
        )
        sizes.add(len(batch))
        x = torch.randn(len(batch), 30, generator=draws)
        ours = mask_logits(x, **state.edits(metadata, CPU))
        for row, (params, prompt, output) in enumerate(batch):
            whole = History(torch.tensor([prompt]), torch.tensor([output], dtype=torch.int64))
            values = {name: getattr(params, name) for name in PENALTIES}
            values |= params.extra_args or {}
            assert torch.equal(ours[row], mask_logits(x[row : row + 1], **values, history=whole)[0])
        for _, _, output in batch:
            output.append(some(20))
    assert max(sizes) > 8


def test_a_token_that_vllm_has_not_filled_is_an_error():
    metadata = batch_of([request([-1], temperature=1.0, presence_penalty=1.0)])
    with pytest.raises(RuntimeError, match="vLLM gave no token where penalties need one"):
        draw(logits_of(1), metadata)
    draw(logits_of(1), batch_of([request([-1], temperature=1.0)]))


def test_requests_follow_vllms_moves():
    state = plugin.Requests(CONFIG, CPU, False)
    params = [SamplingParams(seed=i, min_p=i / 10, temperature=1.0) for i in range(4)]
    state.update_state(BatchUpdate(4, [], [(i, p, [], []) for i, p in enumerate(params)], []))
    assert state.filters(CPU)["seed"].tolist() == [0, 1, 2, 3]
    swap = (0, 1, MoveDirectionality.SWAP)
    move = (3, 2, MoveDirectionality.UNIDIRECTIONAL)
    state.update_state(BatchUpdate(3, [2], [], [swap, move]))
    assert state.filters(CPU)["seed"].tolist() == [1, 0, 3]
    torch.testing.assert_close(state.filters(CPU)["min_p"], torch.tensor([0.1, 0.0, 0.3]))


def test_vllm_waits_for_tokens_where_dry_looks_at_them():
    batch = InputBatch.__new__(InputBatch)
    dry = {"dry_multiplier": 1.0}
    for values, wanted in (({}, False), ({"extra_args": dry}, True)):
        batch.logitsprocs = batch_of([request(temperature=1.0, **values)]).logitsprocs
        batch.logitsprocs_need_output_token_ids = False
        assert batch.logitsprocs_need_output_token_ids == wanted
    batch.logitsprocs_need_output_token_ids = True
    assert batch.logitsprocs_need_output_token_ids


def test_requests_without_a_seed_differ_and_repeat_with_the_engine():
    fresh = [SamplingParams(temperature=1.0) for _ in range(3)]
    seeds = []
    for _ in range(2):
        state = plugin.Requests(CONFIG, CPU, False)
        state.update_state(BatchUpdate(3, [], [(i, p, [], []) for i, p in enumerate(fresh)], []))
        seeds.append(state.filters(CPU)["seed"].tolist())
    assert seeds[0] == seeds[1] and len(set(seeds[0])) == 3


# The real engine.


@pytest.fixture(scope="module")
def model_folder():
    load_embedded()
    from fused_sampler.models.embedded import embedded_folder

    return str(embedded_folder(print))


class Ban(logits_processor.LogitsProcessor):
    """A custom one of the engine: bans the token that a request's `extra_args` name."""

    def __init__(self, *_):
        self.banned = {}

    def is_argmax_invariant(self):
        return False

    def update_state(self, batch_update):
        logits_processor.process_dict_updates(
            self.banned, batch_update, lambda params, *_: (params.extra_args or {}).get("ban")
        )

    def apply(self, logits):
        for row, token in self.banned.items():
            logits[row, token] = -torch.inf
        return logits


def engine(folder, **more):
    return LLM(
        folder,
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=64,
        **{"max_model_len": 256, "disable_log_stats": True, **more},
    )


@pytest.fixture(scope="module")
def plain(model_folder):
    """vLLM as it is: its batches have no `Requests`, and so its own code draws."""
    known = logits_processor.BUILTIN_LOGITS_PROCESSORS
    known.remove(plugin.Requests)
    made = engine(model_folder)
    known.append(plugin.Requests)
    return made


@pytest.fixture(scope="module")
def fused(model_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSED_SAMPLER_VLLM", "1")
        patch.setattr(vllm.plugins, "plugins_loaded", False)
        return engine(model_folder)


@pytest.fixture(scope="module")
def small(fused, model_folder):
    """With a custom processor, processed log-probabilities, and room for few requests at once.

    It is kept as long as the others: an engine that goes takes what all have in common with it.
    """
    return engine(
        model_folder,
        logits_processors=[Ban],
        logprobs_mode="processed_logprobs",
        num_gpu_blocks_override=14,
        block_size=32,
        max_model_len=96,
        disable_log_stats=False,
    )


def generate(llm, prompts, *params, **values):
    given = list(params) if params else SamplingParams(**values)
    return [o.outputs[0] for o in llm.generate(prompts, given, use_tqdm=False)]


def tokens_of(outputs):
    return [list(output.token_ids) for output in outputs]


CHANGES = [
    dict(),
    dict(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.3),
    dict(logit_bias={253: -100.0, 1000: 3.0}, min_tokens=8),
    dict(bad_words=[" the", " a"]),
    dict(allowed_token_ids=list(range(200, 3000))),
]


@pytest.mark.parametrize("changes", CHANGES)
def test_greedy_is_plain_vllms(plain, fused, changes):
    values = dict(temperature=0, max_tokens=16, **changes)
    ours = tokens_of(generate(fused, PROMPTS, **values))
    assert ours == tokens_of(generate(plain, PROMPTS, **values))
    # The same beside rows that draw.
    greedy, drawn = SamplingParams(**values), SamplingParams(temperature=1.0, max_tokens=16)
    mixed = generate(fused, PROMPTS * 2, *[greedy] * len(PROMPTS), *[drawn] * len(PROMPTS))
    assert tokens_of(mixed)[: len(PROMPTS)] == ours


@pytest.mark.parametrize("changes", CHANGES)
def test_a_seeded_request_is_the_same_alone_and_in_any_batch(fused, changes):
    values = dict(temperature=0.9, top_p=0.95, max_tokens=16, **changes)
    params = [SamplingParams(seed=i, **values) for i in range(len(PROMPTS))]
    together = tokens_of(generate(fused, PROMPTS, *params))
    alone = [tokens_of(generate(fused, [p], s))[0] for p, s in zip(PROMPTS, params, strict=True)]
    assert together == alone
    others = [SamplingParams(temperature=1.5, max_tokens=n) for n in (1, 3, 5, 7, 9)]
    crowd = generate(fused, PROMPTS + PROMPTS[::-1], *others, *params[::-1])
    assert tokens_of(crowd)[len(PROMPTS) :] == together[::-1]


def test_first_tokens_have_the_models_distribution(plain, fused):
    count, values = 3000, dict(temperature=0.9, top_k=20, max_tokens=1)
    (first,) = generate(plain, PROMPTS[:1], **{**values, "temperature": 1.0}, logprobs=20)
    best = {token: entry.logprob for token, entry in first.logprobs[0].items()}
    best = dict(sorted(best.items(), key=lambda pair: -pair[1])[:20])
    chances = (torch.tensor(list(best.values()), dtype=torch.float64) / 0.9).softmax(0)
    for seeds in ([None] * count, range(count)):
        params = [SamplingParams(seed=seed, **values) for seed in seeds]
        drawn = Counter(t for (t,) in tokens_of(generate(fused, PROMPTS[:1] * count, *params)))
        assert set(drawn) <= set(best)
        observed = torch.tensor([drawn[token] for token in best], dtype=torch.float64)
        often = chances * count >= 5
        observed, expected = (
            torch.cat((v[often], v[~often].sum()[None])) for v in (observed, chances * count)
        )
        some = expected > 0
        assert chisquare(observed[some], expected[some]).pvalue > 1e-3


def test_logprobs_are_vllms(plain, fused):
    values = dict(temperature=0.9, top_p=0.9, seed=3, max_tokens=8, logprobs=5)
    for prompt, ours in zip(PROMPTS, generate(fused, PROMPTS, **values), strict=True):
        again = {"prompt_token_ids": plain.get_tokenizer().encode(prompt) + list(ours.token_ids)}
        params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=5)
        (whole,) = plain.generate([again], params, use_tqdm=False)
        theirs = whole.prompt_logprobs[-len(ours.token_ids) :]
        for token, mine, other in zip(ours.token_ids, ours.logprobs, theirs, strict=True):
            assert abs(mine[token].logprob - other[token].logprob) < 1e-3
            assert mine[token].rank == other[token].rank


def test_a_grammar_holds(fused):
    choices = StructuredOutputsParams(choice=["blue", "green", "red"])
    params = [
        SamplingParams(temperature=1.0, seed=i, max_tokens=8, structured_outputs=choices)
        for i in range(6)
    ]
    texts = [output.text for output in generate(fused, ["The sky is "] * 6, *params)]
    assert set(texts) <= {"blue", "green", "red"}


def test_filters_of_ours_come_through_extra_args(fused):
    one = dict(temperature=1.5, seed=1, max_tokens=12)
    for given in ({"top_n_sigma": 1e-5}, {"typical_p": 0.9}, {"top_a": 0.99}):
        params = SamplingParams(**one, extra_args=given)
        changed = tokens_of(generate(fused, PROMPTS, *[params] * len(PROMPTS)))
        assert changed != tokens_of(generate(fused, PROMPTS, **one)), given
    narrow = SamplingParams(**one, extra_args={"top_n_sigma": 1e-5})
    greedy = tokens_of(generate(fused, PROMPTS, temperature=0, max_tokens=12))
    assert tokens_of(generate(fused, PROMPTS, *[narrow] * len(PROMPTS))) == greedy


def test_dry_ends_a_repetition(fused):
    prompt = ["one two three four five one two three four five one two three four"]
    greedy = dict(temperature=0, max_tokens=12)
    repeated = generate(fused, prompt, **greedy)[0].text
    assert repeated.startswith(" five one two")
    dry = generate(fused, prompt, **greedy, extra_args={"dry_multiplier": 5.0})[0].text
    assert not dry.startswith(" five")


def test_what_is_wrong_in_extra_args_is_an_error(fused):
    for given, message in [
        ({"top_n_sigma": -1.0}, "top_n_sigma is -1.0, out of range"),
        ({"typical_p": "x"}, "typical_p must be a number"),
        ({"dry_breakers": "x"}, "dry_breakers must be a list of token ids"),
    ]:
        with pytest.raises(VLLMValidationError, match=message):
            generate(fused, PROMPTS[:1], temperature=1.0, extra_args=given)
    generate(fused, PROMPTS[:1], max_tokens=1, extra_args={"of_another": "x"})


def test_custom_processors_run_and_processed_logprobs_tell_of_what_is_left(small):
    (free,) = generate(small, PROMPTS[:1], temperature=0, max_tokens=1)
    best = free.token_ids[0]
    values = dict(top_k=3, max_tokens=1, logprobs=5, extra_args={"ban": best})
    for temperature in (0, 1.0):
        params = SamplingParams(temperature=temperature, seed=1, **values)
        (output,) = generate(small, PROMPTS[:1], params)
        assert output.token_ids[0] != best
    kept = [e.logprob for e in output.logprobs[0].values() if e.logprob > -1e30]
    assert len(kept) == 3 and abs(sum(torch.tensor(kept).exp().tolist()) - 1) < 1e-5


def test_a_preempted_request_goes_on_as_it_would_have(fused, small):
    looking = [{}, {"extra_args": {"dry_multiplier": 1.0}}, {"repetition_penalty": 1.2}]
    params = [
        SamplingParams(temperature=0.9, seed=i, max_tokens=40, ignore_eos=True, **looking[i % 3])
        for i in range(12)
    ]
    prompts = (PROMPTS * 3)[:12]
    crowded = tokens_of(generate(small, prompts, *params))
    metrics = {metric.name: metric for metric in small.get_metrics()}
    assert metrics["vllm:num_preemptions"].value > 0
    assert crowded == tokens_of(generate(fused, prompts, *params))


def test_throughput_beside_plain(plain, fused):
    prompts, rows = PROMPTS * 6, {}
    for name, values in {
        "temperature 0.8": dict(temperature=0.8),
        "top-p 0.9": dict(temperature=0.8, top_p=0.9),
        "top-k 50, top-p 0.9": dict(temperature=0.8, top_k=50, top_p=0.9),
        "top-p 0.9, seeded": dict(temperature=0.8, top_p=0.9, seed=1),
        "repetition penalty 1.1": dict(temperature=0.8, repetition_penalty=1.1),
        "greedy, repetition penalty 1.1": dict(temperature=0, repetition_penalty=1.1),
    }.items():
        speed = {}
        for _ in range(2):
            for label, llm in (("plain", plain), ("fused", fused)):
                start = time.perf_counter()
                outputs = generate(llm, prompts, max_tokens=24, ignore_eos=True, **values)
                count = sum(map(len, tokens_of(outputs)))
                speed[label] = max(speed.get(label, 0), count / (time.perf_counter() - start))
        rows[name] = speed
        print(f"\n{name}, {len(prompts)} requests, tokens/s: {speed}", end="")
    for speed in rows.values():
        assert speed["fused"] > 0.6 * speed["plain"]  # the machine is shared


# The OpenAI server.


@pytest.fixture(scope="module")
def server(model_folder, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model_folder]
    command += ["--served-model-name", "demo", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "256"]
    command += ["--max-num-seqs", "64"]
    environment = {**os.environ, "FUSED_SAMPLER_VLLM": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        for _ in range(240):
            if process.poll() is not None:
                pytest.fail(log.read_text()[-3000:])
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(1)
        assert "The fused sampler draws the tokens" in log.read_text()
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def ask(url, **body):
    data = json.dumps({"model": "demo", **body}).encode()
    query = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(query, timeout=120) as answer:
        return json.load(answer)


def test_the_server_draws_what_the_engine_draws(server, fused):
    values = dict(temperature=0.9, top_p=0.95, seed=7, max_tokens=16)
    for given in ({}, {"top_n_sigma": 1.5, "dry_multiplier": 0.8}):
        more = {"vllm_xargs": given} if given else {}
        answer = ask(server + "/completions", prompt=PROMPTS, **values, **more, logprobs=2)
        texts = [choice["text"] for choice in answer["choices"]]
        params = SamplingParams(**values, extra_args=given or None)
        assert texts == [o.text for o in generate(fused, PROMPTS, *[params] * len(PROMPTS))]
    assert len(answer["choices"][0]["logprobs"]["token_logprobs"]) == 16


def test_the_server_chats_and_refuses_what_is_wrong(server):
    body = dict(messages=[{"role": "user", "content": "Hi"}], seed=3, temperature=1, max_tokens=8)
    first, second = (ask(server + "/chat/completions", **body) for _ in range(2))
    assert first["choices"][0]["message"] == second["choices"][0]["message"]
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(server + "/completions", prompt="a", max_tokens=1, vllm_xargs={"typical_p": 7})
    assert error.value.code == 400 and b"typical_p is 7" in error.value.read()
