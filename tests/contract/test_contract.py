"""The published vectors, and the arithmetic beneath them."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from common import KINDS, VECTORS, logits_of, vector_draws, vector_row

from fused_sampler import mask_logits, sample
from fused_sampler.contract import reference
from fused_sampler.contract.draws import resolve_draws
from fused_sampler.contract.mass import BEST_MASS, LOG2_E, exp2_parts, log2_mass
from fused_sampler.contract.philox import multiply_high, philox, random_bits
from fused_sampler.contract.spread import variance
from fused_sampler.params import resolve_rows

CASES = VECTORS["cases"]


@pytest.mark.parametrize("known", VECTORS["philox"], ids=lambda known: str(known["seed"]))
@pytest.mark.parametrize("kind", [int, torch.tensor])
def test_philox_known_answers(known, kind):
    key = known["seed"] & 0xFFFFFFFF, known["seed"] >> 32 & 0xFFFFFFFF
    words = philox(tuple(map(kind, key)), tuple(map(kind, known["counter"])))
    assert [f"{int(word):08x}" for word in words] == known["words"]


@pytest.mark.parametrize("step", [0, 1, 2**32 + 5, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("seed", [0, 7, -3, 2**64 - 1, torch.tensor([5, -9, 2**62])], ids=str)
def test_draws_are_the_high_half_of_bits_times_mass(seed, step):
    draws = resolve_draws(seed, step, 2, None, 3, torch.device("cpu"))
    mass = 2**40 + torch.arange(3)
    for row in range(3):
        key, stream = (seed, row) if isinstance(seed, int) else (int(seed[row]), 0)
        for draw in range(2):
            expected = multiply_high(*random_bits(key, step, stream, draw), int(mass[row]))
            assert draws.below(mass[:, None])[row, draw] == expected


def test_multiply_high_is_the_high_half_of_the_product():
    words = [0, 1, 2**31, 2**32 - 1, 0x12345678]
    masses = [1, 2**40, 2**40 + 1, 2**62, 2**63 - 1, 3**39]
    for high in words:
        for low in words:
            for mass in masses:
                exact = ((high << 32) + low) * mass >> 64
                assert multiply_high(high, low, mass) == exact
                assert multiply_high(*map(torch.tensor, (high, low, mass))) == exact


@pytest.mark.parametrize("name", VECTORS["rows"])
def test_weights_and_scales(name):
    expected = VECTORS["at_temperature_1"][name]
    x = vector_row(name)
    table = reference.BlockTable(x, torch.tensor([LOG2_E]))
    assert table.weights.flatten()[: x.shape[1]].tolist() == expected["weights"]
    assert table.mantissa.flatten().tolist() == expected["block_mantissa"]
    assert table.exponent.flatten().tolist() == expected["block_exponent"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['row']} {case['params']}")
def test_vectors(backend, case):
    x = vector_row(case["row"])
    rows = resolve_rows(x, **case["params"])
    tokens = defaultdict(dict)
    for *key, draw, token in case["tokens"]:
        tokens[tuple(key)][draw] = token
    for key, drawn in tokens.items():
        output = backend.sample(x, rows, vector_draws(*key, max(drawn)), key == (0, 0, 0))
        assert {draw: output.tokens[0, draw] for draw in drawn} == drawn
        if output.kept is not None and "kept" in case:  # greedy cases list tokens only
            assert output.kept == len(case["kept"])
    if "kept" in case:
        expected = torch.full_like(x, -torch.inf)
        expected[:, case["kept"]] = x[:, case["kept"]] / rows.temperature  # may overflow to -inf
        assert torch.equal(backend.mask_logits(x, rows, vector_draws(0, 0, 0, 0)), expected)


@pytest.mark.parametrize("case", [c for c in CASES if "mass" in c], ids=lambda c: str(c["params"]))
def test_kept_mass(case):
    x = vector_row(case["row"])
    rows = resolve_rows(x, **case["params"])
    table = reference.BlockTable(x, rows.c)
    kept = torch.zeros_like(table.x, dtype=torch.bool)
    kept[0, case["kept"]] = True
    assert table.mass(kept) == case["mass"]


def test_logarithms_of_masses():
    masses, logarithms = zip(*VECTORS["log2_fixed"], strict=True)
    expected = [logarithm * 2.0**-32 - 40 for logarithm in logarithms]
    assert log2_mass(torch.tensor(masses)).tolist() == expected


@pytest.mark.parametrize("name", VECTORS["rows"])
def test_depths_and_variances(name):
    x = vector_row(name)
    table = reference.BlockTable(x, torch.tensor([LOG2_E]))
    assert table.depth(table.x > -torch.inf) == VECTORS["depths"][name]
    own = variance(table.blocks(table.x), table.block_max)
    assert own == float.fromhex(VECTORS["variances"][name])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "invalid"])
@pytest.mark.parametrize("vocab", [4, 300, 5000])
def test_accuracy_of_entropy_and_standard_deviation(kind, vocab):
    x = logits_of(kind, 3, vocab)
    table = reference.BlockTable(x, torch.full((3,), LOG2_E))
    p = x.double().softmax(-1)
    kept = table.x > -torch.inf
    mass = table.mass(kept)
    entropy = (log2_mass(mass) + table.depth(kept).double() / mass.double()) * math.log(2)
    assert (entropy - torch.special.entr(p).sum(-1)).abs().max() <= 8e-7
    ours = variance(table.blocks(table.x), table.block_max).sqrt()
    exact = torch.stack([row[row > -torch.inf].double().std(correction=0) for row in x])
    assert ((ours - exact).abs() <= 6e-8 * exact).all()


def test_polynomial_accuracy():
    z = torch.linspace(-30, 0, 1_000_001)
    mantissa, exponent = exp2_parts(z)
    ours = mantissa.double() * 2.0 ** (exponent.double() - 24)
    assert ((ours / z.double().exp2() - 1).abs().max()) <= 1.1e-7


@pytest.mark.parametrize("kind", ["random", "flat", "descending", "forbidden"])
def test_distribution_is_within_3e_7_of_the_exact_softmax(kind):
    x = logits_of(kind, 4, 50_257)
    table = reference.BlockTable(x, torch.full((4,), LOG2_E))
    upto = table.scale(table.weights.cumsum(-1))
    mass = upto.diff(dim=-1, prepend=torch.zeros_like(upto[..., :1])).flatten(1)[:, : x.shape[1]]
    ours = mass.double() / mass.sum(-1, keepdim=True)
    distance = (ours - x.double().softmax(-1)).abs().sum(-1) / 2
    assert distance.max() <= 3e-7


@pytest.mark.parametrize("temperature", [0.7, 1.4382214546203613, 4.7])
def test_distribution_where_light_tokens_hold_half_of_the_mass(temperature):
    x = torch.full((1, 2**21), -math.log(2**21) * temperature)
    x[0, 0] = 0.0
    rows = resolve_rows(x, temperature=temperature)
    table = reference.BlockTable(x, rows.c)
    best = torch.zeros_like(table.x, dtype=torch.bool)
    best[0, 0] = True
    share = table.mass(best).double() / table.mass(~best & (table.x > -torch.inf)).double().add(
        2**40
    )
    exact = (x.double() / rows.temperature.double()[:, None]).softmax(-1)[:, 0]
    assert (share - exact).abs() <= 1.1e-6  # all others are alike


def test_the_best_token_alone_has_mass_2_to_the_40():
    x = logits_of("random", 5, 1000)
    table = reference.BlockTable(x, torch.full((5,), LOG2_E))
    best = table.weights * (table.blocks(table.x) == table.row_max[:, None, None])
    assert table.scale(best.sum(-1)).sum(-1).tolist() == [BEST_MASS] * 5


def test_four_tokens_by_hand(backend):
    # Weights 8 : 4 : 2 : 1 out of 15, in one block.
    x = torch.tensor([[0.0, 1.0, 2.0, 3.0]]) * math.log(2)
    kept = {
        ("top_k", 2): [2, 3],
        ("top_p", 0.5): [3],  # 8/15 = 0.533 reaches 0.5 alone
        ("top_p", 0.54): [2, 3],
        ("top_p", 0.81): [1, 2, 3],  # 12/15 = 0.8 does not reach 0.81
        ("min_p", 0.2): [1, 2, 3],
        ("min_p", 0.3): [2, 3],
        ("top_p", 0.0): [3],
        ("epsilon_cutoff", 0.13): [1, 2, 3],  # 2/15 = 0.133
        ("epsilon_cutoff", 0.14): [2, 3],
        ("epsilon_cutoff", 0.99): [3],  # the best stays
        # H = 1.137 nats: exp(-H) = 0.3208, and sqrt(e) times it passes e at 0.1029.
        ("eta_cutoff", 0.1): [1, 2, 3],  # 0.1, as epsilon's
        ("eta_cutoff", 0.17): [1, 2, 3],  # 0.1323, where epsilon's would be 0.17; 2/15 = 0.1333
        ("eta_cutoff", 0.18): [2, 3],  # 0.1361
        ("eta_cutoff", 0.69): [2, 3],  # 0.2665; 4/15 = 0.2667
        ("eta_cutoff", 0.7): [3],  # 0.2684
        # The best has 8/15, squared 0.2844.
        ("top_a", 0.23): [0, 1, 2, 3],  # 0.0654; 1/15 = 0.0667
        ("top_a", 0.24): [1, 2, 3],  # 0.0683
        ("top_a", 0.93): [2, 3],  # 0.2645; 4/15 = 0.2667
        ("top_a", 0.94): [3],  # 0.2674
        # Of the entropy the best holds 0.2949, the best two 0.6049, three 0.8412.
        ("top_h", 0.01): [3],  # the best stays
        ("top_h", 0.604): [3],
        ("top_h", 0.605): [2, 3],
        ("top_h", 0.841): [2, 3],
        ("top_h", 0.842): [1, 2, 3],
        ("top_h", 0.9999): [1, 2, 3],
        # From the entropy they are 0.508 (the best), 0.185, 0.878 and 1.571 nats away.
        ("typical_p", 0.26): [2],  # 4/15 = 0.267: the best goes
        ("typical_p", 0.27): [2, 3],
        ("typical_p", 0.79): [2, 3],  # 12/15 = 0.8
        ("typical_p", 0.81): [1, 2, 3],
        ("typical_p", 0.94): [0, 1, 2, 3],  # 14/15 = 0.933
        ("mirostat_mu", 1.9): [3],  # log2(15/4) = 1.907 bits
        ("mirostat_mu", 1.91): [2, 3],
        ("mirostat_mu", 3.9): [1, 2, 3],
        ("mirostat_mu", -1.0): [3],  # the best stays
        # Logits 0, 1, 2, 3 times ln 2: a standard deviation of sqrt(1.25) = 1.118 times it.
        ("top_n_sigma", 0.89): [3],  # 0.995
        ("top_n_sigma", 0.9): [2, 3],  # 1.006
        ("top_n_sigma", 1.78): [2, 3],  # 1.990
        ("top_n_sigma", 1.79): [1, 2, 3],  # 2.001
        ("top_n_sigma", 2.69): [0, 1, 2, 3],  # 3.007
    }
    for (name, value), tokens in kept.items():
        masked = backend.mask_logits(x, resolve_rows(x, **{name: value}))
        assert (masked[0] > -torch.inf).nonzero()[:, 0].tolist() == tokens, (name, value)


def test_xtc_by_hand(backend):
    # Weights 8 : 4 : 2 : 1 out of 15. The likely ones go, but for the least likely of them.
    x = torch.tensor([[0.0, 1.0, 2.0, 3.0]]) * math.log(2)
    kept = {
        0.6: [0, 1, 2, 3],  # off
        0.5: [0, 1, 2, 3],  # 8/15 alone
        0.27: [0, 1, 2, 3],
        0.26: [0, 1, 2],  # 4/15 = 0.267, too
        0.14: [0, 1, 2],
        0.13: [0, 1],  # 2/15 = 0.133, too
        0.06: [0],
        0.0: [0],
    }
    for threshold, tokens in kept.items():
        rows = resolve_rows(x, xtc_probability=1.0, xtc_threshold=threshold)
        masked = backend.mask_logits(x, rows)
        assert (masked[0] > -torch.inf).nonzero()[:, 0].tolist() == tokens, threshold
    ties = torch.tensor([[2.0, 2.0, 0.0, 2.0]])
    masked = backend.mask_logits(ties, resolve_rows(ties, xtc_probability=1.0))
    assert (masked > -torch.inf).all()


def test_xtc_applies_by_chance_and_moves_no_other_draw(backend):
    x = torch.tensor([[0.0, 1.0, 2.0, 3.0]] * 100) * math.log(2)
    rows = resolve_rows(x, xtc_probability=0.3, xtc_threshold=0.26)
    draws = resolve_draws(5, 2, 1, None, len(x), x.device)
    output = backend.sample(x, rows, draws, True)
    applied = output.kept == 3
    assert abs(applied.float().mean() - 0.3) < 0.18  # 4 standard deviations of 100 chances
    assert torch.equal(applied, backend.mask_logits(x, rows, draws)[:, 3] == -torch.inf)
    plain = backend.sample(x, resolve_rows(x), draws, False).tokens
    assert torch.equal(output.tokens[~applied], plain[~applied])
    again = backend.sample(x, rows, draws._replace(num_samples=3), False).tokens
    assert torch.equal(again[:, :1], output.tokens), "one chance a step, whatever is drawn"


def test_temperature_last_by_hand(backend):
    # At temperature 1 the best two hold 0.8; at 10, where weights are nearly equal, 0.55.
    x = torch.tensor([[0.0, 1.0, 2.0, 3.0]] * 2) * math.log(2)
    last = torch.tensor([False, True])
    rows = resolve_rows(x, temperature=10.0, top_p=0.79, temperature_last=last)
    assert (backend.mask_logits(x, rows) > -torch.inf).sum(-1).tolist() == [4, 2]
    rows, x = resolve_rows(x[1:], temperature=10.0, top_p=0.79, temperature_last=True), x[1:]
    draws = resolve_draws(torch.tensor([2]), 0, 400, None, 1, x.device)
    drawn = backend.sample(x, rows, draws, False).tokens[0]
    share = 2**0.1 / (1 + 2**0.1)  # of the best, drawn at temperature 10; at 1 it is 2 / 3
    assert abs((drawn == 3).float().mean() - share) < 0.1  # 4 standard deviations of 400 draws


def test_filters_apply_in_order(backend):
    # Among the top 2 (weights 8 and 4), 0.6 of the mass is 7.2: one token. Of all 15 it is 9: two.
    x = torch.tensor([[0.0, 1.0, 2.0, 3.0]]) * math.log(2)
    masked = backend.mask_logits(x, resolve_rows(x, top_k=2, top_p=0.6))
    assert (masked[0] > -torch.inf).tolist() == [False, False, False, True]
    # The second's share is 4 of 12 among the top 2, and 4 of all 15.
    for params, second in (({"top_k": 2}, True), ({}, False)):
        masked = backend.mask_logits(x, resolve_rows(x, epsilon_cutoff=0.3, **params))
        assert (masked[0] > -torch.inf).tolist() == [False, False, second, True]


def test_ties_at_the_boundary_are_all_kept(backend):
    x = torch.tensor([[1.0, 3.0, 1.0, 2.0, 1.0, 0.0]])
    for params in ({"top_k": 3}, {"top_p": 0.91}):
        masked = backend.mask_logits(x, resolve_rows(x, **params))
        assert (masked[0] > -torch.inf).tolist() == [True, True, True, True, True, False]


def test_draw_walks_the_cumulative_sum():
    # The word whose stretch of the cumulative sum holds the drawn number, for a thousand numbers.
    x = torch.tensor([[0.01, 0.05, 0.20, 0.02, 0.72]]).log()
    rows = resolve_rows(x)
    draws = vector_draws(1, 0, 0, 999)
    mass = torch.tensor([BEST_MASS])
    numbers = draws.below(mass[:, None])[0].double() / BEST_MASS
    expected = np.searchsorted(np.cumsum([0.01, 0.05, 0.20, 0.02, 0.72]), numbers.numpy(), "right")
    for module in (reference,):
        assert module.sample(x, rows, draws, False).tokens[0].tolist() == expected.tolist()


BACKENDS = ["torch", "cpu", "triton"]


def words(values):
    """fp32 values as hex words."""
    return [f"{word:08x}" for word in values.contiguous().view(torch.int32).numpy().view("uint32")]


def edits_of(given):
    """The arguments that stand in a vector; lists are of one row."""
    edits = dict(given)
    for name in ("prompt_ids", "output_ids"):
        if name in edits:
            edits[name] = torch.tensor([edits[name]])
    if "allowed" in edits:
        edits["allowed"] = torch.tensor([edits["allowed"]], dtype=torch.int32)
    if "logit_bias" in edits:
        ids, values = edits["logit_bias"]
        edits["logit_bias"] = dict(zip(ids, map(float, values), strict=True))
    return edits


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("case", VECTORS["edits"], ids=lambda c: f"{c['row']} {list(c['edits'])}")
def test_edited_logits(case, name):
    x, edits = vector_row(case["row"]), edits_of(case["edits"])
    new = mask_logits(x, backend=name, validate=False, **edits)[0]
    expected = torch.from_numpy(np.array([int(w, 16) for w in case["logits"]], dtype=np.uint32))
    expected = expected.view(torch.float32) + 0.0
    if expected.amax() == -torch.inf:  # nothing is left of a row
        assert new.isnan().all()
    else:
        assert words(new + 0.0) == words(expected)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("case", VECTORS["told"], ids=lambda c: f"{c['row']} {c['params']}")
def test_what_is_told_of_a_row(case, name):
    asked = {"top_logprobs": min(3, vector_row(case["row"]).shape[1]), "return_entropy": True}
    asked |= {"return_info": True, "return_kept": "bitmask"}
    told = sample(vector_row(case["row"]), backend=name, seed=0, **asked, **case["params"])
    count = len(case["top_ids"])
    assert words(told.entropy) == [case["entropy"]]
    assert told.top_ids[0, :count].tolist() == case["top_ids"]
    assert words(told.top_logprobs[0, :count]) == case["top_logprobs"]
    assert told.kept_bitmask[0].tolist() == case["kept_bitmask"]


@pytest.mark.parametrize("case", VECTORS["without_replacement"], ids=lambda c: str(c["params"]))
def test_draws_without_replacement(backend, case):
    x = vector_row(case["row"])
    draws = vector_draws(case["seed"], case["step"], case["stream"], 3)
    drawn = backend.sample(
        x, resolve_rows(x, **case["params"]), draws._replace(replacement=False), False
    )
    assert drawn.tokens[0].tolist() == case["tokens"]
