"""What is known by name: built in, or declared by an installed distribution as an entry point. No torch.

Declarations are read without importing anything; looking a name up imports the module that it names and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from model_core.errors import SpecError

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Values by name: what one is called, the group of the entry points, what is built in, what may be a value.

    Raises, at the look-up:
        KeyError: unknown name.
        SpecError: a name declared twice, or built in as well; or a value that cannot be imported or is something else.
    """

    def __init__(self, noun: str, group: str, built_in: Mapping[str, T], *, accepts: Callable[[object], bool]) -> None:
        self._noun, self._group, self._built_in, self._accepts = noun, group, dict(built_in), accepts

    def __getitem__(self, name: str) -> T:
        declared = list(entry_points(group=self._group, name=name))
        if not declared:
            return self._built_in[name]
        fault = f"{self._noun} {name!r}, declared by {' and by '.join(map(_origin, declared))},"
        if name in self._built_in:
            raise SpecError(f"{fault} is built in already; give yours another name")
        if len(declared) > 1:
            raise SpecError(f"{fault} can be only one of them; uninstall the other")
        try:
            value: Any = declared[0].load()
        except Exception as error:  # whatever a module of the user's may raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise SpecError(f"{fault} cannot be imported ({reason})") from error
        if not self._accepts(value):
            raise SpecError(f"{fault} is of type {type(value).__name__}, which is no {self._noun}")
        return value  # type: ignore[no-any-return]  # `accepts` has seen to it

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._built_in, *sorted(entry_points(group=self._group).names)]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in list(iter(self))  # without importing it


def _origin(point: EntryPoint) -> str:
    """The distribution that declares an entry point, and what it declares."""
    return f"{point.dist.name if point.dist else 'an unknown distribution'} ({point.value})"
