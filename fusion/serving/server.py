"""The web server of the page: a few fixed paths, and one that takes an image's bytes.

It reads its page once at the start, and no file after that: a URL is looked up in a table and never becomes a file
name. Requests are bounded in number, size and time, and nothing of them is stored.
"""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from socketserver import TCPServer
from typing import Any, cast

from fusion.errors import FusionError
from fusion.serving.guards import body_length, check_host, check_origin
from fusion.serving.images import MOST_BYTES, Refusal, check_picture

Answer = Callable[[bytes], dict[str, Any]]
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src blob: data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Connection": "close",
}
TIMEOUT = 30.0  # seconds for a request to arrive
_PAGES = {
    "/": ("page.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/script.js": ("script.js", "text/javascript"),
}
_MOST_REQUESTS = 16  # at once
_QUEUE = 5.0  # seconds to wait for one of them to end
_LINGER = 2.0  # seconds that a refused client has to finish sending
_PIECE = 1 << 16


class Server(ThreadingHTTPServer):
    """An HTTP server for the page.

    answer  computes the page's content from an image's bytes; may raise FusionError
    about   the page's first content
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], answer: Answer, about: dict[str, Any], family: int) -> None:
        self.address_family = cast("socket.AddressFamily", family)
        self.host, self.answer = address[0], answer
        files = resources.files("fusion.serving")
        self.pages = {path: (files.joinpath(name).read_bytes(), kind) for path, (name, kind) in _PAGES.items()}
        self.pages["/about"] = (_json({**about, "limit": MOST_BYTES}), "application/json")
        self._slots = threading.BoundedSemaphore(_MOST_REQUESTS)
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        """Bind without the reverse name lookup of http.server, which can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.host, self.server_address[1]

    @property
    def url(self) -> str:
        """Return the page's address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_port}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, or drop the request when too many are in progress."""
        if not self._slots.acquire(timeout=_QUEUE):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, then release the slot."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report errors, except of clients that disconnect early."""
        import sys

        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _TimedReader(io.RawIOBase):
    """The bytes that a client sends within `seconds`; a timeout per read would let it send one at a time for hours."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        super().__init__()
        self._connection, self._seconds = connection, seconds
        self.restart()

    def restart(self) -> None:
        """Give the client the whole time again."""
        self._end = time.monotonic() + self._seconds

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, target: Any) -> int:
        """Read what has arrived. Raises: TimeoutError after the time."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        try:
            return self._connection.recv_into(target)
        finally:
            self._connection.settimeout(self._seconds)  # for the answer


class Handler(BaseHTTPRequestHandler):
    """The handler of one request."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "fusion-predict", ""
    timeout = TIMEOUT
    _unread = False

    def setup(self) -> None:
        """Give the first line and the headers one deadline together."""
        super().setup()
        self._timed = _TimedReader(self.connection, self.timeout)
        self.rfile = io.BufferedReader(self._timed)

    def do_GET(self) -> None:
        """Send the page or one of its files."""
        self._guarded(self._page)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        """Answer for an image sent to `/answer`."""
        self._guarded(self._answer)

    def _wrong_method(self) -> None:
        self._guarded(self._refuse_method)

    do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _wrong_method  # noqa: N815

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            check_host(self.headers, self.server.host)
            work()
        except Refusal as refusal:
            self._unread = "Content-Length" in self.headers
            self._send(refusal.status, _json({"error": refusal.message}), "application/json")

    def finish(self) -> None:
        """Let a refused client finish sending, within bounds: if closed at once, it would not read the answer."""
        super().finish()
        if not self._unread:
            return
        with suppress(OSError):
            self.request.shutdown(socket.SHUT_WR)
            self.request.settimeout(_LINGER)
            end, left = time.monotonic() + _LINGER, 2 * MOST_BYTES
            while left > 0 and time.monotonic() < end and (part := self.request.recv(_PIECE)):
                left -= len(part)

    def _page(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/answer":
            self._refuse_method()
        if path not in self.server.pages:
            raise Refusal(404, "There is no such page.")
        self._send(200, *self.server.pages[path])

    def _answer(self) -> None:
        if self.path != "/answer":
            raise Refusal(405 if self.path in self.server.pages else 404, "Send images to /answer.")
        check_origin(self.headers)
        picture = self._body(body_length(self.headers))
        check_picture(picture)
        try:
            found = self.server.answer(picture)
        except FusionError as error:
            raise Refusal(422, error.message) from error
        self._send(200, _json(found), "application/json")

    def _body(self, length: int) -> bytes:
        """Return the request's body. Raises: Refusal if it does not arrive in time."""
        parts, missing = [], length
        self._timed.restart()
        while missing:
            try:
                part = self.rfile.read1(min(missing, _PIECE))
            except TimeoutError:
                raise Refusal(408, "The image arrived incomplete.") from None
            if not part:
                raise Refusal(400, "The image arrived incomplete.")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _refuse_method(self) -> None:
        raise Refusal(405, f"{self.command} is not allowed here.")

    def _send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        if status == 405:
            self.send_header("Allow", "POST" if self.path == "/answer" else "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def end_headers(self) -> None:
        """Add the same protective headers to every answer, also to malformed requests."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.close_connection = True
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing about requests."""


def open_server(answer: Answer, about: dict[str, Any], *, host: str = "127.0.0.1", port: int = 0) -> Server:
    """Return a server that listens; `serve_forever` answers.

    port    0 for any free one
    Raises: FusionError for a host or port that is not available
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return Server((host, port), answer, about, family)
    except OSError as error:
        hint = "is another server there? --port 0 takes a free port"
        raise FusionError(f"cannot listen at {host}, port {port}: {error.strerror}", hint=hint) from error


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()
