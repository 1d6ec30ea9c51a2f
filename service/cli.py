"""`hne-serve`: settings from flags and environment, one process or several, a graceful end on SIGTERM or Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from model_core.errors import ModelError
from service.errors import ServiceError
from service.logs import complain, configure_logging
from service.settings import load_settings

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `hne-serve`. Exits with 2 for wrong settings and with 1 if the model cannot be served."""
    try:
        settings = load_settings(sys.argv[1:] if arguments is None else arguments)
        configure_logging(settings)
        # Imported here, since every process that is started imports this module anew, and not all need a runner.
        if settings.api_processes:
            from service.supervisor import serve_in_processes as serve
        else:
            from service.single import serve_in_one_process as serve
        status = serve(settings)
    except (ServiceError, ModelError) as error:
        status = complain(error, 2)
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
