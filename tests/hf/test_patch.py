"""`patch`, `unpatch`, `patched`: plain `model.generate` on the fused sampler, and nothing else."""

# mypy: disable-error-code="arg-type, call-arg, misc"
# (transformers types configurations and `generate` more narrowly than it calls them)

import copy
import importlib
import inspect
import io
import json
import pickle
import threading
from unittest import mock

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the `hf` extra")

from tiny_transformers import tiny_gpt2, tiny_t5  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402
from transformers import (  # noqa: E402
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LogitsProcessor,
    PreTrainedTokenizerFast,
    TextIteratorStreamer,
    WatermarkingConfig,
    pipeline,
)

from fused_sampler import SamplingParams  # noqa: E402
from fused_sampler.hf import fused_generate, patch, patched, unpatch  # noqa: E402
from fused_sampler.params import PARAMETERS, SETTINGS  # noqa: E402

hf_patch = importlib.import_module("fused_sampler.hf.patch")

VOCAB, PAD, EOS = 64, 0, 2
PROMPTS = torch.tensor([[5, 6, 7], [8, 9, 10]])
SAMPLE = {"do_sample": True, "max_new_tokens": 8, "top_p": 0.95, "seed": 7}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return tiny_gpt2(vocab_size=VOCAB, bos_token_id=1, eos_token_id=EOS, pad_token_id=PAD)


def _text(ids):
    """Token i is the character i places after ";"; the tokenizer reads one character a token."""
    return "".join(chr(ord(";") + token) for token in ids)


@pytest.fixture(scope="module")
def tokenizer():
    core = Tokenizer(models.WordLevel({_text([i]): i for i in range(VOCAB)}, unk_token=_text([3])))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=_text([PAD]), eos_token=_text([EOS]), padding_side="left"
    )


@pytest.fixture
def no_multinomial(monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("transformers' own sampling ran")

    monkeypatch.setattr(torch, "multinomial", forbidden)


def _direct(model, **kwargs):
    return model.generate(PROMPTS, custom_generate=fused_generate, **{**SAMPLE, **kwargs})


def test_plain_generate_draws_what_custom_generate_draws(model, no_multinomial):
    expected = _direct(model)
    patch(model)
    assert torch.equal(model.generate(PROMPTS, **SAMPLE), expected)
    assert not torch.equal(model.generate(PROMPTS, **{**SAMPLE, "seed": 8}), expected)


def test_without_a_seed_manual_seed_decides(model, no_multinomial):
    patch(model)
    call = {"do_sample": True, "max_new_tokens": 8}
    torch.manual_seed(3)
    first, second = model.generate(PROMPTS, **call), model.generate(PROMPTS, **call)
    torch.manual_seed(3)
    assert torch.equal(model.generate(PROMPTS, **call), first)
    assert not torch.equal(first, second)


def test_unpatch_restores_everything(model):
    attributes, kind = dict(vars(model)), type(model)
    assert patch(model) is model
    model.generate(PROMPTS, **SAMPLE)
    assert type(model) is kind and vars(model) == attributes
    assert unpatch(model) is model
    assert type(model) is kind and vars(model) == attributes
    with pytest.raises(ValueError, match="seed"):
        model.generate(PROMPTS, **SAMPLE)


def test_patching_twice_is_patching_once(model):
    patch(patch(model))
    assert hf_patch.is_patched(model)
    assert not hf_patch.is_patched(unpatch(model))
    assert not hf_patch.is_patched(unpatch(model))


def test_a_patched_model_is_still_what_it_was(model):
    patch(model)
    assert isinstance(model, GPT2LMHeadModel)
    assert repr(model).startswith("GPT2LMHeadModel(")
    assert inspect.signature(model.forward) == inspect.signature(GPT2LMHeadModel.forward).replace(
        parameters=list(inspect.signature(GPT2LMHeadModel.forward).parameters.values())[1:]
    )
    assert inspect.getfile(type(model)) == inspect.getfile(GPT2LMHeadModel)


def test_two_models_of_a_class_are_patched_one_by_one(model):
    other = copy.deepcopy(model)
    patch(model)
    assert not hf_patch.is_patched(other)
    with pytest.raises(ValueError, match="seed"):
        other.generate(PROMPTS, **SAMPLE)


def test_patched_ends_with_its_block(model, no_multinomial):
    with patched(model) as same:
        assert same is model
        model.generate(PROMPTS, **SAMPLE)
    assert not hf_patch.is_patched(model)


def test_patched_ends_with_an_error_too(model):
    with pytest.raises(KeyError), patched(model):
        raise KeyError
    assert not hf_patch.is_patched(model)


def test_patched_inside_patched_leaves_the_outer_one(model, no_multinomial):
    with patched(model):
        with patched(model):
            pass
        model.generate(PROMPTS, **SAMPLE)
    assert not hf_patch.is_patched(model)
    patch(model)
    with patched(model):
        pass
    assert hf_patch.is_patched(model)


def test_unpatch_inside_patched_takes_it_off(model):
    with patched(model):
        unpatch(model)
        assert not hf_patch.is_patched(model)
        later = patched(model)
        later.__enter__()
    assert hf_patch.is_patched(model), "the later block is open still"
    later.__exit__(None, None, None)
    assert not hf_patch.is_patched(model)


def test_patched_in_two_threads_ends_with_the_last(model, no_multinomial):
    inside, leave = threading.Barrier(2), threading.Event()

    def other():
        with patched(model):
            inside.wait(10)
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    with patched(model):
        inside.wait(10)
    model.generate(PROMPTS, **SAMPLE)  # the other block is open still
    leave.set()
    thread.join()
    assert not hf_patch.is_patched(model)


def test_a_seed_of_the_generation_config_is_used(model):
    patch(model)
    expected = model.generate(PROMPTS, **SAMPLE)
    options = {name: value for name, value in SAMPLE.items() if name != "seed"}
    config = GenerationConfig(**options, seed=7, eos_token_id=EOS, pad_token_id=PAD)
    assert torch.equal(model.generate(PROMPTS, generation_config=config), expected)
    other = model.generate(PROMPTS, generation_config=config, seed=8)
    assert not torch.equal(other, expected)
    for place in ([PROMPTS, config], [PROMPTS]):
        given = {} if len(place) > 1 else {"generation_config": config}
        with pytest.raises(ValueError, match="which is Hugging Face's own and has no seed"):
            model.generate(*place, num_beams=2, **given)


@pytest.mark.parametrize("how", [{}, {"custom_generate": fused_generate}], ids=["plain", "custom"])
def test_a_seed_for_greedy_decoding_is_a_warning(model, how):
    patch(model)
    with pytest.warns(UserWarning, match="greedy decoding draws nothing") as told:
        model.generate(PROMPTS, do_sample=False, max_new_tokens=2, seed=7, **how)
    assert [warning.filename for warning in told] == [__file__], "once, at the caller's line"


# What belongs to a call


class Generating(LogitsProcessor):
    """Another model's `generate` at each step, as of one that drafts, judges or searches."""

    def __init__(self, model, **call):
        self.model, self.call, self.written = model, call, []

    def __call__(self, input_ids, scores):
        self.written.append(self.model.generate(input_ids[:1], max_new_tokens=3, **self.call))
        return scores


@pytest.mark.parametrize(
    "call", [{"do_sample": True}, {"do_sample": False}, {"num_beams": 2}], ids=str
)
def test_another_model_inside_of_a_call_is_left_alone(model, call):
    other = patch(copy.deepcopy(model))
    patch(model)
    beside = Generating(other, **call)
    given = {"seed": torch.tensor([3, 4]), "temperature": torch.tensor([0.0, 0.0])}
    drawn = model.generate(
        PROMPTS, do_sample=True, max_new_tokens=4, **given, logits_processor=[beside]
    )
    assert torch.equal(drawn, model.generate(PROMPTS, do_sample=False, max_new_tokens=4))
    if call == {"do_sample": True}:
        greedy = [
            other.generate(w[:, :-3], do_sample=False, max_new_tokens=3) for w in beside.written
        ]
        assert not all(map(torch.equal, beside.written, greedy))


def test_a_generate_that_names_a_parameter_hands_it_on(model):
    class Own(GPT2LMHeadModel):
        def generate(self, inputs=None, temperature=1.0, **kwargs):
            return super().generate(inputs, temperature=temperature, **kwargs)

    patch(model)
    call = {"do_sample": True, "max_new_tokens": 6, "temperature": torch.tensor([0.5, 1.5])}
    expected = model.generate(PROMPTS, **call, seed=7)
    model.__class__ = Own
    assert torch.equal(patch(model).generate(PROMPTS, **call, seed=7), expected)


def test_values_by_prompt_for_a_model_that_decodes_prompt_by_prompt(model):
    model.__class__ = type("RagSequenceForGeneration", (GPT2LMHeadModel,), {})
    with pytest.raises(ValueError, match="seed has 2 values, but RagSequenceForGeneration"):
        patch(model).generate(PROMPTS, do_sample=True, seed=torch.tensor([1, 2]))


@pytest.mark.parametrize(
    ("generator", "error", "words"),
    [(5, TypeError, "generator must be a torch.Generator, got 5"), ("meta", ValueError, "CPU gen")],
)
def test_a_generator_that_is_none(model, generator, error, words):
    if generator == "meta":
        generator = mock.Mock(spec=torch.Generator, device=torch.device("cuda"))
    with pytest.raises(error, match=words):
        patch(model).generate(PROMPTS, do_sample=True, max_new_tokens=2, generator=generator)


def test_a_streamer_by_place_is_ended_by_an_error(model):
    streamer = mock.Mock()
    failing = [mock.Mock(side_effect=ZeroDivisionError)]
    with pytest.raises((ZeroDivisionError, ValueError)):
        patch(model).generate(PROMPTS, None, failing, None, None, None, None, streamer)
    streamer.end.assert_called_once()


@pytest.mark.parametrize("seed", [None, 7, torch.tensor([3, 4])], ids=str)
def test_another_default_device(seed):
    values = {"temperature": torch.tensor([0.5, 1.5])}
    config = GenerationConfig(do_sample=True, num_return_sequences=2)
    call = hf_patch.Call(seed, values=values)
    model = mock.Mock(config=GPT2Config(), _device_mesh=None)
    with torch.device("meta"), call.loop(model, 4, config, torch.device("cpu")) as draws:
        draws.lengths += 1
    devices = {tensor.device.type for tensor in (draws.seed, draws.first_step, draws.lengths)}
    assert devices == {"cpu"} == {value.device.type for value in draws.values.values()}


# Parameters as tensors

BY_PROMPT = {
    "temperature": torch.tensor([0.3, 1.6]),
    "top_k": torch.tensor([0, 7]),
    "top_p": torch.tensor([0.6, 1.0]),
    "min_p": torch.tensor([0.0, 0.02]),
    "epsilon_cutoff": torch.tensor([0.01, 0.0]),
    "eta_cutoff": torch.tensor([0.0, 0.1]),
    "top_n_sigma": torch.tensor([0.0, 1.5]),
    "top_a": torch.tensor([0.5, 0.0]),
    "top_h": torch.tensor([0.6, 1.0]),
    "typical_p": torch.tensor([1.0, 0.7]),
    "temperature_last": torch.tensor([True, False]),
    "xtc_threshold": torch.tensor([0.02, 0.1]),
    "xtc_probability": torch.tensor([0.0, 0.7]),
    "mirostat_mu": torch.tensor([4.0, torch.inf]),
    "mirostat_tau": torch.tensor([0.0, 2.0]),
    "mirostat_eta": torch.tensor([0.1, 0.9]),
}
OWN = hf_patch.warpers.OWN  # those that transformers does not know
OWN_EDITS = hf_patch.OWN[len(OWN) :]  # tested in test_edits.py
# Of them: a value with which most tokens are never drawn, and what else it takes for that.
STRICT = {
    "top_n_sigma": 0.5,
    "top_a": 1.0,
    "temperature_last": True,
    "xtc_threshold": 0.01,
    "xtc_probability": 1.0,
    "mirostat_mu": 2.0,
    "mirostat_tau": 1.0,
    "mirostat_eta": 1.0,
}
if "top_h" in OWN:  # before transformers 5
    STRICT["top_h"] = 0.3
BESIDE = {
    "temperature_last": {"min_p": 0.1},
    "xtc_threshold": {"xtc_probability": 0.9},
    "xtc_probability": {"xtc_threshold": 0.02},
    "mirostat_eta": {"mirostat_tau": 3.0},
}


def test_every_parameter_may_be_a_tensor():
    assert set(BY_PROMPT) == {*PARAMETERS, *OWN} == {*hf_patch.warpers.PLACEHOLDERS, *OWN}
    assert set(STRICT) == set(OWN)


@pytest.mark.parametrize("name", BY_PROMPT)
def test_values_by_prompt_change_what_is_drawn(model, name):
    """Or the tests of them would say nothing."""
    patch(model)
    call = {"do_sample": True, "max_new_tokens": 20, "top_k": 0, "seed": torch.tensor([3, 4])}
    call |= {"temperature": 2.0, **BESIDE.get(name, {})}
    plain = model.generate(PROMPTS, **call)
    assert not torch.equal(model.generate(PROMPTS, **call | {name: BY_PROMPT[name]}), plain)


FILTERING = [
    name for name in BY_PROMPT if not name.startswith("mirostat_")
]  # which takes their place


@pytest.mark.parametrize(
    "names", [*([name] for name in BY_PROMPT), FILTERING, list(BY_PROMPT)], ids=str
)
@pytest.mark.parametrize("sequences", [1, 3])
def test_a_value_a_prompt_is_that_of_its_prompt_alone(model, names, sequences):
    patch(model)
    call = {"do_sample": True, "max_new_tokens": 8, "top_k": 0, "num_return_sequences": sequences}
    beside = BESIDE.get(names[0], {}) if len(names) == 1 else {}
    call |= {name: BY_PROMPT[name] for name in names}
    together = model.generate(PROMPTS, **call, **beside, seed=torch.tensor([3, 4]))
    for prompt in range(2):
        alone = {name: BY_PROMPT[name][prompt].item() for name in names}
        alone = {name: value for name, value in alone.items() if value != SETTINGS[name].off}
        call = {"do_sample": True, "max_new_tokens": 8, "top_k": 0, **beside, **alone}
        expected = model.generate(
            PROMPTS[prompt : prompt + 1],
            **call,
            num_return_sequences=sequences,
            seed=torch.tensor([3 + prompt]),
        )
        rows = together[prompt * sequences : (prompt + 1) * sequences]
        assert torch.equal(rows[:, : expected.shape[1]], expected)


def test_a_value_a_returned_row(model):
    patch(model)
    call = {"do_sample": True, "max_new_tokens": 8, "top_k": 0, "num_return_sequences": 2}
    rows = model.generate(PROMPTS, **call, temperature=torch.tensor([0.0, 1.0, 1.0, 0.0]), seed=1)
    greedy = model.generate(PROMPTS, do_sample=False, max_new_tokens=8)
    assert torch.equal(rows[[0, 3]], greedy)
    assert not torch.equal(rows[[1, 2]], greedy)


def test_tensors_apply_where_their_warpers_stand(model):
    """A watermark stays in the list, behind top-p: the tensor must still act before it."""
    patch(model)
    call = {"do_sample": True, "max_new_tokens": 8, "top_k": 0, "seed": 5}
    call["watermarking_config"] = WatermarkingConfig(bias=3.0)
    numbers = {"temperature": 1.5, "top_p": 0.8}
    tensors = {name: torch.tensor([value] * 2) for name, value in numbers.items()}
    expected = model.generate(PROMPTS, **call, **numbers)
    assert torch.equal(model.generate(PROMPTS, **call, **tensors), expected)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        ({"temperature": torch.tensor([1.0, -2.0])}, ValueError, r"temperature is -2.0 in row 1"),
        ({"top_k": torch.tensor([1.0, 2.0])}, TypeError, "top_k must be an integer tensor"),
        ({"top_p": torch.tensor([0.1, 0.2, 0.3])}, ValueError, r"top_p has shape \[3\] for 2 prom"),
        ({"top_p": torch.tensor([0.1, 0.2]), "num_beams": 2}, ValueError, "top_p was given, but"),
    ],
)
def test_tensors_that_do_not_fit(model, call, error, words):
    with pytest.raises(error, match=words):
        patch(model).generate(PROMPTS, do_sample=True, max_new_tokens=3, **call)


# Parameters that transformers does not know


def _own(model, how, **values):
    """What is drawn at a temperature at which each of them matters; `how` chooses the loop."""
    call = {"do_sample": True, "max_new_tokens": 12, "top_k": 0, "temperature": 2.0, "seed": 5}
    return model.generate(PROMPTS, **call | how | values)


@pytest.fixture(params=["plain", "custom"])
def how(request, model):
    """The two ways to our loop."""
    if request.param == "plain":
        patch(model)
        return {}
    return {"custom_generate": fused_generate}


@pytest.mark.parametrize("name", OWN)
def test_a_number_is_that_number_for_each_prompt(model, how, name):
    how = {**how, **BESIDE.get(name, {})}
    drawn = _own(model, how, **{name: STRICT[name]})
    tensors = [torch.full((rows,), STRICT[name]) for rows in (1, len(PROMPTS))]
    assert all(torch.equal(_own(model, how, **{name: each}), drawn) for each in tensors)
    assert not torch.equal(_own(model, how), drawn)


@pytest.mark.parametrize("name", OWN)
def test_a_tensor_in_a_call_of_fused_generate(model, name):
    how = {"custom_generate": fused_generate, "num_return_sequences": 2, **BESIDE.get(name, {})}
    seeds, no = {"seed": torch.tensor([1, 2, 3, 4])}, SETTINGS[name].off
    strict, off = (_own(model, how, **seeds, **{name: v}) for v in (STRICT[name], None))
    mixed = _own(model, how, **seeds, **{name: torch.tensor([STRICT[name], no])})
    rows = _own(model, how, **seeds, **{name: torch.tensor([no, STRICT[name], no, no])})
    assert torch.equal(mixed, torch.cat([strict[:2], off[2:]]))
    assert torch.equal(rows, torch.cat([off[:1], strict[1:2], off[2:]]))
    assert not torch.equal(strict, off)


@pytest.mark.parametrize("place", ["the call", "the model"])
@pytest.mark.parametrize("name", OWN)
def test_a_generation_config_may_hold_it(model, how, name, place):
    how = {**how, **BESIDE.get(name, {})}
    strict, off = (_own(model, how, **{name: value}) for value in (STRICT[name], None))
    if place == "the model":
        setattr(model.generation_config, name, STRICT[name])
        held = {}
    else:
        held = {"generation_config": GenerationConfig(eos_token_id=EOS, pad_token_id=PAD)}
        setattr(held["generation_config"], name, STRICT[name])
    assert torch.equal(_own(model, how, **held), strict)
    assert torch.equal(_own(model, how, **held, **{name: None}), strict)
    assert torch.equal(_own(model, how, **held, **{name: SETTINGS[name].off}), off)


def test_a_loop_that_no_generate_of_ours_has_called(model):
    """By a decoding method of the caller's, whose arguments are its own affair."""

    def direct(model, input_ids, **kwargs):
        return model._sample(input_ids, **kwargs)

    patch(model)
    config = GenerationConfig(eos_token_id=EOS, pad_token_id=PAD)
    config.seed, config.top_a = 5, 1.0
    drawn = _own(model, {"custom_generate": direct}, generation_config=config, seed=None)
    assert torch.equal(drawn, _own(model, {}, top_a=1.0))


def test_a_sampler_is_given_numbers_as_numbers(model):
    seen = []

    def sampler(scores, **given):
        seen.append(given["params"])
        return scores.argmax(1)

    how = {"custom_generate": fused_generate, "sampler": sampler, "max_new_tokens": 1}
    by_row = torch.tensor([0.0, 1.0])
    _own(model, how, top_n_sigma=1.5, top_k=40, top_a=0.0)
    _own(model, how, top_n_sigma=1.5, top_a=by_row)
    assert seen[0] == SamplingParams(temperature=2.0, top_n_sigma=1.5, top_k=40)
    assert seen[1].top_n_sigma == 1.5 and torch.equal(seen[1].top_a, by_row)
    assert not any(isinstance(params.top_n_sigma, torch.Tensor) for params in seen)


@pytest.mark.parametrize("by_prompt", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize("name", OWN)
def test_of_greedy_decoding_it_is_a_warning(model, how, name, by_prompt):
    value = BY_PROMPT[name] if by_prompt else STRICT[name]
    with pytest.warns(UserWarning, match=f"{name} was given, but greedy decoding draws") as told:
        _own(model, how, do_sample=False, seed=None, **{name: value})
    assert [warning.filename for warning in told if name in str(warning.message)] == [__file__]


@pytest.mark.parametrize("given", [{"top_a": 0.5}, {"top_a": torch.tensor([0.5, 0.5])}, {}])
def test_other_modes_refuse_it_by_name(model, given):
    patch(model)
    if not given:
        model.generation_config.top_a = 0.5
    words = r"top_a was given, but .* ask for beam sample, which is .* does not know it; leave it"
    with pytest.raises(ValueError, match=words):
        _own(model, {}, num_beams=2, seed=None, **given)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("given", ["None", "off"])
def test_what_is_off_is_not_given(model, recwarn, name, given):
    patch(model)
    off = {name: None if given == "None" else SETTINGS[name].off}
    for beams in (1, 2):
        call = {"do_sample": False, "num_beams": beams, "max_new_tokens": 3, "seed": None}
        assert torch.equal(_own(model, {}, **call, **off), _own(model, {}, **call))
    assert not [w for w in recwarn if name in str(w.message)]


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"top_n_sigma": -1}, ValueError, "top_n_sigma is -1, out of range; use a number above 0"),
        ({"top_a": "0.5"}, TypeError, "top_a must be a number, a .B. tensor or None, got '0.5'"),
        ({"top_a": True}, TypeError, "top_a must be a number"),
        ({"top_a": 2, "do_sample": False, "seed": None}, ValueError, "top_a is 2, out of range"),
        ({"top_a": torch.tensor([0.5, 2.0])}, ValueError, "top_a is 2.0 in row 1, out of range"),
        (
            {"top_a": torch.tensor([True, False])},
            TypeError,
            "top_a must be a floating-point tensor",
        ),
        ({"top_a": torch.tensor([0.1] * 3)}, ValueError, r"top_a has shape \[3\] for 2 prompts"),
    ],
)
def test_wrong_values_of_what_transformers_does_not_know(model, how, values, error, words):
    streamer = mock.Mock()
    with pytest.raises(error, match=words):
        _own(model, how, streamer=streamer if "shape" not in words else None, **values)
    if "shape" not in words:
        streamer.end.assert_called_once()


def test_a_generate_that_names_one_of_our_own_hands_it_on(model):
    class Own(GPT2LMHeadModel):
        def generate(self, inputs=None, top_a=0.3, **kwargs):
            return super().generate(inputs, top_a=2 * top_a, **kwargs)

    class Never(GPT2LMHeadModel):
        def generate(self, inputs=None, **kwargs):
            return super().generate(inputs, top_a=0.0, **kwargs)

    patch(model)
    off, strict, default = (_own(model, {}, top_a=value) for value in (0.0, 1.0, 0.6))
    assert not torch.equal(off, strict) and not torch.equal(strict, default)
    model.__class__ = Own
    patch(model)
    assert torch.equal(_own(model, {}, top_a=0.5), strict)
    assert torch.equal(_own(model, {}), default)
    model.__class__ = Never
    assert torch.equal(_own(patch(model), {}, top_a=1.0), off)


def test_the_signature_of_fused_generate_names_them():
    signature = inspect.signature(fused_generate)
    assert [*signature.parameters][-len(OWN) - 9 :] == [*OWN, *OWN_EDITS, "model_kwargs"]


def test_a_generator(model):
    patch(model)
    call = {"do_sample": True, "max_new_tokens": 8}
    first, again = (
        model.generate(PROMPTS, **call, generator=torch.Generator().manual_seed(5))
        for _ in range(2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, model.generate(PROMPTS, **call))


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_copies_and_pickles_are_unpatched_and_whole(model, protocol):
    greedy = model.generate(PROMPTS, do_sample=False, max_new_tokens=5)
    patch(model)
    for twin in (pickle.loads(pickle.dumps(model, protocol)), copy.deepcopy(model)):
        assert type(twin) is GPT2LMHeadModel and not hf_patch.is_patched(twin)
        assert twin.lm_head.weight is twin.transformer.wte.weight, "tied weights stay tied"
        assert torch.equal(twin.generate(PROMPTS, do_sample=False, max_new_tokens=5), greedy)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    assert type(torch.load(buffer, weights_only=False)) is GPT2LMHeadModel
    assert torch.equal(_direct(unpatch(model)), _direct(copy.deepcopy(model)))


def test_a_patched_model_saves_like_a_plain_one(model, tmp_path):
    model.save_pretrained(tmp_path / "plain")
    patch(model).save_pretrained(tmp_path / "patched")
    saved = [json.loads((tmp_path / f / "config.json").read_text()) for f in ("plain", "patched")]
    assert saved[0] == saved[1]
    assert saved[1]["architectures"] == ["GPT2LMHeadModel"]
    again = GPT2LMHeadModel.from_pretrained(tmp_path / "patched").eval()
    assert torch.equal(_direct(again), _direct(model))


# Other modes go on as they were


@pytest.mark.parametrize(
    "call",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"num_beams": 2, "do_sample": True},
        {"prompt_lookup_num_tokens": 2, "inputs": PROMPTS[:1]},
    ],
    ids=str,
)
def test_other_modes_are_transformers_own(model, call):
    arguments = {"inputs": PROMPTS, "max_new_tokens": 6, "do_sample": False, **call}
    torch.manual_seed(1)
    plain = model.generate(**arguments)
    torch.manual_seed(1)
    assert torch.equal(patch(model).generate(**arguments), plain)


@pytest.mark.parametrize("patch_first", [True, False], ids=["main model", "assistant"])
def test_assisted_decoding_with_a_patched_model(model, patch_first, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("our loop ran")

    monkeypatch.setattr(hf_patch, "decode", forbidden)
    assistant = copy.deepcopy(model)
    call = {"max_new_tokens": 6, "do_sample": False}
    plain = model.generate(PROMPTS[:1], **call)
    patch(model if patch_first else assistant)
    assert torch.equal(model.generate(PROMPTS[:1], assistant_model=assistant, **call), plain)


def test_a_seed_without_use_is_an_error(model):
    patch(model)
    with pytest.raises(ValueError, match=r"seed was given, but .* ask for beam search"):
        model.generate(PROMPTS, num_beams=2, max_new_tokens=3, seed=7)


def test_the_callers_own_custom_generate_wins(model):
    def seed_only(model, input_ids, seed=None, **kwargs):
        return torch.full((1,), seed)

    patch(model)
    assert model.generate(
        PROMPTS, custom_generate=seed_only, max_new_tokens=1, seed=9
    ).tolist() == [9]
    assert torch.equal(_direct(model), model.generate(PROMPTS, **SAMPLE))


def test_continuous_batching_is_never_silently_plain(model, monkeypatch):
    monkeypatch.setattr(hf_patch, "continuous", None)  # as with an older transformers
    patch(model)
    for run in (lambda: model.generate_batch([[5, 6]]), model.init_continuous_batching):
        with pytest.raises(NotImplementedError, match=r"5\.20 or newer; unpatch"):
            run()


# What only `generate` knows reaches the loop


def test_stop_strings_work(model, tokenizer, no_multinomial):
    patch(model)
    call = {**SAMPLE, "eos_token_id": None, "max_new_tokens": 20}
    row = PROMPTS[:1]
    free = model.generate(row, **call)[0, 3:].tolist()
    last = next(token for token in free[3:] if free.index(token) >= 3)
    stopped = model.generate(row, **call, stop_strings=[_text([last])], tokenizer=tokenizer)
    assert stopped[0, 3:].tolist() == free[: free.index(last) + 1]


def test_a_streamer_reaches_the_loop(model, tokenizer):
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=10.0)
    out = patch(model).generate(PROMPTS[:1], **SAMPLE, streamer=streamer)
    assert "".join(streamer) == _text(out[0, 3:].tolist())


def test_a_text_generation_pipeline(model, tokenizer, no_multinomial):
    write = pipeline("text-generation", model=model, tokenizer=tokenizer)
    call = {**SAMPLE, "temperature": 1.0}
    prompts = [_text(row) for row in PROMPTS.tolist()]
    with patched(model):
        texts = [out[0]["generated_text"] for out in write(prompts, **call)]
        expected = [model.generate(row[None], **call)[0] for row in PROMPTS]
    assert texts == [tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]
    with pytest.raises(AssertionError, match="own sampling"):
        write(prompts[0], **{**call, "seed": None})


@pytest.fixture
def t5():
    torch.manual_seed(0)
    return tiny_t5(vocab_size=VOCAB, pad_token_id=PAD, eos_token_id=EOS)


def test_an_encoder_decoder(t5, no_multinomial):
    expected = _direct(t5)
    assert torch.equal(patch(t5).generate(PROMPTS, **SAMPLE), expected)


def test_the_tokenizer_of_stop_strings_is_no_input_of_the_model(t5, tokenizer, monkeypatch):
    prepare = t5.prepare_inputs_for_generation
    seen: set[str] = set()

    def watch(input_ids, encoder_outputs=None, **kwargs):
        seen.update(kwargs)
        return prepare(input_ids, encoder_outputs=encoder_outputs, **kwargs)

    monkeypatch.setattr(t5, "prepare_inputs_for_generation", watch)
    patch(t5).generate(PROMPTS, **SAMPLE, stop_strings=[_text([9])], tokenizer=tokenizer)
    assert "use_cache" in seen and "tokenizer" not in seen


# Errors


def test_what_cannot_generate_is_refused():
    with pytest.raises(TypeError, match="model that can generate, got Linear"):
        patch(torch.nn.Linear(2, 2))


def test_a_model_with_its_own_loop_is_refused(model):
    class OwnLoop(GPT2LMHeadModel):
        def _sample(self, *args, **kwargs):
            return "own"

    model.__class__ = OwnLoop
    with pytest.raises(ValueError, match="OwnLoop draws tokens in a loop of its own"):
        patch(model)
    assert not hf_patch.is_patched(model)


def test_unpatch_leaves_other_things_alone():
    layer = torch.nn.Linear(2, 2)
    assert unpatch(layer) is layer and type(layer) is torch.nn.Linear
