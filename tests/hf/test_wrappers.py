"""A patched model and what else changes a model: FSDP, parametrizations, PEFT, hooks, compiling."""

# mypy: disable-error-code="arg-type, attr-defined, call-arg, misc, operator"
# (transformers types configurations and `generate` more narrowly than it calls them)

import copy
import importlib

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the `hf` extra")

from tiny_transformers import tiny_llama  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402
from torch.nn.utils import parametrize  # noqa: E402
from transformers import LlamaForCausalLM  # noqa: E402

from fused_sampler.hf import fused_generate, patch, patched, unpatch  # noqa: E402

hf_patch = importlib.import_module("fused_sampler.hf.patch")

PROMPTS = torch.tensor([[5, 6, 7], [8, 9, 10]])
SAMPLE = {"do_sample": True, "max_new_tokens": 6, "top_k": 0, "seed": 7}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return tiny_llama()


@pytest.fixture
def one_rank(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def expected(model):
    return model.generate(PROMPTS, custom_generate=fused_generate, **SAMPLE)


def _assert_fused(model, expected):
    assert torch.equal(model.generate(PROMPTS, **SAMPLE), expected)


def _assert_plain(model):
    with pytest.raises(ValueError, match="seed"):
        model.generate(PROMPTS, **SAMPLE)


def _shard(model):
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    return fully_shard(model, mesh=mesh)


class _Same(torch.nn.Module):
    def forward(self, weight):
        return weight


def _parametrize(model):
    model.rescale = torch.nn.Parameter(torch.ones(1))  # the class that changes is the model's own
    parametrize.register_parametrization(model, "rescale", _Same())
    return model


def _hook(model):
    accelerate_hooks = pytest.importorskip("accelerate.hooks", reason="needs accelerate")
    accelerate_hooks.add_hook_to_module(model, accelerate_hooks.ModelHook())
    return model


def _compile_in_place(model):
    model.compile(backend="eager")
    return model


CHANGES = [_shard, _parametrize, _hook, _compile_in_place]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_after_the_patch(model, expected, one_rank, change):
    changed = change(patch(model))
    _assert_fused(changed, expected)
    kind = type(changed)
    assert unpatch(changed) is changed and type(changed) is kind
    _assert_plain(changed)
    _assert_fused(patch(changed), expected)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_before_the_patch(model, expected, one_rank, change):
    changed = change(model)
    with patched(changed):
        _assert_fused(changed, expected)
    _assert_plain(changed)


def test_a_change_that_is_taken_back_under_the_patch(model, expected):
    kind = type(model)
    patch(_parametrize(model))
    parametrize.remove_parametrizations(model, "rescale")
    assert type(model) is kind
    _assert_fused(model, expected)
    _assert_plain(unpatch(model))


def test_all_at_once_and_taken_off_in_another_order(model, expected, one_rank):
    changed = _compile_in_place(_shard(patch(_parametrize(model))))
    _assert_fused(changed, expected)
    _assert_plain(unpatch(changed))


def test_a_copy_of_a_class_stacked_over_the_patch(model, expected):
    class Stacked(LlamaForCausalLM):
        pass

    patch(model)
    model.__class__ = Stacked
    twin = copy.deepcopy(model)
    assert type(twin) is Stacked and not hf_patch.is_patched(twin)
    assert torch.equal(twin.generate(PROMPTS, custom_generate=fused_generate, **SAMPLE), expected)
    _assert_fused(model, expected)


@pytest.mark.parametrize("inside", [True, False])
def test_a_compiled_module_around_the_model(model, expected, inside):
    compiled = torch.compile(model, backend="eager")
    patch(model if inside else compiled)
    _assert_fused(compiled, expected)
    _assert_plain(unpatch(compiled))


@pytest.mark.parametrize("inside", [True, False])
def test_a_peft_wrapper(model, expected, inside):
    peft = pytest.importorskip("peft", reason="needs peft")
    if inside:
        patch(model)
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=2)
    ).eval()
    if not inside:
        patch(wrapped)
    assert torch.equal(wrapped.generate(input_ids=PROMPTS, **SAMPLE), expected)
    merged = wrapped.merge_and_unload()
    _assert_fused(merged, expected)
    _assert_plain(unpatch(merged))


def test_a_module_that_holds_a_model(model, expected):
    holder = torch.nn.ModuleDict({"writer": model})
    with patched(holder):
        _assert_fused(model, expected)
    _assert_plain(model)
