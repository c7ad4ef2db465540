"""Tables of parameters and a line for each row: as if the engine had gathered them."""

import pytest
import torch
from common import logits_of

from fused_sampler import History, mask_logits, sample

BACKENDS = ["torch", "cpu", "triton"]
LINES = torch.tensor([4, 0, 0, 5, 2], dtype=torch.int32)
TABLES = {
    "temperature": torch.tensor([0.7, 1.0, 0.0, 9.0, 1.3, 0.5]),
    "top_k": torch.tensor([5, 0, 3, 7, 40, 0]),
    "top_p": torch.tensor([0.9, 0.5, 1.0, 0.1, 0.95, 0.8]),
    "xtc_probability": torch.tensor([0.5, 0.0, 0.0, 1.0, 0.9, 0.0]),
    "temperature_last": torch.tensor([False, True, False, True, True, False]),
}
WORDS = {"seed": torch.arange(6) * 7 - 3, "step": torch.tensor([0, 9, 2, 5, 4, 3])}
EDITS = {"presence_penalty": torch.arange(6) / 4, "min_tokens": torch.tensor([0, 1, 9, 9, 9, 0])}


def gathered(tables):
    return {name: table[LINES.long()] for name, table in tables.items()}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("names", [[], ["temperature"], ["top_p"], list(TABLES)], ids=str)
def test_as_if_they_had_been_gathered(names, backend):
    logits = logits_of("random", 5, 300)
    tables = {name: TABLES[name] for name in names} | WORDS
    call = {"backend": backend, "min_p": 0.01}
    asked = {"return_info": True, "num_samples": 3, "top_logprobs": 3, "return_entropy": True}
    ours = sample(logits, slots=LINES, **tables, **call, **asked)
    expected = sample(logits, **gathered(tables), **call, **asked)
    for name, one, other in zip(ours._fields, ours, expected, strict=True):
        if one is not None:
            assert torch.equal(one.nan_to_num(7), other.nan_to_num(7)), name
    assert torch.equal(sample(logits, slots=LINES.long(), **tables, **call), expected.tokens[:, 0])
    ours = mask_logits(logits, slots=LINES, **tables, **call)
    assert torch.equal(ours, mask_logits(logits, **gathered(tables), **call))


@pytest.mark.parametrize("backend", BACKENDS)
def test_edits_by_table(backend):
    logits = logits_of("random", 5, 300)
    past = {"history": History(torch.zeros(5, 2).long(), torch.tensor([[1, 2]] * 5))}
    stop = {"stop_ids": [3, 4]}
    ours = mask_logits(logits, slots=LINES, backend=backend, **EDITS, **past, **stop)
    expected = mask_logits(logits, backend=backend, **gathered(EDITS), **past, **stop)
    assert torch.equal(ours, expected)
    by_step = {"min_tokens": 4, **stop}
    ours = mask_logits(logits, slots=LINES, backend=backend, step=WORDS["step"], **by_step)
    expected = mask_logits(logits, backend=backend, step=WORDS["step"][LINES.long()], **by_step)
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_numbers_and_tables_of_one_line(backend):
    logits = logits_of("random", 3, 300)
    slots = torch.zeros(3, dtype=torch.int32)
    plain = sample(logits, 0.8, top_k=9, seed=3, backend=backend)
    assert torch.equal(sample(logits, 0.8, top_k=9, seed=3, slots=slots, backend=backend), plain)
    one = sample(logits, torch.tensor([0.8]), top_k=9, seed=3, slots=slots, backend=backend)
    assert torch.equal(one, plain)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows", [1, 2])
def test_parameters_as_numbers_beside_tables_of_seeds(rows, backend):
    logits, slots = logits_of("random", rows, 300), torch.tensor([5, 3], dtype=torch.int32)[:rows]
    call = {"temperature": 1.7, "temperature_last": True, "top_k": 9, "backend": backend}
    for name in ("seed", "step"):
        table = {"seed": 3, name: WORDS[name]}
        ours = sample(logits, slots=slots, num_samples=9, **call, **table)
        expected = sample(
            logits, num_samples=9, **call, **{**table, name: WORDS[name][slots.long()]}
        )
        assert torch.equal(ours, expected)
        masked = mask_logits(logits, slots=slots, **call, **table)
        assert torch.equal(masked, mask_logits(logits, **call))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_number_beyond_the_table_is_the_nearest_where_nothing_is_checked(backend):
    logits = logits_of("random", 2, 300)
    call = {"top_k": torch.tensor([1, 50]), "seed": torch.tensor([1, 2]), "backend": backend}
    wrong = torch.tensor([-7, 9], dtype=torch.int32)
    expected = sample(logits, **call)
    assert torch.equal(sample(logits, slots=wrong, validate=False, **call), expected)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ({"slots": [0, 1]}, "slots must be an int32 tensor"),
        ({"slots": torch.zeros(2)}, "slots must be an int32 tensor"),
        ({"slots": torch.eye(2).int().to_sparse()}, r"slots\.to_dense\(\)"),
        ({"slots": torch.zeros(3).int()}, r"slots have shape \[3\] but logits have 2 rows"),
        ({"slots": torch.tensor([0, 6])}, "slots is 6 in row 1, but the tables have 6 lines"),
        ({"slots": torch.tensor([-1, 0])}, "slots is -1 in row 0"),
        ({"slots": torch.tensor([0, 1]), "top_p": torch.ones(5)}, "5 and 6 lines"),
        ({"slots": torch.tensor([0, 1]), "min_p": torch.ones(6) * 2}, "min_p is 2.0 in row 0"),
        ({"slots": torch.tensor([0, 0]), "top_k": torch.tensor([]).long()}, "but one has no line"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_slots_are_named(call, told):
    for run in (sample, mask_logits):
        with pytest.raises((TypeError, ValueError), match=told):
            run(torch.zeros(2, 40), **{"top_k": TABLES["top_k"], **call})


def test_wrong_params_are_named():
    with pytest.raises(TypeError, match="params must be SamplingParams, got 5"):
        sample(torch.zeros(2, 40), params=5, slots=torch.tensor([0, 1]))


def test_in_a_compiled_graph():
    @torch.compile(backend="eager")
    def step(logits, slots):
        return sample(logits * 2, seed=WORDS["seed"], top_k=TABLES["top_k"], slots=slots)

    logits = torch.randn(5, 60)
    plain = sample(logits * 2, seed=WORDS["seed"], top_k=TABLES["top_k"], slots=LINES)
    assert torch.equal(step(logits, LINES), plain)
