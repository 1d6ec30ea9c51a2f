"""Welcome: what `hne-serve` prints once it can be used."""

from __future__ import annotations

import socket
import sys

from model_core.package import Package
from service.logs import say

__all__ = ["welcome"]


def welcome(package: Package, listening: socket.socket) -> None:
    """Say what is served where."""
    manifest = package.manifest
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    model = f"{manifest.name} {manifest.version}, {manifest.spec.tree.leaves} networks,"
    say(
        f"{model} is ready at {url} (playground; API at {url}/docs)\n"
        f"Try: curl -F file=@photo.jpg '{url}/predict?deadline_ms=50'",
        sys.stdout,
    )
