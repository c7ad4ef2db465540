"""What each filter means: its rule in fp64, its off value, and what a looser value keeps."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from common import KINDS, logits_of, real_logits

from fused_sampler import mask_logits, sample
from fused_sampler.contract import reference
from fused_sampler.filters import FILTERS
from fused_sampler.params import RECORDS, resolve_rows

LOOSER = {  # from the strictest on
    "top_n_sigma": [1e-6, 0.3, 1.0, 2.5, 40.0, 0.0],
    "top_h": [1e-6, 0.2, 0.5, 0.9, 0.999, 1.0],
    "top_k": [1, 2, 7, 100, 5000, 0],
    "top_p": [0.0, 0.2, 0.5, 0.9, 0.999, 1.0],
    "min_p": [1.0, 0.5, 0.1, 1e-3, 1e-9, 0.0],
    "typical_p": [1e-6, 0.2, 0.5, 0.9, 0.999, 1.0],
    "epsilon_cutoff": [0.9, 0.1, 1e-2, 1e-4, 1e-9, 0.0],
    "eta_cutoff": [0.9, 0.1, 1e-2, 1e-4, 1e-9, 0.0],
    "top_a": [1.0, 0.5, 0.1, 1e-3, 1e-9, 0.0],
    "xtc_threshold": [0.0, 1e-3, 0.02, 0.1, 0.3, 0.6],
    "mirostat_mu": [-1.0, 0.5, 2.0, 6.0, 60.0, float("inf")],
}
ROWS = [kind for kind in KINDS if kind not in ("invalid", "extreme")]


def _kept(x, **params):
    needed = {"xtc_probability": 1.0} if "xtc_threshold" in params else {}
    return reference.kept_set(x, resolve_rows(x, **params, **needed))


def test_every_filter_is_here():
    assert set(LOOSER) == {*(f.name for f in FILTERS), "mirostat_mu"}


@pytest.mark.parametrize("name", LOOSER)
@pytest.mark.parametrize("temperature", [0.6, 1.7])
def test_a_looser_value_keeps_a_superset_and_off_keeps_all(name, temperature):
    for kind in ROWS:
        x = logits_of(kind, 3, 700)
        sets = [_kept(x, temperature=temperature, **{name: value}) for value in LOOSER[name]]
        for strict, loose in pairwise(sets):
            assert (loose | ~strict).all(), kind
        assert torch.equal(sets[-1], x > -torch.inf), kind
        best = x == x.amax(1, keepdim=True)
        if name not in ("typical_p", "xtc_threshold"):
            assert all((kept & best).sum(1).equal(best.sum(1)) for kept in sets), kind


@pytest.mark.parametrize("name", LOOSER)
def test_equal_logits_stay_or_go_together(name):
    x = logits_of("tied", 3, 700)
    for value in LOOSER[name]:
        kept = _kept(x, **{name: value})
        for row in range(3):
            for logit in x[row].unique():
                assert kept[row][x[row] == logit].unique().numel() == 1


# Each rule in fp64: what is surely kept and what is surely dropped, with room for the rounding of
# probabilities of 1e-5, and of logits of 3e-6.


def _by_value(is_kept, slack):
    """Of a rule `measure >= bound`: both sides of it."""
    measure, bound = is_kept
    return measure >= bound + slack, measure < bound - slack


def _top_n_sigma(x, p, n):
    below = x.amax(1, keepdim=True) - x
    return _by_value((-below, -n * x.std(1, correction=0, keepdim=True)), 3e-6)


def _top_h(x, p, h):
    best, order = x.topk(100)
    entropy = torch.special.entr(best.softmax(1))
    upto, bound = entropy.cumsum(1), h * entropy.sum(1, keepdim=True)
    kept, dropped = torch.zeros_like(x, dtype=torch.bool), torch.ones_like(x, dtype=torch.bool)
    kept.scatter_(1, order, upto <= bound * (1 - 1e-5))
    dropped.scatter_(1, order, upto > bound * (1 + 1e-5))
    dropped.scatter_(1, order[:, :1], False)
    return kept, dropped


def _nearest(rank, p, share):
    order = rank.argsort(1, descending=True)
    before = p.gather(1, order).cumsum(1) - p.gather(1, order)
    kept = torch.zeros_like(p, dtype=torch.bool).scatter(1, order, before < share - 1e-5)
    return kept, torch.zeros_like(kept).scatter(1, order, before > share + 1e-5)


def _typical(x, p, share):
    return _nearest(-(-p.log() - torch.special.entr(p).sum(1, keepdim=True)).abs(), p, share)


def _epsilon(x, p, e):
    return _by_value((p.log(), torch.tensor(e).double().log()), 1e-5)


def _eta(x, p, e):
    entropy = torch.special.entr(p).sum(1, keepdim=True)
    return _by_value((p.log(), (e**0.5 * (-entropy).exp()).clamp(max=e).log()), 1e-5)


def _top_a(x, p, a):
    return _by_value((p.log(), (a * p.amax(1, keepdim=True).square()).log()), 1e-5)


def _mirostat(x, p, mu):
    return _by_value((p.log2(), torch.tensor(-mu)), 1e-5)


def _xtc(x, p, t):
    likely = p >= t
    worst = x.masked_fill(~likely, torch.inf).amin(1, keepdim=True)
    return x <= worst, x > worst


RULES = {
    "top_n_sigma": (_top_n_sigma, [0.3, 1.0, 2.5]),
    "top_h": (_top_h, [0.05, 0.4, 0.9]),
    "typical_p": (_typical, [0.05, 0.4, 0.9]),
    "epsilon_cutoff": (_epsilon, [3e-4, 0.02]),
    "eta_cutoff": (_eta, [3e-4, 0.02, 0.3]),
    "top_a": (_top_a, [0.01, 0.2, 1.0]),
    "xtc_threshold": (_xtc, [0.003, 0.05, 0.1]),
    "mirostat_mu": (_mirostat, [2.0, 5.0, 9.0]),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_a_filter_alone_is_its_rule_in_fp64(name, temperature):
    rule, values = RULES[name]
    random = torch.randn(12, 3000, generator=torch.Generator().manual_seed(1)) * 3
    noise = torch.rand(20, 49_152, generator=torch.Generator().manual_seed(2)) * 1e-3
    for logits in (random, real_logits().float() + noise):  # without ties, which rules cut apart
        x = logits.double() / torch.tensor(temperature).double()
        p = x.softmax(1)
        best = x == x.amax(1, keepdim=True)
        for value in values:
            kept = _kept(logits, temperature=temperature, **{name: value})
            value = torch.tensor(value).item()
            surely, surely_not = rule(logits.double() if name == "top_n_sigma" else x, p, value)
            if name not in ("typical_p", "xtc_threshold"):
                surely_not &= ~best
            if name == "top_h":  # whose fixed point is too coarse for the sharpest rows
                sharp = p.amax(1, keepdim=True) > 0.99999
                surely, surely_not = surely & ~sharp, surely_not & ~sharp
            assert kept[surely].all() and not kept[surely_not].any()
            assert (surely | surely_not | best).float().mean() > 0.75


def test_each_filter_sees_what_the_earlier_ones_kept():
    """The order of `FILTERS`: all at once are each alone, on logits that the others cut."""
    x = logits_of("random", 6, 900)
    values = {
        **{"top_n_sigma": 2.5, "top_h": 0.95, "top_k": 60, "top_p": 0.97, "min_p": 0.004},
        **{"typical_p": 0.95, "epsilon_cutoff": 0.004, "eta_cutoff": 0.05, "top_a": 0.1},
        "xtc_threshold": 0.2,
    }
    assert list(values) == [f.name for f in FILTERS]
    left = x
    for name, value in values.items():
        if name == "min_p":  # which is relative to the row's best, as the last cut left it
            assert (left.amax(1) == x.amax(1)).all()
        left = left.masked_fill(~_kept(left, **{name: value}), -torch.inf)
    assert torch.equal(_kept(x, **values), left > -torch.inf)
    assert RECORDS["xtc_threshold"].off == 0.1


@pytest.mark.parametrize("backend", ["torch", "cpu", "triton"])
@pytest.mark.parametrize(
    "dropping", [{"typical_p": 0.05}, {"xtc_probability": 1.0, "xtc_threshold": 5e-3}]
)
def test_what_has_no_mass_at_a_low_temperature_gives_its_best(dropping, backend):
    logits = torch.full((1, 130), -1.0)
    logits[0, 3], logits[0, 90:95] = 0.0, -1.5
    call = {"temperature_last": True, "backend": backend, "seed": 0, "num_samples": 2, **dropping}
    # The others all lie below the best by 28 T and more, and weigh nothing beside it.
    assert sample(logits, 1e-3, **call).tolist() == [[0, 0]]
    del call["num_samples"]
    cold, warm = (mask_logits(logits, t, **call) > -torch.inf for t in (1e-3, 1.0))
    assert torch.equal(cold, warm) and cold.sum() > 100
    assert len(set(sample(logits, 1.0, num_samples=50, **call)[0].tolist())) > 20
