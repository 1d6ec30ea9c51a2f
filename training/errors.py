"""What can go wrong in training, as exceptions whose message says what to do.

TrainingError
├── ConfigError     a setting, or a combination of settings, makes no sense
├── DataError       a dataset is missing, empty or unreadable
├── RunError        a run cannot be started, resumed, continued or evaluated
│   ├── BusyError       another process trains it
│   └── DivergedError   its numbers are not finite any more
└── ExportError     a model cannot be made into a package
"""

__all__ = ["BusyError", "ConfigError", "DataError", "DivergedError", "ExportError", "RunError", "TrainingError"]


class TrainingError(Exception):
    """Base of every error that training raises for bad input."""


class ConfigError(TrainingError):
    """A setting that is unknown, out of range or contradicts another."""


class DataError(TrainingError):
    """A dataset that is missing, empty or holds an unreadable image."""


class RunError(TrainingError):
    """A run folder that is in the way, absent, or belongs to other settings."""


class BusyError(RunError):
    """A run that another process is training."""


class DivergedError(RunError):
    """A training whose numbers are not finite any more: it ends so again, wherever it is resumed."""


class ExportError(TrainingError):
    """A package that is in the way, or a graph that does not compute what the model computes."""
