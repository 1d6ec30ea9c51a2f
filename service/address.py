"""The address to listen on, tried before a model is loaded for nothing."""

from __future__ import annotations

import socket

from service.errors import SettingsError

__all__ = ["check_free"]


def check_free(host: str, port: int) -> None:
    """Nothing else listens there; port 0 is any that is free.

    Raises:
        SettingsError: it cannot be listened on; says why.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {host}, port {port}: {error.strerror}; --host and --port, or HNE_HOST and HNE_PORT, "
            "choose another"
        ) from error
