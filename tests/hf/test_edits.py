"""Processors that leave Hugging Face's list as edits of the draw, and edits of our own."""

# mypy: disable-error-code="arg-type, attr-defined, call-arg, misc, no-untyped-call"
# (transformers types configurations and `generate` more narrowly than it calls them)

import importlib
import math

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the `hf` extra")

from replay import Replay  # noqa: E402
from tiny_transformers import tiny_llama, tiny_t5  # noqa: E402
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList  # noqa: E402
from transformers.generation import logits_process as hf  # noqa: E402

from fused_sampler import mask_logits, sample  # noqa: E402
from fused_sampler.edits.history import History  # noqa: E402
from fused_sampler.edits.records import NUMBERS  # noqa: E402
from fused_sampler.hf import AllowedTokens, fused_generate, patch, processors  # noqa: E402
from fused_sampler.hf.call import OWN as ALL_OWN  # noqa: E402

VOCAB, PAD, EOS, ROWS, LENGTH, NEW = 64, 0, 2, 3, 6, 9
CONFIG = {"eos_token_id": EOS, "pad_token_id": PAD}
EVERYTHING = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
DRAWN = {"do_sample": True, "max_new_tokens": NEW, "top_k": 0, **CONFIG}
FILTERS = {"temperature": 1.5, "top_k": 20, "min_p": 0.02}

PROMPTS = torch.randint(3, VOCAB, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
PROMPTS[:, 3:] = PROMPTS[:, :3]  # which repeat themselves
PADDED = PROMPTS.clone()
PADDED[1, :2], PADDED[2, :3] = PAD, PAD
MASK = (PADDED != PAD).long()

# Those that are taken, by what the caller says.
TAKEN = {
    "repetition": {"repetition_penalty": 1.7},
    "encouraged repetition": {"repetition_penalty": 0.6},
    "bias": {"sequence_bias": [[[5], 2.5], [[7], -3.25], [[9], -math.inf], [[EOS], 1.0]]},
    "bad words": {"bad_words_ids": [[i] for i in range(10, 30)] + [[EOS]]},
    "suppressed": {"suppress_tokens": [*range(28, 40), 4]},
    "suppressed at first": {"begin_suppress_tokens": [*range(3, 33)]},
    "least length": {"min_length": LENGTH + 4},
    "least new tokens": {"min_new_tokens": 5},
}
TOGETHER = {name: value for call in TAKEN.values() for name, value in call.items()}
NGRAM = {"no_repeat_ngram_size": 2}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = tiny_llama(vocab_size=VOCAB, num_hidden_layers=2, **CONFIG)
    with torch.no_grad():
        model.lm_head.weight[EOS] += 0.3  # so that rows end, unless they may not
    return model


@pytest.fixture
def left(monkeypatch):
    """The class names of what stayed in the lists of the loops."""
    names = []
    split = processors.split

    def watched(given, taken):
        stays = split(given, taken)
        names.append([type(processor).__name__ for processor in stays])
        return stays

    monkeypatch.setattr(processors, "split", watched)
    return names


def draw(model, inputs=PROMPTS, seed=5, **call):
    call = {**DRAWN, **EVERYTHING, **call}
    return model.generate(inputs, seed=seed, custom_generate=fused_generate, **call)


def listed(model, monkeypatch, **call):
    """The same draws with all processors where they stand."""
    with monkeypatch.context() as patches:
        patches.setattr(processors, "split", lambda stay, _: stay)
        return draw(model, **call)


def plain(model, monkeypatch, output, inputs=PROMPTS, **call):
    """What transformers says where it is given the tokens of `output`."""
    new = output.sequences[:, -len(output.scores) :]
    with monkeypatch.context() as patches:
        patches.setattr(torch, "multinomial", Replay(new))
        return model.generate(inputs, **{**DRAWN, **EVERYTHING, **call})


def assert_equal(ours, other):
    assert torch.equal(ours.sequences, other.sequences)
    for name in ("scores", "logits"):
        pairs = list(zip(ours[name], other[name], strict=True))
        assert pairs and all(torch.equal(one, another) for one, another in pairs), name


WAYS = {
    "rows": {},
    "padded": {"inputs": PADDED, "attention_mask": MASK},
    "sequences": {"inputs": PROMPTS[:2], "num_return_sequences": 2},
    "filters": FILTERS,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("given", [*TAKEN.values(), TOGETHER], ids=[*TAKEN, "together"])
def test_scores_and_tokens_are_those_of_the_list(model, monkeypatch, left, given, way):
    call = {**given, **WAYS[way]}
    output = draw(model, **call)
    assert [name for name in left[0] if "Warper" not in name] == []
    assert_equal(output, listed(model, monkeypatch, **call))
    assert_equal(output, plain(model, monkeypatch, output, **call))
    assert differ(output, draw(model, **WAYS[way]))


@pytest.mark.parametrize("way", WAYS)
def test_a_processor_that_only_bans_may_stay_between(model, monkeypatch, left, way):
    call = {**TOGETHER, **NGRAM, "bad_words_ids": [[11], [3, 4]], **WAYS[way]}
    output = draw(model, **call)
    assert [name for name in left[0] if "Warper" not in name] == [
        "NoRepeatNGramLogitsProcessor",
        "NoBadWordsLogitsProcessor",
    ]
    assert_equal(output, listed(model, monkeypatch, **call))
    assert_equal(output, plain(model, monkeypatch, output, **call))


class Halve(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores * 0.5


def test_one_of_the_callers_stands_behind_and_all_stay(model, monkeypatch, left):
    call = {**TOGETHER, "logits_processor": LogitsProcessorList([Halve()])}
    output = draw(model, **call)
    assert len(left[0]) == 8 and left[0][-1] == "Halve"
    assert_equal(output, plain(model, monkeypatch, output, **call))


@pytest.mark.parametrize(
    "between",
    [
        {"remove_invalid_values": True},  # makes a finite number of -inf
        {"exponential_decay_length_penalty": (2, 1.5)},
        {"forced_eos_token_id": EOS},
        {"prefix_allowed_tokens_fn": lambda row, ids: [*range(9, 50)]},
    ],
    ids=lambda given: next(iter(given)),
)
def test_what_stands_before_one_that_does_more_than_ban_stays(model, monkeypatch, left, between):
    call = {**TOGETHER, **between}
    if "exponential_decay_length_penalty" in call:  # in 4.57 a banned end becomes a NaN there
        call |= {"min_length": None, "min_new_tokens": None}
    output = draw(model, **call)
    assert "RepetitionPenaltyLogitsProcessor" in left[0]
    assert "SuppressTokensLogitsProcessor" not in left[0] or "prefix" in next(iter(between))
    assert_equal(output, plain(model, monkeypatch, output, **call))


def test_edits_come_before_the_first_warper_where_one_stays_behind(model, monkeypatch, left):
    mark = transformers.WatermarkingConfig(bias=3.0)
    call = {**TOGETHER, **FILTERS, "watermarking_config": mark}
    output = draw(model, **call)
    assert [name for name in left[0] if "Processor" in name] == ["WatermarkLogitsProcessor"]
    assert_equal(output, plain(model, monkeypatch, output, **call))


def test_an_encoder_decoder(monkeypatch, left):
    torch.manual_seed(0)
    t5 = tiny_t5(vocab_size=VOCAB, **CONFIG)
    call = {**TOGETHER, **FILTERS, "min_length": 4}
    output = draw(t5, **call)
    assert not [name for name in left[0] if "Processor" in name]
    assert_equal(output, listed(t5, monkeypatch, **call))
    assert_equal(output, plain(t5, monkeypatch, output, **call))


def test_mirostat_and_patched_models_draw_with_them_too(model, monkeypatch, left):
    call = {**TOGETHER, "mirostat_tau": 3.0}
    output = draw(model, **call)
    assert left == [[]]
    assert_equal(output, listed(model, monkeypatch, **call))
    assert_equal(output, patch(model).generate(PROMPTS, seed=5, **{**DRAWN, **EVERYTHING, **call}))


def test_greedy_decoding_runs_the_list(model, left):
    call = {**DRAWN, **EVERYTHING, **TOGETHER, "do_sample": False}
    assert_equal(draw(model, seed=None, **call), model.generate(PROMPTS, **call))
    assert left == []


def test_a_low_precision_is_edited_in_fp32(model, monkeypatch, left):
    model.to(torch.bfloat16)
    output = draw(model, **TOGETHER)
    assert left == [[]]
    assert_equal(output, plain(model, monkeypatch, output, **TOGETHER))


def test_nothing_is_paid_where_nothing_is_taken(model):
    seen = []

    def sampler(scores, **given):
        seen.append(given)
        return sample(scores, **given)

    draw(model, sampler=sampler, **NGRAM)
    draw(model, sampler=sampler, repetition_penalty=1.5)
    names = {"params", "seed", "step", "validate"}
    assert set(seen[0]) == names
    assert set(seen[-1]) == names | {"repetition_penalty", "history"}


# Lists


class OwnPenalty(hf.RepetitionPenaltyLogitsProcessor):
    pass


class OwnChoice(AllowedTokens):
    pass


PENALTY = hf.RepetitionPenaltyLogitsProcessor(1.5)
BIAS = hf.SequenceBiasLogitsProcessor({(5,): 2.0})
BAD = hf.NoBadWordsLogitsProcessor([[6], [7]])
NGRAMS = hf.NoRepeatNGramLogitsProcessor(2)
SUPPRESS = hf.SuppressTokensLogitsProcessor([8])
WARPER = hf.TemperatureLogitsWarper(0.5)
CHOICE = AllowedTokens(lambda ids: torch.ones(VOCAB, dtype=torch.bool))


@pytest.mark.parametrize(
    ("given", "stays"),
    [
        ([BIAS, PENALTY, BAD, SUPPRESS, CHOICE], []),
        ([PENALTY, BIAS], [PENALTY]),  # a bias is added before
        ([PENALTY, BAD], []),
        ([BIAS, BIAS], [BIAS]),
        ([PENALTY, PENALTY], [PENALTY]),
        ([SUPPRESS, PENALTY, BIAS], [SUPPRESS, PENALTY]),
        ([PENALTY, NGRAMS, WARPER], [NGRAMS, WARPER]),
        ([PENALTY, Halve(), BIAS], 2),
        ([PENALTY, WARPER, BIAS, SUPPRESS], [WARPER, BIAS, SUPPRESS]),
        # Which lifts the ban, as it allows nothing else.
        ([BAD, hf.PrefixConstrainedLogitsProcessor(lambda row, ids: [6], 1)], 2),
        ([OwnPenalty(1.5)], 1),
        ([PENALTY, OwnChoice(CHOICE.choose)], 2),
        ([hf.RepetitionPenaltyLogitsProcessor(2000.0)], 1),  # more than ours can be
        ([hf.SequenceBiasLogitsProcessor({(5,): math.inf})], 1),
        ([hf.SequenceBiasLogitsProcessor({(5,): math.nan})], 1),
        ([hf.SequenceBiasLogitsProcessor({(5,): 1.0, (5, 6): 1.0})], 1),
        ([BIAS, hf.SequenceBiasLogitsProcessor({(9,): -math.inf})], []),
        ([], []),
    ],
)
def test_what_stays_in_a_list(given, stays):
    taken = processors.Taken(PROMPTS)
    left = processors.split(given, taken)
    assert left == (given[:stays] if isinstance(stays, int) else stays)
    edits = processors.LoopEdits({}, taken)
    if given and len(left) < len(given) and WARPER not in given:
        scores = torch.randn(ROWS, VOCAB)
        ours = mask_logits(left(PROMPTS, scores.clone()), **edits.of_step(PROMPTS, scores))
        assert torch.equal(ours, LogitsProcessorList(given)(PROMPTS, scores.clone()))


@pytest.mark.parametrize(
    ("length", "stays"),
    [
        (2, False),
        (LENGTH + 1, True),  # and the first new token
        (torch.tensor([0, 0, 0]), False),
        (torch.tensor([1, 6, 3]), False),
        (torch.tensor([1, 7, 3]), True),
        (torch.tensor([1, 2]), True),  # which will raise
    ],
)
def test_a_penalty_that_leaves_out_a_part_of_the_prompt(length, stays):
    try:
        penalty = hf.RepetitionPenaltyLogitsProcessor(1.5, prompt_ignore_length=length)
    except (TypeError, ValueError) as error:
        pytest.skip(f"this transformers has no such penalty: {error}")
    taken = processors.Taken(PROMPTS)
    assert processors.split([penalty], taken) == ([penalty] if stays else [])
    if not stays:
        edits, scores = processors.LoopEdits({}, taken), torch.randn(ROWS, VOCAB)
        texts = torch.cat([PROMPTS, torch.tensor([[3], [4], [5]])], dim=1)
        edits.append(texts[:, -1])
        ours = mask_logits(scores, **edits.of_step(texts, scores))
        assert torch.equal(ours, penalty(texts, scores))


def test_bans_hold_for_scores_that_are_no_numbers():
    scores = torch.randn(ROWS, VOCAB)
    scores[:, 8], scores[:, 9] = math.nan, math.inf
    given = [PENALTY, hf.SuppressTokensLogitsProcessor([8, 9, 8, VOCAB + 3])]
    taken = processors.Taken(PROMPTS)
    assert processors.split(given, taken) == []
    edits = processors.LoopEdits({}, taken)
    ours = mask_logits(scores, **edits.of_step(PROMPTS, scores))
    assert torch.equal(ours, LogitsProcessorList(given)(PROMPTS, scores))


@pytest.mark.parametrize("given", [{"sequence_bias": [[[64], 1.0]]}, {"bad_words_ids": [[64]]}])
def test_a_bias_of_a_token_that_is_none_is_an_error(model, given):
    with pytest.raises(ValueError, match="ban is of token 64; token ids go from 0 to 63"):
        draw(model, **given)


# Edits that transformers does not know

OWN = {
    "logit_bias": {5: 4.0, 7: -2.0, 11: -math.inf, 13: 3},
    "frequency_penalty": 1.5,
    "presence_penalty": 2.0,
    "dry_multiplier": 3.0,
    "dry_base": 3.0,
    "dry_allowed_length": 1,
    "dry_range": 4,
    "dry_breakers": [int(PROMPTS[0, 0]), int(PROMPTS[1, 1])],
}
# What else it takes for each of them to matter.
BESIDE = {
    name: {"dry_multiplier": 2.0, "dry_allowed_length": 1}
    for name in ("dry_base", "dry_range", "dry_breakers")
}
BESIDE["dry_allowed_length"] = {"dry_multiplier": 2.0}
BY_PROMPT = {name: value for name, value in OWN.items() if isinstance(value, (int, float))}


def test_these_are_all():
    assert tuple(OWN) == ALL_OWN[-len(OWN) :]


@pytest.fixture(params=["plain", "custom"])
def how(request, model):
    """The two ways to our loop."""
    if request.param == "plain":
        patch(model)
        return {}
    return {"custom_generate": fused_generate}


def own(model, how, inputs=PROMPTS, **values):
    call = {**DRAWN, **EVERYTHING, "temperature": 1.5, "seed": 5, **how, **values}
    return model.generate(inputs, **call)


def differ(output, other):
    """Whether an edit shows in the scores at all."""
    return any(not torch.equal(*pair) for pair in zip(output.scores, other.scores, strict=False))


def assert_by_hand(output, edits, listed=None, do_sample=True, **parameters):
    """Tokens are those that `sample` draws from a run's own logits, and scores are those edited."""
    history = History(PROMPTS)
    unfinished = torch.ones(ROWS, dtype=torch.bool)
    for step, (logits, scores) in enumerate(zip(output.logits, output.scores, strict=True)):
        ids = output.sequences[:, : LENGTH + step]
        processed = logits if listed is None else listed(ids, logits.clone())
        arguments = {**edits, "history": history, "seed": 5, "step": step, **parameters}
        edited = mask_logits(processed, **arguments)
        assert torch.equal(scores, edited)
        tokens = sample(processed, **arguments) if do_sample else edited.argmax(1)
        tokens = torch.where(unfinished, tokens, PAD)
        assert torch.equal(output.sequences[:, LENGTH + step], tokens)
        unfinished &= tokens != EOS
        history.append(tokens)


@pytest.mark.parametrize("name", [*OWN, "together"])
def test_they_are_those_of_sample(model, how, name):
    edits = OWN if name == "together" else {name: OWN[name], **BESIDE.get(name, {})}
    for top_k in (0, 30):
        output = own(model, how, **edits, top_k=top_k)
        assert_by_hand(output, edits, temperature=1.5, top_k=top_k)
        assert top_k or differ(output, own(model, how, **BESIDE.get(name, {})))


def test_they_come_behind_the_processors_taken_or_not(model, left):
    values = {"frequency_penalty": 0.7, "dry_multiplier": 1.0, "dry_allowed_length": 1}
    names = []
    for more in ({}, {"logit_bias": OWN["logit_bias"]}):
        call = {"repetition_penalty": 1.7, "sequence_bias": [[[5], 2.5]], **values, **more}
        output = own(model, {"custom_generate": fused_generate}, **call)
        bias = hf.SequenceBiasLogitsProcessor([[[5], 2.5]])
        listed = LogitsProcessorList([bias, hf.RepetitionPenaltyLogitsProcessor(1.7)])
        assert_by_hand(output, {**values, **more}, listed, temperature=1.5)
        names.append([name for name in left.pop() if "Processor" in name])
    # A bias of the caller's is added behind the penalty.
    assert names == [[], ["SequenceBiasLogitsProcessor", "RepetitionPenaltyLogitsProcessor"]]


@pytest.mark.parametrize(
    "more",
    [
        NGRAM,
        {"logits_processor": LogitsProcessorList([Halve()])},
        {"watermarking_config": transformers.WatermarkingConfig(bias=2.0)},
        {"renormalize_logits": True},
        {"top_n_sigma": 2.0, "mirostat_tau": 3.0},
        {"temperature_last": True, "min_p": 0.01},
        TOGETHER,
    ],
    ids=lambda more: next(iter(more)),
)
def test_they_work_beside_every_processor(model, how, more):
    output = own(model, how, **OWN, **more)
    allowed = torch.stack(output.scores) > -math.inf
    assert not allowed[:, :, 11].any() and allowed.any(2).all()
    for step, token in enumerate(output.sequences[:, -len(output.scores) :].T):
        rows = token != PAD
        assert allowed[step].gather(1, token[:, None])[rows].all()


@pytest.mark.parametrize("name", BY_PROMPT)
@pytest.mark.parametrize("sequences", [1, 2])
def test_a_value_a_prompt_is_that_of_its_prompt_alone(model, how, name, sequences):
    beside = BESIDE.get(name, {})
    off = NUMBERS[name].off
    values = torch.tensor([OWN[name], off, OWN[name]])
    seeds = torch.tensor([3, 4, 5])
    call = {**how, **beside, "num_return_sequences": sequences, "min_new_tokens": NEW}
    output = own(model, call, **{name: values}, seed=seeds)
    assert differ(output, own(model, call, seed=seeds))
    together = output.sequences
    for prompt in range(ROWS):
        inputs = PROMPTS[prompt : prompt + 1]
        alone = own(
            model, call, inputs, **{name: values[prompt].item()}, seed=seeds[prompt : prompt + 1]
        )
        assert torch.equal(together[prompt * sequences :][:sequences], alone.sequences)
    rows = values.repeat_interleave(sequences)
    assert torch.equal(own(model, call, **{name: rows}, seed=seeds).sequences, together)


@pytest.mark.parametrize("place", ["the call", "the model"])
@pytest.mark.parametrize("name", OWN)
def test_a_generation_config_may_hold_it(model, how, name, place, tmp_path):
    """And still does where it was saved and loaded, with ids as text."""
    beside = BESIDE.get(name, {})
    drawn, off = (own(model, how, **beside, **{name: value}) for value in (OWN[name], None))
    config = GenerationConfig(**CONFIG)
    setattr(config, name, {5: 4.0, 7: -2.0, 13: 3} if name == "logit_bias" else OWN[name])
    config.save_pretrained(tmp_path)
    config = GenerationConfig.from_pretrained(tmp_path)
    if name == "logit_bias":
        assert set(config.logit_bias) == {"5", "7", "13"}
        drawn = own(model, how, logit_bias={5: 4.0, 7: -2.0, 13: 3})
    held = {"generation_config": config}
    if place == "the model":
        model.generation_config, held = config, {}
    assert_equal(own(model, how, **held, **beside), drawn)
    assert_equal(own(model, how, **held, **beside, **{name: None}), drawn)
    nothing = NUMBERS[name].off if name in NUMBERS else type(OWN[name])()
    assert_equal(own(model, how, **held, **beside, **{name: nothing}), off)


def test_greedy_decoding_takes_the_best_of_the_edited_logits(model, how, recwarn):
    call = {"do_sample": False, "seed": None, "temperature": None, "top_k": None}
    output = own(model, how, **call, **OWN)
    assert_by_hand(output, OWN, do_sample=False)
    assert not torch.equal(own(model, how, **call).sequences, output.sequences)
    assert not [w for w in recwarn if "greedy" in str(w.message)]
    by_prompt = own(model, how, **call, frequency_penalty=torch.tensor([9.0, 0.0, 0.0]))
    number, off = (own(model, how, **call, frequency_penalty=value) for value in (9.0, 0.0))
    size = min(out.sequences.shape[1] for out in (by_prompt, number, off))
    expected = torch.cat([number.sequences[:1, :size], off.sequences[1:, :size]])
    assert torch.equal(by_prompt.sequences[:, :size], expected)


def test_dry_sees_no_padding(model):
    """Here the token that pads stands in the text as well."""
    how = {"custom_generate": fused_generate}
    values = {"dry_multiplier": 4.0, "dry_allowed_length": 1, "repetition_penalty": 1.0}
    text = torch.tensor([[PAD, 5, PAD]])
    alone = own(model, how, text, attention_mask=torch.ones_like(text), **values)
    short = torch.cat([torch.full((1, 4), PAD), text], dim=1)
    mask = torch.tensor([[0] * 4 + [1] * 3])
    padded = own(model, how, short, attention_mask=mask, **values)
    # The first token: the model's logits may differ in the last bit where it sees padding.
    penalized = [
        torch.isclose(out.scores[0] * 1.5, out.logits[0]).logical_not().nonzero().tolist()
        for out in (alone, padded)
    ]
    assert penalized == [[[0, 5]]] * 2


@pytest.mark.parametrize("hole", [False, True], ids=["on the left", "and a hole"])
def test_a_penalty_of_transformers_that_sees_what_dry_does_not_stays(model, left, hole):
    mask = MASK.clone()
    mask[0, 2] -= int(hole)
    call = {"custom_generate": fused_generate, "attention_mask": mask, "repetition_penalty": 1.7}
    penalized = own(model, call, PADDED, temperature=1.0)
    output = own(model, call, PADDED, dry_multiplier=4.0)
    assert left[0] == [] and len(left[1]) >= 1 + int(hole)
    history = History(PADDED.masked_fill(mask == 0, -1))
    edits = {"temperature": 1.5, "dry_multiplier": 4.0, "history": history}
    assert torch.equal(output.scores[0], mask_logits(penalized.scores[0], **edits))
    own(model, {**call, "attention_mask": None}, dry_multiplier=4.0)
    assert left[2] == ["TemperatureLogitsWarper"]


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"frequency_penalty": "1"}, TypeError, "frequency_penalty must be a number"),
        ({"presence_penalty": math.nan}, ValueError, "presence_penalty is nan, out of range"),
        ({"dry_base": 0.5}, ValueError, "dry_base is 0.5, out of range; use a number from 1"),
        ({"dry_allowed_length": 1.5}, TypeError, "dry_allowed_length must be an integer"),
        (
            {"frequency_penalty": torch.tensor([1.0, 2.0, math.inf])},
            ValueError,
            "frequency_penalty is inf in row 2, out of range",
        ),
        (
            {"frequency_penalty": torch.ones(2)},
            ValueError,
            r"frequency_penalty has shape \[2\] for 3 prompts",
        ),
        ({"logit_bias": [[5, 1.0]]}, TypeError, r"logit_bias must be {token: bias}, got \[\["),
        ({"logit_bias": {"a": 1.0}}, TypeError, "logit_bias has 'a' as a token; pass ids from 0"),
        ({"logit_bias": {-1: 1.0}}, TypeError, "logit_bias has -1 as a token; pass ids from 0"),
        ({"logit_bias": {5: "1"}}, TypeError, "logit_bias of token 5 is '1'; pass a number"),
        ({"logit_bias": {5: math.inf}}, ValueError, "logit_bias of token 5 is inf; pass a finite"),
        ({"logit_bias": {5: math.nan}}, ValueError, "logit_bias of token 5 is nan; pass a finite"),
        ({"logit_bias": {64: 1.0}}, ValueError, "is of token 64; token ids go from 0 to 63"),
        ({"dry_breakers": "ab"}, TypeError, "dry_breakers must be a list of token ids, got 'ab'"),
        ({"dry_breakers": [1.5]}, TypeError, r"dry_breakers must be a list of token ids, got \[1"),
        (
            {"logit_bias": {token: -math.inf for token in range(VOCAB)}},
            ValueError,
            "row 0 cannot be sampled at new token 0: its scores .* forbid every token",
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("do_sample", [True, False])
def test_wrong_values(model, how, values, error, words, do_sample):
    call = {} if do_sample else {"do_sample": False, "seed": None}
    with pytest.raises(error, match=words):
        own(model, how, **call, **values)


@pytest.mark.parametrize("name", OWN)
def test_other_modes_refuse_it_by_name(model, name):
    patch(model)
    with pytest.raises(ValueError, match=f"{name} was given, but .* beam sample, .* know it"):
        own(model, {}, num_beams=2, seed=None, **{name: OWN[name]})


@pytest.mark.parametrize("name", OWN)
def test_continuous_batching_refuses_it(model, name):
    if not hasattr(importlib.import_module("fused_sampler.hf.patch").continuous, "fuse"):
        pytest.skip("needs transformers 5.20")
    patch(model)
    config = GenerationConfig(do_sample=True, max_new_tokens=2, **CONFIG)
    words = f"{name} is an edit of a request's logits, and continuous batching has none; leave it"
    with pytest.raises(ValueError, match=words):
        model.generate_batch([[5, 6]], generation_config=config, **{name: OWN[name]})
    setattr(config, name, OWN[name])
    with pytest.raises(ValueError, match=words):
        model.generate_batch([[5, 6]], generation_config=config)


# AllowedTokens


def _odd(ids):
    """Other masks for each length and row."""
    places = torch.arange(VOCAB) + ids.sum(1, keepdim=True)
    return places % 3 > 0


def _bits(ids):
    marked = torch.nn.functional.pad(_odd(ids)[:, :40], (0, 24))
    return (marked.unflatten(1, (2, 32)).long() << torch.arange(32)).sum(2).int()


def _narrow(ids):
    return _odd(ids)[:, :40]


def _one_for_all(ids):
    return torch.arange(VOCAB) % (2 + ids.shape[1] % 2) > 0


@pytest.mark.parametrize("choose", [_odd, _bits, _narrow, _one_for_all])
@pytest.mark.parametrize("more", [{}, {**TOGETHER, **NGRAM}], ids=["alone", "among others"])
def test_allowed_tokens(model, monkeypatch, left, choose, more):
    calls = []

    def counted(ids):
        calls.append(ids.shape)
        return choose(ids)

    masks = LogitsProcessorList([AllowedTokens(counted), AllowedTokens(_odd)])
    call = {**more, "logits_processor": masks}
    call |= {"begin_suppress_tokens": None} if more else {}
    output = draw(model, **call)
    assert "AllowedTokens" not in left[0]
    assert calls == [(ROWS, LENGTH + step) for step in range(len(output.scores))]
    assert_equal(output, plain(model, monkeypatch, output, **call))
    for ids, scores in zip(_texts(output), output.scores, strict=True):
        hand = torch.zeros(ROWS, VOCAB, dtype=torch.bool)
        mask = (_narrow if choose is _bits else choose)(ids).expand(ROWS, -1)
        hand[:, : mask.shape[1]] = mask
        assert (scores[~(hand & _odd(ids))] == -math.inf).all()


def _texts(output):
    """The tokens before each step."""
    steps = len(output.scores)
    length = output.sequences.shape[1]
    return [output.sequences[:, : length - steps + step] for step in range(steps)]


def test_allowed_tokens_of_greedy_decoding(model):
    masks = LogitsProcessorList([AllowedTokens(_bits)])
    call = {**DRAWN, **EVERYTHING, "do_sample": False, "logits_processor": masks}
    assert_equal(draw(model, seed=None, **call), model.generate(PROMPTS, **call))


@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        ([1, 2], TypeError, r"AllowedTokens takes an int32 or bool tensor, got \[1, 2\]"),
        (torch.ones(ROWS, 2), TypeError, "an int32 or bool tensor, got torch.float32"),
        (
            torch.ones(2, VOCAB, dtype=torch.bool),
            ValueError,
            r"mask of shape \[2, 64\] for 3 rows; choose for \[3, V\]",
        ),
        (torch.zeros(VOCAB, dtype=torch.bool), ValueError, "row 0 cannot be sampled at new token"),
    ],
    ids=str,
)
def test_masks_that_are_none(model, mask, error, words):
    with pytest.raises(error, match=words):
        draw(model, logits_processor=LogitsProcessorList([AllowedTokens(lambda ids: mask)]))


def test_a_penalty_stays_where_the_device_divides_otherwise():
    prompt = torch.zeros(2, 3, dtype=torch.int64, device="meta")  # stands for one on a GPU
    penalty = hf.RepetitionPenaltyLogitsProcessor(1.2)
    assert not processors.Taken(prompt).take(penalty)
    assert processors.Taken(prompt.new_zeros(2, 3, device="cpu")).take(penalty)
