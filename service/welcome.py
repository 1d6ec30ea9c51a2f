"""Welcome: what `hne-serve` prints once it can be used."""

from __future__ import annotations

import socket

from model_core.package import Package

__all__ = ["welcome"]


def welcome(package: Package, listening: socket.socket) -> None:
    """Say what is served where."""
    manifest = package.manifest
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    model = f"{manifest.name} {manifest.version}, {manifest.spec.tree.leaves} networks,"
    print(f"{model} is ready at {url} (playground; API at {url}/docs)")
    print(f"Try: curl -F file=@photo.jpg '{url}/predict?deadline_ms=50'", flush=True)
