"""What can go wrong in the service, as exceptions a caller can tell apart.

    ServiceError
    ├── SettingsError          the configuration makes no sense; raised at start-up
    ├── RunnerError            a step's graph cannot be loaded or failed while it ran; names the file
    ├── RequestError           the request cannot be served as it stands: the client must change it
    │   ├── BudgetError        its budget allows not even the first leaf, or names no ensemble size
    │   ├── MalformedError     its body is not what its Content-Type says
    │   ├── InvalidError       a field or an image of it is not valid; names each fault
    │   ├── TooLargeError      more bytes or pixels than the service takes
    │   ├── FormatError        a kind of body, or an image format, that the service does not read
    │   └── UnauthorizedError  no API key, or a wrong one
    ├── UnavailableError       a good request at a bad moment: the client may try again
    │   ├── QueueFullError     every waiting place is taken; says when to come back
    │   ├── StartingError      the model is not loaded and measured yet
    │   ├── EngineBusyError    the engine process does not answer a question
    │   ├── EngineLostError    the engine has ended by a fault; the service ends, to be started again
    │   └── DrainingError      the service is shutting down
    └── DeadlineMissedError    no network could be computed by the deadline

One table in the HTTP layer maps these to statuses.
"""

from collections.abc import Mapping
from pathlib import Path

__all__ = [
    "BudgetError",
    "DeadlineMissedError",
    "DrainingError",
    "EngineBusyError",
    "EngineLostError",
    "FormatError",
    "InvalidError",
    "MalformedError",
    "QueueFullError",
    "RequestError",
    "RunnerError",
    "ServiceError",
    "SettingsError",
    "StartingError",
    "TooLargeError",
    "UnauthorizedError",
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


class MalformedError(RequestError):
    """A body that is not what its Content-Type says."""


class InvalidError(RequestError):
    """Fields or images that are not valid: `faults` maps each (`body.deadline_ms`, `image`) to its fault."""

    def __init__(self, faults: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{field}: {fault}" for field, fault in faults.items()))
        self.faults = dict(faults)


class TooLargeError(RequestError):
    """More bytes or pixels than the service takes."""


class FormatError(RequestError):
    """A kind of body, or an image format, that the service does not read."""


class UnauthorizedError(RequestError):
    """No API key, or a wrong one."""


class UnavailableError(ServiceError):
    """The request is fine; the service cannot take it now."""


class QueueFullError(UnavailableError):
    """Every waiting place is taken. `retry_after` (seconds) is when the present backlog will have its first answers."""

    what = "the queue is full"

    def __init__(self, retry_after: float) -> None:
        super().__init__(self.what)
        self.retry_after = retry_after


class UploadsFullError(QueueFullError):
    """As many bytes of uploads are held as may be. `retry_after` (seconds) is when some of them may be gone."""

    what = "as many bytes of uploads are being read and decoded as may be"


class StartingError(UnavailableError):
    """The model is not loaded and measured yet."""

    def __init__(self) -> None:
        super().__init__("the service is starting")


class EngineBusyError(UnavailableError):
    """The engine process does not answer a question."""

    def __init__(self) -> None:
        super().__init__("the engine process does not answer")


class EngineLostError(UnavailableError):
    """The engine has ended by a fault. The service ends too, so that whoever keeps it starts it again."""

    def __init__(self) -> None:
        super().__init__("the engine has ended by a fault; the log says which")


class DrainingError(UnavailableError):
    """The service is shutting down and takes no new requests."""

    def __init__(self) -> None:
        super().__init__("the service is shutting down")


class DeadlineMissedError(ServiceError):
    """No network could be computed by the deadline."""

    def __init__(self) -> None:
        super().__init__("no network could be computed by the deadline")
