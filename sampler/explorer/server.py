"""The explorer's server: the page at `/`, views as JSON at `/view`; for this machine alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ..views.request import FieldError, Request
from .page import render_page
from .state import read_state
from .text import Explorer

LOOPBACK = "127.0.0.1"
_OUR_NAMES = (LOOPBACK, "localhost")
_LARGEST_BODY = 2**20
_LONGEST_LENGTH = 20  # digits; Python refuses to read thousands of them


class ExploreServer(ThreadingHTTPServer):
    """Listens on `port` of this machine, 0 for any that is free; `serve` answers."""

    allow_reuse_port = False  # a port in use is an error, also where Python's own default differs
    explorer: Explorer
    request: Request
    page: bytes

    def __init__(self, port: int) -> None:
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            raise ValueError(
                f"cannot listen on port {port} of {LOOPBACK} ({error.strerror}); "
                "give another port, or 0 for any that is free"
            ) from error

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server_port}/"

    def serve(self, explorer: Explorer, request: Request, ready: Callable[[], None]) -> None:
        """Answer until interrupted. `ready` is called once the page is made; it shows `request`."""
        self.explorer, self.request = explorer, request
        self.page = render_page(request, [explorer.view(request)], saved=False).encode()
        ready()
        self.serve_forever()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that closes a connection, as it may at any time."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps the connection, and with it the thread, between views
    server: ExploreServer

    def do_GET(self) -> None:
        if refusal := self._refusal():
            self._fail(HTTPStatus.FORBIDDEN, refusal)
        elif self.path != "/":
            self._fail(HTTPStatus.NOT_FOUND, f"there is nothing at {self.path}; open /")
        else:
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page)

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if refusal := self._refusal():
            self._fail(HTTPStatus.FORBIDDEN, refusal)
        elif self.path != "/view":
            self._fail(HTTPStatus.NOT_FOUND, f"there is nothing at {self.path}; post to /view")
        elif not length.isdecimal():
            self._fail(HTTPStatus.LENGTH_REQUIRED, "the request names no Content-Length; add it")
        elif len(length) > _LONGEST_LENGTH:
            message = f"the Content-Length has {len(length)} digits; give the bytes that follow"
            self._fail(HTTPStatus.BAD_REQUEST, message)
        elif int(length) > _LARGEST_BODY:
            message = f"the text is too long; send at most {_LARGEST_BODY} bytes"
            self._fail(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        else:
            self._view(self.rfile.read(int(length)))

    def _view(self, body: bytes) -> None:
        try:
            view = self.server.explorer.view(*read_state(body, self.server.request))
        except FieldError as error:
            self._fail(HTTPStatus.BAD_REQUEST, str(error), error.field)
        except ValueError as error:  # the library's own, such as a text longer than the model holds
            self._fail(HTTPStatus.BAD_REQUEST, str(error))
        except RuntimeError as error:  # PyTorch's, such as a lack of memory
            message = f"the model failed: {error}; try a shorter text"
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, message)
        else:
            self._answer_json(HTTPStatus.OK, asdict(view))

    def _refusal(self) -> str | None:
        """Why this request may come from another site's page, which a browser would let read us.

        Such a page can point its own name at this machine, or post to it under its own origin.
        """
        host = self.headers.get("Host", "")
        origin = self.headers.get("Origin", f"http://{host}")
        if host.partition(":")[0] in _OUR_NAMES and origin == f"http://{host}":
            return None
        return f"this page is for this machine alone; open it as {self.server.url}"

    def _fail(self, status: HTTPStatus, message: str, field: str | None = None) -> None:
        self.close_connection = True  # the body may not have been read
        self._answer_json(status, {"error": " ".join(message.split()), "field": field})

    def _answer_json(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        body = json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
        self._answer(status, "application/json", body)

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal shows where the page is, not each move of a slider."""
