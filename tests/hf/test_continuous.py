"""Continuous batching of a patched model: transformers' own `generate_batch`, with our draws."""

# mypy: disable-error-code="arg-type, attr-defined, call-arg, misc"
# (transformers types configurations and `generate` more narrowly than it calls them)

import asyncio
import importlib
import math
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch

transformers = pytest.importorskip("transformers", reason="needs the `hf` extra")

from tiny_transformers import tiny_llama  # noqa: E402
from transformers import (  # noqa: E402
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TopPLogitsWarper,
)

from fused_sampler import mask_logits, sample  # noqa: E402
from fused_sampler.hf import patch, patched, unpatch, warpers  # noqa: E402
from fused_sampler.params import PARAMETERS, RECORDS  # noqa: E402

hf_patch = importlib.import_module("fused_sampler.hf.patch")
continuous = hf_patch.continuous
if continuous is None:
    pytest.skip(
        f"transformers {transformers.__version__} has another continuous batching",
        allow_module_level=True,
    )

from transformers import CompileConfig, ContinuousBatchingConfig  # noqa: E402
from transformers.generation.continuous_batching import continuous_api  # noqa: E402
from transformers.generation.continuous_batching.input_outputs import (  # noqa: E402
    ContinuousBatchingAsyncIOs,
)
from transformers.generation.continuous_batching.model_runner import ModelRunner  # noqa: E402
from transformers.generation.continuous_batching.offloading_manager import (  # noqa: E402
    OffloadingManager,
)
from transformers.generation.continuous_batching.requests import RequestState  # noqa: E402

PROMPTS = [[5, 6, 7], [8, 9, 10, 11], [12], [13, 14] * 10]
SEEDS = [3, 4, 5, 6]
NEW_TOKENS = 8
VOCAB = 64


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = patch(tiny_llama(num_hidden_layers=2, max_position_embeddings=256, bos_token_id=1))
    model.generation_config.eos_token_id = -1  # as transformers sets it, with a warning
    return model


@pytest.fixture(autouse=True)
def _no_garbage_collection(monkeypatch):
    """Of all objects of the test run, whenever a manager ends: half of the time of a test."""
    monkeypatch.setattr(continuous_api, "gc", SimpleNamespace(collect=lambda: None))


@pytest.fixture
def only_ours(monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("transformers' own sampling ran")

    for name in ("multinomial", "sort"):
        monkeypatch.setattr(torch, name, forbidden)


def _settings(**changes):
    own = {"do_sample": True, "max_new_tokens": NEW_TOKENS, "top_k": 0, "pad_token_id": 0}
    return GenerationConfig(**{**own, "eos_token_id": -1, **changes})


def _batching(**changes):
    return ContinuousBatchingConfig(**{"num_blocks": 32, "page_size": 16, **changes})


def _batch(model, prompts=PROMPTS, settings=None, batching=None, **own):
    outputs = model.generate_batch(
        prompts,
        generation_config=settings or _settings(),
        continuous_batching_config=batching or _batching(),
        **own,
    )
    assert [output.error for output in outputs.values()] == [None] * len(prompts)
    return [output.generated_tokens for output in outputs.values()]


def _alone(model, prompt, **settings):
    """What `generate` draws for one prompt."""
    ids = torch.tensor([prompt])
    return model.generate(ids, generation_config=_settings(), **settings)[0, len(prompt) :].tolist()


@contextmanager
def _manager(model, settings=None, batching=None):
    with model.continuous_batching_context_manager(
        generation_config=settings or _settings(),
        continuous_batching_config=batching or _batching(),
    ) as manager:
        yield manager


def _results(manager, names):
    found = {}
    while len(found) < len(names):
        result = manager.get_result(timeout=10)
        assert result is not None, "the manager stopped"
        if result.is_finished():
            found[result.request_id] = result
    return [found[name] for name in names]


# One request, whatever is beside it


def test_a_request_draws_what_generate_draws(model, only_ours):
    expected = [_alone(model, p, seed=s) for p, s in zip(PROMPTS, SEEDS, strict=True)]
    assert _batch(model, seed=SEEDS) == expected
    assert _batch(model, seed=torch.tensor(SEEDS)) == expected
    assert _batch(model, PROMPTS[::-1], seed=SEEDS[::-1]) == expected[::-1]
    assert [
        _batch(model, [p], seed=[s])[0] for p, s in zip(PROMPTS, SEEDS, strict=True)
    ] == expected


@pytest.mark.parametrize(
    "batching",
    [
        {"max_batch_tokens": 7},  # long prompts are read in parts
        {"max_requests_per_batch": 2},
        {"allow_block_sharing": False},
        {"scheduler_type": "prefill_first"},
        {
            "num_blocks": 3,
            "max_batch_tokens": 64,
        },  # requests have to leave the cache, and come back
    ],
    ids=str,
)
def test_how_requests_are_batched_changes_nothing(model, batching):
    expected = [_alone(model, p, seed=s) for p, s in zip(PROMPTS, SEEDS, strict=True)]
    assert _batch(model, seed=SEEDS, batching=_batching(**batching)) == expected


def _long(model, batching, **changes):
    """Six requests for which there is no room, and what `generate` draws for each alone."""
    prompts, seeds = [[13 + i, 14] * 8 for i in range(6)], list(range(6))
    settings = _settings(max_new_tokens=20, **changes)
    expected = [
        model.generate(torch.tensor([p]), generation_config=settings, seed=torch.tensor([s]))
        for p, s in zip(prompts, seeds, strict=True)
    ]
    outputs = model.generate_batch(
        prompts,
        generation_config=settings,
        continuous_batching_config=_batching(num_blocks=6, max_batch_tokens=64, **batching),
        seed=seeds,
    )
    rows = [rows[:, 16:].tolist() for rows in expected]
    return {name: output.generated_tokens for name, output in outputs.items()}, rows


@pytest.fixture
def left(monkeypatch):
    """How many requests had to leave the cache, one count each time."""
    counts = []
    requeue = OffloadingManager._offload_to_cpu

    def counted(self, victims, tables):
        counts.append(len(victims))
        return requeue(self, victims, tables)

    monkeypatch.setattr(OffloadingManager, "_offload_to_cpu", counted)
    return counts


def test_a_request_that_had_to_leave_the_cache_goes_on(model, left):
    drawn, expected = _long(model, {})
    assert left and [[tokens] for tokens in drawn.values()] == expected


def test_further_sequences_for_which_there_is_no_room(model, left):
    drawn, expected = _long(model, {}, num_return_sequences=2)
    assert left
    for i, rows in enumerate(expected):
        assert [drawn[f"req_{i}"], drawn[f"req_{i}__child#0"]] == rows


class Nothing:
    """A stream or an event of a device that does all at once."""

    def __init__(self, *args, **kwargs):
        pass

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


@pytest.fixture
def asynchronous(monkeypatch):
    """Batching that prepares a batch before it knows the tokens of the last, without a GPU."""
    inner = "transformers.generation.continuous_batching."
    for module in ("continuous_api", "input_outputs", "model_runner", "offloading_manager"):
        monkeypatch.setattr(f"{inner}{module}.stream_context", lambda stream: nullcontext())
    monkeypatch.setattr(f"{inner}input_outputs.create_device_stream", Nothing)
    monkeypatch.setattr(torch, "Event", Nothing)
    monkeypatch.setattr(ContinuousBatchingAsyncIOs, "_supported_device_types", ("cpu",))
    return {"use_async_batching": True}


def test_asynchronous_batches(model, asynchronous, left, only_ours):
    expected = [_alone(model, p, seed=s) for p, s in zip(PROMPTS, SEEDS, strict=True)]
    assert _batch(model, seed=SEEDS, batching=_batching(**asynchronous)) == expected
    drawn, expected = _long(model, asynchronous)
    assert left and [[tokens] for tokens in drawn.values()] == expected


@pytest.mark.parametrize("logprobs", [False, True])
def test_the_compiled_path(model, logprobs, only_ours):
    """It pads batches, and must see parameters and seeds as they are, not as they were traced."""
    compiled = CompileConfig(backend="aot_eager", fullgraph=False, mode=None)
    batching = _batching(
        varlen_compile_config=compiled, max_batch_tokens=32, return_logprobs=logprobs
    )
    for seeds, temperature in ((SEEDS, 0.8), (SEEDS[::-1], 1.2)):
        expected = [
            _alone(model, p, seed=s, temperature=temperature, top_p=0.9)
            for p, s in zip(PROMPTS, seeds, strict=True)
        ]
        drawn = _batch(model, batching=batching, seed=seeds, temperature=temperature, top_p=0.9)
        assert drawn == expected


def test_parameters_of_each_request(model, only_ours):
    own = {
        "temperature": [0.7, 0.0, 1.6, 1.0],
        "top_k": [0, 0, 5, 1],
        "top_p": [0.8, 1.0, 1.0, 1.0],
        "min_p": [0.0, 0.0, 0.05, 0.0],
        "epsilon_cutoff": [0.0, 0.0, 0.0, 0.01],
        "eta_cutoff": [0.0, 0.0, 0.1, 0.0],
        "top_n_sigma": [0.0, 0.0, 1.5, 2.0],
        "top_a": [0.3, 0.0, 0.0, 0.0],
        "top_h": [1.0, 1.0, 0.9, 1.0],
        "typical_p": [0.95, 1.0, 1.0, 1.0],
        "temperature_last": [False, True, True, False],
        "xtc_threshold": [0.05, 0.1, 0.1, 0.1],
        "xtc_probability": [0.5, 0.0, 0.0, 0.0],
        "mirostat_mu": [6.0, math.inf, math.inf, math.inf],
    }
    assert set(own) == set(PARAMETERS)
    drawn = _batch(model, seed=SEEDS, **own)
    for row, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        values = {name: torch.tensor([value[row]]) for name, value in own.items()}
        assert drawn[row] == _alone(model, prompt, seed=seed, **values)
    greedy = [_alone(model, prompt, do_sample=False) for prompt in PROMPTS]
    assert [drawn[1], drawn[3]] == [greedy[1], greedy[3]] and drawn[0] != greedy[0]


OWN = {
    "top_n_sigma": [0.0, 0.6, 1.0, 0.0],
    "top_a": [1.0, 0.0, 0.4, 0.0],
    "temperature_last": [True, False, True, False],
    "xtc_threshold": [0.1, 0.01, 0.02, 0.1],
    "xtc_probability": [1.0, 0.0, 0.8, 0.0],
    "mirostat_mu": [1.0, math.inf, 2.0, math.inf],
}
BESIDE = {  # what it takes for them to matter
    "temperature_last": {"min_p": 0.1},
    "xtc_threshold": {"xtc_probability": 0.9},
    "xtc_probability": {"xtc_threshold": 0.02},
}
HOT = {"seed": SEEDS, "temperature": 2.0}  # so does this


@pytest.mark.parametrize("name", OWN)
def test_what_transformers_does_not_know_of_each_request(model, name, only_ours):
    beside = BESIDE.get(name, {})
    plain = _batch(model, **HOT, **beside)
    drawn = _batch(model, **HOT, **beside, **{name: OWN[name]})
    for row, value in enumerate(OWN[name]):
        alone = {"seed": SEEDS[row], "temperature": 2.0, name: value}
        assert drawn[row] == _alone(model, PROMPTS[row], **beside, **alone)
        assert (drawn[row] == plain[row]) == (value == RECORDS[name].off)
    assert _batch(model, **HOT, **beside, **{name: torch.tensor(OWN[name])}) == drawn
    with _manager(model, _settings(temperature=2.0)) as manager:
        names = [
            manager.add_request(prompt, seed=seed, **beside, **{name: value})
            for prompt, seed, value in zip(PROMPTS, SEEDS, OWN[name], strict=True)
        ]
        assert [result.generated_tokens for result in _results(manager, names)] == drawn


def test_each_of_them_is_tried():
    assert set(OWN) == set(PARAMETERS) - set(warpers.PLACEHOLDERS)


@pytest.mark.parametrize("name", ["top_n_sigma", "top_a"])
def test_a_configuration_may_hold_what_transformers_does_not_know(model, name, only_ours):
    settings = _settings()
    setattr(settings, name, 0.6)
    drawn = _batch(model, settings=settings, **HOT)
    assert drawn == _batch(model, **HOT, **{name: 0.6}) != _batch(model, **HOT)
    assert _batch(model, settings=settings, **HOT, **{name: 0.0}) == _batch(model, **HOT)
    setattr(settings, name, -1.0)
    with pytest.raises(ValueError, match=f"{name} is -1.0, out of range"):
        _batch(model, settings=settings, **HOT)


def test_parameters_of_the_configuration_hold_for_requests_without(model, only_ours):
    settings = _settings(temperature=0.6, top_k=9, top_p=0.9, min_p=0.02)
    expected = [
        _alone(model, p, seed=s, temperature=0.6, top_k=9, top_p=0.9, min_p=0.02)
        for p, s in zip(PROMPTS, SEEDS, strict=True)
    ]
    assert _batch(model, settings=settings, seed=SEEDS) == expected
    one = _batch(model, settings=settings, seed=SEEDS, temperature=1.7)
    assert one == [
        _alone(model, p, seed=s, temperature=1.7, top_k=9, top_p=0.9, min_p=0.02)
        for p, s in zip(PROMPTS, SEEDS, strict=True)
    ]


def test_greedy(model, only_ours):
    expected = [_alone(model, prompt, do_sample=False) for prompt in PROMPTS]
    assert _batch(model, settings=_settings(do_sample=False)) == expected


def test_a_temperature_near_0_in_the_configuration_is_greedy(model):
    expected = [_alone(model, prompt, do_sample=False) for prompt in PROMPTS]
    assert _batch(model, settings=_settings(temperature=1e-6), seed=SEEDS) == expected


def test_further_sequences_of_a_prompt(model):
    settings = _settings(num_return_sequences=3)
    outputs = model.generate_batch(
        PROMPTS[:2],
        generation_config=settings,
        continuous_batching_config=_batching(),
        seed=SEEDS[:2],
    )
    drawn = {name: output.generated_tokens for name, output in outputs.items()}
    for row, (prompt, seed) in enumerate(zip(PROMPTS[:2], SEEDS[:2], strict=True)):
        rows = model.generate(
            torch.tensor([prompt]), generation_config=settings, seed=torch.tensor([seed])
        )[:, len(prompt) :].tolist()
        names = [f"req_{row}", f"req_{row}__child#0", f"req_{row}__child#1"]
        assert [drawn[name] for name in names] == rows


# Seeds


def test_one_seed_gives_equal_prompts_different_tokens(model):
    twins = [PROMPTS[0]] * 4
    first = _batch(model, twins, seed=7)
    assert len({str(tokens) for tokens in first}) == 4
    assert _batch(model, twins, seed=7) == first
    assert _batch(model, twins, seed=8) != first
    assert first[0] == _alone(model, PROMPTS[0], seed=7)


def test_manual_seed_decides_without_a_seed(model):
    torch.manual_seed(5)
    first, second = _batch(model), _batch(model)
    torch.manual_seed(5)
    assert _batch(model) == first != second


def test_the_batching_configuration_s_seed(model):
    first, again = (_batch(model, batching=_batching(seed=9)) for _ in range(2))
    assert first == again != _batch(model, batching=_batching(seed=10))


def test_a_seed_of_the_generation_config(model):
    settings = _settings()
    settings.seed = 7
    assert _batch(model, settings=settings) == _batch(model, seed=7)


def test_requests_are_seeded_when_they_are_added(model):
    """As `transformers serve` does for the seed of a request: `torch.manual_seed`, then this."""
    with _manager(model) as manager:
        names = []
        for prompt in (PROMPTS[3], PROMPTS[0]):
            torch.manual_seed(11)
            names.append(manager.add_request(prompt))
        drawn = [result.generated_tokens for result in _results(manager, names)]
    torch.manual_seed(11)
    seed = int(torch.randint(2**63 - 1, ()))
    assert drawn == [_alone(model, prompt, seed=seed) for prompt in (PROMPTS[3], PROMPTS[0])]


def test_the_loop_leaves_the_default_generator_alone(model):
    """transformers seeds it when the loop begins: before or after a request is added, by chance."""
    manager = model.init_continuous_batching(_settings(), _batching())
    before = torch.get_rng_state()
    manager.warmup()
    manager.start()
    manager.stop()
    manager.destroy()
    assert torch.equal(torch.get_rng_state(), before)


def test_requests_of_one_seed_share_none_with_further_sequences(model):
    settings = _settings(num_return_sequences=3)
    outputs = model.generate_batch([PROMPTS[0]] * 3, settings, _batching(), seed=7)
    assert len(outputs) == 9 == len({str(output.generated_tokens) for output in outputs.values()})


def test_a_request_s_own_name_is_no_further_sequence(model):
    with _manager(model) as manager:
        manager.add_request(PROMPTS[0], request_id="mine__child#0", seed=SEEDS[0])
        [result] = _results(manager, ["mine__child#0"])
    assert result.generated_tokens == _alone(model, PROMPTS[0], seed=SEEDS[0])


def test_requests_of_a_manager_with_one_value_each(model):
    values = {"seed": SEEDS, "temperature": torch.tensor([0.5, 1.0, 1.5, 2.0])}
    with _manager(model) as manager:
        names = manager.add_requests(PROMPTS, **values, top_k=torch.tensor([9]))
        drawn = [result.generated_tokens for result in _results(manager, names)]
    assert drawn == _batch(model, **values, top_k=9)
    assert drawn != _batch(model, **values)


def test_seeds_of_numpy(model):
    expected = _batch(model, seed=SEEDS)
    assert _batch(model, seed=list(np.array(SEEDS))) == expected


def test_a_generator_gives_the_seed_of_a_batch(model):
    first, again = (_batch(model, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert first == again != _batch(model, generator=torch.Generator().manual_seed(4))
    with pytest.raises(ValueError, match="seed and generator were both given"):
        _batch(model, generator=torch.Generator(), seed=3)


def test_what_transformers_ignores_of_a_request_is_ignored(model):
    with _manager(model) as manager:
        name = manager.add_request(PROMPTS[0], seed=3, top_k=5, min_tokens_to_keep=2)
        (result,) = _results(manager, [name])
    assert result.generated_tokens == _alone(model, PROMPTS[0], seed=3, top_k=5)


def test_a_paged_cache_with_more_sequences_is_refused(model):
    call = {"cache_implementation": "paged", "num_return_sequences": 2}
    with pytest.raises(ValueError, match="one sequence a prompt, and 2 are asked for"):
        model.generate(torch.tensor([PROMPTS[0]]), generation_config=_settings(), **call, seed=1)


def test_a_batch_warns_of_a_seed_once(model):
    with pytest.warns(UserWarning, match="greedy decoding draws nothing") as told:
        _batch(model, settings=_settings(do_sample=False), seed=3)
    assert len([w for w in told if "greedy" in str(w.message)]) == 1
    assert told[0].filename == __file__


def test_greedy_decoding_warns_of_a_seed(model):
    words = "seed was given, but greedy decoding draws nothing"
    greedy = _manager(model, _settings(do_sample=False))
    with greedy as manager, pytest.warns(UserWarning, match=words):
        manager.add_request(PROMPTS[0], seed=3)


def test_mirostat_is_refused_by_name(model):
    settings = _settings()
    settings.mirostat_tau = 2.0
    ids, paged = torch.tensor([PROMPTS[0]]), {"cache_implementation": "paged"}
    paged |= {"continuous_batching_config": _batching(), "generation_config": _settings()}
    with _manager(model) as manager:
        calls = [
            lambda: _batch(model, settings=settings),
            lambda: _batch(model, mirostat_tau=2.0),
            lambda: _batch(model, mirostat_tau=[0.0, 2.0, 0.0, 0.0]),
            lambda: model.generate(ids, **paged, mirostat_tau=2.0),
            lambda: manager.add_request(PROMPTS[0], mirostat_tau=2.0),
            lambda: manager.add_requests(PROMPTS, mirostat_tau=2.0),
        ]
        for call in calls:
            with pytest.raises(ValueError, match="mirostat_tau follows a text from token to tok"):
                call()
        name = manager.add_request(PROMPTS[0], seed=3, mirostat_tau=0.0, mirostat_eta=None)
        [result] = _results(manager, [name])
    plain = _alone(model, PROMPTS[0], seed=3)
    assert result.generated_tokens == plain
    rows = model.generate(ids, **paged, seed=torch.tensor([3]), mirostat_tau=0.0)
    assert rows[0, 0, 3:].tolist() == plain


@pytest.mark.parametrize("values", [{"top_a": 0.5}, {"top_n_sigma": [0.0, 1.0, 0.0, 0.0]}], ids=str)
def test_greedy_decoding_warns_of_what_transformers_does_not_know(model, values, recwarn):
    (name,) = values
    words = f"{name} was given, but greedy decoding draws nothing"
    greedy = _settings(do_sample=False)
    with pytest.warns(UserWarning, match=words) as told:
        _batch(model, settings=greedy, **values)
    assert [w.filename for w in told if words in str(w.message)] == [__file__]
    with _manager(model, greedy) as manager, pytest.warns(UserWarning, match=words):
        manager.add_request(PROMPTS[0], **{name: 0.5})
    _batch(model, settings=greedy, **{name: 0.0})
    assert not [w for w in recwarn if words in str(w.message)]


def test_transformers_serve(model, only_ours):
    """What runs behind its HTTP routes. The seed of an OpenAI request reaches it in this way."""
    utils = pytest.importorskip(
        "transformers.cli.serving.utils", reason="needs transformers' extra `serving`"
    )

    class Words:
        def decode(self, ids, **kwargs):
            return " ".join(map(str, ids))

    async def served():
        manager = utils.CBGenerateManager(_batching())
        manager.init_cb(model, _settings())
        tasks = []
        for row, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
            utils.set_torch_seed(seed)
            inputs = {"input_ids": prompt}
            answer = manager.generate_non_streaming(model, Words(), inputs, _settings(), f"r{row}")
            tasks.append(asyncio.create_task(answer))
            await asyncio.sleep(0)  # the request is added
        answers = [await task for task in tasks]
        manager.stop()
        return [ids for _, _, ids in answers]

    drawn = asyncio.run(served())
    for row, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        torch.manual_seed(seed)
        own = int(torch.randint(2**63 - 1, ()))
        assert drawn[row] == _alone(model, prompt, seed=own)


def test_generate_with_a_paged_cache(model):
    ids = torch.tensor([PROMPTS[0], PROMPTS[0]])
    call = {"generation_config": _settings(), "cache_implementation": "paged", "max_new_tokens": 8}
    call["continuous_batching_config"] = _batching()
    own = {"top_n_sigma": 1.5, "top_a": torch.tensor([0.0, 0.3])}
    rows = model.generate(
        ids, **call, **own, seed=torch.tensor([3, 4]), temperature=torch.tensor([1.0, 0.5])
    )
    expected = [
        _alone(model, PROMPTS[0], seed=3, top_n_sigma=1.5),
        _alone(model, PROMPTS[0], seed=4, temperature=0.5, top_n_sigma=1.5, top_a=0.3),
    ]
    assert rows.reshape(2, -1)[:, 3:].tolist() == expected


# What is drawn from


def test_first_tokens_follow_the_softmax(model):
    with torch.no_grad():
        logits = model(torch.tensor([PROMPTS[0]])).logits[0, -1]
    expected = (logits.double() / 1.5).softmax(0)
    draws = 400
    settings = _settings(max_new_tokens=1, temperature=1.5)
    batching = _batching(max_batch_tokens=64)
    drawn = _batch(model, [PROMPTS[0]] * draws, settings, batching, seed=1)
    counts = torch.bincount(torch.tensor(drawn).flatten(), minlength=VOCAB)
    likely = expected * draws >= 5
    observed = torch.cat([counts[likely], counts[~likely].sum()[None]])
    wanted = torch.cat([expected[likely], expected[~likely].sum()[None]]) * draws
    assert scipy.stats.chisquare(observed, wanted).pvalue > 1e-3


def test_log_probabilities_are_transformers(model):
    """The logarithm of the softmax of the processed scores, in fp32."""
    own = {
        "temperature": [0.7, 1.0, 1.5, 0.9],
        "top_k": [0, 4, 0, 0],
        "top_p": [1.0, 1.0, 0.8, 1.0],
    }
    outputs = model.generate_batch(
        PROMPTS,
        generation_config=_settings(),
        continuous_batching_config=_batching(return_logprobs=True),
        seed=SEEDS,
        **own,
    )
    for row, output in enumerate(outputs.values()):
        ids = torch.tensor([PROMPTS[row] + output.generated_tokens])
        with torch.no_grad():
            logits = model(ids).logits[0, len(PROMPTS[row]) - 1 : -1]
        values = {name: value[row] for name, value in own.items()}
        scores = torch.stack([mask_logits(step, **values) for step in logits])
        theirs = scores.log_softmax(-1).gather(1, ids[0, len(PROMPTS[row]) :, None])[:, 0]
        # Logits of paged attention and of plain attention differ in their last bits.
        torch.testing.assert_close(torch.tensor(output.logprobs), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("do_sample", [True, False])
def test_log_probabilities_of_greedy_requests(model, do_sample):
    own = {"temperature": 0.0} if do_sample else {}
    outputs = model.generate_batch(
        PROMPTS,
        generation_config=_settings(do_sample=do_sample),
        continuous_batching_config=_batching(return_logprobs=True),
        **own,
    )
    for output in outputs.values():
        assert len(output.logprobs) == NEW_TOKENS
        assert all(value == 0 if do_sample else value < 0 for value in output.logprobs)


class Cubed(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores**3 / 20


@pytest.fixture
def cubed(model, monkeypatch):
    """A processor of the model's own that follows the warpers."""
    plain = type(model)._get_logits_processor

    def with_one_more(self, *args, **kwargs):
        return LogitsProcessorList([*plain(self, *args, **kwargs), Cubed()])

    monkeypatch.setattr(type(model), "_get_logits_processor", with_one_more)


def test_processors_that_stay_run_before_and_behind(model, cubed):
    """Suppressed tokens are taken out before the warpers, the model's own comes behind them."""
    for own in ({"suppress_tokens": list(range(2, 40))}, {}):
        settings = _settings(temperature=1.3, top_p=0.9, **own)
        expected = [
            model.generate(torch.tensor([p]), generation_config=settings, seed=s)[
                0, len(p) :
            ].tolist()
            for p, s in zip(PROMPTS, SEEDS, strict=True)
        ]
        batching = _batching(drop_unsupported_processors=False)
        assert _batch(model, settings=settings, batching=batching, seed=SEEDS) == expected


def test_a_parameter_that_only_requests_name_stands_where_its_warper_would(model, cubed):
    """Before the model's own, whatever the configuration sets."""
    settings = _settings()
    batching = _batching(drop_unsupported_processors=False)
    hot = torch.tensor([2.5])
    seeds = list(range(8))
    expected = [
        model.generate(
            torch.tensor([PROMPTS[0]]), generation_config=settings, seed=s, temperature=hot
        )[0, 3:].tolist()
        for s in seeds
    ]
    prompts = [PROMPTS[0]] * 8
    drawn = _batch(model, prompts, settings, batching, seed=seeds, temperature=2.5)
    assert drawn == expected != _batch(model, prompts, settings, batching, seed=seeds)


@pytest.mark.parametrize("last", [False, True, [True, False, True, False]], ids=str)
def test_a_temperature_behind_all_that_stays(model, cubed, last):
    """The filters before it see none, and so does what follows them."""
    settings = _settings(min_p=0.1)
    batching = _batching(drop_unsupported_processors=False)
    drawn = _batch(model, PROMPTS, settings, batching, **HOT, temperature_last=last)
    for row, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        own = last[row] if isinstance(last, list) else last
        ids = torch.tensor([prompt])
        call = {"seed": seed, "temperature": 2.0, "temperature_last": own}
        rows = model.generate(ids, generation_config=settings, **call)
        assert drawn[row] == rows[0, len(prompt) :].tolist()


def test_a_warper_that_stays_has_the_configuration_s_value_and_no_request_s(model):
    settings = _settings(top_p=0.9, num_beams=2)  # transformers then keeps two tokens at least
    settings._eos_token_tensor = None
    prompts = PROMPTS[:1] * 40
    drawn = {tokens[0] for tokens in _batch(model, prompts, settings, seed=1)}
    with torch.no_grad():
        logits = model(torch.tensor(prompts[:1])).logits[0, -1:]
    kept, fewer = (
        {i for i, score in enumerate(warper(None, logits)[0].tolist()) if score > -torch.inf}
        for warper in (TopPLogitsWarper(p, min_tokens_to_keep=2) for p in (0.9, 0.5))
    )
    assert drawn <= kept and not drawn <= fewer
    with _manager(model, settings) as manager, pytest.raises(ValueError, match="top_p of a requ"):
        manager.add_request(PROMPTS[0], top_p=0.5)


def test_log_probabilities_of_given_scores(model, monkeypatch):
    """transformers' own, for the same tokens."""
    scores = torch.randn(4, 500, generator=torch.Generator().manual_seed(0)) * 3
    manager = model.init_continuous_batching(
        _settings(top_k=40, temperature=0.7), _batching(return_logprobs=True)
    )
    runner, processors = manager._create_batch_processor().model_runner, manager.logit_processor
    manager.destroy()
    arguments = torch.zeros(processors.tensors_required, 4, dtype=torch.int32)
    processors.fill_defaults(arguments)
    ours, theirs = (torch.zeros(2, 4, dtype=torch.int32) for _ in range(2))
    runner._sample(processors(None, scores, arguments)[None], ours)
    monkeypatch.setattr(torch, "multinomial", lambda probs, num_samples: ours[0, :, None].long())
    ModelRunner._sample(runner, mask_logits(scores, 0.7, top_k=40)[None], theirs)
    assert torch.equal(theirs[0], ours[0])
    # They round the quotients by the temperature, up to 16 here, then exponentials and their sum.
    torch.testing.assert_close(
        *(values[1].view(torch.float32) for values in (ours, theirs)), rtol=0, atol=40 * 2**-24
    )


def test_no_false_warning_of_a_dropped_warper(model, caplog):
    settings = _settings(
        temperature=0.7, top_p=0.9, min_p=0.05, epsilon_cutoff=0.01, eta_cutoff=0.1
    )
    _batch(model, settings=settings, seed=SEEDS)
    assert not [text for text in caplog.messages if "Warper" in text]


# One bad request, and wrong values


@pytest.fixture
def spoiled(monkeypatch, model):
    """Scores of the requests with seed 99 are NaN at step 3; no id below 0 is looked up."""
    process = continuous.FusedProcessors.__call__
    embed = model.model.embed_tokens.forward

    def spoiled(self, input_ids, scores, arguments):
        scores = process(self, input_ids, scores, arguments)
        bad = (self.draw["seed"] == 99) & (self.draw["step"] == 3)
        return scores.masked_fill(bad[:, None], float("nan"))

    def checked(ids):
        assert (ids >= 0).all()
        return embed(ids)

    monkeypatch.setattr(continuous.FusedProcessors, "__call__", spoiled)
    monkeypatch.setattr(model.model.embed_tokens, "forward", checked)


SYNCHRONOUS = {"use_async_batching": False}


@pytest.mark.parametrize("is_asynchronous", [False, True])
@pytest.mark.parametrize("logprobs", [False, True])
def test_a_request_that_cannot_be_drawn_for_fails_alone(
    model, spoiled, asynchronous, is_asynchronous, logprobs
):
    kind = asynchronous if is_asynchronous else SYNCHRONOUS
    bad = [16, 17] * 6  # the next batch, which may be under way then, fills its page
    prompts, seeds = [*PROMPTS[:2], bad, *PROMPTS[2:]], [*SEEDS[:2], 99, *SEEDS[2:]]
    outputs = model.generate_batch(
        prompts, _settings(), _batching(**kind, return_logprobs=logprobs), seed=seeds
    )
    results = list(outputs.values())
    failed = results.pop(2)
    assert [result.generated_tokens for result in results] == [
        _alone(model, p, seed=s) for p, s in zip(PROMPTS, SEEDS, strict=True)
    ]
    assert "request req_2 cannot be sampled at new token 3" in failed.error
    assert failed.generated_tokens == _alone(model, bad, seed=99)[:3]


def test_a_request_that_is_gone_does_not_fail(model):
    """Its last batch may be under way when it is cancelled, or has to leave the cache."""
    manager = model.init_continuous_batching(_settings(), _batching())
    gone = RequestState("gone", PROMPTS[0])
    manager._create_batch_processor()._fail(gone)
    manager.destroy()
    assert manager.output_router.output_queue.empty() and gone.error is None


@pytest.mark.parametrize("is_asynchronous", [False, True])
def test_requests_that_fail_make_room_for_those_that_wait(
    model, spoiled, asynchronous, left, is_asynchronous
):
    """Nothing new begins after a request had to leave the cache, until one has ended."""
    kind = asynchronous if is_asynchronous else SYNCHRONOUS
    batching = _batching(**kind, num_blocks=3, max_batch_tokens=64)
    prompts = [[20 + i, 14] * 7 for i in range(3)]  # with two new tokens a page is full
    outputs = model.generate_batch(prompts, _settings(), batching, seed=[99] * 3)
    assert left
    assert ["cannot be sampled" in output.error for output in outputs.values()] == [True] * 3


@pytest.mark.parametrize(
    ("own", "error", "words"),
    [
        ({"temperature": -1.0}, ValueError, "temperature is -1.0, out of range"),
        ({"top_k": 2.5}, TypeError, "top_k must be an integer"),
        ({"top_p": "much"}, TypeError, "top_p must be a number"),
        ({"seed": 1.5}, TypeError, "seed must be an integer"),
        ({"top_a": 1.5}, ValueError, "top_a is 1.5, out of range"),
        ({"temprature": 0.5}, TypeError, "did you mean temperature?"),
    ],
)
def test_wrong_values_of_a_request_are_told_to_its_caller(model, own, error, words):
    with _manager(model) as manager, pytest.raises(error, match=words):
        manager.add_request(PROMPTS[0], **own)


def test_wrong_values_of_a_batch_are_told_to_its_caller(model):
    with pytest.raises(ValueError, match=r"temperature is -1.0, out of range"):
        _batch(model, temperature=[1.0, -1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("own", "words"),
    [({"seed": [1, 2]}, "seed has 2 values for 4 prompts"), ({"top_p": [0.5]}, "top_p has 1 val")],
)
def test_as_many_values_as_prompts(model, own, words):
    with pytest.raises(ValueError, match=words):
        _batch(model, **own)


# Managers that are kept


def test_a_kept_manager_is_that_of_the_patch(model):
    settings = _settings()
    model.generate_batch(PROMPTS, settings, _batching(), persistent_manager=True, seed=SEEDS)
    kept = model._cached_continuous_batching_manager
    assert continuous.is_fused(kept)
    again = model.generate_batch(PROMPTS, settings, _batching(), seed=SEEDS)
    expected = [_alone(model, p, seed=s) for p, s in zip(PROMPTS, SEEDS, strict=True)]
    assert [output.generated_tokens for output in again.values()] == expected

    model.generate_batch(PROMPTS, settings, _batching(), persistent_manager=True, seed=SEEDS)
    unpatch(model)
    try:
        plain = model.init_continuous_batching(settings, _batching())
        assert not continuous.is_fused(plain)
        plain.destroy()
        model.generate_batch(PROMPTS, settings, _batching(), persistent_manager=True)
        with patched(model):
            assert _batch(model, seed=SEEDS) == expected
    finally:
        patch(model)
        model.destroy_cached_continuous_batching_manager()


def test_the_draw_is_one_call_a_step(model, monkeypatch):
    calls = []

    def counted(scores, **kwargs):
        calls.append(len(scores))
        return sample(scores, **kwargs)

    monkeypatch.setattr(continuous, "sample", counted)
    _batch(model, seed=SEEDS, temperature=[0.5, 1.0, 1.5, 2.0], batching=_batching())
    assert calls == [len(PROMPTS)] * NEW_TOKENS
