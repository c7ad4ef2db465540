"""`patch` on models whose `generate` is not the plain one: it calls another's, or itself anew."""

# mypy: disable-error-code="arg-type, attr-defined, call-arg, misc"
# (transformers types configurations and `generate` more narrowly than it calls them)

import importlib

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the `hf` extra")

from transformers import (  # noqa: E402
    Blip2Config,
    Blip2ForConditionalGeneration,
    BlipConfig,
    BlipForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    Kosmos2Config,
    Kosmos2ForConditionalGeneration,
    MusicgenDecoderConfig,
    MusicgenForCausalLM,
    OPTConfig,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from fused_sampler.hf import fused_generate, patch, unpatch  # noqa: E402

hf_call = importlib.import_module("fused_sampler.hf.call")

TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LAYERS = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16}
VISION = {**LAYERS, "intermediate_size": 32, "image_size": 8, "patch_size": 4}
SAMPLE = {"do_sample": True, "max_new_tokens": 6, "top_k": 0}


@pytest.fixture(autouse=True)
def no_multinomial(monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("transformers' own sampling ran")

    monkeypatch.setattr(torch, "multinomial", forbidden)
    torch.manual_seed(0)


# A `generate` that calls the `generate` of a model inside


def _blip():
    text = {
        **{"vocab_size": 64, "intermediate_size": 32, "projection_dim": 16, "sep_token_id": 2},
        **{"max_position_embeddings": 64, "encoder_hidden_size": 16, "initializer_range": 0.5},
    }
    config = BlipConfig(
        text_config={**LAYERS, **TOKENS, **text}, vision_config={**VISION, "projection_dim": 16}
    )
    inputs = {"input_ids": torch.tensor([[1, 5], [1, 6]])}
    return BlipForConditionalGeneration(config), inputs


def _blip2():
    text = OPTConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=1,
        ffn_dim=32,
        num_attention_heads=2,
        word_embed_proj_dim=16,
        max_position_embeddings=64,
        init_std=0.5,
        **TOKENS,
    )
    config = Blip2Config(
        vision_config=VISION,
        qformer_config={**LAYERS, "vocab_size": 30, "encoder_hidden_size": 16},
        text_config=text.to_dict(),
        num_query_tokens=2,
        image_token_index=60,
    )
    inputs = {"input_ids": torch.tensor([[60, 60, 1, 5], [60, 60, 1, 6]])}
    return Blip2ForConditionalGeneration(config), inputs


def _kosmos2():
    text = {
        **{"vocab_size": 64, "embed_dim": 16, "layers": 1, "ffn_dim": 32, "attention_heads": 2},
        **{"max_position_embeddings": 64, "init_std": 0.5},
    }
    config = Kosmos2Config(text_config={**TOKENS, **text}, vision_config=VISION, latent_query_num=2)
    inputs = {
        "input_ids": torch.tensor([[1, 5, 5, 7], [1, 5, 5, 8]]),
        "image_embeds_position_mask": torch.tensor([[0, 1, 1, 0]] * 2),
        "attention_mask": torch.ones(2, 4, dtype=torch.int64),
    }
    return Kosmos2ForConditionalGeneration(config), inputs


@pytest.mark.parametrize("make", [_blip, _blip2, _kosmos2])
def test_a_model_that_calls_another_models_generate(make):
    model, inputs = make()
    patch(model.eval())
    inputs = {**inputs, "pixel_values": torch.randn(2, 3, 8, 8)}
    first = model.generate(**inputs, **SAMPLE, seed=7)
    assert torch.equal(model.generate(**inputs, **SAMPLE, seed=7), first)
    assert not torch.equal(model.generate(**inputs, **SAMPLE, seed=8), first)

    # So does what transformers does not know.
    assert not torch.equal(model.generate(**inputs, **SAMPLE, seed=7, top_n_sigma=0.2), first)

    # A seed a prompt and a temperature a prompt reach the inner loop, each its own row.
    both = {"seed": torch.tensor([3, 4]), "temperature": torch.tensor([0.5, 1.5])}
    both["top_a"] = torch.tensor([0.0, 0.4])
    together = model.generate(**inputs, **SAMPLE, **both)
    for row in range(2):
        alone = model.generate(
            **{name: value[row : row + 1] for name, value in inputs.items()},
            **SAMPLE,
            **{name: value[row : row + 1] for name, value in both.items()},
        )
        assert alone[0].tolist() == together[row, : alone.shape[1]].tolist()

    with pytest.raises(AssertionError, match="own sampling"):
        unpatch(model).generate(**inputs, **SAMPLE)


def test_a_seed_fails_before_the_work(monkeypatch):
    model, inputs = _blip()
    patch(model.eval())
    monkeypatch.setattr(model.text_decoder.bert, "forward", None)
    pixels = torch.randn(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"seed was given, but .* beam search"):
        model.generate(pixels, **inputs, max_new_tokens=4, num_beams=2, do_sample=False, seed=7)


# A `generate` that is called again and again


NO_TIMESTAMPS = 40  # larger ids are timestamps
PIECE = 20  # frames


@pytest.fixture
def whisper():
    config = WhisperConfig(
        vocab_size=64,
        num_mel_bins=4,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_source_positions=PIECE // 2,
        max_target_positions=40,
        init_std=0.5,
        decoder_start_token_id=3,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **TOKENS,
    )
    model = WhisperForConditionalGeneration(config).eval()
    settings = model.generation_config
    settings.no_timestamps_token_id, settings.is_multilingual = NO_TIMESTAMPS, False
    settings.prev_sot_token_id, settings.max_initial_timestamp_index = 4, 10
    return patch(model)


def _listen(model, sound, lengths, **call):
    """The pieces' tokens of each recording."""
    mask = (torch.arange(sound.shape[2]) < torch.tensor(lengths)[:, None]).long()
    call = {"temperature": 1.0, "max_new_tokens": 8, **call}
    out = model.generate(
        sound, attention_mask=mask, return_timestamps=True, return_segments=True, **call
    )
    return [[piece["tokens"].tolist() for piece in row] for row in out["segments"]]


def test_equal_pieces_of_a_recording_are_drawn_apart(whisper):
    sound = torch.randn(1, 4, PIECE).repeat(1, 1, 4)
    first = _listen(whisper, sound, [80], seed=7)
    assert len({tuple(piece) for piece in first[0]}) == len(first[0]) > 1
    assert _listen(whisper, sound, [80], seed=7) == first
    assert _listen(whisper, sound, [80], seed=8) != first


def test_a_seed_follows_its_recording_when_others_end(whisper):
    sound, seeds = torch.randn(3, 4, 80), torch.tensor([11, 12, 13])
    lengths = [30, 80, 50]
    together = _listen(whisper, sound, lengths, seed=seeds)
    assert len({len(row) for row in together}) > 1, "the batch shrinks"
    for row, length in enumerate(lengths):  # Whisper ignores the mask of one recording alone
        alone = sound[row : row + 1, :, :length]
        assert _listen(whisper, alone, [length], seed=seeds[row : row + 1]) == [together[row]]
    backwards = _listen(whisper, sound.flip(0), lengths[::-1], seed=seeds.flip(0))
    assert backwards == together[::-1]


def test_what_transformers_does_not_know_holds_for_every_piece(whisper):
    sound, lengths = torch.randn(2, 4, 60), [60, 40]
    given = {"top_a": torch.tensor([0.0, 1.0]), "top_n_sigma": 1.5}
    call = {"seed": torch.tensor([11, 12])}
    together = _listen(whisper, sound, lengths, **call, **given)
    for row, length in enumerate(lengths):
        own = {"seed": call["seed"][row : row + 1], "top_a": float(given["top_a"][row])}
        alone = sound[row : row + 1, :, :length]
        assert _listen(whisper, alone, [length], **own, top_n_sigma=1.5) == [together[row]]
    assert _listen(whisper, sound, lengths, **call) != together
    greedy = _listen(whisper, sound, lengths, temperature=0.0)
    assert _listen(whisper, sound, lengths, **call, top_n_sigma=1e-9) == greedy


def test_a_piece_that_is_decoded_once_more_is_drawn_anew(whisper, monkeypatch):
    """Both recordings come out "badly" always: all tries are made, each with draws of its own."""
    drawn = []
    loop = hf_call.Call.loop

    def watched(self, *args):
        drawn.append(loop(self, *args))
        return drawn[-1]

    monkeypatch.setattr(hf_call.Call, "loop", watched)
    sound = torch.randn(2, 4, PIECE).repeat(1, 1, 2)
    call = {"seed": torch.tensor([11, 12]), "logprob_threshold": 100.0}
    call["compression_ratio_threshold"] = None
    tries = [
        _listen(whisper, sound, [40, 40], temperature=(1.0,) * number, **call)
        for number in (1, 2, 3)
    ]
    assert len({str(pieces) for pieces in tries}) == 3
    assert len(drawn) > 6


def test_what_is_decoded_greedily_first_and_sampled_then(whisper, monkeypatch):
    """Unseeded, greedy tries leave the generator alone, and beams may come before sampled tries."""
    sound = torch.randn(1, 4, PIECE * 2)
    call = {"temperature": (0.0, 1.0), "compression_ratio_threshold": None}
    call["logprob_threshold"] = 100.0  # no try is good enough
    torch.manual_seed(3)
    first, second = (_listen(whisper, sound, [40], **call) for _ in range(2))
    torch.manual_seed(3)
    assert _listen(whisper, sound, [40], **call) == first != second
    assert _listen(whisper, sound, [40], **call, num_beams=2)
    with pytest.raises(ValueError, match=r"seed was given, but .* beam search"):
        _listen(whisper, sound, [40], **call, num_beams=2, seed=7)


def test_returned_sequences_of_a_recording(whisper):
    sound = torch.randn(2, 4, PIECE)
    call = {"do_sample": True, "max_new_tokens": 5, "temperature": 1.0}
    two = whisper.generate(sound, seed=torch.tensor([5, 6]), num_return_sequences=2, **call)
    one = whisper.generate(sound, seed=torch.tensor([5, 6]), **call)
    assert not torch.equal(two[0], two[1])
    width = min(one.shape[1], two.shape[1])
    assert torch.equal(two[::2, :width], one[:, :width])


def test_a_callable_cannot_carry_a_seed_through_a_recording(whisper):
    sound = torch.randn(1, 4, 80)
    unpatch(whisper)
    with pytest.raises(ValueError, match=r"seed cannot go on from one piece.*patch"):
        _listen(whisper, sound, [80], custom_generate=fused_generate, seed=7)
    assert _listen(whisper, sound, [80], custom_generate=fused_generate)


def test_a_callable_carries_numbers_through_a_recording_and_no_values_by_row(whisper):
    sound, lengths = torch.randn(2, 4, 80), [80, 80]
    unpatch(whisper)
    how = {"custom_generate": fused_generate}
    greedy = _listen(whisper, sound, lengths, **how, temperature=0.0)
    assert _listen(whisper, sound, lengths, **how, top_n_sigma=1e-9) == greedy
    with pytest.raises(ValueError, match=r"top_a cannot go on from one piece.*patch"):
        _listen(whisper, sound, lengths, **how, top_a=torch.tensor([0.1, 0.2]))


# Rows that are prompts times codebooks


def test_a_seed_a_prompt_where_a_prompt_has_a_row_for_each_codebook():
    if transformers.__version__.startswith("4."):
        pytest.skip("MusicgenForCausalLM.generate of transformers 4.57 reads .shape of an int")
    config = MusicgenDecoderConfig(
        vocab_size=32,
        hidden_size=16,
        ffn_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_codebooks=4,
        max_position_embeddings=64,
        initializer_factor=0.5,
        **{**TOKENS, "pad_token_id": 31, "bos_token_id": 31, "eos_token_id": None},
    )
    model = patch(MusicgenForCausalLM(config).eval())
    model.generation_config.pad_token_id = model.generation_config.decoder_start_token_id = 31
    ids = torch.full((8, 1), 31)  # two prompts
    call = {"max_new_tokens": 10, "do_sample": True, "top_k": 0, "guidance_scale": 1.0}
    call |= {"num_return_sequences": 1}  # its own default is None
    both = model.generate(ids, seed=torch.tensor([5, 6]), **call).reshape(2, 4, -1)
    for prompt, seed in enumerate((5, 6)):
        alone = model.generate(ids[:4], seed=torch.tensor([seed]), **call).reshape(4, -1)
        assert torch.equal(both[prompt], alone)
    assert len({tuple(row) for row in both.reshape(8, -1).tolist()}) == 8
    with pytest.raises(ValueError, match=r"seed has shape \[3\]"):
        model.generate(ids, seed=torch.tensor([5, 6, 7]), **call)


# A loop within each step of another


def _gpt2():
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=64,
            n_positions=64,
            n_embd=16,
            n_layer=1,
            n_head=2,
            initializer_range=0.5,
            **{**TOKENS, "eos_token_id": None},
        )
    ).eval()


class WithDepth(GPT2LMHeadModel):
    """At each step a second model writes too, as the codebooks of one moment of sound do."""

    def __init__(self, config, depth):
        super().__init__(config)
        self.depth, self.written = depth, []

    def prepare_inputs_for_generation(self, input_ids, **kwargs):
        out = self.depth.generate(input_ids[:, -1:], **{**SAMPLE, "max_new_tokens": 4})
        self.written.append(out[:, 1:])
        return super().prepare_inputs_for_generation(input_ids, **kwargs)


def test_a_loop_within_a_loop_has_draws_of_its_own():
    depth = _gpt2()
    model = patch(WithDepth(depth.config, depth).eval())
    for parameter in model.parameters():
        parameter.data.zero_()  # all tokens are alike: draws with the same numbers are the same
    prompts = torch.tensor([[5], [6]])
    out = model.generate(prompts, **SAMPLE, seed=torch.tensor([7, 8]))
    written = torch.cat(model.written, dim=1)
    steps = [*out[:, 1:].T.tolist(), *written.T.tolist()]
    assert len({tuple(step) for step in steps}) == len(steps) > 20


# Loops that cannot be replaced


def test_a_generate_that_draws_by_itself_is_refused_with_what_can_be_patched():
    class Talker(GPT2LMHeadModel):
        def generate(self, *args, **kwargs):
            return torch.multinomial(torch.ones(1, 2), 1)

    class Whole(GPT2LMHeadModel):
        def __init__(self, config):
            super().__init__(config)
            self.thinker, self.talker = GPT2LMHeadModel(config), Talker(config)

        def generate(self, *args, **kwargs):
            self.thinker.generate(*args, **kwargs)
            return self.talker.generate()

    model = Whole(_gpt2().config).eval()
    with pytest.raises(ValueError, match=r"Talker draws tokens in a loop of its own.*model\.think"):
        patch(model)
    patch(model.thinker)
    with pytest.raises(AssertionError, match="own sampling"):
        model.generate(torch.tensor([[5]]), **SAMPLE)
