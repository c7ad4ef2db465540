"""Edits: what changes logits before the filters, on every backend and by the book."""

import math

import pytest
import torch
from common import KINDS, logits_of

from fused_sampler import FusedSampler, History, mask_logits, replay, sample
from fused_sampler.edits.bitmask import packed

BACKENDS = ["torch", "cpu", "triton"]
INF = math.inf


def shown(row, backend="torch", **edits):
    """What becomes of one row."""
    return mask_logits(torch.tensor([row]), backend=backend, validate=False, **edits)[0].tolist()


def history(prompt=(), output=()):
    return History(*(torch.tensor([ids], dtype=torch.int64) for ids in (prompt, output)))


def by_hand(x, kept, bias, prompt, output, r, f, q, dry):
    """One row, token by token, each operation in fp32; `dry`: L of each token, and the rest."""
    lengths, multiplier, base, allowed = dry
    new = []
    for token, value in enumerate(x.float()):
        value = value if kept[token] else torch.tensor(-INF)
        value = value + torch.tensor(bias.get(token, 0.0))
        if token in prompt or token in output:
            value = value * torch.tensor(r) if value < 0 else value / torch.tensor(r)
        count = output.count(token)
        if count:
            value = value - (torch.tensor(f) * count + torch.tensor(q))
        if (length := lengths.get(token, 0)) >= allowed:
            power = torch.tensor(1.0)
            for _ in range(length - allowed):
                power = power * torch.tensor(base)
            value = value - torch.tensor(multiplier) * power
        new.append(value)
    return torch.stack(new)


def repeats(text, breakers=(), window=0):
    """By the definition: how long the end of the text stands elsewhere, before each token."""
    text = text[-window:] if window else text
    found = {}
    for length in range(1, len(text)):
        end = text[-length:]
        if set(end) & set(breakers):
            break
        for start in range(len(text) - length):
            if text[start : start + length] == end:
                found[text[start + length]] = length
    return found


def cases(kind, seed, batch=3, vocab=300):
    """Logits, and edits of every sort, with a row's own values where there can be."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low, high):
        return torch.empty(batch).uniform_(low, high, generator=generator)

    logits = logits_of(kind, batch, vocab)
    prompt = torch.randint(-1, 30, (batch, 40), generator=generator)
    output = torch.randint(-1, 12, (batch, 25), generator=generator)
    ids = torch.stack([torch.randperm(vocab, generator=generator)[:9] for _ in range(batch)])
    ids[:, 3] = -1
    values = torch.randn(batch, 9, generator=generator) * 4
    values[:, 5] = -INF
    return logits, {
        "allowed": torch.rand(batch, vocab, generator=generator) < 0.7,
        "logit_bias": (ids, values),
        "prompt_ids": prompt,
        "output_ids": output,
        "repetition_penalty": uniform(0.7, 1.6),
        "frequency_penalty": uniform(-1.0, 1.0),
        "presence_penalty": uniform(-1.0, 1.0),
        "dry_multiplier": uniform(0.5, 1.0),
        "dry_base": 1.75,
        "dry_allowed_length": torch.arange(batch) % 2 + 1,
        "dry_breakers": [3],
        "dry_range": 50,
        "min_tokens": 30,
        "stop_ids": [1, 2],
    }


FILTERS = [
    {},
    {"temperature": 0.0},
    {"top_k": 7, "temperature": 0.7},
    {"top_p": 0.8},
    {"min_p": 0.1},
]


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("kind", ["random", "tied", "few allowed", "invalid"])
def test_backends_are_equal(kind, filters, backend):
    logits, edits = cases(kind, 1)
    edits = dict(edits, logit_bias={5: 1.5, 11: -INF}) if kind == "tied" else edits
    logits = logits.bfloat16() if kind == "random" else logits
    before = logits.clone()
    call = {"seed": 5, "num_samples": 2, "validate": False, **edits, **filters}
    more = {"top_logprobs": 4, "return_entropy": True, "return_kept": "bitmask"}
    ours, textbook = (
        sample(logits, backend=name, return_info=True, **call, **more)
        for name in (backend, "torch")
    )
    for name, one, other in zip(ours._fields, ours, textbook, strict=True):
        if one is not None:
            assert torch.equal(one.nan_to_num(7), other.nan_to_num(7)), name
    assert torch.equal(sample(logits, backend=backend, **call), textbook.tokens)
    del call["num_samples"]
    ours, textbook = (mask_logits(logits, backend=name, **call) for name in (backend, "torch"))
    assert torch.equal(ours.nan_to_num(7), textbook.nan_to_num(7))
    assert torch.equal(logits.nan_to_num(7), before.nan_to_num(7))  # never written to


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_order_and_rounding_of_all_edits(backend):
    logits, edits = cases("random", 2)
    ours = mask_logits(logits, backend=backend, **edits)
    for b in range(len(logits)):
        prompt, output = (
            [token for token in edits[name][b].tolist() if token >= 0]
            for name in ("prompt_ids", "output_ids")
        )
        pairs = zip(*(part[b].tolist() for part in edits["logit_bias"]), strict=True)
        bias = {token: value for token, value in pairs if token >= 0}
        bias |= {1: -INF, 2: -INF} if len(output) < 30 else {}
        r, f, q, multiplier = (
            edits[name][b].item()
            for name in (
                "repetition_penalty",
                "frequency_penalty",
                "presence_penalty",
                "dry_multiplier",
            )
        )
        lengths = repeats(prompt + output, [3], 50)
        dry = lengths, multiplier, 1.75, edits["dry_allowed_length"][b].item()
        kept = edits["allowed"][b]
        expected = by_hand(logits[b], kept, bias, prompt, output, r, f, q, dry)
        assert torch.equal(ours[b], expected + 0.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_edit_by_itself(backend):
    row = [1.0, -2.0, 3.0, 0.0]
    assert shown(row, backend, allowed=torch.tensor([0b0110], dtype=torch.int32)) == [
        *(-INF, -2.0, 3.0, -INF)
    ]
    assert shown(row, backend, allowed=torch.tensor([[True, False, True, True]])) == [
        *(1.0, -INF, 3.0, 0.0)
    ]
    assert shown(row, backend, logit_bias={3: 2.5, 0: -INF}) == [-INF, -2.0, 3.0, 2.5]
    assert shown(row, backend, logit_bias={}) == row
    seen = {"history": history([0, 1], [2, 2])}
    assert shown(row, backend, repetition_penalty=2.0, **seen) == [0.5, -4.0, 1.5, 0.0]
    assert shown(row, backend, frequency_penalty=0.5, **seen) == [1.0, -2.0, 2.0, 0.0]
    assert shown(row, backend, presence_penalty=0.5, **seen) == [1.0, -2.0, 2.5, 0.0]
    repeated = {"history": history([0, 1, 2, 0], [1]), "dry_base": 3.0}
    assert shown(row, backend, dry_multiplier=1.0, **repeated) == [1.0, -2.0, 2.0, 0.0]
    one = {"dry_multiplier": 1.0, "dry_allowed_length": 1}
    assert shown(row, backend, **one, **repeated) == [1.0, -2.0, 0.0, 0.0]
    stop = {"stop_ids": [2], "min_tokens": 3}
    assert shown(row, backend, **stop, **seen) == [1.0, -2.0, -INF, 0.0]
    assert shown(row, backend, **{**stop, "min_tokens": 2}, **seen) == row
    assert shown(row, backend, **stop, step=2)[2] == -INF  # without a history, by the step
    assert shown(row, backend, **stop, step=3) == row


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_token_of_both_lists_has_both(backend):
    edits = {"history": history([], [1]), "presence_penalty": 1.0, "stop_ids": [1], "min_tokens": 1}
    assert shown([0.0, 0.0], backend, logit_bias={1: 3.0}, **edits) == [0.0, 2.0]
    edits["min_tokens"] = 2
    assert shown([0.0, 0.0], backend, logit_bias={1: 3.0}, **edits) == [0.0, -INF]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 63, 64, 65, 200])
def test_a_mask_of_any_width(vocab, backend):
    logits = torch.randn(2, vocab)
    allowed = torch.rand(2, vocab) < 0.5
    allowed[:, -1] = True
    expected = logits.masked_fill(~allowed, -INF)
    more = packed(allowed)
    more[:, -1] |= -1 << vocab % 32 if vocab % 32 else 0  # bits beyond the vocabulary
    for mask in (allowed, packed(allowed), more):
        assert torch.equal(mask_logits(logits, backend=backend, allowed=mask), expected)
    assert torch.equal(
        mask_logits(logits, backend=backend, allowed=allowed[0]),
        logits.masked_fill(~allowed[0], -INF),
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_raw_values_are_those_before_edits(backend):
    logits = torch.tensor([[0.0, 1.0, 2.0, INF], [0.0, 1.0, 2.0, 3.0]])
    call = {"seed": 0, "backend": backend, "return_info": True, "top_logprobs": 1}
    banned = sample(
        logits, logit_bias={2: 50.0}, allowed=torch.tensor([7], dtype=torch.int32), **call
    )
    assert banned.tokens.tolist() == [2, 2] and banned.logprobs.tolist() == [0.0, 0.0]
    assert banned.raw_logprobs[0].isnan()  # that row has no raw distribution
    expected = logits[1].double().log_softmax(-1)[2].item()
    assert banned.raw_logprobs[1].item() == pytest.approx(expected, abs=1e-6)
    assert banned.raw_top_ids.tolist() == [[3], [3]] and banned.top_ids.tolist() == [[2], [2]]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("invalid", "extreme")])
def test_replay_gives_the_same(kind):
    logits, edits = cases(kind, 3)
    edits["allowed"][:, 0] = True
    drawn = sample(logits, 0.7, top_p=0.9, seed=1, return_info=True, **edits)
    replayed = replay(logits, drawn.tokens, 0.7, top_p=0.9, **edits)
    assert torch.equal(replayed.logprobs, drawn.logprobs)
    assert torch.equal(replayed.raw_logprobs, drawn.raw_logprobs)


def test_replay_counts_min_tokens_by_step():
    logits, stop = torch.zeros(2, 8), {"min_tokens": 3, "stop_ids": [1, 2]}
    for step in (2, torch.tensor([2, 3]), 3):
        drawn = sample(logits, seed=1, step=step, return_info=True, **stop)
        replayed = replay(logits, drawn.tokens, step=step, **stop)
        assert torch.equal(replayed.logprobs, drawn.logprobs)


@pytest.mark.parametrize("breakers", [[], [2], [0, 1]], ids=str)
@pytest.mark.parametrize("window", [0, 1, 7, 1000])
def test_dry_by_its_definition(window, breakers):
    generator = torch.Generator().manual_seed(window)
    logits = torch.zeros(1, 5)
    for size in (0, 1, 2, 30):
        ids = torch.randint(0, 4, (1, size), generator=generator)
        edits = {"dry_multiplier": 1.0, "dry_base": 2.0, "dry_allowed_length": 1}
        edits |= {"dry_range": window, "dry_breakers": breakers, "prompt_ids": ids}
        lengths = repeats(ids[0].tolist(), breakers, window)
        expected = [-(2.0 ** (lengths[t] - 1)) if t in lengths else 0.0 for t in range(5)]
        assert mask_logits(logits, backend="cpu", **edits)[0].tolist() == expected


def test_a_long_repetition_is_banned():
    text = torch.zeros(1, 400, dtype=torch.int64)
    edits = {"dry_multiplier": 1.0, "prompt_ids": text}
    assert mask_logits(torch.zeros(1, 3), **edits)[0].tolist() == [-INF, 0.0, 0.0]
    assert mask_logits(torch.zeros(1, 3), dry_base=1.0, **edits)[0].tolist() == [-1.0, 0.0, 0.0]


class TestHistory:
    def test_appending_is_as_if_all_had_been_given(self):
        generator = torch.Generator().manual_seed(0)
        prompt = torch.randint(-1, 20, (4, 6), generator=generator)
        tokens = torch.randint(-1, 40, (4, 70), generator=generator)
        grown = History(prompt)
        edits = {"repetition_penalty": 1.3, "frequency_penalty": 0.3, "dry_multiplier": 0.8}
        logits = torch.randn(4, 50, generator=generator)
        for step in range(70):
            grown.append(tokens[:, step])
            whole = History(prompt, tokens[:, : step + 1])
            for name in ("lengths", "generated"):
                assert torch.equal(getattr(grown, name), getattr(whole, name))
            for name in ("ids", "counts", "tokens"):
                width = min(getattr(h, name).shape[1] for h in (grown, whole))
                one, other = (getattr(h, name)[:, :width] for h in (grown, whole))
                assert torch.equal(one, other), name
            ours, other = (mask_logits(logits, history=h, **edits) for h in (grown, whole))
            assert torch.equal(ours, other)

    def test_rows_are_reordered(self):
        ids = torch.tensor([[1, 2, 1, 2], [3, 3, 3, -1], [4, 5, 4, -1]])
        logits = torch.randn(4, 8)
        ours = History(ids)
        call = {"dry_multiplier": 1.0, "dry_allowed_length": 1, "presence_penalty": 0.5}
        mask_logits(logits[:3], history=ours, **call)  # from here on it counts repeats
        rows = torch.tensor([2, 0, 0, 1])
        ours.reorder(rows)
        ours.append(torch.tensor([5, 1, 2, 3]))
        new = History(ids[rows])
        new.append(torch.tensor([5, 1, 2, 3]))
        assert len(ours) == 4
        assert torch.equal(
            mask_logits(logits, history=ours, **call), mask_logits(logits, history=new, **call)
        )

    @pytest.mark.parametrize("widths", [(3, 40), (40, 3)], ids=str)
    def test_rows_of_another_join(self, widths):
        generator = torch.Generator().manual_seed(1)
        shapes = zip((2, 3), widths, strict=True)
        first, second = (torch.randint(-1, 9, shape, generator=generator) for shape in shapes)
        later = torch.randint(-1, 9, (5, 120), generator=generator)
        logits = torch.randn(5, 12, generator=generator)
        call = {"dry_multiplier": 1.0, "dry_allowed_length": 1, "presence_penalty": 0.5}
        call |= {"repetition_penalty": 1.3, "frequency_penalty": 0.2}
        one, other = History(first), History(second)
        before = other.tokens.clone()
        mask_logits(logits[:2], history=one, **call)  # from here on it counts repeats
        one.extend(other)
        padded = (
            torch.nn.functional.pad(h, (0, 40 - h.shape[1]), value=-1) for h in (first, second)
        )
        whole = History(torch.cat([*padded]))
        for step in range(120):
            ours, wanted = (mask_logits(logits, history=h, **call) for h in (one, whole))
            assert torch.equal(ours, wanted)
            one.append(later[:, step])
            whole.append(later[:, step])
        assert len(one) == 5 and len(other) == 3 and torch.equal(other.tokens, before)

    def test_a_row_that_leaves_takes_its_room_with_it(self):
        long, short = torch.arange(1000)[None], torch.tensor([[1, 2, 3]])
        kept = History(short)
        kept.extend(History(long))
        assert kept.tokens.shape[1] > 1000
        kept.reorder(torch.tensor([0]))
        assert kept.tokens.shape[1] == kept.ids.shape[1] == kept.counts.shape[1] < 100
        new, logits = History(short), torch.randn(1, 50)
        for token in range(40):
            edits = dict(presence_penalty=0.5, dry_multiplier=1.0)
            ours, wanted = (mask_logits(logits, history=h, **edits) for h in (kept, new))
            assert torch.equal(ours, wanted)
            kept.append(torch.tensor([token]))
            new.append(torch.tensor([token]))

    def test_memory_is_that_of_the_tokens(self):
        grown = History(torch.zeros(2, 100, dtype=torch.int64))
        for _ in range(50):
            grown.append(torch.tensor([1, 100_000]))
        assert max(values.shape[1] for values in (grown.ids, grown.counts, grown.tokens)) < 400

    @pytest.mark.parametrize(
        ("call", "told"),
        [
            (lambda h: History([1, 2]), "prompt_ids must be an int64"),
            (lambda h: History(torch.zeros(2, 3)), "prompt_ids must be an int64"),
            (lambda h: History(torch.tensor([[3, -2]])), "prompt_ids hold -2 in row 0"),
            (lambda h: History(torch.zeros(1, 1, 1).int()), r"have shape \[1, 1, 1\]"),
            (lambda h: History(torch.ones(2, 2).int(), torch.ones(3, 2).int()), "3 rows but"),
            (lambda h: h.append(3), "must be an int64"),
            (
                lambda h: h.append(torch.tensor([1, 2, 3])),
                r"have shape \[3\] but the history has 1",
            ),
            (lambda h: h.reorder([0]), "rows must be an int64"),
            (lambda h: h.extend(torch.tensor([[1]])), "other must be a History"),
            (lambda h: h.reorder(torch.tensor([1])), "rows go from 1 to 1"),
        ],
    )
    def test_wrong_things(self, call, told):
        with pytest.raises((TypeError, ValueError), match=told):
            call(history([1, 2]))


LOGITS = torch.zeros(2, 40)
IDS = torch.tensor([[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("edits", "told"),
    [
        ({"allowed": torch.ones(2, 2)}, "allowed must be an int32 tensor"),
        ({"allowed": [True] * 40}, "allowed must be an int32 tensor"),
        ({"allowed": torch.ones(2, 3).int()}, r"allowed has shape \[2, 3\].*\[2, 2\]"),
        ({"allowed": torch.ones(3, 40).bool()}, r"allowed has shape \[3, 40\].*\[2, 40\]"),
        (
            {"allowed": torch.ones(2, 40).bool() ^ (torch.arange(2)[:, None] == 1)},
            "in row 1 allowed",
        ),
        ({"logit_bias": {40: 1.0}}, "logit_bias holds 40"),
        ({"logit_bias": {-2: 1.0}}, "logit_bias holds -2"),
        ({"logit_bias": {"a": 1.0}}, "logit_bias must be token ids"),
        ({"logit_bias": {1: "a"}}, "logit_bias of token 1 is 'a'"),
        ({"logit_bias": {1: INF}}, "logit_bias of token 1 is inf"),
        ({"logit_bias": {1: math.nan}}, "logit_bias of token 1 is nan"),
        ({"logit_bias": [1]}, "logit_bias must be {token: bias}"),
        ({"logit_bias": (IDS, torch.ones(2, 3))}, "pass a value for each id"),
        ({"logit_bias": (IDS, IDS)}, "floating-point values"),
        ({"logit_bias": (IDS * 20, torch.ones(2, 2))}, "holds 40 in row 0"),
        ({"logit_bias": (IDS * 0, torch.ones(2, 2))}, "token 0 twice in row 0"),
        ({"logit_bias": {token: -INF for token in range(40)}}, "in row 0 allowed, logit_bias"),
        ({"logit_bias": {1: 3.4e38}, "history": "both"}, "makes a logit infinite"),
        ({"repetition_penalty": 0.0, "history": "both"}, "repetition_penalty is 0.0"),
        ({"repetition_penalty": 1.2}, "needs the tokens so far"),
        ({"repetition_penalty": torch.ones(3), "history": "both"}, r"shape \[3\]"),
        ({"frequency_penalty": torch.tensor([0.0, math.nan]), "history": "both"}, "in row 1"),
        ({"presence_penalty": "a", "history": "both"}, "presence_penalty must be a number"),
        ({"dry_base": 0.5}, "dry_base is 0.5"),
        ({"dry_multiplier": 1.0, "dry_breakers": [40], "history": "both"}, "dry_breakers holds"),
        ({"dry_multiplier": 1.0, "dry_breakers": [0.5], "history": "both"}, "must be token ids"),
        ({"min_tokens": 2}, "min_tokens bans stop_ids"),
        ({"min_tokens": 2, "stop_ids": 3}, "stop_ids must be token ids, got 3"),
        ({"min_tokens": 2, "stop_ids": [3], "step": "a"}, "step must be an integer"),
        ({"presence_penalty": 1.0, "output_ids": [1, 2]}, r"output_ids must be .*, got \[1, 2\]"),
        ({"allowed": torch.ones(2, 40).bool().to_sparse()}, r"pass allowed\.to_dense\(\)"),
        ({"min_tokens": 2, "stop_ids": [40]}, "stop_ids holds 40"),
        ({"presence_penalty": 1.0, "history": IDS}, "history must be a History"),
        ({"presence_penalty": 1.0, "history": history([1])}, "history has 1 rows"),
        ({"presence_penalty": 1.0, "prompt_ids": IDS[:1]}, "prompt_ids and output_ids have 1 rows"),
        ({"presence_penalty": 1.0, "output_ids": IDS * 20}, "the history holds 40 in row 0"),
        ({"presence_penalty": 1.0, "history": "both", "prompt_ids": IDS}, "pass one of them"),
        ({"repetition_penality": 1.0}, "did you mean repetition_penalty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_edits_are_named(edits, told):
    logits = LOGITS
    if edits.get("history") == "both":
        edits = dict(edits, history=History(IDS))
        logits = LOGITS + 3e38 if "logit_bias" in edits else LOGITS
    for run in (sample, mask_logits):
        with pytest.raises((TypeError, ValueError), match=told):
            run(logits, **edits)


def test_what_is_off_changes_nothing():
    logits = torch.randn(2, 40)
    off = {
        "repetition_penalty": 1.0,
        "frequency_penalty": 0.0,
        "dry_multiplier": 0,
        "min_tokens": 0,
    }
    off |= {"allowed": None, "logit_bias": None, "history": None, "stop_ids": [1]}
    assert torch.equal(mask_logits(logits, **off), logits)
    assert torch.equal(sample(logits, seed=1, **off), sample(logits, seed=1))


def test_a_batch_without_rows():
    edits = {"allowed": torch.ones(0, 40).bool(), "prompt_ids": torch.zeros(0, 3).long()}
    edits |= {"repetition_penalty": 1.2, "dry_multiplier": 1.0}
    assert sample(torch.empty(0, 40), **edits).shape == (0,)


def test_a_single_row():
    logits = torch.randn(40)
    edits = {"allowed": torch.arange(40) < 20, "prompt_ids": torch.tensor([1, 2])}
    edits |= {"presence_penalty": 1.0, "logit_bias": (torch.tensor([3]), torch.tensor([0.5]))}
    alone = mask_logits(logits, **edits)
    assert torch.equal(alone, mask_logits(logits[None], **edits)[0])


def test_in_a_compiled_graph():
    @torch.compile(backend="eager")
    def step(logits, past):
        return sample(logits * 2, seed=3, presence_penalty=1.5, history=past) + 1

    logits = torch.randn(2, 40)
    past = History(IDS, IDS)
    plain = sample(logits * 2, seed=3, presence_penalty=1.5, history=past)
    assert torch.equal(step(logits, past), plain + 1)


class TestModule:
    def test_edits_of_the_sampler_and_of_a_call(self):
        logits = torch.randn(2, 40)
        sampler = FusedSampler(seed=1, presence_penalty=2.0, logit_bias={3: 5.0})
        past = History(IDS, IDS)
        expected = sample(logits, seed=1, presence_penalty=2.0, logit_bias={3: 5.0}, history=past)
        assert torch.equal(sampler(logits, history=past), expected)
        sampler.reset()
        expected = sample(logits, seed=1, presence_penalty=2.0, history=past)
        assert torch.equal(sampler(logits, history=past, logit_bias=None), expected)
        assert "presence_penalty=2.0" in repr(sampler) and "dry_base" not in repr(sampler)

    def test_they_are_in_the_state(self):
        sampler = FusedSampler(frequency_penalty=torch.tensor([0.5, 1.0]))
        other = FusedSampler()
        other.load_state_dict(sampler.state_dict())
        assert torch.equal(other.frequency_penalty, torch.tensor([0.5, 1.0]))

    def test_a_history_is_no_part_of_it(self):
        with pytest.raises(TypeError, match="history is another at each call"):
            FusedSampler(history=History(IDS))
        with pytest.raises(ValueError, match="repetition_penalty is 0"):
            FusedSampler(repetition_penalty=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_block_of_which_every_token_is_edited(backend):
    logits, ids = torch.randn(1, 200), torch.arange(200)
    edits = {"logit_bias": (ids, torch.full((200,), 0.5)), "prompt_ids": ids, "output_ids": ids}
    edits |= {"presence_penalty": 2.0, "stop_ids": ids[64:128], "min_tokens": 300}
    expected = logits + 0.5 - 2.0
    expected[:, 64:128] = -INF
    assert torch.equal(mask_logits(logits, backend=backend, **edits), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ids_named_twice_are_not_lost_where_nothing_is_checked(backend):
    ids = torch.tensor([[5] * 300 + [6]])
    edits = {"logit_bias": (ids, torch.ones(1, 301)), "validate": False}
    new = mask_logits(torch.zeros(1, 64), backend=backend, **edits)
    assert new[0, 5] >= 1 and new[0, 6] == 1
