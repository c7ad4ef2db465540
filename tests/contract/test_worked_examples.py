"""The examples of tutorials, through the public functions; docs/worked-examples.md is run.

The usual code beside which the sampler is put is written out here as books and nanoGPT have it.
"""

from __future__ import annotations

import doctest
import functools
import re
import shlex
from pathlib import Path

import pytest
import torch
from common import DEVICE, NINE_WORDS
from embedded import load_embedded
from scipy.stats import chisquare

from fused_sampler import dispatch, mask_logits, sample, softmax
from fused_sampler.contract.philox import random_bits

PAGE = Path(__file__).parents[2] / "docs" / "worked-examples.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
WORDS = ["closer", "every", "effort", "forward", "inches", "moves", "pizza", "toward", "you"]
LOGITS = torch.tensor(NINE_WORDS)


@pytest.fixture
def every_backend(backend, monkeypatch):
    """Whatever backend a call would get, it gets each of them in turn."""
    monkeypatch.setattr(dispatch, "load_backend", lambda _: backend)


on_every_backend = pytest.mark.usefixtures("every_backend")


@pytest.fixture(scope="module")
def page():
    """The names that the page defines, once its code was run and printed what the page says."""
    names: dict = {}
    for kind, text in BLOCKS:
        if kind == "python":
            exec(text, names)
        elif kind == "pycon":
            block = doctest.DocTestParser().get_doctest(text, names, PAGE.name, PAGE.name, 0)
            printed: list[str] = []
            runner = doctest.DocTestRunner(verbose=False)
            runner.run(block, out=printed.append, clear_globs=False)
            assert not printed, "".join(printed)
            names = block.globs
    return names


def rounded(values, digits=4):
    return [round(value, digits) for value in values.tolist()]


def assert_follows(counts, probabilities):
    """Chi-squared with fixed seeds; the outcomes to be expected fewer than 5 times are one."""
    assert counts[probabilities == 0].sum() == 0
    expected = probabilities * counts.sum()
    rare = expected < 5
    both = [torch.cat([x[~rare], x[rare].sum()[None]]) for x in (counts.double(), expected)]
    observed, expected = (x[both[1] > 0] for x in both)
    assert chisquare(observed, expected).pvalue > 1e-3


# Softmax and temperature


@on_every_backend
def test_softmax_of_six_logits():
    expected = [0.0176, 0.0159, 0.0262, 0.0432, 0.8681, 0.0290]
    assert rounded(softmax(torch.tensor([0.1, 0, 0.5, 1, 4, 0.6]))) == expected


@on_every_backend
@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(1, [0.2689, 0.7311]), (2, [0.3775, 0.6225]), (5, [0.4502, 0.5498])],
)
def test_softmax_of_two_logits(temperature, expected):
    assert rounded(softmax(torch.tensor([1.0, 2.0]), temperature)) == expected


# The cumulative table


SITS, RUNS, JUMPS, DISAPPEARS, OTHERS = range(5)
STORY = torch.tensor([0.01, 0.05, 0.20, 0.02, 0.72]).log()


@functools.cache
def uniform_numbers(count):
    """The number from 0 to 1 behind the first draw of the seeds 0, 1, ..., count - 1."""
    high, _ = random_bits(torch.arange(count), step=0, stream=0, draw=0)
    return high.double() / 2**32


@on_every_backend
def test_number_selects_the_word_whose_cumulative_sum_exceeds_it():
    edges = softmax(STORY).cumsum(0)
    assert rounded(edges) == [0.01, 0.06, 0.26, 0.28, 1.0]
    numbers = uniform_numbers(200_000)

    def drawn(number):
        """The word of the seed with the number closest to this one, at most 1e-5 away."""
        seed = int((numbers - number).abs().argmin())
        assert abs(numbers[seed] - number) < 1e-5
        return sample(STORY, seed=seed)

    assert drawn(0.15) == JUMPS
    for edge, before, after in [
        (0.01, SITS, RUNS),
        (0.06, RUNS, JUMPS),
        (0.26, JUMPS, DISAPPEARS),
        (0.28, DISAPPEARS, OTHERS),
    ]:
        assert drawn(edge - 2e-5) == before
        assert drawn(edge + 2e-5) == after


# Nine words


@on_every_backend
def test_top_k_3_keeps_closer_forward_and_toward():
    kept = mask_logits(LOGITS, top_k=3) > -torch.inf
    assert [word for word, own in zip(WORDS, kept, strict=True) if own] == [
        "closer",
        "forward",
        "toward",
    ]
    probabilities = rounded(softmax(mask_logits(LOGITS, top_k=3)))
    assert probabilities == [0.0615, 0, 0, 0.5775, 0, 0, 0, 0.3610, 0]
    tokens = sample(LOGITS, temperature=5.0, top_k=3, seed=123, num_samples=24)
    assert {WORDS[token] for token in tokens} == {"closer", "forward", "toward"}


@pytest.mark.parametrize("backend", ["torch"], indirect=True)
@pytest.mark.parametrize(
    ("temperature", "counts"),
    [
        (0.1, [0, 0, 0, 990, 0, 0, 0, 10, 0]),
        (1, [60, 1, 0, 567, 3, 0, 0, 367, 2]),
        (5, [145, 64, 51, 238, 95, 47, 46, 217, 97]),
    ],
)
@on_every_backend
def test_a_thousand_draws(temperature, counts):
    tokens = sample(LOGITS, temperature=temperature, seed=123, num_samples=1000)
    assert torch.bincount(tokens, minlength=9).tolist() == counts
    assert_follows(torch.tensor(counts), (LOGITS.double() / temperature).softmax(-1))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_kernels_make_the_same_draws(temperature):
    """Sixteen of the thousand: Triton's interpreter takes its time."""
    params = {"temperature": temperature, "seed": 123, "num_samples": 16}
    tokens = sample(LOGITS.to(DEVICE), **params, backend="triton")
    assert tokens.tolist() == sample(LOGITS, **params).tolist()


def test_pizza_comes_at_temperature_5_and_never_at_0_1():
    pizza = WORDS.index("pizza")
    assert (sample(LOGITS, temperature=5.0, seed=123, num_samples=1000) == pizza).sum() == 46
    assert (sample(LOGITS, temperature=0.1, seed=123, num_samples=100_000) != pizza).all()


@on_every_backend
def test_temperature_0_is_argmax():
    tied = LOGITS.roll(4).index_fill(0, torch.tensor([8]), 6.75)  # the best logit twice: 7 and 8
    logits = torch.stack([LOGITS, -LOGITS, tied])
    assert sample(logits, temperature=0.0, top_k=2).tolist() == [3, 2, 7]
    assert logits.argmax(-1).tolist() == [3, 2, 7]


# Generation loops


def usual_gpt(logits, temperature, top_k):
    """The probabilities [B, V] that a loop as in books on building a GPT gives `multinomial`."""
    if top_k is not None:
        best, _ = torch.topk(logits, top_k)
        logits = torch.where(logits < best[:, -1:], torch.tensor(-torch.inf), logits)
    return torch.softmax(logits / temperature, dim=-1)


def usual_nano(logits, temperature, top_k):
    """The same as nanoGPT has it: division first, and as many tokens as there are."""
    logits = logits / temperature
    if top_k is not None:
        best, _ = torch.topk(logits, min(top_k, logits.size(-1)))
        logits[logits < best[:, [-1]]] = -torch.inf
    return torch.softmax(logits, dim=-1)


TABLE = torch.tensor(  # what follows each of four tokens; the first row has a tie for the second
    [[2.0, 1.0, 1.0, 0.0], [0.5, -1.0, 1.5, 1.0], [-2.0, 0.0, 1.0, 2.0], [1.0, 0.9, 0.8, 0.7]]
)


def write_gpt(page, idx, **params):
    model = torch.nn.Embedding.from_pretrained(TABLE)  # [B, S] -> [B, S, V]
    return page["generate"](model, idx, context_size=2, **params)


def write_nano(page, idx, **params):
    return page["Bigram"](TABLE, block_size=2).generate(idx, **params)


@pytest.mark.parametrize(
    ("write", "usual"), [(write_gpt, usual_gpt), (write_nano, usual_nano)], ids=["GPT", "nanoGPT"]
)
@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.7, 2), (1.8, 3), (3.0, 4)])
def test_sequences_come_as_often_as_with_the_usual_code(page, write, usual, temperature, top_k):
    torch.manual_seed(5)
    start = torch.zeros(20_000, 1, dtype=torch.int64)
    written = write(page, start, max_new_tokens=2, temperature=temperature, top_k=top_k)
    after = usual(TABLE.double(), temperature, top_k)
    expected = after[0][:, None] * after  # of the first token, then of the second
    counts = torch.bincount(written[:, 1] * 4 + written[:, 2], minlength=16)
    assert_follows(counts, expected.flatten())


@pytest.mark.parametrize("write", [write_gpt, write_nano])
@on_every_backend
def test_loops_write_the_same_on_every_backend(page, write):
    torch.manual_seed(5)
    start = torch.tensor([[0], [1], [3]])
    written = write(page, start, max_new_tokens=4, temperature=1.5, top_k=3)
    assert written.tolist() == [[0, 2, 3, 0, 0], [1, 3, 1, 2, 3], [3, 2, 3, 2, 3]]


def test_loop_decodes_greedily_and_stops_at_the_end_token(page):
    start = torch.tensor([[0]])
    assert write_gpt(page, start, max_new_tokens=3).tolist() == [[0, 0, 0, 0]]
    start = torch.tensor([[1]])
    assert write_gpt(page, start, max_new_tokens=5).tolist() == [[1, 2, 3, 0, 0, 0]]
    assert write_gpt(page, start, max_new_tokens=5, eos_id=3).tolist() == [[1, 2]]
    two = torch.tensor([[1], [2]])  # the second ends at once, the first one token later
    written = write_gpt(page, two, max_new_tokens=2, eos_id=3).tolist()
    assert written == [[1, 2, 3], [2, 3, 0]]


def test_loops_show_the_model_no_more_than_its_context(page):
    seen = []

    class Watched(page["Bigram"]):
        def forward(self, idx, targets=None):
            seen.append(idx.shape[1])
            return super().forward(idx, targets)

    model = Watched(TABLE, block_size=3)
    start = torch.tensor([[0, 1]])
    model.generate(start, max_new_tokens=3)
    assert seen == [2, 3, 3]
    seen.clear()
    page["generate"](lambda idx: model(idx)[0], start, max_new_tokens=3, context_size=2)
    assert seen == [2, 2, 2]


# The page


def test_page_prints_what_it_says(page):
    assert {"generate", "Bigram", "words"} <= set(page)


def test_page_shows_pictures_that_exist():
    pictures = re.findall(r"!\[[^]]+\]\((.+?)\)", PAGE.read_text())
    assert len(pictures) == 4
    for picture in pictures:
        assert (PAGE.parent / picture).is_file(), picture


COMMANDS = [text.split("\n", 1) for kind, text in BLOCKS if kind == "console"]


@pytest.fixture(scope="module")
def embedded():
    """The embedded model, unpacked where no run did it yet."""
    for package, extra in (("typer", "cli"), ("matplotlib", "plot"), ("transformers", "hf")):
        pytest.importorskip(package, reason=f"needs the `{extra}` extra")
    return load_embedded()


# Matrix products round differently from one processor to the next; a wrong logit is further off.
CLOSE = {"abs": 5e-3}


@pytest.mark.parametrize(("command", "output"), COMMANDS, ids=["inspect", "plot", "sweep"])
def test_commands_of_the_page(embedded, command, output, tmp_path, monkeypatch, capsys):
    from fused_sampler.cli import main

    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(command.removeprefix("$ "))
    assert (program, main(arguments)) == ("fused-sampler", 0)
    shown, written = output.split(), capsys.readouterr().out.split()
    assert len(shown) == len(written)
    for one, other in zip(shown, written, strict=True):
        if re.fullmatch(r"\d+\.\d+", one):
            assert float(other) == pytest.approx(float(one), **CLOSE)
        else:
            assert other == one


def test_five_best_logits_after_the_sky_is(embedded):
    inputs = embedded.tokenizer("The sky is", return_tensors="pt").to(embedded.model.device)
    with torch.inference_mode():
        best = embedded.model(**inputs).logits[0, -1].float().topk(5)
    tokens = [" a", " the", " not", " forever", " ab"]
    assert [embedded.tokenizer.decode(token) for token in best.indices] == tokens
    logits = [20.2579, 18.3749, 18.1322, 17.7749, 17.5958]
    assert best.values.tolist() == pytest.approx(logits, **CLOSE)
