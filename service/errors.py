"""What can go wrong in the service, as exceptions a caller can tell apart.

    ServiceError
    ├── SettingsError          the configuration makes no sense; raised at start-up
    ├── RunnerError            a step's graph cannot be loaded or failed while it ran; names the file
    ├── RequestError           the request cannot be served as it stands: the client must change it
    │   └── BudgetError        its budget allows not even the first leaf, or names no ensemble size
    ├── UnavailableError       a good request at a bad moment: the client may try again
    │   ├── QueueFullError     every waiting place is taken; says when to come back
    │   └── DrainingError      the service is shutting down
    └── DeadlineMissedError    not one leaf could be computed by the deadline

One table in the HTTP layer maps these to statuses.
"""

from pathlib import Path

__all__ = [
    "BudgetError",
    "DeadlineMissedError",
    "DrainingError",
    "QueueFullError",
    "RequestError",
    "RunnerError",
    "ServiceError",
    "SettingsError",
    "UnavailableError",
]


class ServiceError(Exception):
    """Base of every error that the service raises on purpose."""


class SettingsError(ServiceError, ValueError):
    """A setting out of range or at odds with another."""


class RunnerError(ServiceError):
    """A step that cannot be loaded or failed while it ran."""

    def __init__(self, path: Path | str, fault: str) -> None:
        super().__init__(f"{path}: {fault}")
        self.path = Path(path)
        self.fault = fault


class RequestError(ServiceError):
    """The request cannot be served as it stands."""


class BudgetError(RequestError, ValueError):
    """A budget that allows not even the first leaf, or that no model can spend."""


class UnavailableError(ServiceError):
    """The request is fine; the service cannot take it now."""


class QueueFullError(UnavailableError):
    """Every waiting place is taken. `retry_after` (seconds) is when the present backlog will have its first answers."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("the queue is full")
        self.retry_after = retry_after


class DrainingError(UnavailableError):
    """The service is shutting down and takes no new requests."""

    def __init__(self) -> None:
        super().__init__("the service is shutting down")


class DeadlineMissedError(ServiceError):
    """Not one leaf could be computed by the deadline."""

    def __init__(self) -> None:
        super().__init__("not one leaf could be computed by the deadline")
