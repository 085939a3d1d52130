"""What the web server answers, and what it refuses: strangers' hosts and pages, sizes, methods, what is no picture."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from fusion.errors import DataError, FusionError
from fusion.serving import Server, images, open_server, server
from fusion.serving.guards import check_host
from fusion.serving.images import MOST_BYTES, Refusal, check_picture


def png(width: int = 3, height: int = 2) -> bytes:
    content = io.BytesIO()
    Image.new("L", (width, height), 7).save(content, "PNG")
    return content.getvalue()


def answer(picture: bytes) -> dict[str, Any]:
    if len(picture) > 1000:
        raise DataError("the net does not take it", place="picture 1")
    return {"answers": [len(picture)]}


@contextmanager
def serving() -> Iterator[Server]:
    with open_server(answer, {"nets": [], "notes": []}) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.05,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with serving() as found:
        yield found


def ask(
    running: Server, method: str = "POST", path: str = "/answer", body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", running.server_port, timeout=10)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        reply = connection.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
    finally:
        connection.close()


def test_a_picture_is_answered(running: Server) -> None:
    status, headers, body = ask(running, body=png())
    assert (status, json.loads(body)) == (200, {"answers": [len(png())]})
    assert headers["content-type"].startswith("application/json")


@pytest.mark.parametrize(
    ("path", "kind", "says"),
    [("/", "text/html", b"<title>"), ("/?x=1", "text/html", b"script.js"), ("/style.css", "text/css", b"--paper"),
     ("/script.js", "text/javascript", b"fetch"), ("/about", "application/json", str(MOST_BYTES).encode())],
)  # fmt: skip
def test_the_page_and_its_parts(running: Server, path: str, kind: str, says: bytes) -> None:
    status, headers, body = ask(running, "GET", path)
    assert status == 200
    assert headers["content-type"].startswith(kind)
    assert says in body
    assert ask(running, "HEAD", path)[2] == b""


def test_every_answer_is_guarded(running: Server) -> None:
    for method, path in (("GET", "/"), ("GET", "/nowhere"), ("POST", "/answer"), ("BREW", "/")):
        _, headers, _ = ask(running, method, path)
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers
        assert "Python" not in headers["server"]


@pytest.mark.parametrize(
    "path", ["/nowhere", "/../pyproject.toml", "/%2e%2e/etc/passwd", "//etc/passwd", "/page.html", "/server.py",
             "http://127.0.0.1/", "/style.css/.."],
)  # fmt: skip
def test_no_path_reaches_a_file(running: Server, path: str) -> None:
    status, _, body = ask(running, "GET", path)
    assert (status, json.loads(body)) == (404, {"error": "There is no such page."})


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/answer", "POST"), ("PUT", "/answer", "POST"), ("POST", "/", "GET, HEAD"), ("DELETE", "/", "GET, HEAD"),
     ("OPTIONS", "/answer", "POST")],
)  # fmt: skip
def test_wrong_methods(running: Server, method: str, path: str, allowed: str) -> None:
    status, headers, _ = ask(running, method, path, b"x" if method == "POST" else None)
    assert (status, headers["allow"]) == (405, allowed)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1", "localhost@x"]
)
def test_strange_hosts_are_refused(running: Server, host: str) -> None:
    for method, path in (("GET", "/"), ("POST", "/answer")):
        status, _, body = ask(running, method, path, png() if method == "POST" else None, Host=host)
        assert status in (400, 403)
        assert b"error" in body


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1:1", "[::1]:80", "127.1.2.3"])
def test_this_machine_is_answered(running: Server, host: str) -> None:
    assert ask(running, "GET", "/", Host=host)[0] == 200


def test_a_machine_that_serves_others_knows_its_own_name_only() -> None:
    def says(host: str) -> None:
        headers = Message()
        headers["Host"] = host
        check_host(headers, "0.0.0.0")

    for host in ("192.168.1.5:8765", socket.gethostname(), "localhost"):
        says(host)
    with pytest.raises(Refusal, match=r"does not answer for the host 'evil\.example'"):
        says("evil.example")


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"},
     {"Sec_Fetch_Site": "same-site"}, {"Origin": "http://localhost:1"}],
)  # fmt: skip
def test_other_sites_pages_may_not_ask(running: Server, headers: dict[str, str]) -> None:
    status, _, body = ask(running, body=png(), **headers)
    assert (status, json.loads(body)) == (403, {"error": "Only this server's own page may send requests."})


def test_its_own_page_may_ask(running: Server) -> None:
    own = running.url.rstrip("/")
    assert ask(running, body=png(), Origin=own, Sec_Fetch_Site="same-origin")[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Content_Length": str(MOST_BYTES + 1)}, 413), ({"Content_Length": "9" * 30}, 400),
     ({"Content_Length": "0"}, 400), ({"Content_Length": "-1"}, 400), ({"Transfer_Encoding": "chunked"}, 411)],
)  # fmt: skip
def test_sizes_are_bounded_before_anything_is_read(running: Server, headers: dict[str, str], status: int) -> None:
    assert ask(running, body=None, **headers)[0] == status


def test_a_large_picture_gets_to_know_why(running: Server) -> None:
    status, _, body = ask(running, body=bytes(MOST_BYTES + 1))
    assert (status, json.loads(body)) == (413, {"error": "The image is larger than 16 MB."})


def test_a_body_that_ends_early(running: Server) -> None:
    with socket.create_connection(("127.0.0.1", running.server_port), 5) as connection:
        connection.sendall(b"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_who_sends_nothing_is_given_up(running: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.Handler, "timeout", 0.2)
    with socket.create_connection(("127.0.0.1", running.server_port), 5) as connection:
        connection.sendall(b"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
        assert b"200" not in connection.recv(1000)
    assert ask(running, body=png())[0] == 200


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ("Content-Length: 4\r\nContent-Length: 4", 400),
        ("Content-Length: 4\r\nContent-Length: 5", 400),
        ("Content-Length: 4\r\nTransfer-Encoding: chunked", 411),
        ("Content-Length: 4\r\nTransfer-Encoding: identity", 411),
        ("Content-Length: 4_0", 400),
        ("Content-Length: +4", 400),
    ],
)
def test_lengths_that_two_readers_may_take_differently(running: Server, lines: str, status: int) -> None:
    with socket.create_connection(("127.0.0.1", running.server_port), 30) as connection:
        connection.sendall(f"POST /answer HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\n0123".encode())
        assert connection.recv(1000).startswith(f"HTTP/1.1 {status} ".encode())


def test_a_body_that_comes_slowly_is_given_up(running: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, but not all of them."""
    clock = iter(range(0, 10**6, 20))  # seconds pass with each look at the clock
    monkeypatch.setattr(server, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with socket.create_connection(("127.0.0.1", running.server_port), 30) as connection:
        connection.sendall(b"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n")
        found = b""
        for _ in range(20):
            connection.sendall(b"x")
            with suppress(TimeoutError):
                connection.settimeout(0.2)
                found = connection.recv(1000) + connection.recv(1000)
                break
        assert found.startswith(b"HTTP/1.1 408 ")
        assert b"The image arrived incomplete." in found


def test_headers_that_come_slowly_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line every 0.1 s would keep one of the few places for hours."""
    monkeypatch.setattr(server.Handler, "timeout", 0.5)
    with open_server(answer, {"nets": [], "notes": []}) as slow:
        thread = threading.Thread(target=slow.serve_forever, args=(0.05,))
        thread.start()
        with socket.create_connection(("127.0.0.1", slow.server_port), 5) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
            start = time.monotonic()
            with suppress(OSError):
                while time.monotonic() - start < 20:
                    connection.sendall(b"X-More: 1\r\n")
                    connection.settimeout(0.1)
                    with suppress(TimeoutError):
                        if connection.recv(100) == b"":
                            break
            assert time.monotonic() - start < 10
        slow.shutdown()
        thread.join()


def test_many_at_once(running: Server) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(ask(running, body=png())[0])) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [200] * 30


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"no picture at all", 415, "not an image of a known format"),
        (b"%PDF-1.4 and so on", 415, "not an image of a known format"),
        (png()[:20], 415, "image"),
        (png(1000, 1000) + bytes(2000), 422, "the net does not take it"),
    ],
)
def test_what_cannot_be_answered(running: Server, body: bytes, status: int, says: str) -> None:
    found, _, text = ask(running, body=body)
    assert found == status
    assert says in json.loads(text)["error"]


def test_few_bytes_of_very_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refusal, match="more than 40 million pixels") as caught:
        check_picture(b"P5 9000 9000 255\n")
    assert caught.value.status == 413
    with pytest.raises(Refusal, match="more than 40 million pixels"):
        check_picture(b"P5 900000 900000 255\n")
    monkeypatch.setattr(images, "MOST_PIXELS", 5)
    with pytest.raises(Refusal):
        check_picture(png(3, 2))


def test_a_port_that_is_taken(running: Server) -> None:
    with pytest.raises(FusionError, match=r"cannot listen at 127\.0\.0\.1, port \d+(.|\n)*--port 0"):
        open_server(answer, {}, port=running.server_port)


def test_an_address_of_six() -> None:
    try:
        with open_server(answer, {}, host="::1") as found:
            assert found.url.startswith("http://[::1]:")
    except FusionError:
        pytest.skip("this machine has no IPv6")


def test_bytes_after_the_picture_do_not_belong_to_it(running: Server) -> None:
    with socket.create_connection(("127.0.0.1", running.server_port), 30) as connection:
        head = f"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(png())}\r\n\r\n"
        connection.sendall(head.encode() + png() + bytes(50))
        reply = connection.recv(1000)
        while part := connection.recv(1000):
            reply += part
    assert json.loads(reply.partition(b"\r\n\r\n")[2]) == {"answers": [len(png())]}


def test_a_picture_of_many_pieces_arrives_whole() -> None:
    seen: list[bytes] = []
    picture = png() + bytes(range(256)) * 1000
    with open_server(lambda body: {"n": seen.append(body)}, {}) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.05,))
        thread.start()
        assert ask(found, body=picture)[0] == 200
        found.shutdown()
        thread.join()
    assert seen == [picture]


@pytest.mark.parametrize(("path", "status"), [("/", 405), ("/style.css", 405), ("/nowhere", 404), ("/answer?x", 404)])
def test_pictures_are_taken_in_one_place(running: Server, path: str, status: int) -> None:
    found, _, body = ask(running, path=path, body=png())
    assert (found, json.loads(body)) == (status, {"error": "Send images to /answer."})


def test_too_many_at_once_are_dropped_and_places_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MOST_REQUESTS", 1)
    with serving() as found:
        assert [ask(found, body=png())[0] for _ in range(3)] == [200] * 3
        assert found._slots.acquire(timeout=5)
        with monkeypatch.context() as patched:
            patched.setattr(server, "_QUEUE", 0.01)
            with pytest.raises(OSError, match=r"without response|reset"):
                ask(found, body=png())
        found._slots.release()
        assert ask(found, body=png())[0] == 200
        assert found._slots.acquire(timeout=5)  # the last thread has ended


def test_a_hanging_client_does_not_hold_up_the_end() -> None:
    assert Server.daemon_threads


def test_faults_are_reported_and_lost_clients_are_not(running: Server, capsys: pytest.CaptureFixture[str]) -> None:
    for error, told in ((ConnectionResetError("gone"), False), (RuntimeError("a fault"), True)):
        try:
            raise error
        except Exception:
            running.handle_error(None, ("127.0.0.1", 1))
        assert ("a fault" in capsys.readouterr().err) is told


def test_a_reader_has_one_deadline_for_all_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(server, "time", SimpleNamespace(monotonic=lambda: now[0]))
    here, there = socket.socketpair()
    with here, there:
        reader = server._TimedReader(here, 3.0)
        there.sendall(b"abc")
        target = bytearray(2)
        now[0] += 2.9
        assert (reader.readinto(target), bytes(target)) == (2, b"ab")
        assert here.gettimeout() == 3.0
        now[0] += 0.1
        with pytest.raises(TimeoutError):
            reader.readinto(target)
        reader.restart()
        assert (reader.readinto(target), bytes(target[:1])) == (1, b"c")
        now[0] += 2.99
        with pytest.raises(TimeoutError):
            reader.readinto(target)  # nothing comes in the hundredth of a second that is left


@pytest.mark.parametrize(("seconds", "parts"), [(0.0, 2 * MOST_BYTES >> 16), (0.5, 4)])
def test_a_refused_client_finishes_within_bounds(monkeypatch: pytest.MonkeyPatch, seconds: float, parts: int) -> None:
    now, taken = [0.0], []

    def recv(size: int) -> bytes:
        taken.append(size)
        now[0] += seconds
        return bytes(size)

    monkeypatch.setattr(server, "time", SimpleNamespace(monotonic=lambda: now[0]))
    handler = object.__new__(server.Handler)
    handler.wfile, handler.rfile = io.BytesIO(), io.BufferedReader(io.BytesIO())
    handler.request = SimpleNamespace(shutdown=lambda how: None, settimeout=lambda s: None, recv=recv)
    handler._unread = True
    handler.finish()
    assert len(taken) == parts
    taken.clear()
    answered = object.__new__(server.Handler)
    answered.wfile, answered.rfile, answered.request = io.BytesIO(), io.BufferedReader(io.BytesIO()), handler.request
    answered.finish()
    assert not taken
