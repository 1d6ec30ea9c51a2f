"""What can go wrong in model_core, as exceptions a caller can tell apart.

ModelError
├── SpecError          an architecture, a tree or a request to them makes no sense
└── ArtifactError      a file on disk cannot be used; names the file and the fault
    ├── CheckpointError
    └── PackageError
"""

from pathlib import Path

__all__ = ["ArtifactError", "CheckpointError", "ModelError", "PackageError", "SpecError"]


class ModelError(Exception):
    """Base of every error that model_core raises for bad input."""


class SpecError(ModelError, ValueError):
    """An architecture name, branching factor, leaf or segment that does not exist."""


class ArtifactError(ModelError):
    """A file that is missing, corrupt, truncated, mismatched or of another version."""

    def __init__(self, path: Path | str, fault: str) -> None:
        super().__init__(f"{path}: {fault}")
        self.path = Path(path)
        self.fault = fault


class CheckpointError(ArtifactError):
    """A checkpoint (`*.safetensors`) that cannot be read back into a model."""


class PackageError(ArtifactError):
    """A model package (the folder that training hands to serving) that cannot be served."""
