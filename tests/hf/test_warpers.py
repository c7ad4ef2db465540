"""Which warpers the sampler takes over, and that it keeps the tokens Hugging Face's keep."""

# mypy: disable-error-code="arg-type, call-arg, misc"
# (transformers types configurations and `generate` more narrowly than it calls them)

import pytest
import torch
from common import real_logits

transformers = pytest.importorskip("transformers", reason="needs the `hf` extra")

from transformers import (  # noqa: E402
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
from transformers.generation import logits_process  # noqa: E402

from fused_sampler import SamplingParams, mask_logits  # noqa: E402
from fused_sampler.filters import FILTERS  # noqa: E402
from fused_sampler.hf.warpers import OWN, PLACEHOLDERS, run, split  # noqa: E402
from fused_sampler.params import PARAMETERS, RECORDS  # noqa: E402

IDS = torch.tensor([[0, 0, 0]])  # the prompt: token 0, which every vocabulary has
ALL_FOUR = [
    TemperatureLogitsWarper(0.8),
    TopKLogitsWarper(50),
    TopPLogitsWarper(0.9),
    MinPLogitsWarper(0.05),
]
PENALTY = RepetitionPenaltyLogitsProcessor(1.3)
# A filter that stays: what it leaves of a token it drops is no -inf.
TYPICAL = TypicalLogitsWarper(0.8, filter_value=-1e4)
NEEDS_TOP_H = pytest.mark.skipif(
    not hasattr(logits_process, "TopHLogitsWarper"), reason="this transformers has no top-h"
)


def _kinds(stages):
    """Stages in a form to compare: parameters, or the names of the processors in a list."""
    return [
        stage if isinstance(stage, SamplingParams) else [type(p).__name__ for p in stage]
        for stage in stages
    ]


# split


def test_the_four_warpers_become_one_draw():
    stages, params = split(LogitsProcessorList(ALL_FOUR))
    assert stages == []
    assert params == SamplingParams(temperature=0.8, top_k=50, top_p=0.9, min_p=0.05)


def test_an_empty_list_is_a_plain_draw():
    assert split(LogitsProcessorList()) == ([], SamplingParams())


def test_processors_before_the_warpers_stay():
    stages, params = split([PENALTY, PENALTY, TopPLogitsWarper(0.7)])
    assert _kinds(stages) == [["RepetitionPenaltyLogitsProcessor"] * 2]
    assert params == SamplingParams(top_p=0.7)


def test_warpers_before_a_filter_that_stays_are_applied_before_it():
    stages, params = split([PENALTY, *ALL_FOUR[:2], TYPICAL, *ALL_FOUR[2:]])
    assert _kinds(stages) == [
        ["RepetitionPenaltyLogitsProcessor"],
        SamplingParams(temperature=0.8, top_k=50),
        ["TypicalLogitsWarper"],
    ]
    assert params == SamplingParams(top_p=0.9, min_p=0.05)


def test_nothing_is_left_to_the_draw_after_a_last_processor():
    stages, params = split([*ALL_FOUR, TYPICAL])
    assert _kinds(stages)[1:] == [["TypicalLogitsWarper"]]
    assert params == SamplingParams()


@pytest.mark.parametrize(
    ("warpers", "first", "last"),
    [
        (
            [TopPLogitsWarper(0.9), TemperatureLogitsWarper(2.0)],
            SamplingParams(top_p=0.9),
            SamplingParams(temperature=2.0),
        ),
        (
            [TopKLogitsWarper(9), TopKLogitsWarper(5)],
            SamplingParams(top_k=9),
            SamplingParams(top_k=5),
        ),
        (
            [MinPLogitsWarper(0.1), TopPLogitsWarper(0.5)],
            SamplingParams(min_p=0.1),
            SamplingParams(top_p=0.5),
        ),
        (
            [EtaLogitsWarper(0.25), EpsilonLogitsWarper(0.1)],
            SamplingParams(eta_cutoff=0.25),
            SamplingParams(epsilon_cutoff=0.1),
        ),
    ],
)
def test_another_order_or_a_repeat_starts_another_call(warpers, first, last):
    assert split(warpers) == ([first], last)


class HalfTemperature(TemperatureLogitsWarper):
    """A subclass may do anything: this one divides twice."""

    def __call__(self, input_ids, scores):
        return scores / self.temperature / self.temperature


@pytest.mark.parametrize(
    "warper",
    [
        HalfTemperature(2.0),
        TemperatureLogitsWarper(1e-6),
        TopKLogitsWarper(5, filter_value=-1e4),
        TopPLogitsWarper(0.5, min_tokens_to_keep=2),
        MinPLogitsWarper(0.5, min_tokens_to_keep=3),
        MinPLogitsWarper(0.5, filter_value=0.0),
        EtaLogitsWarper(0.5, min_tokens_to_keep=2),
        EtaLogitsWarper(0.5, filter_value=-1e4),
    ],
    ids=lambda warper: type(warper).__name__,
)
def test_warpers_that_mean_something_else_stay(warper):
    stages, params = split([warper])
    assert stages == [[warper]] and params == SamplingParams()


def test_top_k_keeps_at_least_min_tokens_to_keep():
    assert split([TopKLogitsWarper(1, min_tokens_to_keep=4)]) == ([], SamplingParams(top_k=4))


def test_every_value_is_a_plain_number():
    """Of eta the warper holds a tensor."""
    _, params = split([*ALL_FOUR, EpsilonLogitsWarper(0.07), EtaLogitsWarper(0.07)])
    assert params == SamplingParams(
        temperature=0.8,
        top_k=50,
        top_p=0.9,
        min_p=0.05,
        epsilon_cutoff=0.07,
        eta_cutoff=torch.tensor(0.07).item(),
    )
    kinds = {name: type(value) for name, value in vars(params).items()}
    assert kinds == {name: record.kind for name, record in RECORDS.items()}


# What has no warper


def test_a_parameter_has_a_warper_or_is_our_own():
    mirostat = {"mirostat_tau", "mirostat_eta"}
    assert {*PLACEHOLDERS, *OWN} == {*PARAMETERS, *mirostat} and not PLACEHOLDERS.keys() & set(OWN)
    known = {f.name for f in FILTERS if f.hf and hasattr(transformers, f.hf[0])}
    assert set(PLACEHOLDERS) == {"temperature", *known}


@pytest.mark.parametrize("processors", [ALL_FOUR, [PENALTY, *ALL_FOUR]], ids=["alone", "penalty"])
def test_our_own_join_the_draw(processors):
    stages, params = split(processors, {"top_a": 0.1, "top_n_sigma": 1.5})
    assert _kinds(stages) == [["RepetitionPenaltyLogitsProcessor"]] * (processors is not ALL_FOUR)
    assert params == SamplingParams(
        temperature=0.8, top_n_sigma=1.5, top_k=50, top_p=0.9, min_p=0.05, top_a=0.1
    )


def test_our_own_come_last_where_the_draw_has_stages_before_it():
    stages, params = split([*ALL_FOUR, TYPICAL], {"top_n_sigma": 1.5})
    assert _kinds(stages)[-1] == ["TypicalLogitsWarper"]
    assert params == SamplingParams(top_n_sigma=1.5)
    assert split([], {"top_a": 0.5}) == ([], SamplingParams(top_a=0.5))


def test_values_take_the_place_of_what_warpers_hold():
    tops, rows = torch.tensor([5, 9]), torch.tensor([0.5, 0.25])
    given = {"top_k": tops, "top_a": rows, "top_p": 0.75}
    stages, params = split([*ALL_FOUR[:2], TYPICAL, ALL_FOUR[2]], given)
    first = stages[0]
    assert (first.temperature, params.top_p) == (0.8, 0.75)
    assert first.top_k is tops and params.top_a is rows


# run


class Seen(LogitsProcessor):
    def __call__(self, input_ids, scores):
        self.arguments = input_ids, scores
        return scores


def test_processors_see_the_warped_scores():
    seen = Seen()
    stages, _ = split([TemperatureLogitsWarper(2.0), TopKLogitsWarper(2), seen])
    run(stages, IDS, torch.tensor([[1.0, 4.0, 2.0, 3.0]]))
    ids, scores = seen.arguments
    assert ids is IDS
    assert scores.tolist() == [[-torch.inf, 2.0, -torch.inf, 1.5]]


def _both(processors, logits):
    """Scores after `processors`: ours and Hugging Face's."""
    stages, params = split(processors)
    ids = IDS.expand(len(logits), -1)
    return run([*stages, params], ids, logits), LogitsProcessorList(processors)(ids, logits)


LISTS = {
    "temperature": ALL_FOUR[:1],
    "top-k": ALL_FOUR[1:2],
    "top-p": ALL_FOUR[2:3],
    "min-p": ALL_FOUR[3:],
    "epsilon": [EpsilonLogitsWarper(0.003)],
    "all four": ALL_FOUR,
    "all four and epsilon": [*ALL_FOUR, EpsilonLogitsWarper(0.07)],
    "loose": [
        TemperatureLogitsWarper(1.7),
        TopKLogitsWarper(3000),
        TopPLogitsWarper(0.98),
        MinPLogitsWarper(1e-4),
    ],
    "penalty, all four, typical": [PENALTY, *ALL_FOUR, TYPICAL],
    "out of order": [ALL_FOUR[3], ALL_FOUR[2], TYPICAL, ALL_FOUR[2], ALL_FOUR[0], ALL_FOUR[0]],
    "one token": [TopKLogitsWarper(1)],
    "top-p 0": [TopPLogitsWarper(0.0)],
    "min-p 1": [MinPLogitsWarper(1.0)],
    "epsilon near 1": [EpsilonLogitsWarper(0.999)],
    "eta": [EtaLogitsWarper(0.003)],
    "eta where epsilon is the lower": [EtaLogitsWarper(1e-4)],
    "eta near 1": [EtaLogitsWarper(0.999)],
    "all four, epsilon and eta": [*ALL_FOUR, EpsilonLogitsWarper(0.02), EtaLogitsWarper(0.3)],
    "eta before all": [EtaLogitsWarper(0.02), *ALL_FOUR],
}


@pytest.mark.parametrize("vocab", [1, 7, 100, 4097])
@pytest.mark.parametrize("name", LISTS)
def test_random_logits_without_ties_are_masked_alike(name, vocab):
    logits = torch.randn(16, vocab, generator=torch.Generator().manual_seed(vocab)) * 3
    if vocab > 7:
        logits[::2, ::3] = -torch.inf
    ours, theirs = _both(LISTS[name], logits)
    assert torch.equal(ours.isinf(), theirs.isinf())
    assert torch.equal(ours, theirs)


# Real logits: fp16 values, so ties are common, and boundaries fall between close masses.

MASS = 1e-6  # what fp32 softmax and cumulative sums may be off by, as a share of the mass


def _allowed_to_differ(
    logits, temperature, top_k, top_p, min_p, epsilon_cutoff, eta_cutoff, typical_p=1.0, top_h=1.0
):
    """Tokens [B, V] on which the two may differ, in fp64: where the contract breaks with
    Hugging Face's rule, and where its fp32 sums cannot tell the sides of a boundary.

    - top-p: tokens within MASS of the boundary, and all ties of a value that straddles it (the
      contract keeps all of them, Hugging Face as many as sorting put first);
    - min-p, epsilon, eta: tokens whose probability is within a share of MASS of the threshold;
      what epsilon and eta renormalise over is known to that as well, and so is the entropy.
    - top-h and typical, each alone: tokens at which the sum of entropy or of mass is within 10
      times MASS of the boundary.
    Top-k must agree without exception.
    """
    x = logits.double() / temperature
    kth = x.topk(min(top_k or x.shape[1], x.shape[1])).values[:, -1:]
    x = x.masked_fill(x < kth, -torch.inf)
    p = x.softmax(1)
    ascending, order = x.sort(1)
    cumulative = p.gather(1, order).cumsum(1)
    last = torch.searchsorted(ascending, x, right=True) - 1
    first = torch.searchsorted(ascending, x)
    at_or_below = cumulative.gather(1, last)
    below = torch.where(first > 0, cumulative.gather(1, (first - 1).clamp(min=0)), 0.0)
    above = 1 - at_or_below
    near_top_p = ((above - top_p).abs() <= MASS) | ((1 - below - top_p).abs() <= MASS)
    straddles = (above < top_p) & (1 - below > top_p) & (last > first)
    ratio = (x - x.amax(1, keepdim=True)).exp()
    near_min_p = (ratio - min_p).abs() <= MASS * min_p
    before = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
    share = _shares(logits, temperature, **before)
    near_epsilon = (share - epsilon_cutoff).abs() <= 3 * MASS * epsilon_cutoff
    share = _shares(logits, temperature, **before, epsilon_cutoff=epsilon_cutoff)
    eta = _eta(share, eta_cutoff)
    near_eta = (share - eta).abs() <= 3 * MASS * eta
    near = (near_top_p | straddles) & (top_p < 1)
    near |= (near_min_p & (min_p > 0)) | (near_epsilon & (epsilon_cutoff > 0))
    near |= near_eta & (eta_cutoff > 0)
    if top_h < 1:
        best = x >= x.topk(100).values[:, -1:]
        among_best = x.masked_fill(~best, -torch.inf).softmax(1)
        near |= _near_sum(p, x, torch.special.entr(among_best), 100, top_h)
        hundredth, next_best = x.topk(101).values[:, -2:].split(1, dim=1)
        near |= hundredth == next_best  # one of which Hugging Face leaves out
    surprise = -p.log()
    distance = (surprise - torch.special.entr(p).sum(1, keepdim=True)).abs()
    near |= _near_sum(p, -distance, p, p.shape[1], typical_p)
    return near, straddles


def _near_sum(p, rank, measure, most, share):
    """Tokens at which the sum of a measure, from the highest rank down, passes a share of that over
    the `most` best, or nearly does; and those whose rank cannot be told from theirs."""
    if share == 1.0:
        return torch.zeros_like(p, dtype=torch.bool)
    order = rank.argsort(1, descending=True)
    best = order[:, : min(most, order.shape[1])]
    sums = measure.gather(1, best).cumsum(1)
    bound = share * sums[:, -1:]
    last = [(sums < bound * (1 + slip)).sum(1) for slip in (-10 * MASS, 10 * MASS)]
    ranks = rank.gather(1, best)
    high, low = (ranks.gather(1, i.clamp(max=best.shape[1] - 1)[:, None]) for i in last)
    return (rank <= high + 10 * MASS) & (rank >= low - 10 * MASS)


def _shares(logits, temperature, **filters):
    """Probabilities in fp64 among what filters keep, [B, V]; 0 for what they drop."""
    kept = mask_logits(logits, temperature, **filters) > -torch.inf
    return (logits.double() / temperature).masked_fill(~kept, -torch.inf).softmax(1)


def _eta(share, eta_cutoff):
    """Its threshold in fp64, [B, 1]."""
    surprise = torch.special.entr(share).sum(1, keepdim=True)
    return (-surprise).exp().mul(eta_cutoff**0.5).clamp(max=eta_cutoff)


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.8},
        {"top_k": 50},
        {"top_k": 2000},
        {"top_p": 0.9},
        {"top_p": 0.99},
        {"min_p": 0.01},
        {"temperature": 0.7, "top_k": 50, "top_p": 0.9, "min_p": 0.02},
        {"temperature": 1.5, "top_k": 4000, "top_p": 0.97, "min_p": 1e-4},
        {"epsilon_cutoff": 3e-4},
        # Not after top-p: ties that one of the two drops would change what the other divides by.
        {"temperature": 1.2, "top_k": 500, "min_p": 1e-3, "epsilon_cutoff": 2e-3},
        {"eta_cutoff": 3e-4},
        {"eta_cutoff": 0.2},
        {"temperature": 1.7, "eta_cutoff": 4e-3},
        {"temperature": 1.2, "top_k": 500, "min_p": 1e-3, "eta_cutoff": 0.02},
        {"temperature": 1.5, "top_k": 900, "epsilon_cutoff": 5e-4, "eta_cutoff": 0.1},
        {"typical_p": 0.2},
        {"temperature": 1.4, "typical_p": 0.9},
        pytest.param({"top_h": 0.4}, marks=NEEDS_TOP_H),
        pytest.param({"temperature": 1.4, "top_h": 0.9}, marks=NEEDS_TOP_H),
    ],
    ids=str,
)
def test_real_logits_are_masked_alike_ties_and_rounding_aside(params):
    logits = real_logits().float()
    full = {name: RECORDS[name].off for name in PLACEHOLDERS} | params
    makers = {
        "temperature": TemperatureLogitsWarper,
        "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper,
        "min_p": MinPLogitsWarper,
        "epsilon_cutoff": EpsilonLogitsWarper,
        "eta_cutoff": EtaLogitsWarper,
        "typical_p": TypicalLogitsWarper,
        "top_h": getattr(logits_process, "TopHLogitsWarper", None),
    }
    ours, theirs = _both([makers[name](value) for name, value in params.items()], logits)
    kept, theirs_kept = ours > -torch.inf, theirs > -torch.inf
    both = kept & theirs_kept
    assert torch.equal(ours[both], theirs[both])
    allowed, straddles = _allowed_to_differ(logits, **full)
    assert not ((kept != theirs_kept) & ~allowed).any()
    cut_after = any(full[name] > 0 for name in ("min_p", "epsilon_cutoff", "eta_cutoff"))
    assert cut_after or kept[straddles].all(), "all ties at a boundary are kept"
    assert "typical_p" in params or kept.gather(1, logits.argmax(1, keepdim=True)).all()
    if "top_p" in params:
        assert (kept.sum(1) < logits.shape[1]).all(), "the filter should do something"


def test_ties_at_the_top_p_boundary_are_all_kept():
    """Masses 1/2, 1/4, 1/8, 1/8 and p = 0.8: Hugging Face keeps one of the two last."""
    logits = torch.tensor([[0.125, 0.5, 0.125, 0.25]]).log()
    ours, theirs = _both([TopPLogitsWarper(0.8)], logits)
    assert ours.isinf().sum() == 0 and theirs.isinf().sum() == 1
    assert torch.equal(ours, mask_logits(logits, top_p=0.8))
    _, straddles = _allowed_to_differ(logits, 1.0, 0, 0.8, 0.0, 0.0, 0.0)
    assert straddles.tolist() == [[True, False, True, False]]


# What transformers has no warper for: textbooks in fp64, on what the filters before have kept.


def _top_n_sigma(x, share, n):
    """How far below the best a token may be, and how far it is."""
    rows = x.masked_fill(x == -torch.inf, torch.nan)
    best = rows.nan_to_num(-torch.inf).amax(1, keepdim=True)
    deviation = (rows - rows.nanmean(1, keepdim=True)).square().nanmean(1, keepdim=True).sqrt()
    return n * deviation, best - x


def _top_a(x, share, a):
    """A token's probability, and what it has to be."""
    return share, a * share.amax(1, keepdim=True).square()


TEXTBOOKS = {"top_n_sigma": _top_n_sigma, "top_a": _top_a}  # kept unless the second is larger
CHAINS = [
    {"top_n_sigma": 0.7},
    {"top_n_sigma": 3.0, "temperature": 0.4},
    {"top_n_sigma": 1.5, "top_k": 7, "top_p": 0.9, "min_p": 0.1},
    {"top_a": 0.05},
    {"top_a": 1.0, "temperature": 1.6},
    {"top_k": 40, "epsilon_cutoff": 0.003, "eta_cutoff": 0.02, "top_a": 0.3},
    {"top_n_sigma": 2.5, "top_k": 900, "eta_cutoff": 1e-3, "top_a": 0.01, "temperature": 1.3},
]


def _rows(kind):
    if kind == "real":
        return real_logits().float()
    logits = torch.randn(16, 4097, generator=torch.Generator().manual_seed(0)) * 3
    logits[::2, ::3] = -torch.inf
    return logits


@pytest.mark.parametrize("kind", ["random", "real"])
@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_what_has_no_warper_keeps_what_its_textbook_keeps(chain, kind):
    """Each in its place among the filters, as `generate` hands them to the draw."""
    logits = _rows(kind)
    temperature = chain.get("temperature", 1.0)
    for name in TEXTBOOKS.keys() & chain.keys():
        earlier = PARAMETERS[1 : PARAMETERS.index(name)]
        before = {other: chain[other] for other in earlier if other in chain}
        share = _shares(logits, temperature, **before)
        larger, smaller = TEXTBOOKS[name](logits.double(), share, chain[name])
        near = (share > 0) & ((larger - smaller).abs() <= 3 * MASS * larger)
        stages, params = split([], {"temperature": temperature, **before, name: chain[name]})
        kept = run([*stages, params], IDS.expand(len(logits), -1), logits) > -torch.inf
        wanted = (share > 0) & (larger >= smaller)
        assert not ((kept != wanted) & ~near).any()
        assert near.sum() < 20 and (kept.sum(1) < (share > 0).sum(1)).any()


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_our_own_beside_warpers_are_one_call_in_the_order_of_the_parameters(chain):
    """Whatever the order in which they were named."""
    logits, makers = _rows("random"), {"temperature": TemperatureLogitsWarper}
    makers |= {"top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper, "min_p": MinPLogitsWarper}
    makers |= {"epsilon_cutoff": EpsilonLogitsWarper, "eta_cutoff": EtaLogitsWarper}
    own = {name: chain[name] for name in reversed(chain) if name in OWN}
    warpers = [make(chain[name]) for name, make in makers.items() if name in chain]
    stages, params = split(warpers, own)
    assert stages == []
    assert torch.equal(run([params], IDS, logits), mask_logits(logits, **chain))
