"""`model.generate` with the fused sampler, against transformers' own loop.

The oracle is a replay: transformers' loop runs with `torch.multinomial` giving the tokens that we
drew, so that everything else it computes for those tokens can be compared with what we returned.
"""

# mypy: disable-error-code="arg-type, call-arg, misc"
# (transformers types configurations and `generate` more narrowly than it calls them)

from contextlib import nullcontext

import pytest
import scipy.stats
import torch

transformers = pytest.importorskip("transformers", reason="needs the `hf` extra")

from replay import CACHE, EVERYTHING, Replay, assert_same  # noqa: E402
from tiny_transformers import tiny_gpt2, tiny_llama, tiny_t5  # noqa: E402
from transformers import (  # noqa: E402
    LogitsProcessor,
    LogitsProcessorList,
    MaxTimeCriteria,
    StaticCache,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
    TopPLogitsWarper,
    WatermarkingConfig,
)
from transformers.generation.streamers import BaseStreamer  # noqa: E402

from fused_sampler import SamplingParams, mask_logits, sample  # noqa: E402
from fused_sampler.hf import fused_generate, patched  # noqa: E402

VOCAB, PAD, BOS, EOS = 120, 0, 1, 2
TOKENS = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
EAGER = {"attn_implementation": "eager"}


def _gpt2():
    return tiny_gpt2(vocab_size=VOCAB, n_positions=128, n_layer=2, **EAGER, **TOKENS)


def _llama():
    sizes = {"vocab_size": VOCAB, "num_hidden_layers": 2, "max_position_embeddings": 128}
    return tiny_llama(**sizes, **EAGER, **TOKENS)


def _t5():
    return tiny_t5(vocab_size=VOCAB, **TOKENS)


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    return {name: make().eval() for name, make in [("gpt2", _gpt2), ("llama", _llama), ("t5", _t5)]}


@pytest.fixture
def gpt2(models):
    return models["gpt2"]


@pytest.fixture
def llama(models):
    return models["llama"]


def _prompts(rows=3, length=5):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, VOCAB, (rows, length), generator=generator)


def _left_padded():
    """Three prompts of 5, 3 and 4 tokens."""
    ids, mask = _prompts(), torch.ones(3, 5, dtype=torch.int64)
    for row, padding in enumerate([0, 2, 1]):
        ids[row, :padding], mask[row, :padding] = PAD, 0
    return {"input_ids": ids, "attention_mask": mask}


def _fused(model, seed=7, **kwargs):
    seeded = {"seed": seed} if kwargs.get("do_sample", True) else {}
    return model.generate(**kwargs, **seeded, custom_generate=fused_generate)


def assert_replays(monkeypatch, model, make_arguments, **kwargs):
    """Our tokens, put through transformers' loop, give everything that ours returned.

    `make_arguments` builds the inputs anew for each run: caches and processors hold state.
    """
    kwargs = {"do_sample": True, "max_new_tokens": 12, **EVERYTHING, **kwargs}
    ours = _fused(model, **make_arguments(), **kwargs)
    steps = len(ours.scores)
    monkeypatch.setattr(torch, "multinomial", Replay(ours.sequences[:, -steps:]))
    theirs = model.generate(**make_arguments(), **kwargs)
    monkeypatch.undo()
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours.sequences, theirs.sequences)
    for name in ours:
        assert_same(ours[name], theirs[name], name)
    return ours


class AddBias(LogitsProcessor):
    """A user's processor: favours one token, more so at each step."""

    def __call__(self, input_ids, scores):
        bias = torch.zeros_like(scores)
        bias[:, 50] = 0.5 * input_ids.shape[1]
        return scores + bias


CALLS = {
    "plain": {"top_k": 0},
    "default top-k": {},
    "temperature": {"top_k": 0, "temperature": 0.7},
    "all four": {"temperature": 1.3, "top_k": 20, "top_p": 0.8, "min_p": 0.05},
    "top-p, min-p": {"top_k": 0, "top_p": 0.7, "min_p": 0.1},
    "typical": {"temperature": 0.8, "top_k": 30, "typical_p": 0.7},
    "epsilon": {"top_p": 0.9, "epsilon_cutoff": 0.02},
    "eta": {"top_k": 0, "temperature": 1.2, "eta_cutoff": 0.02},
    "epsilon, eta": {"top_p": 0.95, "epsilon_cutoff": 0.01, "eta_cutoff": 0.3},
    "typical, eta": {"top_k": 60, "typical_p": 0.8, "eta_cutoff": 0.1},
    "watermark": {"top_k": 30, "watermarking_config": WatermarkingConfig(bias=3.0)},
    "renormalize": {"temperature": 0.8, "top_p": 0.9, "renormalize_logits": True},
    "repetition penalty": {"repetition_penalty": 1.8, "top_k": 10},
    "no repeated pairs": {"no_repeat_ngram_size": 2, "top_k": 5},
    "min_new_tokens": {"min_new_tokens": 8, "top_p": 0.95},
    "bad words": {"bad_words_ids": [[5], [6, 7]], "suppress_tokens": [9]},
    "no eos": {"eos_token_id": None},
    "no cache": {"use_cache": False, "top_k": 10},
    "three sequences": {"num_return_sequences": 3, "top_k": 40},
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_all_that_is_returned_is_what_transformers_returns(models, monkeypatch, name, call):
    assert_replays(monkeypatch, models[name], _left_padded, **CALLS[call])


def test_top_h_where_transformers_has_it(llama, monkeypatch):
    if not hasattr(transformers, "TopHLogitsWarper"):
        pytest.skip(f"transformers {transformers.__version__} has no top-h")
    call = {"temperature": 1.2, "top_h": 0.5, "top_k": 10, "top_p": 0.9}
    assert_replays(monkeypatch, llama, _left_padded, **call)


def test_user_processors_run_where_transformers_runs_them(gpt2, monkeypatch):
    def arguments():
        processors = LogitsProcessorList([TopPLogitsWarper(0.6), AddBias()])
        return {**_left_padded(), "logits_processor": processors}

    call = {"repetition_penalty": 1.3, "temperature": 0.9, "top_k": 15}
    ours = assert_replays(monkeypatch, gpt2, arguments, **call)
    without = _fused(gpt2, **_left_padded(), do_sample=True, max_new_tokens=12, **call)
    assert not torch.equal(ours.sequences, without), "the user's processors had no effect"


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_inputs_embeds(models, monkeypatch, name):
    embeds = models[name].get_input_embeddings()(_prompts()).detach()
    assert_replays(monkeypatch, models[name], lambda: {"inputs_embeds": embeds}, top_p=0.9)


def test_static_cache_by_name(llama, monkeypatch):
    assert_replays(monkeypatch, llama, _left_padded, cache_implementation="static", top_p=0.9)


def test_static_cache_of_the_user(llama, monkeypatch):
    def arguments():
        cache = StaticCache(config=llama.config, max_cache_len=40)
        return {**_left_padded(), CACHE: cache}

    assert_replays(monkeypatch, llama, arguments, top_p=0.9)


def test_a_conversation_goes_on_in_its_cache(llama, monkeypatch):
    turns = _prompts(rows=1, length=9)

    def arguments():
        first = llama.generate(
            turns[:, :5], do_sample=False, max_new_tokens=3, return_dict_in_generate=True
        )
        ids = torch.cat([first.sequences, turns[:, 5:]], dim=1)
        return {"input_ids": ids, CACHE: getattr(first, CACHE)}

    assert_replays(monkeypatch, llama, arguments, top_k=10)


def test_prefill_in_chunks(llama, monkeypatch):
    ids = {"input_ids": _prompts(length=11)}
    call = {"top_k": 10, "max_new_tokens": 6}
    whole = _fused(llama, **ids, do_sample=True, **call)
    ours = assert_replays(monkeypatch, llama, lambda: ids, prefill_chunk_size=4, **call)
    assert torch.equal(ours.sequences, whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_of_other_precisions(monkeypatch, dtype):
    torch.manual_seed(2)
    model = _llama().to(dtype).eval()
    call = {"temperature": 0.7, "top_k": 0}
    ours = assert_replays(monkeypatch, model, lambda: {"input_ids": _prompts()}, **call)
    alone = _fused(model, input_ids=_prompts(), do_sample=True, max_new_tokens=12, **call)
    assert torch.equal(alone, ours.sequences), "logits read natively must draw the same"


class Convert(LogitsProcessor):
    def __init__(self, dtype):
        self.dtype = dtype

    def __call__(self, input_ids, scores):
        return scores.to(self.dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("warper", [{}, {"top_p": 0.9}, {"renormalize_logits": True}], ids=str)
def test_scores_that_a_processor_made_wider_or_narrower_are_sampled(gpt2, dtype, warper):
    """A user's processors stand before the warpers; that which renormalises stays behind them."""
    call = {"input_ids": _prompts(), "do_sample": True, "max_new_tokens": 5, "top_k": 0}
    call |= {**EVERYTHING, **warper}
    out = _fused(gpt2, **call, logits_processor=LogitsProcessorList([Convert(dtype)]))
    assert {scores.dtype for scores in out.scores} == {torch.float32}
    if dtype == torch.float64:
        assert torch.equal(out.sequences, _fused(gpt2, **call).sequences)


# Greedy decoding


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
@pytest.mark.parametrize("call", [{}, {"repetition_penalty": 1.5}, {"min_new_tokens": 10}])
def test_greedy_tokens_are_transformers(models, name, call):
    arguments = {**_left_padded(), "do_sample": False, "max_new_tokens": 15, **EVERYTHING, **call}
    ours, theirs = _fused(models[name], **arguments), models[name].generate(**arguments)
    assert torch.equal(ours.sequences, theirs.sequences)
    for field in ours:
        assert_same(ours[field], theirs[field], field)


def test_greedy_runs_user_warpers_and_leaves_the_generator_alone(gpt2):
    processors = LogitsProcessorList([AddBias(), TopPLogitsWarper(0.6)])
    arguments = {**_left_padded(), "do_sample": False, "max_new_tokens": 12}
    state = torch.random.get_rng_state()
    ours = gpt2.generate(**arguments, logits_processor=processors, custom_generate=fused_generate)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(ours, gpt2.generate(**arguments, logits_processor=processors))
    assert (ours[:, 5:] == 50).any(), "the bias should have an effect"


class Tie(LogitsProcessor):
    """Three tokens share the maximum."""

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[:, [80, 40, 60]] = scores.amax(dim=1, keepdim=True) + 1
        return scores


def test_greedy_ties_go_to_the_lowest_index(gpt2):
    call = {
        "do_sample": False,
        "max_new_tokens": 3,
        "logits_processor": LogitsProcessorList([Tie()]),
    }
    assert (_fused(gpt2, input_ids=_prompts(), **call)[:, 5:] == 40).all()


# Ends of sequences


def _with_eos(model, **call):
    """A call in which rows end at different lengths: token 50 ends them, and grows likelier."""
    return {
        **_left_padded(),
        "do_sample": True,
        "max_new_tokens": 30,
        "eos_token_id": 50,
        "logits_processor": LogitsProcessorList([AddBias()]),
        **call,
    }


def test_rows_that_ended_are_padded(gpt2):
    new = _fused(gpt2, **_with_eos(gpt2))[:, 5:]
    ends = [row.tolist().index(50) for row in new]
    assert len(set(ends)) > 1, "the rows should end at different lengths"
    assert new.shape[1] == max(ends) + 1 < 30
    for row, end in zip(new, ends, strict=True):
        assert (row[end + 1 :] == PAD).all() and (row[:end] != 50).all()


class StopAfter(StoppingCriteria):
    def __init__(self, length):
        self.length, self.scores_seen = length, []

    def __call__(self, input_ids, scores, **kwargs):
        self.scores_seen.append(None if scores is None else len(scores))
        return torch.full((input_ids.shape[0],), input_ids.shape[1] >= self.length)


@pytest.mark.parametrize("keep", [False, True])
def test_stopping_criteria_stop_and_see_the_scores(gpt2, keep):
    stop = StopAfter(9)
    criteria = StoppingCriteriaList([stop, MaxTimeCriteria(1000.0)])
    call = {"return_dict_in_generate": keep, "output_scores": keep, "eos_token_id": None}
    out = _fused(
        gpt2,
        input_ids=_prompts(),
        do_sample=True,
        max_new_tokens=20,
        stopping_criteria=criteria,
        **call,
    )
    assert (out.sequences if keep else out).shape == (3, 9)
    assert stop.scores_seen == ([1, 2, 3, 4] if keep else [None] * 4)


def test_max_length_counts_the_prompt(gpt2):
    out = _fused(gpt2, input_ids=_prompts(), do_sample=True, max_length=8, eos_token_id=None)
    assert out.shape == (3, 8)


# Streamers


class Recorder(BaseStreamer):
    def __init__(self):
        self.calls = []

    def put(self, value):
        self.calls.append(value)

    def end(self):
        self.calls.append("end")


def test_a_streamer_gets_the_prompt_each_token_and_the_end(gpt2):
    recorder = Recorder()
    out = _fused(gpt2, input_ids=_prompts(), do_sample=True, max_new_tokens=6, streamer=recorder)
    prompt, *tokens, end = recorder.calls
    assert end == "end"
    assert torch.equal(torch.cat([prompt, torch.stack(tokens, dim=1)], dim=1), out)


class Words:
    """The little of a tokenizer that a text streamer needs."""

    def decode(self, ids, **kwargs):
        return "".join(f"<{int(token)}> " for token in ids)


def test_a_text_iterator_ends(gpt2):
    streamer = TextIteratorStreamer(Words(), skip_prompt=True, timeout=10.0)
    out = _fused(
        gpt2, input_ids=_prompts(rows=1), do_sample=True, max_new_tokens=6, streamer=streamer
    )
    assert "".join(streamer) == Words().decode(out[0, 5:])


def _wrapped(model, input_ids, **kwargs):
    """A decoding method of a caller's own, a frame further from `generate`."""
    return fused_generate(model, input_ids, seed=7, **kwargs)


def test_a_callable_around_ours_keeps_the_streamer(gpt2):
    call = {"input_ids": _prompts(), "do_sample": True, "max_new_tokens": 4}
    recorder, expected = Recorder(), Recorder()
    out = gpt2.generate(**call, streamer=recorder, custom_generate=_wrapped)
    assert torch.equal(out, _fused(gpt2, **call, streamer=expected))
    assert list(map(str, recorder.calls)) == list(map(str, expected.calls))
    with pytest.raises(ValueError, match="ask for assisted generation"):
        gpt2.generate(**call, assistant_model=gpt2, custom_generate=_wrapped)


class Raise(LogitsProcessor):
    def __call__(self, input_ids, scores):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "call",
    [
        {"logits_processor": LogitsProcessorList([Raise()])},
        {"prompt_lookup_num_tokens": 2},
        {"seed": "seven"},
    ],
    ids=["in the loop", "another mode", "a wrong seed"],
)
@pytest.mark.parametrize("patches", [True, False])
def test_an_error_ends_the_reader_of_a_streamer(gpt2, call, patches):
    streamer = TextIteratorStreamer(Words(), skip_prompt=True, timeout=5.0)
    call = {"seed": 7, **call, "input_ids": _prompts(rows=1), "streamer": streamer}
    how = {} if patches else {"custom_generate": fused_generate}
    with (
        patched(gpt2) if patches else nullcontext(),
        pytest.raises((ValueError, TypeError, ZeroDivisionError)),
    ):
        gpt2.generate(**call, **how, do_sample=True, max_new_tokens=3)
    assert list(streamer) == [""], "the reader ends"
    assert streamer.text_queue.empty(), "and ends once: the streamer may be used again"


# Seeds


def _sampled(model, **call):
    defaults = {"do_sample": True, "max_new_tokens": 10, "top_k": 0, "eos_token_id": None}
    arguments = {**_left_padded(), **defaults, **call}
    return model.generate(**arguments, custom_generate=fused_generate)[:, -10:]


def test_a_seed_decides_the_tokens(gpt2):
    assert torch.equal(_sampled(gpt2, seed=3), _sampled(gpt2, seed=3))
    assert not torch.equal(_sampled(gpt2, seed=3), _sampled(gpt2, seed=4))


FILTERS = {
    "warpers'": {"top_k": 60, "top_p": 0.9, "min_p": 0.01},
    "eta": {"top_k": 0, "eta_cutoff": 0.02},
    "all": {
        "top_k": 60,
        "top_p": 0.95,
        "min_p": 0.005,
        "epsilon_cutoff": 0.004,
        "eta_cutoff": 0.05,
        "top_n_sigma": 2.0,
        "top_a": 0.1,
    },
    "by prompt": {
        "top_k": 40,
        "top_n_sigma": torch.tensor([0.0, 1.0, 2.0]),
        "top_a": torch.tensor([0.5, 0.0, 0.2]),
    },
}


@pytest.mark.parametrize("seed", [9, torch.tensor([4, 5, 6])], ids=["one", "a row"])
@pytest.mark.parametrize("filters", FILTERS)
def test_token_i_is_drawn_with_step_i(gpt2, seed, filters):
    filters = {"temperature": 1.4, **FILTERS[filters]}
    call = {"do_sample": True, "max_new_tokens": 6, "eos_token_id": None, **filters, **EVERYTHING}
    out = _fused(gpt2, seed, **_left_padded(), **call)
    for step, (logits, scores) in enumerate(zip(out.logits, out.scores, strict=True)):
        expected = sample(logits, **filters, seed=seed, step=step)
        assert torch.equal(out.sequences[:, 5 + step], expected)
        assert torch.equal(scores, mask_logits(logits, **filters))


def test_a_sampler_of_the_callers_draws_every_token(gpt2):
    calls = []

    def sampler(scores, **parameters):
        calls.append((scores.shape, parameters))
        return sample(scores, **parameters)

    call = {"seed": 3, "top_k": 60}
    assert torch.equal(_sampled(gpt2, sampler=sampler, **call), _sampled(gpt2, **call))
    assert {shape for shape, _ in calls} == {(3, VOCAB)}
    assert [int(parameters.pop("step")) for _, parameters in calls] == list(range(10))
    fields = {"params": SamplingParams(top_k=60), "seed": torch.tensor(3), "validate": False}
    assert all(parameters == fields for _, parameters in calls)
    worst = _sampled(gpt2, sampler=lambda scores, **_: scores.argmin(1))
    assert not torch.equal(worst, _sampled(gpt2, **call))


def test_manual_seed_decides_without_a_seed(gpt2):
    torch.manual_seed(5)
    first, second = _sampled(gpt2), _sampled(gpt2)
    torch.manual_seed(5)
    assert torch.equal(_sampled(gpt2), first)
    assert torch.equal(_sampled(gpt2), second)
    assert not torch.equal(first, second)


def test_a_generator_gives_the_seed(gpt2):
    def generator():
        return torch.Generator().manual_seed(5)

    torch.manual_seed(1)
    first = _sampled(gpt2, generator=generator())
    seed = torch.randint(2**63 - 1, (), generator=generator())
    assert torch.equal(_sampled(gpt2, generator=generator()), first)
    assert torch.equal(_sampled(gpt2, seed=int(seed)), first)
    with pytest.raises(ValueError, match="seed and generator were both given"):
        _sampled(gpt2, generator=generator(), seed=3)


def test_one_seed_gives_equal_prompts_different_tokens(gpt2):
    twins = _prompts(rows=1).repeat(4, 1)
    out = _sampled(gpt2, input_ids=twins, attention_mask=torch.ones_like(twins), seed=3)
    assert len(set(map(tuple, out.tolist()))) == 4


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_prompt_with_its_seed_continues_the_same_way_in_any_batch(models, name):
    batch, seeds = _left_padded(), torch.tensor([11, 22, 33])
    together = _sampled(models[name], seed=seeds)
    order = torch.tensor([2, 0, 1])
    swapped = {key: value[order] for key, value in batch.items()}
    assert torch.equal(_sampled(models[name], **swapped, seed=seeds[order]), together[order])
    for row in range(3):
        unpadded = batch["input_ids"][row : row + 1, batch["attention_mask"][row].argmax() :]
        one = {"input_ids": unpadded, "attention_mask": torch.ones_like(unpadded)}
        assert torch.equal(
            _sampled(models[name], **one, seed=seeds[row : row + 1]), together[row : row + 1]
        )


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_a_seed_a_prompt_gives_its_sequences_seeds_of_their_own(models, name):
    seeds = torch.tensor([11, 11, 2**63 - 1])
    call = {"seed": seeds, "temperature": 4.0}  # flat enough that equal tokens mean equal seeds
    single = _sampled(models[name], **call)
    several = _sampled(models[name], **call, num_return_sequences=3)
    assert torch.equal(several[::3], single)
    for prompt in several.view(3, 3, -1):
        assert len(set(map(tuple, prompt.tolist()))) == 3
    assert torch.equal(several, _sampled(models[name], **call, num_return_sequences=3))


def test_a_seed_a_returned_row_is_taken_as_it_is(gpt2):
    seeds = torch.tensor([1, 2, 3, 4, 5, 6])
    out = _sampled(gpt2, seed=seeds, num_return_sequences=2)
    assert torch.equal(out[1::2], _sampled(gpt2, seed=seeds[1::2]))


@pytest.mark.parametrize(
    ("seed", "error", "words"),
    [
        (
            torch.tensor([1, 2]),
            ValueError,
            r"seed has shape \[2\] for 3 prompts and 6 returned rows",
        ),
        (torch.tensor([0.5] * 3), TypeError, "seed must be an int64 tensor"),
        ("7", TypeError, "seed must be an integer"),
        (2**64, ValueError, "must fit 64 bits"),
    ],
)
def test_seeds_that_do_not_fit(gpt2, seed, error, words):
    with pytest.raises(error, match=words):
        _sampled(gpt2, seed=seed, num_return_sequences=2)


# Distributions


@pytest.mark.parametrize("seed", [3, torch.tensor([3])], ids=["streams", "derived seeds"])
@pytest.mark.parametrize("call", [{"top_k": 0}, {"temperature": 0.6, "top_k": 30, "top_p": 0.9}])
def test_tokens_follow_the_softmax(gpt2, seed, call):
    prompt, draws = _prompts(rows=1), 6000
    out = _fused(
        gpt2,
        seed,
        input_ids=prompt,
        do_sample=True,
        num_return_sequences=draws,
        max_new_tokens=1,
        **call,
    )
    with torch.no_grad():
        logits = gpt2(prompt).logits[0, -1].double() / call.get("temperature", 1.0)
    if call["top_k"]:
        logits[logits < logits.topk(call["top_k"]).values[-1]] = -torch.inf
        p, order = logits.softmax(0).sort(descending=True)
        logits[order[p.cumsum(0) - p >= call["top_p"]]] = -torch.inf
    expected = logits.softmax(0) * draws
    counts = out[:, -1].bincount(minlength=VOCAB)
    assert (counts[expected == 0] == 0).all()
    rare = expected < 5  # chi-squared wants larger cells: put these into one
    pooled = [
        torch.cat([values[~rare], values[rare].sum(0, keepdim=True)]).numpy()
        for values in (counts.double(), expected)
    ]
    keep = pooled[1] > 0
    assert scipy.stats.chisquare(pooled[0][keep], pooled[1][keep]).pvalue > 1e-3


# Errors


@pytest.mark.parametrize(
    ("call", "mode"),
    [
        ({"num_beams": 2}, "beam search"),
        ({"num_beams": 2, "do_sample": True}, "beam sample"),
        ({"prompt_lookup_num_tokens": 2}, "assisted generation"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "contrastive search"),
        ({"num_beams": 2, "do_sample": True, "top_a": 0.1}, "beam sample"),
    ],
)
def test_other_modes_are_refused_with_the_way_out(gpt2, call, mode):
    with pytest.raises(ValueError, match=f"ask for {mode}; call plain model.generate"):
        _fused(gpt2, input_ids=_prompts(rows=1), max_new_tokens=3, **call)


def test_an_assistant_is_refused_and_not_ignored(gpt2):
    with pytest.raises(ValueError, match="ask for assisted generation"):
        _fused(gpt2, input_ids=_prompts(rows=1), max_new_tokens=3, assistant_model=gpt2)


class Spoil(LogitsProcessor):
    """Row 1 goes wrong at the third new token."""

    def __init__(self, value):
        self.value = value

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        if input_ids.shape[1] == 7:
            scores[1] = self.value
        return scores


@pytest.mark.parametrize(
    ("value", "do_sample"),
    [(float("nan"), True), (float("inf"), True), (-float("inf"), True), (float("nan"), False)],
)
def test_a_row_that_cannot_be_drawn_from_is_named(gpt2, value, do_sample):
    recorder = Recorder()
    call = {"logits_processor": LogitsProcessorList([Spoil(value)]), "streamer": recorder}
    with pytest.raises(ValueError, match="row 1 cannot be sampled at new token 2"):
        _fused(gpt2, input_ids=_prompts(), do_sample=do_sample, max_new_tokens=6, top_k=0, **call)
    assert len(recorder.calls) == 4, "the prompt, two tokens, nothing of the bad step, the end"
    assert recorder.calls[-1] == "end", "or its reader would wait for ever"


def test_a_row_that_has_ended_may_hold_anything(gpt2):
    class SpoilEnded(LogitsProcessor):
        def __call__(self, input_ids, scores):
            ended = (input_ids[:, 5:] == 50).any(dim=1, keepdim=True)
            return scores.masked_fill(ended, float("nan"))

    processors = LogitsProcessorList([AddBias(), SpoilEnded()])
    spoiled = _fused(gpt2, **_with_eos(gpt2, logits_processor=processors, top_k=0))
    assert torch.equal(spoiled, _fused(gpt2, **_with_eos(gpt2, top_k=0)))


def test_stop_strings_need_a_patched_model_and_say_so(gpt2):
    with pytest.raises(ValueError, match="tokenizer"):
        _fused(gpt2, input_ids=_prompts(), max_new_tokens=3, stop_strings=["x"], tokenizer=Words())


# What must not happen in the loop


def test_neither_multinomial_nor_sort_runs(gpt2, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("transformers' sampling was called")

    for name in ("multinomial", "sort", "topk"):
        monkeypatch.setattr(torch, name, forbidden)
    out = _fused(
        gpt2,
        input_ids=_prompts(),
        do_sample=True,
        top_k=5,
        top_p=0.9,
        min_p=0.1,
        temperature=0.8,
        max_new_tokens=3,
    )
    assert out.shape == (3, 8)


@pytest.mark.parametrize("synced", [True, None])
def test_synced_gpus_reaches_the_loop(gpt2, monkeypatch, synced):
    seen = []

    def unfinished(self, finished, synced_gpus, device):
        """As if one more peer needed one more forward pass."""
        seen.append((finished, bool(synced_gpus)))
        return not finished or (synced_gpus and seen[-2:-1] != [(True, True)])

    monkeypatch.setattr(type(gpt2), "_has_unfinished_sequences", unfinished)
    out = _fused(gpt2, input_ids=_prompts(), do_sample=True, max_new_tokens=2, synced_gpus=synced)
    assert out.shape == (3, 7)
    turns = [(False, bool(synced))] * 2 + [(True, bool(synced))] * (2 if synced else 1)
    assert seen == turns
