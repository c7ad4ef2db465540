"""SGLang's server with our backend, as its command line starts it, on the CPU with a tiny model.

Each answer is compared with `sample` on what transformers computes for the same text. SGLang is
told to take back requests again and again and to read prompts in small parts, as it does where
memory is short. `make test-sglang` has the environment.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

pytest.importorskip("sglang", reason="needs SGLang; `make test-sglang` installs it")

from tiny_model import save_tiny_model

from fused_sampler import History, sample

LENGTH = 12
PROMPTS = [[65, 66, 67], [70], [80, 81, 82, 83, 84, 85, 86, 87, 88, 89, 90, 91, 92], [71, 72]]
VALUES = [
    dict(temperature=0.8, top_p=0.9, sampling_seed=11),
    dict(temperature=0),
    dict(temperature=1.3, top_k=50, sampling_seed=12),
    dict(temperature=0.7, min_p=0.05, sampling_seed=13),
    dict(
        temperature=0.9, sampling_seed=14, custom_params={"top_n_sigma": 1.5, "dry_multiplier": 2}
    ),
    dict(temperature=0, custom_params={"dry_multiplier": 3, "dry_allowed_length": 1}),
    dict(
        temperature=1.0,
        sampling_seed=16,
        custom_params={"xtc_threshold": 0.02, "xtc_probability": 0.5},
    ),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The tiny model with one matrix for tokens in and out, as SGLang takes GPT-2's to be."""
    folder = tmp_path_factory.mktemp("model")
    made = save_tiny_model(folder)
    made.config.tie_word_embeddings = True
    made.lm_head.weight = made.transformer.wte.weight
    made.save_pretrained(folder)
    return str(folder), made


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("sglang"), "serve", "--model-path", model[0]]
    command += ["--sampling-backend", "fused_sampler", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--device", "cpu", "--attention-backend", "torch_native", "--dtype", "float32"]
    command += ["--max-total-tokens", "2048", "--chunked-prefill-size", "8"]
    environment = {**os.environ, "SGLANG_TEST_RETRACT": "1"}
    environment.pop("TRITON_INTERPRET", None)
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            if process.poll() is not None:
                pytest.fail(log.read_text()[-3000:])
            try:
                urllib.request.urlopen(url + "/health", timeout=5)
                break
            except OSError:
                time.sleep(1)
        assert "The fused sampler draws the tokens" in log.read_text()
        yield url
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def ask(url, **body):
    query = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(query, timeout=120) as answer:
        return json.load(answer)


def generate(url, prompts, values, **more):
    """Answers to prompts in one batch, each with its own parameters."""
    params = [{"max_new_tokens": LENGTH, "ignore_eos": True, **v} for v in values]
    return ask(url + "/generate", input_ids=prompts, sampling_params=params, **more)


def tokens_of(answers):
    return [answer["output_ids"] for answer in answers]


def expected(model, prompt, values):
    """Tokens of a loop on transformers' model."""
    flat = {"seed": values.get("sampling_seed", 0), **values, **values.get("custom_params", {})}
    flat.pop("sampling_seed", None), flat.pop("custom_params", None)
    history = History(torch.tensor([prompt]))
    ids = list(prompt)
    for step in range(LENGTH):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1:]
        tokens = sample(logits, **flat, step=step, history=history)
        history.append(tokens)
        ids.append(int(tokens))
    return ids[len(prompt) :]


def test_a_request_draws_the_same_alone_and_in_any_batch(server, model):
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(len(VALUES))]
    answers = generate(server, prompts, VALUES)
    assert sum(answer["meta_info"]["num_retractions"] for answer in answers) > 0
    wanted = [expected(model[1], p, v) for p, v in zip(prompts, VALUES, strict=True)]
    assert tokens_of(answers) == wanted
    for prompt, values, tokens in zip(prompts, VALUES, wanted, strict=True):
        assert tokens_of(generate(server, [prompt], [values])) == [tokens]
    order = [3, 6, 0, 5, 2, 4, 1] * 3
    with ThreadPoolExecutor() as pool:  # they come and go
        calls = [pool.submit(generate, server, [prompts[i]], [VALUES[i]]) for i in order]
        assert [tokens_of(c.result())[0] for c in calls] == [wanted[i] for i in order]


def test_requests_without_a_seed_differ(server):
    values = [dict(temperature=1.0)] * 8
    tokens = tokens_of(generate(server, [PROMPTS[0]] * 8, values))
    assert len({tuple(row) for row in tokens}) == 8


def test_logprobs_are_those_of_the_divided_logits(server, model):
    values = dict(temperature=0.7, top_k=5, sampling_seed=3)
    (answer,) = generate(server, [PROMPTS[0]], [values], return_logprob=True, top_logprobs_num=3)
    text = [*PROMPTS[0], *answer["output_ids"]]
    with torch.no_grad():
        logits = model[1](torch.tensor([text])).logits[0, len(PROMPTS[0]) - 1 : -1]
    wanted = (logits / 0.7).log_softmax(-1)
    own = [entry[0] for entry in answer["meta_info"]["output_token_logprobs"]]
    at = torch.tensor(answer["output_ids"])[:, None]
    torch.testing.assert_close(torch.tensor(own), wanted.gather(1, at)[:, 0], rtol=1e-4, atol=1e-4)
    top = [[e[0] for e in step] for step in answer["meta_info"]["output_top_logprobs"]]
    torch.testing.assert_close(torch.tensor(top), wanted.topk(3).values, rtol=1e-4, atol=1e-4)


def test_bias_penalties_and_grammars_come_before(server):
    seeded = dict(temperature=1.0, sampling_seed=5)
    values = [
        dict(seeded, logit_bias={"77": 100.0}),
        dict(seeded, regex="[xyz]{12}"),
        dict(seeded, logit_bias={"77": 100.0, "78": 99.0}, frequency_penalty=2.0),
        seeded,
    ]
    biased, regex, penalized, free = tokens_of(generate(server, [PROMPTS[0]] * 4, values))
    assert biased == [77] * LENGTH
    assert set(regex) <= {87, 88, 89} and len(regex) == LENGTH  # x, y and z
    assert set(penalized) == {77, 78}  # each in its turn
    assert [free] == tokens_of(generate(server, [PROMPTS[0]], [seeded]))


def test_the_completions_api_takes_seeds_and_our_filters(server, model):
    body = dict(model="m", prompt="The sky", max_tokens=LENGTH, temperature=0.9, seed=7)
    own = {"custom_params": {"top_n_sigma": 1.2}}
    first, second = (ask(server + "/v1/completions", **body, **own) for _ in range(2))
    assert first["choices"][0]["text"] == second["choices"][0]["text"]
    other = ask(server + "/v1/completions", **body)
    assert other["choices"][0]["text"] != first["choices"][0]["text"]


@pytest.mark.parametrize(
    "path, body",
    [
        ("/generate", {"input_ids": [65], "sampling_params": {"custom_params": {"typical_p": 7}}}),
        ("/v1/completions", {"model": "m", "prompt": "a", "custom_params": {"typical_p": 7}}),
    ],
)
def test_what_is_wrong_in_custom_params_is_an_error(server, path, body):
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(server + path, **body)
    assert error.value.code == 400 and b"typical_p is 7, out of range" in error.value.read()
    assert len(tokens_of(generate(server, [[65]], [dict(temperature=1.0)]))[0]) == LENGTH
