"""Installed distributions for tests: the files that pip leaves behind, in a folder of the path."""

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

__all__ = ["install", "site"]


@contextmanager
def site(root: Path) -> Iterator[Path]:
    """A folder on the path of this process for a while; what was imported from it is forgotten afterwards."""
    sys.path.insert(0, str(root))
    try:
        yield root
    finally:
        sys.path.remove(str(root))
        for name, module in list(sys.modules.items()):
            if Path(getattr(module, "__file__", None) or "/").is_relative_to(root):
                del sys.modules[name]


def install(root: Path, name: str, modules: Mapping[str, str], entry_points: Mapping[str, Mapping[str, str]]) -> None:
    """Put modules, by the path of their files, and what the distribution declares, by group, into a folder."""
    for path, source in modules.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(source)
    information = root / f"{name}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = (
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in points.items())
        for group, points in entry_points.items()
    )
    (information / "entry_points.txt").write_text("\n".join(groups))
    importlib.invalidate_caches()
