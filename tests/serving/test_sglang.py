"""SGLang with our draws: its Sampler, its requests and its batches, on made-up logits.

All of it is SGLang's real code, on a CPU; `make test-sglang` has the environment.
"""

import time
from array import array
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("sglang", reason="needs SGLang; `make test-sglang` installs it")

from scipy.stats import chisquare
from sglang.srt import runtime_context as context
from sglang.srt.arg_groups import overrides
from sglang.srt.layers import sampler as plain
from sglang.srt.layers.logits_processor import LogitsProcessorOutput
from sglang.srt.managers.schedule_batch import Req
from sglang.srt.plugins import load_plugins
from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor
from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo
from sglang.srt.sampling.sampling_params import SamplingParams
from sglang.srt.server_args import SAMPLING_BACKEND_CHOICES, ServerArgs
from sglang.test.parallel_groups import publish

from fused_sampler import History, mask_logits, sample
from fused_sampler.serving import sglang as plugin
from fused_sampler.serving.sglang import batch as batches

VOCAB = 1000
MIXED = [
    dict(temperature=0.8, top_p=0.9, sampling_seed=11),
    dict(temperature=0),
    dict(temperature=1.3, top_k=50, sampling_seed=12),
    dict(temperature=0.7, min_p=0.05, sampling_seed=-13),
    dict(temperature=0.7, top_k=5, sampling_seed=14, custom_params={"top_n_sigma": 1.5}),
    dict(temperature=1.0, sampling_seed=2**63 - 1, custom_params={"typical_p": 0.6, "other": "x"}),
    dict(
        temperature=1.0,
        sampling_seed=16,
        custom_params={"xtc_threshold": 0.02, "xtc_probability": 0.5},
    ),
]
OUTPUTS = [0, 1, 2, 3, 40, 5, 6]  # tokens that each of them has generated
# SGLang's own order where a request has top-k and top-p.
FILTERED = [
    dict(temperature=0.7, top_p=0.9),
    dict(temperature=1.2, top_k=40),
    dict(temperature=0.8, min_p=0.03),
    dict(temperature=0),
    dict(temperature=1.5, top_k=60, top_p=0.6),
    dict(temperature=1.5, min_p=0.02, top_p=0.8),
    dict(temperature=0.9, min_p=0.02, top_p=0.8, top_k=20),
    dict(temperature=1.0, top_k=7, top_p=0.999),
    dict(temperature=1.0),
]


@pytest.fixture(scope="module", autouse=True)
def untouched(folder):
    """SGLang as a process of its engine has it, with our backend chosen, and without a model.

    What it is for the tests: methods of its batches as they were before the backend was made.
    """
    load_plugins()
    arguments = ServerArgs(
        model_path=folder,
        device="cpu",
        attention_backend="torch_native",
        sampling_backend=plugin.BACKEND,
        sampling_mask_max_tokens=VOCAB,
        enable_custom_logit_processor=True,
    )
    arguments.resolve_once()
    publish(arguments, role="scheduler")
    context.get_parallel().tp_group.device_group = None
    before = dict(vars(SamplingBatchInfo))
    assert type(plain.create_sampler("pytorch")) is plain.Sampler
    assert dict(vars(SamplingBatchInfo)) == before
    plain.create_sampler()
    return before


@pytest.fixture
def sampler():
    made = plain.create_sampler()
    assert isinstance(made, plugin.FusedSampler)
    return made


class Batch(SimpleNamespace):
    """What `SamplingBatchInfo` reads of SGLang's ScheduleBatch."""

    __hash__ = object.__hash__  # its penalties hold it by a weak reference


def request(prompt=(1, 2, 3), output=(), kept=False, processor=None, **values):
    params = SamplingParams(**values)
    params.normalize(None)
    params.verify(VOCAB)
    made = Req(
        "name",
        "",
        array("q", prompt),
        params,
        vocab_size=VOCAB,
        return_sampling_mask=kept,
        sampling_logprobs_mode="support",
        custom_logit_processor=processor,
    )
    made.output_ids = array("q", output)
    return made


def batch_of(requests):
    info = SamplingBatchInfo.from_schedule_batch(Batch(reqs=requests, device="cpu"), VOCAB)
    return info.copy_for_forward()


def logits_of(rows, seed=0):
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def run(sampler, x, info, outputs, logprobs=False, top=0, ids=None):
    """Tokens, and what SGLang's Sampler wrote."""
    output = LogitsProcessorOutput(next_token_logits=x.clone())
    positions = torch.tensor(outputs) + 2  # prompts have three tokens
    rows = len(x)
    tokens = sampler(output, info, logprobs, [top] * rows, [ids] * rows, positions)
    return tokens.long(), output


def expected(values):
    """Arguments of `sample` for those of SGLang."""
    flat = {**values, **values.get("custom_params", {})}
    seed = flat.pop("sampling_seed", 0)
    return {n: v for n, v in flat.items() if n not in ("custom_params", "other")} | {"seed": seed}


def test_the_backend_is_a_choice_and_no_more_until_it_is_made(untouched):
    assert plugin.BACKEND in SAMPLING_BACKEND_CHOICES
    assert context.get_exec().kernel.sampling_backend == plugin.BACKEND  # on a CPU, too
    assert not hasattr(untouched["copy_for_forward"], "__wrapped__")
    assert hasattr(SamplingBatchInfo.copy_for_forward, "__wrapped__")


def test_a_row_draws_what_sample_draws(sampler):
    x = logits_of(len(MIXED))
    tokens, _ = run(sampler, x, batch_of([request(**m) for m in MIXED]), OUTPUTS)
    for row, values in enumerate(MIXED):
        assert tokens[row] == sample(x[row], **expected(values), step=OUTPUTS[row]), values


def test_a_row_is_the_same_alone_and_at_any_place(sampler):
    x = logits_of(len(MIXED))
    together, _ = run(sampler, x, batch_of([request(**m) for m in MIXED]), OUTPUTS)
    order = [6, 2, 0, 5, 1, 4, 3]
    moved = batch_of([request(**MIXED[i]) for i in order])
    tokens, _ = run(sampler, x[order], moved, [OUTPUTS[i] for i in order])
    assert tokens.tolist() == together[order].tolist()
    for row, values in enumerate(MIXED):
        one = slice(row, row + 1)
        alone, _ = run(sampler, x[one], batch_of([request(**values)]), OUTPUTS[one])
        assert alone[0] == together[row]


def test_rows_follow_sglangs_batches(sampler):
    x = logits_of(len(MIXED))
    together, _ = run(sampler, x, batch_of([request(**m) for m in MIXED]), OUTPUTS)
    made = [
        Batch(reqs=[request(**m) for m in part], device="cpu") for part in (MIXED[:4], MIXED[4:])
    ]
    first, second = (SamplingBatchInfo.from_schedule_batch(part, VOCAB) for part in made)
    first.filter_batch([0, 2, 3], torch.tensor([0, 2, 3]))
    run(sampler, x[[0, 2, 3]], first.copy_for_forward(), [0, 2, 3])  # its columns are made
    second.merge_batch(first)
    order = [4, 5, 6, 0, 2, 3]
    outputs = [OUTPUTS[i] for i in order]
    tokens, _ = run(sampler, x[order], second.copy_for_forward(), outputs)
    assert tokens.tolist() == together[order].tolist()


def test_greedy_rows_are_the_first_of_the_best(sampler):
    x = logits_of(6)
    x[3, 7] = x[3, 900] = x[3].amax() + 1
    values = [dict(temperature=0), dict(temperature=0.9, top_k=1), dict(temperature=1)] * 2
    tokens, _ = run(sampler, x, batch_of([request(**v) for v in values]), [0] * 6)
    greedy = [0, 1, 3, 4]
    assert tokens[greedy].tolist() == x.argmax(-1)[greedy].tolist()
    all_greedy, _ = run(sampler, x[greedy], batch_of([request(temperature=0)] * 4), [0] * 4)
    assert all_greedy.tolist() == x.argmax(-1)[greedy].tolist()


@pytest.mark.parametrize("seed", range(5))
def test_what_is_kept_is_what_sglang_keeps(sampler, seed):
    x = logits_of(len(FILTERED), seed)
    masks = []
    for made in (sampler, plain.Sampler()):
        info = batch_of([request(kept=True, sampling_seed=1, **values) for values in FILTERED])
        with context.get_exec().kernel.override(sampling_backend="pytorch"):
            tokens, output = run(made, x, info, [0] * len(x))
        mask = output.sampling_mask_output
        assert mask.statuses.tolist() == [0] * len(x)
        lengths = mask.lengths.tolist()
        ids = [row[:n].tolist() for row, n in zip(mask.token_ids, lengths, strict=True)]
        assert all(token in row for token, row in zip(tokens.tolist(), ids, strict=True))
        masks.append([set(row) for row in ids])
    assert masks[0][:-1] == masks[1][:-1]
    # SGLang's sum of a row without filters may pass 1 before its end, and drops the rest.
    assert masks[0][-1] == set(range(VOCAB)) >= masks[1][-1]


@pytest.mark.parametrize("original", [False, True])
def test_logprobs_are_sglangs(sampler, monkeypatch, original):
    monkeypatch.setattr(plain, "SGLANG_RETURN_ORIGINAL_LOGPROB", original)
    x, ids = logits_of(len(FILTERED)), [3, 17, 999]
    x[5, 17] = -torch.inf
    results = []
    for made in (sampler, plain.Sampler()):
        info = batch_of([request(sampling_seed=1, **values) for values in FILTERED])
        with context.get_exec().kernel.override(sampling_backend="pytorch"):
            tokens, output = run(made, x, info, [0] * len(x), logprobs=True, top=5, ids=ids)
        results.append(output)
        scale = 1.0 if original else info.temperatures
        full = (x / scale).log_softmax(-1).clamp(min=torch.finfo(torch.float32).min)
        own = full.gather(1, tokens[:, None])[:, 0]
        torch.testing.assert_close(output.next_token_logprobs, own, rtol=1e-5, atol=1e-5)
    for name in ("next_token_top_logprobs_val", "next_token_token_ids_logprobs_val"):
        ours, theirs = (torch.stack(getattr(output, name)) for output in results)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    ours, theirs = (torch.stack(output.next_token_top_logprobs_idx) for output in results)
    assert torch.equal(ours, theirs)


def test_the_kept_set_of_our_filters(sampler):
    values = dict(temperature=0.9, sampling_seed=3, custom_params={"top_n_sigma": 1.0})
    x = logits_of(2)
    requests = [request(kept=True, top_k=30, **values), request(temperature=1.0)]
    _, output = run(sampler, x, batch_of(requests), [0, 0])
    mask = output.sampling_mask_output
    wanted = mask_logits(x[0], 0.9, top_n_sigma=1.0, top_k=30).isfinite().nonzero()[:, 0]
    assert set(mask.token_ids[0, : int(mask.lengths[0])].tolist()) == set(wanted.tolist())


def test_top_n_sigma_sees_the_whole_row_before_sglangs_top_p(sampler):
    values = dict(top_k=4, top_p=0.95, sampling_seed=3, custom_params={"top_n_sigma": 1.0})
    x = logits_of(1)
    assert int(mask_logits(x[0], top_n_sigma=1.0, top_p=0.95).isfinite().sum()) == 5
    first = mask_logits(x[0], top_p=0.95)
    assert int(mask_logits(first, top_n_sigma=1.0).isfinite().sum()) == 2
    _, output = run(sampler, x, batch_of([request(kept=True, temperature=1.0, **values)]), [0])
    mask = output.sampling_mask_output
    assert set(mask.token_ids[0, : int(mask.lengths[0])].tolist()) == set(
        x[0].topk(4).indices.tolist()
    )


def test_first_tokens_have_the_softmaxs_frequencies(sampler):
    x = logits_of(1)
    tokens = []
    for _ in range(10):
        requests = [request(temperature=0.9, top_k=8) for _ in range(200)]
        tokens.append(run(sampler, x.repeat(200, 1), batch_of(requests), [0] * 200)[0])
    best = x[0].topk(8)
    counts = torch.stack([(torch.cat(tokens) == i).sum() for i in best.indices])
    assert counts.sum() == 2000
    wanted = (best.values / 0.9).softmax(0).double()
    assert chisquare(counts, wanted / wanted.sum() * 2000).pvalue > 1e-4


def test_rows_that_cannot_be_drawn_from_get_a_token(sampler):
    x = logits_of(3)
    x[1], x[2, 5] = -torch.inf, torch.nan
    requests = [request(temperature=0.9, sampling_seed=1) for _ in range(3)]
    tokens, _ = run(sampler, x, batch_of(requests), [0, 0, 0])
    assert tokens.tolist() == [int(sample(x[0], 0.9, seed=1)), 0, 0]


class Ban(CustomLogitProcessor):
    """Bans the token that a request's `custom_params` name."""

    def __call__(self, logits, custom_params):
        for row, own in zip(logits, custom_params, strict=True):
            row[own["ban"]] = -torch.inf
        return logits


def test_a_custom_logit_processor_comes_before(sampler):
    x = logits_of(2)
    best = int(sample(x[0], 0.8, seed=5))
    values = dict(temperature=0.8, sampling_seed=5)
    banned = request(processor=Ban.to_str(), custom_params={"ban": best}, **values)
    tokens, _ = run(sampler, x[:1].repeat(2, 1), batch_of([banned, request(**values)]), [0, 0])
    changed = x[0].clone()
    changed[best] = -torch.inf
    assert tokens.tolist() == [int(sample(changed, 0.8, seed=5)), best]


DRY = {"dry_multiplier": 2.0, "dry_allowed_length": 1, "dry_breakers": [9]}


@pytest.mark.parametrize("other", [dict(temperature=1.0, sampling_seed=3), dict(temperature=0)])
def test_dry_looks_at_prompt_and_output(sampler, other):
    x = logits_of(2)
    x[0, 6] = x[0].amax() + 1  # would repeat three tokens: 2 * 1.75**2 less
    image = 2**31
    prompt, output = [1, 2, 3, 4, 5, 6, 5, image], [3, 4, 5]
    asks = request(prompt, output, temperature=0, custom_params=DRY)
    info = batch_of([asks, request(**other)])
    history = History(torch.tensor([[*prompt[:-1], -1, *output]]))
    best = []
    for step in range(10):
        tokens, _ = run(sampler, x, info, [step + 8, step])
        wanted = mask_logits(x[:1], **DRY, history=history).argmax(-1)
        assert tokens[0] == wanted
        assert tokens[1] == sample(x[1], **expected(other), step=step)
        history.append(wanted)
        best.append(bool(wanted == x[0].argmax()))
        x[0, int(wanted)] += 3  # it repeats itself from now on
    assert not best[0] and best[1] and not all(best[1:])  # until DRY has seen enough of it


def test_requests_without_a_seed_differ_keep_theirs_and_repeat_with_the_engine():
    seeds = []
    for _ in range(2):
        batches._fresh_seeds.cache_clear()
        torch.manual_seed(7)  # as SGLang does with --random-seed
        requests = [request(temperature=1.0) for _ in range(3)]
        rows = [batches.requests_of(batch_of(requests)).rows for _ in range(2)]
        assert [r.seed for r in rows[0]] == [r.seed for r in rows[1]]
        seeds.append([r.seed for r in rows[0]])
    assert seeds[0] == seeds[1] and len(set(seeds[0])) == 3
    with context.get_parallel().override(dp_rank=1):
        batches._fresh_seeds.cache_clear()
        (row,) = batches.requests_of(batch_of([request(temperature=1.0)])).rows
        assert row.seed not in seeds[0]
    batches._fresh_seeds.cache_clear()


def test_deterministic_inference_keeps_the_backend_and_sglangs_seed(sampler):
    asked = SimpleNamespace(enable_deterministic_inference=True, rl_on_policy_target=None)
    for backend, target, wanted in (
        (plugin.BACKEND, None, {}),
        (plugin.BACKEND, "fsdp", {"sampling_backend": "pytorch"}),
        ("flashinfer", None, {"sampling_backend": "pytorch"}),
    ):
        asked.sampling_backend, asked.rl_on_policy_target = backend, target
        assert overrides._deterministic_sampling_backend(asked) == wanted
    x = logits_of(3)
    values = [dict(temperature=1.0), dict(temperature=1.0, sampling_seed=5, min_p=0.1)]
    with context.get_exec().deterministic.override(enable_deterministic_inference=True):
        info = batch_of([request(**v) for v in values])
        tokens, _ = run(sampler, x[:2], info, [4, 4])
    assert tokens[0] == sample(x[0], seed=42, step=4)
    assert tokens[1] == sample(x[1], seed=5, step=4, min_p=0.1)


@pytest.mark.parametrize("backend, kept", [("flashinfer", "pytorch"), (plugin.BACKEND,) * 2])
def test_a_cpu_keeps_no_backend_but_ours(folder, backend, kept):
    arguments = ServerArgs(model_path=folder, device="cpu", sampling_backend=backend)
    arguments.resolve_once()
    assert overrides.resolving_view(arguments).sampling_backend == kept


@pytest.mark.parametrize(
    "given, message",
    [
        ({"top_n_sigma": -1}, "top_n_sigma is -1, out of range"),
        ({"xtc_probability": "often"}, "xtc_probability must be a number"),
        ({"dry_breakers": 5}, "dry_breakers must be a list of token ids, got 5."),
    ],
)
def test_wrong_values_end_the_request_alone(sampler, given, message):
    x = logits_of(2)
    wrong = request(temperature=1.0, sampling_seed=1, custom_params=given)
    good = request(temperature=1.0, sampling_seed=2, custom_params={"other": -1})
    tokens, _ = run(sampler, x, batch_of([wrong, good]), [0, 0])
    assert message in wrong.to_finish.message and wrong.to_finish.status_code == 400
    assert good.to_finish is None and tokens[1] == sample(x[1], seed=2)


def test_speculative_decoding_refuses_our_filters():
    asks = request(temperature=1.0, custom_params={"top_a": 0.1})
    with context.get_spec().override(speculative_algorithm="NGRAM"):
        batch_of([asks])
    assert "top_a does not go with speculative decoding" in asks.to_finish.message


def test_a_batch_without_a_record_is_sglangs_own(sampler, monkeypatch):
    seen = []

    def torchs(probs, *arguments, **more):
        seen.append(len(probs))
        return probs.argmax(-1)

    monkeypatch.setattr(plain, "top_k_top_p_min_p_sampling_from_probs_torch", torchs)
    x = logits_of(2)
    info = batch_of([request(temperature=1.0, top_k=5)] * 2)
    setattr(info, batches._REQUESTS, None)
    tokens, _ = run(sampler, x, info, [0, 0])
    assert seen == [2] and tokens.tolist() == x.argmax(-1).tolist()
    assert context.get_exec().kernel.sampling_backend == plugin.BACKEND


def test_time_of_a_call_beside_sglangs(sampler):
    x = torch.randn(30, 49152, generator=torch.Generator().manual_seed(0)) * 3
    beside = plain.Sampler()
    for name, values in {
        "no filter": {},
        "top-p 0.9": dict(top_p=0.9),
        "top-k 50": dict(top_k=50),
        "top-k 50, top-p 0.9": dict(top_k=50, top_p=0.9),
        "min-p 0.05": dict(min_p=0.05),
    }.items():
        info = batch_of([request(temperature=0.8, **values) for _ in x])
        best = []
        for made in (sampler, beside):
            times = []
            for _ in range(3):
                start = time.perf_counter()
                with context.get_exec().kernel.override(sampling_backend="pytorch"):
                    run(made, x, info, [0] * len(x))
                times.append(time.perf_counter() - start)
            best.append(min(times))
        print(f"\n{name}, {len(x)} rows: ours {best[0]:.4f} s, SGLang's {best[1]:.4f} s", end="")
        if name in ("top-p 0.9", "min-p 0.05"):  # SGLang sorts whole rows
            assert best[0] < best[1]
