"""A small web page on which a person asks nets about a picture and sees their answers side by side."""

from fusion.serving.panel import Panel
from fusion.serving.server import Server, open_server

__all__ = ["Panel", "Server", "open_server"]
