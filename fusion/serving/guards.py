"""Checks of requests: only the page's own scripts are answered, not other sites' pages open in the same browser."""

from __future__ import annotations

import ipaddress
import socket
from email.message import Message
from urllib.parse import urlsplit

from fusion.serving.images import MOST_BYTES, Refusal


def is_loopback(host: str) -> bool:
    """Return whether a name or address means this machine only."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def check_host(headers: Message, bound: str) -> None:
    """Check the Host header against DNS rebinding. Raises: Refusal for any name but the machine's own.

    A foreign site may let its own name resolve to this machine; the browser then treats our answers as that site's.
    Such a request has that name in its Host header, so only addresses and the machine's own names are answered.

    bound  the host that the server listens on
    """
    given = headers.get_all("Host") or []
    name = _name(given[0]) if len(given) == 1 else None
    if name is None:
        raise Refusal(400, "The request has no proper Host header.")
    if is_loopback(name):
        return
    own = {bound.lower(), socket.gethostname().lower()}
    if is_loopback(bound) or not (_address(name) or name in own):
        raise Refusal(403, f"This server does not answer for the host '{name}'.")


def check_origin(headers: Message) -> None:
    """Check the origin of a request. Raises: Refusal if it comes from another site's page."""
    site = headers.get("Sec-Fetch-Site", "same-origin")
    origin = headers.get("Origin")
    if site not in ("same-origin", "none") or (origin is not None and urlsplit(origin).netloc != headers["Host"]):
        raise Refusal(403, "Only this server's own page may send requests.")


def body_length(headers: Message) -> int:
    """Return the length of the request's body in bytes. Raises: Refusal if it is not given, or is too large."""
    text = headers.get("Content-Length", "")
    if "Transfer-Encoding" in headers or not text:
        raise Refusal(411, "The request has no Content-Length.")
    # int() also takes signs, underscores and other alphabets' digits; two lengths are an attempt at request smuggling.
    if not (text.isascii() and text.isdigit() and len(text) < 20) or len(headers.get_all("Content-Length") or []) > 1:
        raise Refusal(400, "The Content-Length is not a number.")
    if int(text) > MOST_BYTES:
        raise Refusal(413, f"The image is larger than {MOST_BYTES >> 20} MB.")
    if not int(text):
        raise Refusal(400, "There is no image in the request.")
    return int(text)


def _name(header: str) -> str | None:
    try:
        name = urlsplit(f"//{header}").hostname
        return name.rstrip(".").lower() if name and "@" not in header and "/" not in header else None
    except ValueError:
        return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
