"""What transformers' own tests of sampling ask of `generate`, asked of a patched model.

Everything is as a plain model has it but the drawn number. So a plain run is given the tokens that
the patched run drew, and all that both return and say is compared.
"""

# mypy: disable-error-code="arg-type, attr-defined, call-arg, misc, no-untyped-call"
# (transformers types configurations and `generate` more narrowly than it calls them)

import logging
import warnings
from contextlib import contextmanager

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the `hf` extra")

from replay import CACHE, EVERYTHING, Replay, assert_same  # noqa: E402
from tiny_transformers import tiny_gpt2, tiny_t5  # noqa: E402
from tokenizers import Tokenizer, decoders  # noqa: E402
from tokenizers.models import BPE  # noqa: E402
from transformers import (  # noqa: E402
    BartConfig,
    BartForConditionalGeneration,
    CompileConfig,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LogitsProcessor,
    LogitsProcessorList,
    MambaConfig,
    MambaForCausalLM,
    MaxLengthCriteria,
    MinLengthLogitsProcessor,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Speech2TextConfig,
    Speech2TextForConditionalGeneration,
    StoppingCriteria,
    StoppingCriteriaList,
    TextStreamer,
    pipeline,
)
from transformers.utils.logging import warning_once  # noqa: E402

from fused_sampler.hf import patched  # noqa: E402

VOCAB, PAD, BOS, EOS, IMAGE = 96, 0, 1, 2, 95
TOKENS = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
DECODER = {
    **{"vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.4},
    "attn_implementation": "eager",
}


def _gpt2():
    return tiny_gpt2(vocab_size=VOCAB, n_layer=2, attn_implementation="eager", **TOKENS)


def _llama():
    return LlamaForCausalLM(LlamaConfig(**DECODER, **TOKENS))


def _mistral():
    """Whose cache holds a window of the last tokens."""
    own = {"sliding_window": 4, "num_key_value_heads": 1}
    return MistralForCausalLM(MistralConfig(**DECODER, **own, **TOKENS))


def _gemma3():
    """Whose cache holds a window in one layer, and all tokens in the next."""
    layers = ["sliding_attention", "full_attention"]
    own = {"sliding_window": 4, "num_key_value_heads": 1, "head_dim": 8, "layer_types": layers}
    return Gemma3ForCausalLM(Gemma3TextConfig(**DECODER, **own, **TOKENS))


def _mamba():
    """Whose cache is a state of one size."""
    config = MambaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        state_size=4,
        num_hidden_layers=2,
        initializer_range=0.4,
        **TOKENS,
    )
    return MambaForCausalLM(config)


def _t5():
    return tiny_t5(vocab_size=VOCAB, **TOKENS)


def _bart():
    config = BartConfig(
        vocab_size=VOCAB,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        init_std=0.4,
        decoder_start_token_id=BOS,
        forced_eos_token_id=None,
        attn_implementation="eager",
        **TOKENS,
    )
    return BartForConditionalGeneration(config)


def _speech():
    """Which hears, and writes in a language."""
    config = Speech2TextConfig(
        vocab_size=VOCAB,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_conv_layers=1,
        conv_kernel_sizes=[3],
        conv_channels=8,
        input_feat_per_channel=4,
        max_source_positions=32,
        max_target_positions=64,
        init_std=0.4,
        decoder_start_token_id=BOS,
        attn_implementation="eager",
        **TOKENS,
    )
    return Speech2TextForConditionalGeneration(config)


def _llava():
    """Which reads an image with the prompt, and none with the tokens that follow."""
    vision = {
        **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "image_size": 8, "patch_size": 4, "projection_dim": 16},
    }
    text = LlamaConfig(**DECODER, **TOKENS)
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **vision},
        text_config=text.to_dict(),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        attn_implementation="eager",
    )
    model = LlavaForConditionalGeneration(config)
    # Without a cache a drawn image token would ask for one image more.
    model.generation_config.update(**TOKENS, suppress_tokens=[IMAGE])
    return model


MAKERS = {
    "gpt2": _gpt2,
    "llama": _llama,
    "mistral": _mistral,
    "gemma3": _gemma3,
    "mamba": _mamba,
    "t5": _t5,
    "bart": _bart,
    "speech": _speech,
    "llava": _llava,
}
DECODERS = ["gpt2", "llama", "mistral", "gemma3"]


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    return {name: make().eval() for name, make in MAKERS.items()}


def _ids(rows=2, length=6):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, 90, (rows, length), generator=generator)


def _inputs(name):
    generator = torch.Generator().manual_seed(2)
    if name == "speech":
        return {"input_features": torch.randn(2, 12, 4, generator=generator)}
    if name != "llava":
        return {"input_ids": _ids()}
    ids = torch.cat([torch.full((2, 4), IMAGE), _ids()], dim=1)
    return {"input_ids": ids, "pixel_values": torch.randn(2, 3, 8, 8, generator=generator)}


def _outputs(name):
    """Mamba has no attentions, and says so."""
    return EVERYTHING if name != "mamba" else {**EVERYTHING, "output_attentions": False}


@contextmanager
def _hearing():
    """All that is warned of in the block, by `warnings` and by transformers' loggers."""
    told, handler = [], logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    warning_once.cache_clear()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield told
    finally:
        logger.removeHandler(handler)
        told += [str(warning.message) for warning in caught]


def _both(monkeypatch, model, make_call, **call):
    """The outputs of the patched and of the plain run with its tokens, which tell the same."""
    ours, theirs, _ = _both_told(monkeypatch, model, make_call, **call)
    return ours, theirs


def _both_told(monkeypatch, model, make_call, **call):
    """And what they tell."""
    call = {"do_sample": True, "max_new_tokens": 8, "top_k": 0, **call}
    with patched(model), _hearing() as told_by_ours:
        ours = model.generate(**make_call(), **call, **({"seed": 7} if call["do_sample"] else {}))
    drawn = ours.sequences[:, -len(ours.scores) :]
    with monkeypatch.context() as patches, _hearing() as told:
        patches.setattr(torch, "multinomial", Replay(drawn))
        theirs = model.generate(**make_call(), **call)
    assert told_by_ours == told
    return ours, theirs, told


def _assert_equal_outputs(ours, theirs):
    assert type(ours) is type(theirs) and ours.keys() == theirs.keys()
    assert torch.equal(ours.sequences, theirs.sequences)
    for name in ours:
        assert_same(ours[name], theirs[name], name)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    "call",
    [
        {},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "num_return_sequences": 2},
        {"do_sample": False},
        {"eos_token_id": [EOS, 5, 7, 11]},
        {"use_cache": False},
        {"remove_invalid_values": True, "renormalize_logits": True, "top_p": 0.9},
        {"min_new_tokens": 4, "eos_token_id": list(range(2, 40))},
        {"suppress_tokens": [3, 4], "begin_suppress_tokens": [5], "forced_eos_token_id": EOS},
        {"forced_bos_token_id": 6, "exponential_decay_length_penalty": (2, 1.5)},
        {"encoder_repetition_penalty": 1.8, "sequence_bias": [[[5], 4.0], [[5, 6], -9.0]]},
        {"max_time": 1e-9},
    ],
    ids=str,
)
def test_all_that_a_call_returns(models, monkeypatch, name, call):
    call = {**_outputs(name), **call}
    ours, theirs = _both(monkeypatch, models[name], lambda: _inputs(name), **call)
    _assert_equal_outputs(ours, theirs)
    rows = 2 * call.get("num_return_sequences", 1)
    assert all(scores.shape == (rows, VOCAB) for scores in ours.scores)
    assert len(ours.scores) == len(ours.logits) == len(ours.get("hidden_states") or ours.scores)


@pytest.mark.parametrize("name", ["gpt2", "t5"])
@pytest.mark.parametrize("part", EVERYTHING)
def test_a_part_of_what_may_be_returned(models, name, part):
    model, call = models[name], {**_inputs(name), "do_sample": True, "max_new_tokens": 6}
    flags = {"return_dict_in_generate": True, part: True}
    with patched(model):
        whole = model.generate(**call, **EVERYTHING, seed=3)
        ours = model.generate(**call, **flags, seed=3)
        alone = model.generate(**call, **{**EVERYTHING, "return_dict_in_generate": False}, seed=3)
    assert torch.equal(alone, whole.sequences)
    assert ours.keys() == model.generate(**call, **flags).keys()
    for name in ours:
        assert_same(ours[name], whole[name], name)


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_an_end_as_a_number_and_as_a_list(models, name):
    model, call = models[name], {"do_sample": True, "max_new_tokens": 12, "seed": 3}
    with patched(model):
        end = model.generate(_ids(), **call, eos_token_id=None)[0, -6].item()
        one = model.generate(_ids(), **call, eos_token_id=end)
        assert torch.equal(one, model.generate(_ids(), **call, eos_token_id=[end]))
        two = model.generate(_ids(), **call, eos_token_id=[end, EOS])
    ended = two[0].tolist().index(end, 1 if name == "t5" else 6)
    assert set(two[0, ended + 1 :].tolist()) <= {PAD}


@pytest.mark.parametrize("name", [*DECODERS, "mamba"])
def test_a_cache_that_is_handed_on(models, monkeypatch, name):
    model, call = models[name], {"return_dict_in_generate": True, "do_sample": False}
    if name == "mamba" and CACHE not in model.generate(_ids(), **call, max_new_tokens=1):
        pytest.skip(f"Mamba of transformers {transformers.__version__} returns no cache")

    def begin():
        first = model.generate(_ids(), **call, max_new_tokens=3)
        return {"input_ids": first.sequences, CACHE: first[CACHE]}

    with patched(model):
        whole = model.generate(_ids(), **call, max_new_tokens=8)
        rest = model.generate(**begin(), **call, max_new_tokens=5)
    assert torch.equal(rest.sequences, whole.sequences)
    ours, theirs = _both(monkeypatch, model, begin, **_outputs(name))
    _assert_equal_outputs(ours, theirs)


@pytest.mark.parametrize("name", DECODERS)
def test_embeddings_behind_a_cache(models, monkeypatch, name):
    model = models[name]
    embed = model.get_input_embeddings()

    def begin():
        prompt = embed(_ids()).detach()
        call = {"return_dict_in_generate": True, "do_sample": False, "max_new_tokens": 3}
        first = model.generate(inputs_embeds=prompt, **call)
        written = embed(first.sequences).detach()
        return {"inputs_embeds": torch.cat([prompt, written], 1), CACHE: first[CACHE]}

    ours, theirs = _both(monkeypatch, model, begin, **EVERYTHING)
    _assert_equal_outputs(ours, theirs)
    assert ours.sequences.shape[1] <= 8, "new tokens alone"


@pytest.mark.parametrize("name", DECODERS)
def test_embeddings_in_the_place_of_ids(models, monkeypatch, name):
    model = models[name]
    embeddings = model.get_input_embeddings()(_ids()).detach()
    call = {**EVERYTHING, "max_new_tokens": 6}
    alone = _both(monkeypatch, model, lambda: {"inputs_embeds": embeddings}, **call)
    _assert_equal_outputs(*alone)
    beside = lambda: {"inputs_embeds": embeddings, "input_ids": _ids()}  # noqa: E731
    both = _both(monkeypatch, model, beside, **call)
    _assert_equal_outputs(*both)
    assert torch.equal(both[0].sequences[:, 6:], alone[0].sequences)
    lengths = {"max_new_tokens": None, "max_length": 11, "min_length": 9}
    bounded = _both(monkeypatch, model, lambda: {"inputs_embeds": embeddings}, **call | lengths)
    _assert_equal_outputs(*bounded)


@pytest.mark.parametrize("name", [*DECODERS, "mamba"])
def test_padding_on_the_left_changes_nothing(models, name):
    model = models[name]
    ids, padding = _ids(), torch.full((2, 3), PAD)
    mask = torch.cat([torch.zeros_like(padding), torch.ones_like(ids)], dim=1)
    call = {"do_sample": True, "max_new_tokens": 6, "seed": torch.tensor([3, 4])}
    with patched(model):
        alone = model.generate(ids, attention_mask=torch.ones_like(ids), **call)
        padded = model.generate(torch.cat([padding, ids], 1), attention_mask=mask, **call)
    assert torch.equal(padded[:, 3:], alone)


@pytest.mark.parametrize("name", [*DECODERS, "mamba"])
def test_writing_from_nothing(models, monkeypatch, name):
    ours, theirs = _both(monkeypatch, models[name], dict, **_outputs(name))
    _assert_equal_outputs(ours, theirs)
    assert ours.sequences.shape[0] == 1 and ours.sequences[0, 0] == BOS


@pytest.mark.parametrize("name", ["gpt2", "t5", "bart"])
def test_transition_scores_of_sampled_tokens(models, monkeypatch, name):
    model = models[name]
    call = {**EVERYTHING, "temperature": 0.7, "eos_token_id": None}
    ours, theirs = _both(monkeypatch, model, lambda: _inputs(name), **call)
    for normalize in (True, False):
        told = [
            model.compute_transition_scores(out.sequences, out.scores, normalize_logits=normalize)
            for out in (ours, theirs)
        ]
        assert_same(*told, "transition scores")
    drawn = ours.sequences[:, -8:]
    logits = torch.stack(ours.logits, dim=1) / 0.7
    expected = logits.log_softmax(-1).gather(2, drawn[..., None])[..., 0]
    scores = model.compute_transition_scores(ours.sequences, ours.scores, normalize_logits=True)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)  # fp32, two ways


@pytest.mark.parametrize("cache", ["static", "dynamic", "sliding_window", "hybrid"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "t5"])
def test_caches_by_name(models, monkeypatch, name, cache):
    call = {**EVERYTHING, "cache_implementation": cache}
    ours, theirs = _both(monkeypatch, models[name], lambda: _inputs(name), **call)
    _assert_equal_outputs(ours, theirs)


@pytest.mark.parametrize("name", DECODERS)
def test_a_prompt_read_in_pieces(models, monkeypatch, name):
    call = {**EVERYTHING, "prefill_chunk_size": 4}
    ours, theirs = _both(monkeypatch, models[name], lambda: _inputs(name), **call)
    _assert_equal_outputs(ours, theirs)


def test_only_the_last_logits_are_computed_or_all(models):
    with patched(models["llama"]) as model:
        call = {"do_sample": True, "max_new_tokens": 4, "seed": 5}
        one, whole = (model.generate(_ids(), **call, logits_to_keep=n) for n in (1, 0))
    assert torch.equal(one, whole)


@pytest.mark.parametrize(
    "start",
    [
        {},
        {"decoder_input_ids": torch.tensor([[4, 5], [6, 7]])},
        {"decoder_input_ids": torch.tensor([[9, 5], [9, 7]])},
        {
            "decoder_input_ids": torch.tensor([[9, PAD, 5], [9, 6, 7]]),
            "decoder_attention_mask": torch.tensor([[1, 0, 1], [1, 1, 1]]),
        },
    ],
    ids=["nothing", "ids", "ids with their start", "a mask"],
)
@pytest.mark.parametrize("sequences", [1, 2])
@pytest.mark.parametrize("name", ["t5", "bart", "speech"])
def test_what_a_decoder_starts_with(models, monkeypatch, name, start, sequences):
    call = {**EVERYTHING, "decoder_start_token_id": 9, "num_return_sequences": sequences}
    ours, theirs = _both(monkeypatch, models[name], lambda: {**_inputs(name), **start}, **call)
    _assert_equal_outputs(ours, theirs)
    assert ours.sequences[:, 0].tolist() == [9] * 2 * sequences


@pytest.mark.parametrize("name", ["t5", "bart", "speech"])
def test_a_start_for_each_row(models, monkeypatch, name):
    call = {**EVERYTHING, "decoder_start_token_id": [8, 9]}
    ours, theirs = _both(monkeypatch, models[name], lambda: _inputs(name), **call)
    _assert_equal_outputs(ours, theirs)
    assert ours.sequences[:, 0].tolist() == [8, 9]


@pytest.mark.parametrize("name", ["gpt2", "t5", "speech"])
def test_arguments_by_place(models, monkeypatch, name):
    """A prompt, be it text or sound, the configuration, processors and criteria."""
    model, (prompt,) = models[name], _inputs(name).values()
    config = GenerationConfig(do_sample=True, max_new_tokens=6, top_k=9, **TOKENS, **EVERYTHING)
    place = (prompt, config, LogitsProcessorList([Favour()]), StoppingCriteriaList([StopAfter()]))
    with patched(model):
        ours = model.generate(*place, seed=3)
    with monkeypatch.context() as patches:
        patches.setattr(torch, "multinomial", Replay(ours.sequences[:, -len(ours.scores) :]))
        _assert_equal_outputs(ours, model.generate(*place))


class Foo(BartForConditionalGeneration):
    """With an argument that its encoder has not, and one that is prepared for each step."""

    def forward(self, input_ids=None, foo=None, scale=1.0, **kwargs):
        outputs = super().forward(input_ids, **kwargs)
        outputs.logits = outputs.logits * scale
        return outputs

    def prepare_inputs_for_generation(self, *args, scale=1.0, **kwargs):
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)
        return {**inputs, "scale": scale}


def test_arguments_of_a_model_of_the_users(models, monkeypatch):
    model = _bart().eval()
    model.__class__ = Foo
    call = {**EVERYTHING, "foo": "bar", "scale": 0.5}
    ours, theirs = _both(monkeypatch, model, lambda: _inputs("bart"), **call)
    _assert_equal_outputs(ours, theirs)
    plain = model.generate(**_inputs("bart"), max_new_tokens=1, do_sample=False, **EVERYTHING)
    assert torch.equal(ours.logits[0], plain.logits[0] / 2)


def test_positions_and_types_of_a_prompt(models, monkeypatch):
    more = {"position_ids": torch.arange(2, 8).expand(2, 6), "token_type_ids": _ids()}
    inputs = lambda: {**_inputs("gpt2"), **more}  # noqa: E731
    ours, theirs = _both(monkeypatch, models["gpt2"], inputs, **EVERYTHING)
    _assert_equal_outputs(ours, theirs)


def test_outputs_of_an_encoder_that_has_run(models, monkeypatch):
    model = models["t5"]
    encoded = model.get_encoder()(_ids(), return_dict=True)
    ours, theirs = _both(monkeypatch, model, lambda: {"encoder_outputs": encoded}, **EVERYTHING)
    _assert_equal_outputs(ours, theirs)


def test_guidance_away_from_a_prompt(models, monkeypatch):
    call = {**EVERYTHING, "guidance_scale": 1.5, "negative_prompt_ids": _ids(2, 3)}
    ours, theirs = _both(monkeypatch, models["llama"], lambda: _inputs("llama"), **call)
    _assert_equal_outputs(ours, theirs)


def test_a_function_of_allowed_tokens(models, monkeypatch):
    allowed = lambda row, ids: [3 + row, 10 + len(ids)]  # noqa: E731
    call = {**EVERYTHING, "prefix_allowed_tokens_fn": allowed}
    ours, theirs = _both(monkeypatch, models["gpt2"], lambda: _inputs("gpt2"), **call)
    _assert_equal_outputs(ours, theirs)
    assert ours.sequences[1, 6].item() in (4, 16)


class Favour(LogitsProcessor):
    def __call__(self, input_ids, scores):
        scores[:, 7] += 3.0
        return scores


class StopAfter(StoppingCriteria):
    """Row by row, a step later each."""

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids.shape[1] >= torch.tensor([9, 10])


def test_processors_and_criteria_of_the_user(models, monkeypatch):
    call = {
        **EVERYTHING,
        "logits_processor": LogitsProcessorList([Favour()]),
        "stopping_criteria": StoppingCriteriaList([StopAfter()]),
    }
    ours, theirs = _both(monkeypatch, models["gpt2"], lambda: _inputs("gpt2"), **call)
    _assert_equal_outputs(ours, theirs)
    assert ours.sequences.shape[1] == 10


@pytest.mark.parametrize("tokens", [TOKENS, {}], ids=["tokens", "the model's tokens"])
def test_settings_of_a_configuration_of_the_model_and_of_the_call(models, monkeypatch, tokens):
    model = models["gpt2"]
    config = GenerationConfig(temperature=0.5, top_k=7, max_new_tokens=5, **tokens)
    call = {**EVERYTHING, "top_k": 3}
    with monkeypatch.context() as patches:
        patches.setattr(model.generation_config, "top_p", 0.8)
        make = lambda: {**_inputs("gpt2"), "generation_config": config}  # noqa: E731
        ours, theirs = _both(monkeypatch, model, make, **call, max_new_tokens=None)
    _assert_equal_outputs(ours, theirs)
    assert all((scores > -torch.inf).sum(1).max() <= 3 for scores in ours.scores)


@pytest.mark.parametrize(
    "mode", [torch.inference_mode, torch.enable_grad, lambda: torch.autocast("cpu")]
)
def test_modes_of_pytorch(models, monkeypatch, mode):
    with mode():
        ours, theirs = _both(monkeypatch, models["llama"], lambda: _inputs("llama"), **EVERYTHING)
    _assert_equal_outputs(ours, theirs)
    assert not ours.scores[0].requires_grad


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_dropout_of_a_model_in_training(models, monkeypatch, name):
    def begin():
        torch.manual_seed(4)
        return _inputs(name)

    model = models[name].train()
    try:
        ours, theirs = _both(monkeypatch, model, begin, **EVERYTHING)
    finally:
        model.eval()
    _assert_equal_outputs(ours, theirs)


def test_a_compiled_forward(monkeypatch):
    model = _llama().eval()
    monkeypatch.setattr(model, "forward", torch.compile(model.forward, backend="eager"))
    ours, theirs = _both(monkeypatch, model, lambda: _inputs("llama"), **EVERYTHING)
    _assert_equal_outputs(ours, theirs)


def test_a_forward_that_generate_compiles(monkeypatch):
    model, used = _llama().eval(), []
    how = CompileConfig(backend="eager", fullgraph=False, mode=None)
    how._compile_all_devices = True  # as on a GPU
    compiled = model.get_compiled_call
    monkeypatch.setattr(model, "get_compiled_call", lambda c: used.append(c) or compiled(c))
    call = {"cache_implementation": "static", "compile_config": how, **EVERYTHING}
    ours, theirs = _both(monkeypatch, model, lambda: _inputs("llama"), **call)
    _assert_equal_outputs(ours, theirs)
    assert used == [how] * 2


@pytest.mark.parametrize("synced", [True, False, None])
def test_peers_that_wait(models, monkeypatch, synced):
    """Both ask at the same times whether a peer is unfinished."""
    model, asked = models["gpt2"], []

    def unfinished(self, finished, synced_gpus, device):
        asked.append((finished, bool(synced_gpus)))
        return not finished

    monkeypatch.setattr(type(model), "_has_unfinished_sequences", unfinished)
    call = {**EVERYTHING, "synced_gpus": synced, "eos_token_id": list(range(2, 30))}
    ours, theirs = _both(monkeypatch, model, lambda: _inputs("gpt2"), **call)
    _assert_equal_outputs(ours, theirs)
    half = len(asked) // 2
    assert asked[:half] == asked[half:] and asked[-1] == (True, synced is True)


def test_a_pipeline(models, monkeypatch, tokenizer):
    write = pipeline("text-generation", model=models["llama"], tokenizer=tokenizer)
    call = {"do_sample": True, "max_new_tokens": 5, "num_return_sequences": 2}
    call["return_tensors"] = True
    with patched(models["llama"]):
        ours = write(["abcab", "ccb"], **call, seed=3)
    drawn = [torch.tensor([text["generated_token_ids"][-5:] for text in row]) for row in ours]
    with monkeypatch.context() as patches:
        patches.setattr(torch, "multinomial", Replay(torch.cat(drawn, dim=1)))
        assert write(["abcab", "ccb"], **call) == ours


def test_rows_that_end_together_and_apart(models, monkeypatch):
    """All rows end at the first token; or each at its own, the later ones padded."""
    for ends in (list(range(2, VOCAB)), list(range(2, 30))):
        call = {**EVERYTHING, "eos_token_id": ends}
        ours, theirs = _both(monkeypatch, models["gpt2"], lambda: _inputs("gpt2"), **call)
        _assert_equal_outputs(ours, theirs)


@pytest.fixture(scope="module")
def tokenizer():
    """Of the letters a to c, and of some words of them, which tokens may be parts of."""
    words = ["<pad>", "<bos>", "<eos>", "<unk>", "a", "b", "c", "ab", "abc", "bc", "ca", "cab"]
    merges = [("a", "b"), ("ab", "c"), ("b", "c"), ("c", "a"), ("ca", "b")]
    core = Tokenizer(BPE({word: i for i, word in enumerate(words)}, merges, unk_token="<unk>"))
    core.decoder = decoders.Fuse()
    names = {name: f"<{name[:3]}>" for name in ("pad_token", "bos_token", "eos_token", "unk_token")}
    return PreTrainedTokenizerFast(tokenizer_object=core, **names, padding_side="left")


HALF_WORDS = torch.tensor([[6, 6, 6, 6], [5, 4, 6, 6], [4, 4, 4, 8]])  # the last is a whole one


@pytest.mark.parametrize("do_sample", [True, False])
def test_a_last_token_that_is_healed(models, monkeypatch, tokenizer, do_sample):
    call = {**EVERYTHING, "token_healing": True, "tokenizer": tokenizer, "do_sample": do_sample}
    ours, theirs = _both(monkeypatch, models["llama"], lambda: {"input_ids": HALF_WORDS}, **call)
    _assert_equal_outputs(ours, theirs)
    healed = (ours.sequences[:, :4] != HALF_WORDS).any(1)
    assert healed[:2].any() and not healed[2]


def test_a_healed_prompt_goes_on_with_its_seed_in_any_batch(models, tokenizer):
    call = {"do_sample": True, "max_new_tokens": 6, "eos_token_id": None}
    call |= {"token_healing": True, "tokenizer": tokenizer}
    seeds, temperature = torch.tensor([3, 4, 5]), torch.tensor([0.7, 1.0, 1.3])
    with patched(models["llama"]) as model:
        together = model.generate(HALF_WORDS, **call, seed=seeds, temperature=temperature)
        for row in range(3):
            one = slice(row, row + 1)
            settings = {"seed": seeds[one], "temperature": temperature[one]}
            alone = model.generate(HALF_WORDS[one], **call, **settings)
            assert torch.equal(alone[0], together[row, : alone.shape[1]]), "then padding"


LEFT_OUT = torch.tensor([[5, 6, 7], [8, 9, PAD]])
TOLD = {
    "attention mask and the pad token id were not set": {},
    "right-padding was detected": {"input_ids": LEFT_OUT, "pad_token_id": PAD},
    "Both `max_new_tokens`": {"max_length": 12},
    "Unfeasible length constraints": {"min_length": 30},
    "A custom logits processor of type": {
        "logits_processor": LogitsProcessorList([MinLengthLogitsProcessor(9, EOS)]),
        "min_length": 9,
    },
    "A custom stopping criteria of type": {
        "stopping_criteria": StoppingCriteriaList([MaxLengthCriteria(9)])
    },
    "generation flags are not valid": {"do_sample": False, "temperature": 0.5},
}
if not transformers.__version__.startswith("4."):  # which has a default in every configuration
    TOLD["Using the model-agnostic default `max_length`"] = {"max_new_tokens": None}


@pytest.mark.parametrize("words", TOLD)
def test_a_warning_of_transformers(models, monkeypatch, words):
    monkeypatch.setattr(models["gpt2"].generation_config, "pad_token_id", None)
    call = {**EVERYTHING, **_inputs("gpt2"), **TOLD[words]}
    ours, theirs, told = _both_told(monkeypatch, models["gpt2"], dict, **call)
    _assert_equal_outputs(ours, theirs)
    assert any(words in message for message in told), told


WRONG = {
    "a misspelt argument": {"temprature": 1.0},
    "an argument of another model": {"pixel_values": torch.zeros(2, 3, 8, 8)},
    "several sequences, greedily": {"do_sample": False, "num_return_sequences": 2},
    "a temperature of 0": {"temperature": 0.0},
    "a negative temperature": {"temperature": -1.0},
    "top-p above 1": {"top_p": 1.5},
    "top-k below 0": {"top_k": -3},
    "no new tokens, but fewer than given": {"max_new_tokens": None, "max_length": 3},
    "a criterion that the configuration makes": {
        "stopping_criteria": StoppingCriteriaList([MaxLengthCriteria(4)])
    },
    "a processor that the configuration makes": {
        "min_length": 5,
        "logits_processor": LogitsProcessorList([MinLengthLogitsProcessor(10, EOS)]),
    },
    "an unknown cache": {"cache_implementation": "huge"},
    "a cache beside its kind": {"cache_implementation": "static", CACHE: 5},
    "stop strings without a tokenizer": {"stop_strings": ["x"]},
    "a streamer beside beams": {"num_beams": 2, "streamer": object()},
    "a mask of another shape": {"attention_mask": torch.ones(2, 3, 3)},
    "a prompt twice": {"inputs": _ids()},
    "embeddings beside the ids of a prompt": {"inputs_embeds": torch.zeros(2, 6, 16)},
    "an empty prompt": {"input_ids": torch.zeros(2, 0, dtype=torch.int64)},
    "numbers for ids": {"input_ids": torch.zeros(2, 6)},
    "a token beyond the vocabulary": {"input_ids": torch.full((2, 6), VOCAB)},
    "no sequences": {"num_return_sequences": 0},
    "no new tokens": {"max_new_tokens": 0},
    "fewer than no new tokens": {"max_new_tokens": -1},
    "a configuration of another kind": {"generation_config": {"top_k": 3}},
    "no tokens allowed": {"prefix_allowed_tokens_fn": lambda row, ids: []},
    "bad words of no words": {"bad_words_ids": []},
    "a penalty below 0": {"repetition_penalty": -1.0},
    "a processor that wants more": {"logits_processor": [lambda scores: scores]},
    "a streamer for one, for two": {"streamer": TextStreamer(None)},
    "healing without a tokenizer": {"token_healing": True},
    "a cache on no device": {"cache_implementation": "offloaded"},
    "a cache of no backend": {"cache_implementation": "quantized"},
    "peers without a group": {"synced_gpus": True},
    "starts for other rows": {"decoder_input_ids": torch.zeros(3, 2, dtype=torch.int64)},
    "an assistant for two": {"assistant_model": "nobody"},
}


@pytest.mark.parametrize("name", ["gpt2", "t5"])
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_calls_fail_as_they_did(models, monkeypatch, name, wrong):
    model = models[name]
    call = {"do_sample": True, "max_new_tokens": 4, **_inputs(name), **WRONG[wrong]}

    def said():
        with _hearing() as told:
            try:
                return tuple(model.generate(**call).shape), told
            except Exception as error:
                return type(error), str(error), told

    torch.manual_seed(0)
    plain = said()
    print(plain)
    with patched(model):
        assert said() == plain
