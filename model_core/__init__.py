"""The hierarchical ensemble itself: tree, architectures, both forms of evaluation, files on disk.

What serving needs of it (`tree`, `spec`, `zoo`, `registry`, `package`, `preprocessing`, `errors`) imports no torch.
"""

from model_core.errors import ArtifactError, CheckpointError, ModelError, PackageError, SpecError
from model_core.spec import ModelSpec, Row
from model_core.tree import Node, Segment, Tree
from model_core.zoo import ARCHITECTURES, architecture

__all__ = [
    "ARCHITECTURES",
    "ArtifactError",
    "CheckpointError",
    "ModelError",
    "ModelSpec",
    "Node",
    "PackageError",
    "Row",
    "Segment",
    "SpecError",
    "Tree",
    "architecture",
]
