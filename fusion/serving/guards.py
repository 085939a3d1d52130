"""Who may ask: the page's own scripts on this machine, and no other page that a browser happens to show."""

from __future__ import annotations

import ipaddress
import socket
from email.message import Message
from urllib.parse import urlsplit

from fusion.serving.images import MOST_BYTES, Refusal


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine only."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def check_host(headers: Message, bound: str) -> None:
    """Raise Refusal unless the Host header is a name that no stranger can point here.

    A page of a foreign site may have its own name resolve to this machine; the browser then takes our answers for that
    site's. Such a request bears that name, so only addresses and the machine's own names are answered.

    bound  the host that the server was told to listen on
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
    """Raise Refusal for a request that another site's page has made."""
    site = headers.get("Sec-Fetch-Site", "same-origin")
    origin = headers.get("Origin")
    if site not in ("same-origin", "none") or (origin is not None and urlsplit(origin).netloc != headers["Host"]):
        raise Refusal(403, "Only this server's own page may ask.")


def body_length(headers: Message) -> int:
    """The number of bytes that follow. Raises: Refusal when it is not told, or is too large."""
    text = headers.get("Content-Length", "")
    if "Transfer-Encoding" in headers or not text:
        raise Refusal(411, "The request must tell its Content-Length.")
    if not (text.isascii() and text.isdigit() and len(text) < 20) or len(headers.get_all("Content-Length") or []) > 1:
        raise Refusal(400, "The Content-Length is no number.")
    if int(text) > MOST_BYTES:
        raise Refusal(413, f"The picture is larger than {MOST_BYTES >> 20} MB.")
    if not int(text):
        raise Refusal(400, "There is no picture in the request.")
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
