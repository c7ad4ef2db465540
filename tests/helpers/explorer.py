"""What the explorer's tests share: a request, a server, and what it answers."""

import json
import threading
from contextlib import contextmanager
from http.client import HTTPConnection

import torch

from fused_sampler.explorer.server import ExploreServer
from fused_sampler.views.parameters import EDITS, LOGIT_BIAS
from fused_sampler.views.request import Request

PROMPT = "The sky is"


def request_of(prompt=PROMPT, seed=0, edits=None, **sampling):
    return Request(prompt, None, sampling, seed, edits=edits or {})


# Of the page that most tests open, and the cells of its rows.
REQUEST = request_of(temperature=0.8, top_k=40, top_p=0.95, seed=7)
SAMPLING = REQUEST.sampling
TOKEN, LOGIT, SCALED, PROBABILITY, DRAWS = range(1, 6)


def next_logits(explorer, text, appended=()):
    """What the model says after the text and these tokens."""
    ids = explorer.loaded.tokenizer(text).input_ids + list(appended)
    with torch.no_grad():
        return explorer.loaded.model(torch.tensor([ids])).logits[0, -1]


@contextmanager
def serving(explorer, request=None):
    """A server of `explorer` on a free port, in a thread."""
    with ExploreServer(0) as server:
        ready = threading.Event()
        arguments = (explorer, request or request_of(), ready.set)
        thread = threading.Thread(target=server.serve, args=arguments)
        thread.start()
        assert ready.wait(300)  # kernels may be compiled for its first view
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(60)


def ask(server, method="GET", path="/", body=None, headers=None):
    """Status, headers and text of the server's answer."""
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


def ask_view(server, headers=None, **state):
    """Status and JSON of a view; numbers as text, as the page sends them."""
    edits = {record.name: record.off for record in EDITS}
    numbers = {**request_of().sampling, **edits, "seed": 0}
    texts = {name: str(v + 0) for name, v in numbers.items()}  # 0 or 1 for what is on or off
    state = {"prompt": PROMPT, **texts, LOGIT_BIAS: "", **state}
    status, _, text = ask(server, "POST", "/view", json.dumps(state), headers)
    return status, json.loads(text)
