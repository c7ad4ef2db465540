"""What a call tells beside its draws: the most probable tokens, ranks, entropy, kept sets."""

import math

import pytest
import torch
from common import KINDS, logits_of, real_logits

from fused_sampler import FusedSampler, SampleOutput, mask_logits, replay, sample
from fused_sampler.edits.bitmask import packed, unpacked

BACKENDS = ["torch", "cpu", "triton"]
ALL = {"return_ranks": True, "return_entropy": True, "return_kept": "ids", "top_logprobs": 5}
FIELDS = [name for name in SampleOutput._fields if name not in ("kept_bitmask",)]
CASES = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.7, "top_p": 0.9},
    {"top_k": 3},
    {"typical_p": 0.5, "temperature": 1.4},
    {"xtc_probability": 1.0, "xtc_threshold": 0.05},
    {"temperature": 2.0, "temperature_last": True, "min_p": 0.1},
]


def told(logits, backend, **arguments):
    ids = torch.tensor([0, -1, logits.shape[-1] - 1, 0])
    arguments = {"seed": 3, "step": 2, "logprob_ids": ids, **ALL, **arguments}
    return sample(logits, backend=backend, return_info=True, **arguments)


def four_tokens():
    return torch.tensor([[0.0, 1.0, 2.0, 3.0]]) * math.log(2)  # weights 1, 2, 4, 8


def test_four_tokens_by_hand():
    output = told(four_tokens(), "torch", top_k=2, top_logprobs=3)
    third, two_thirds = math.log(1 / 3), math.log(2 / 3)
    assert output.top_ids.tolist() == [[3, 2, -1]]
    assert output.top_logprobs[0, :2].tolist() == pytest.approx([two_thirds, third], abs=1e-6)
    assert output.top_logprobs[0, 2].isnan()
    assert output.raw_top_ids.tolist() == [[3, 2, 1]]
    shares = [math.log(w / 15) for w in (8, 4, 2)]
    assert output.raw_top_logprobs[0].tolist() == pytest.approx(shares, abs=1e-6)
    own, raw = output.id_logprobs[0].tolist(), output.raw_id_logprobs[0].tolist()
    assert (own[0], own[2]) == (-math.inf, pytest.approx(two_thirds, abs=1e-6))
    assert (raw[0], raw[2]) == pytest.approx((math.log(1 / 15), math.log(8 / 15)), abs=1e-6)
    assert math.isnan(own[1]) and math.isnan(raw[1])
    expected = -(third / 3 + two_thirds * 2 / 3)
    assert output.entropy.tolist() == pytest.approx([expected], abs=1e-6)
    assert (output.kept_ids.tolist(), output.kept_offsets.tolist()) == ([2, 3], [0, 2])
    assert output.ranks.tolist() == [4 - output.tokens.item()]


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kind", ["random", "tied", "few allowed", "invalid"])
def test_backends_tell_the_same(kind, case, backend):
    logits = logits_of(kind, 3, 300)
    logits = logits.half() if kind == "tied" else logits
    ours, textbook = (told(logits, name, validate=False, **case) for name in (backend, "torch"))
    for name in FIELDS:
        one, other = getattr(ours, name), getattr(textbook, name)
        assert torch.equal(one.nan_to_num(7), other.nan_to_num(7)), name


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "invalid"])
def test_everything_is_of_the_kept_set(kind, case):
    logits = logits_of(kind, 4, 400)
    output = told(logits, "cpu", **case, num_samples=3)
    kept = mask_logits(logits, seed=3, step=2, **case) > -torch.inf
    assert torch.equal(kept.sum(-1), output.kept)
    assert torch.equal(kept.nonzero()[:, 1], output.kept_ids.long())
    assert torch.equal(kept.sum(-1), output.kept_offsets.diff())
    for row in range(4):
        values = logits[row].masked_fill(~kept[row], -torch.inf)
        order = torch.sort(values, descending=True, stable=True).indices[: min(5, output.kept[row])]
        assert output.top_ids[row, : len(order)].tolist() == order.tolist()
        assert (output.top_ids[row, len(order) :] == -1).all()
        for draw in range(3):
            token = output.tokens[row, draw]
            assert output.ranks[row, draw] == (logits[row] > logits[row, token]).sum() + 1
            if (place := (output.top_ids[row] == token).nonzero()).numel():
                assert output.top_logprobs[row, place[0, 0]] == output.logprobs[row, draw]
    words = sample(logits, seed=3, step=2, return_info=True, return_kept="bitmask", **case)
    assert torch.equal(unpacked(words.kept_bitmask, 400), kept)


def test_entropy_is_that_of_the_kept_tokens():
    logits = real_logits()[:6]
    for case in ({}, {"temperature": 0.6, "top_p": 0.95}, {"top_k": 40, "temperature": 1.5}):
        scores = mask_logits(logits, **case).double()
        exact = torch.special.entr(scores.softmax(-1)).sum(-1)
        found = sample(logits, return_info=True, return_entropy=True, seed=0, **case).entropy
        assert (found - exact).abs().max() < 2e-6  # fp32 of some 3 nats
    greedy = sample(logits, 0.0, return_info=True, return_entropy=True).entropy
    assert greedy.tolist() == [0.0] * 6


def test_a_cap_leaves_rows_out_and_says_so():
    logits = logits_of("random", 3, 500)
    rows = {"top_k": torch.tensor([2, 50, 3]), "return_kept": "ids", "kept_cap": 10}
    output = sample(logits, return_info=True, **rows)
    assert output.kept_overflow.tolist() == [False, True, False]
    assert output.kept_offsets.tolist() == [0, 2, 2, 5]
    assert output.kept.tolist() == [2, 50, 3]


def test_a_bitmask_is_that_of_grammar_engines():
    kept = torch.zeros(1, 70, dtype=torch.bool)
    kept[0, [0, 31, 33, 69]] = True
    assert packed(kept).tolist() == [[1 - 2**31, 2, 2**5]]


def test_one_row_has_no_batch():
    output = told(logits_of("random", 1, 200)[0], "cpu")
    assert [output.tokens.dim(), output.entropy.dim(), output.ranks.dim()] == [0, 0, 0]
    assert output.top_ids.shape == output.raw_top_logprobs.shape == (5,)
    assert output.kept_offsets.tolist() == [0, 200]


def test_no_rows():
    output = told(torch.empty(0, 64), "cpu", return_kept="bitmask")
    assert output.top_ids.shape == (0, 5) and output.kept_bitmask.shape == (0, 2)
    assert output.entropy.shape == output.ranks.shape == (0,)


def test_the_default_dtype_does_not_matter():
    logits = logits_of("random", 2, 100)
    before = told(logits, "cpu", temperature=torch.tensor([0.0, 0.7]))
    torch.set_default_dtype(torch.float64)
    try:
        after = told(logits, "cpu", temperature=torch.tensor([0.0, 0.7]))
    finally:
        torch.set_default_dtype(torch.float32)
    for name in FIELDS:
        one, other = getattr(before, name), getattr(after, name)
        assert one.dtype == other.dtype and torch.equal(one.nan_to_num(7), other.nan_to_num(7))


def test_nothing_is_there_that_was_not_asked_for():
    output = sample(four_tokens(), return_info=True)
    assert all(value is None for value in output[4:])


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"top_logprobs": 5}, ValueError, "top_logprobs is 5; pass 0 to 4"),
        ({"top_logprobs": -1}, ValueError, "top_logprobs is -1"),
        ({"top_logprobs": 2.0}, TypeError, "top_logprobs must be an integer, got 2.0"),
        ({"return_kept": "list"}, ValueError, "return_kept is 'list'"),
        ({"kept_cap": 3}, ValueError, "kept_cap bounds the ids"),
        ({"kept_cap": 0, "return_kept": "ids"}, ValueError, "kept_cap is 0"),
        ({"logprob_ids": [1]}, TypeError, r"logprob_ids must be .* got \[1\]"),
        ({"logprob_ids": torch.tensor([1.0])}, TypeError, "got torch.float32"),
        ({"logprob_ids": torch.tensor([[1], [2]])}, ValueError, r"shape \[2, 1\] .* 1 rows"),
        ({"logprob_ids": torch.tensor([0, 4])}, ValueError, "holds 4; token ids go from 0 to 3"),
        ({"logprob_ids": torch.tensor([[-2]])}, ValueError, "holds -2 in row 0"),
    ],
)
def test_wrong_requests_are_named(arguments, kind, message):
    with pytest.raises(kind, match=message):
        sample(four_tokens(), return_info=True, **arguments)


def test_requests_need_return_info():
    sampler = FusedSampler(mirostat_tau=3.0, seed=1)
    with pytest.raises(ValueError, match="return_ranks adds to what return_info=True returns"):
        sampler(four_tokens(), return_ranks=True)
    assert sampler(four_tokens(), return_ranks=True, return_info=True).ranks.shape == (1,)
    with pytest.raises(ValueError, match="top_logprobs adds to what return_info=True returns"):
        sample(four_tokens(), top_logprobs=2)


def test_requests_break_a_compiled_graph_and_are_served():
    def draw(x):
        return sample(x * 2, seed=0, return_info=True, return_ranks=True).ranks + 1

    torch.compiler.reset()
    assert torch.equal(torch.compile(draw, backend="eager")(four_tokens()), draw(four_tokens()))


class TestReplay:
    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_values_are_those_of_sample(self, case, backend):
        logits = logits_of("random", 4, 300)
        drawn = sample(logits, seed=3, step=2, return_info=True, **case)
        again = replay(logits, drawn.tokens, seed=3, step=2, backend=backend, **case)
        assert torch.equal(again.logprobs, drawn.logprobs)
        assert torch.equal(again.raw_logprobs, drawn.raw_logprobs)

    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_a_kept_set_given_back(self, case, packed):
        logits = real_logits()[:4]
        drawn = sample(logits, seed=3, step=2, return_info=True, return_kept="bitmask", **case)
        kept = drawn.kept_bitmask if packed else unpacked(drawn.kept_bitmask, logits.shape[-1])
        again = replay(logits, drawn.tokens, case.get("temperature"), kept=kept)
        assert torch.equal(again.logprobs, drawn.logprobs)
        assert torch.equal(again.raw_logprobs, drawn.raw_logprobs)

    def test_sequences(self):
        logits = logits_of("random", 6, 200).reshape(2, 3, 200)
        params = {"temperature": torch.tensor([0.7, 1.3]), "top_p": 0.9}
        params |= {"xtc_probability": 0.5, "xtc_threshold": 0.02}
        drawn = [
            sample(logits[:, place], seed=5, step=7 + place, return_info=True, **params)
            for place in range(3)
        ]
        tokens = torch.stack([output.tokens for output in drawn], dim=1)
        tokens[1, 2] = -1
        again = replay(logits, tokens, seed=5, step=7, **params)
        expected = torch.stack([output.logprobs for output in drawn], dim=1)
        assert again.logprobs[1, 2].isnan() and again.raw_logprobs[1, 2].isnan()
        assert torch.equal(again.logprobs.nan_to_num(7)[:1], expected[:1])
        assert torch.equal(again.logprobs[1, :2], expected[1, :2])
        one = replay(logits[0], tokens[0], 0.7, top_p=0.9, seed=torch.full((3,), 5), step=0)
        assert one.logprobs.shape == (3,)

    def test_a_token_that_is_not_kept(self):
        x = four_tokens()
        for arguments in ({"top_k": 2}, {"kept": torch.tensor([[False, False, True, True]])}):
            found = replay(x, torch.tensor([0]), **arguments)
            assert found.logprobs.item() == -math.inf
            assert found.raw_logprobs.item() == pytest.approx(math.log(1 / 15), abs=1e-6)

    def test_no_rows(self):
        found = replay(torch.empty(0, 3, 5), torch.empty(0, 3, dtype=torch.int64))
        assert found.logprobs.shape == (0, 3)

    @pytest.mark.parametrize(
        ("arguments", "kind", "message"),
        [
            ({"tokens": torch.tensor([1.0])}, TypeError, "tokens must be .* got torch.float32"),
            ({"tokens": torch.tensor([1, 2])}, ValueError, r"one token for each row, \[1\]"),
            ({"tokens": torch.tensor([4])}, ValueError, "tokens holds 4 in row 0"),
            ({"kept": torch.ones(1, 4)}, TypeError, "kept must be a bool tensor or an int32"),
            ({"kept": torch.ones(1, 3, dtype=torch.bool)}, ValueError, r"it is \[1, 4\]"),
            ({"kept": torch.zeros(1, 1, dtype=torch.int32)}, ValueError, "no token that row 0"),
            (
                {"kept": torch.ones(1, 4, dtype=torch.bool), "top_k": 2},
                ValueError,
                "kept stands for all filters; leave top_k out",
            ),
            ({"xtc_probability": 0.5}, ValueError, "pass seed and step"),
            ({"step": 0.5}, TypeError, r"step must be an integer.*0\.5"),
            ({"top_q": 0.5}, TypeError, "no argument 'top_q'"),
            ({"top_p": torch.tensor([0.5, 2.0])}, ValueError, r"top_p has shape \[2\]"),
        ],
    )
    def test_wrong_arguments_are_named(self, arguments, kind, message):
        with pytest.raises(kind, match=message):
            replay(four_tokens(), **{"tokens": torch.tensor([1]), **arguments})

    def test_a_bad_row_of_a_sequence_is_named(self):
        logits = torch.zeros(2, 3, 8)
        logits[1, 2, 5] = torch.nan
        with pytest.raises(ValueError, match="sequence 1: logits row 2 holds NaN at token 5"):
            replay(logits, torch.zeros(2, 3, dtype=torch.int64))
