"""A small web page that classifies an image with several nets and shows their answers side by side."""

from fusion.serving.panel import Panel
from fusion.serving.server import Server, open_server

__all__ = ["Panel", "Server", "open_server"]
