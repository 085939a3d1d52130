"""Each check of a request alone, at both sides of its limit."""

from __future__ import annotations

import io
import socket
from email.message import Message

import pytest
from PIL import Image

from fusion.serving import images
from fusion.serving.guards import body_length, check_host, check_origin, is_loopback
from fusion.serving.images import MOST_BYTES, Refusal, check_picture

MACHINE = socket.gethostname()


def headers(*pairs: tuple[str, str]) -> Message:
    message = Message()
    for name, value in pairs:
        message[name] = value
    return message


def status(message: Message, bound: str) -> int:
    try:
        check_host(message, bound)
    except Refusal as refusal:
        return refusal.status
    return 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("10.0.0.1", False),
     ("0.0.0.0", False), ("localhost.evil", False), ("", False)],
)  # fmt: skip
def test_this_machine_only(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("host", "bound", "expected"),
    [
        ("localhost:80", "127.0.0.1", 200), ("localhost.", "127.0.0.1", 200), ("[::1]:8", "0.0.0.0", 200),
        ("10.0.0.1", "127.0.0.1", 403), (MACHINE, "127.0.0.1", 403), ("10.0.0.1", "localhost", 403),
        ("10.0.0.1", "0.0.0.0", 200), ("[fe80::2]", "0.0.0.0", 200), (MACHINE, "0.0.0.0", 200),
        (MACHINE.upper(), "0.0.0.0", 200), ("box", "BOX", 200), ("BOX.:1", "box", 200), ("other", "box", 403),
        ("user@localhost", "127.0.0.1", 400), ("localhost/x", "127.0.0.1", 400), ("", "127.0.0.1", 400),
        ("[::1", "127.0.0.1", 400), (":80", "127.0.0.1", 400),
    ],
)  # fmt: skip
def test_hosts_that_are_answered(host: str, bound: str, expected: int) -> None:
    assert status(headers(("Host", host)), bound) == expected


def test_one_host_is_named() -> None:
    assert status(headers(), "127.0.0.1") == 400
    assert status(headers(("Host", "localhost"), ("Host", "localhost")), "127.0.0.1") == 400


@pytest.mark.parametrize(
    ("pairs", "passes"),
    [
        ([], True),
        ([("Sec-Fetch-Site", "none")], True),
        ([("Sec-Fetch-Site", "same-origin"), ("Origin", "http://localhost:1")], True),
        ([("Origin", "http://localhost:1")], True),
        ([("Sec-Fetch-Site", "cross-site"), ("Origin", "http://localhost:1")], False),
        ([("Sec-Fetch-Site", "same-origin"), ("Origin", "http://localhost:2")], False),
        ([("Sec-Fetch-Site", "none"), ("Origin", "")], False),
    ],
)
def test_origins(pairs: list[tuple[str, str]], passes: bool) -> None:
    message = headers(("Host", "localhost:1"), *pairs)
    if passes:
        check_origin(message)
        return
    with pytest.raises(Refusal) as caught:
        check_origin(message)
    assert caught.value.status == 403


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        (["1"], 1), ([str(MOST_BYTES)], MOST_BYTES), (["007"], 7), ([str(MOST_BYTES + 1)], 413), (["9" * 19], 413),
        (["9" * 20], 400), (["0"], 400), ([""], 411), ([], 411), (["1", "1"], 400), (["-1"], 400), (["1_0"], 400),
        (["\N{ARABIC-INDIC DIGIT THREE}"], 400), (["\N{SUPERSCRIPT TWO}"], 400), (["1.0"], 400),
    ],
)  # fmt: skip
def test_lengths_of_bodies(lengths: list[str], expected: int) -> None:
    message = headers(*[("Content-Length", text) for text in lengths])
    try:
        found = body_length(message)
    except Refusal as refusal:
        found = refusal.status
    assert found == expected
    message["Transfer-Encoding"] = "chunked"
    with pytest.raises(Refusal) as caught:
        body_length(message)
    assert caught.value.status == 411


def test_the_largest_picture_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    Image.new("L", (3, 2)).save(content, "PNG")
    monkeypatch.setattr(images, "MOST_PIXELS", 6)
    check_picture(content.getvalue())
    monkeypatch.setattr(images, "MOST_PIXELS", 5)
    with pytest.raises(Refusal, match="has more than 0 million pixels") as caught:
        check_picture(content.getvalue())
    assert caught.value.status == 413
    for data, says in ((b"%PDF", "not an image of a known format"), (content.getvalue()[:20], "header cannot be read")):
        with pytest.raises(Refusal, match=says) as caught:
            check_picture(data)
        assert caught.value.status == 415
