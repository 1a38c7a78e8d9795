"""Lines that installed packages add to a registry: entry points, found when a registry is first asked for them.

A line that cannot be used is left out with one sentence, which the logger `medrobust` says once; nothing else is
affected. A package's code is imported only when its own line is asked for, or when all lines are listed.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, is_dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from medrobust.errors import PluginError

Line = TypeVar("Line")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # other signs mean something in the command line


@dataclass(frozen=True, eq=False)
class Registry(Generic[Line]):
    """Lines by name, in the form of a dictionary: the package's own, then those of plugins.

    `group` is that of the entry points, `noun` the word for a line in errors, `kind` the type of a line. A name that
    the package has stays the package's. Asking for a line of a broken plugin raises PluginError.
    """

    group: str
    noun: str
    kind: type[Line]
    own: dict[str, Line]
    _loaded: dict[str, Line] = field(default_factory=dict, init=False)
    _refused: dict[str, str] = field(default_factory=dict, init=False)

    def __getitem__(self, name: str) -> Line:
        found = self.get(name)
        if found is None:
            raise KeyError(name)
        return found

    def get(self, name: str, default: Line | None = None) -> Line | None:
        """The line of that name. Raises PluginError where the plugin that has it is broken."""
        offered = self._offered
        if name in self.own:
            return self.own[name]
        if name in offered and self._is_new(name):
            self._load(name, offered[name])
        if name in self._refused:
            raise PluginError(self._refused[name])
        return self._loaded.get(name, default)

    def __setitem__(self, name: str, line: Line) -> None:
        self.own[name] = line

    def __delitem__(self, name: str) -> None:
        del self.own[name]

    def __contains__(self, name: object) -> bool:
        return any(one == name for one in self)

    def __iter__(self) -> Iterator[str]:
        for name, points in self._offered.items():
            if self._is_new(name):
                self._load(name, points)
                if name in self._refused:
                    _say(self._refused[name])
        return iter([*self.own, *(name for name in self._loaded if name not in self.own)])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def keys(self) -> list[str]:
        """The names of all lines that can be used."""
        return [*self]

    def values(self) -> list[Line]:
        """All lines that can be used."""
        return [self[name] for name in self]

    def items(self) -> list[tuple[str, Line]]:
        """Names and lines of all that can be used."""
        return [(name, self[name]) for name in self]

    @cached_property
    def _offered(self) -> dict[str, list[EntryPoint]]:
        """The entry points by name, without those whose name cannot be had."""
        offers: dict[str, list[EntryPoint]] = {}
        for point in sorted(entry_points(group=self.group), key=_package):
            offers.setdefault(point.name, []).append(point)
        for name, points in list(offers.items()):
            if name in self.own:
                del offers[name]
                _say(f"{self._begin(name, points)}, a name that medrobust has itself; it is left out, rename it there")
        return offers

    def _is_new(self, name: str) -> bool:
        return name not in self._loaded and name not in self._refused

    def _load(self, name: str, points: list[EntryPoint]) -> None:
        line, trouble = self._line(name, points)
        if line is None:
            self._refused[name] = f"{self._begin(name, points)}, {trouble}"
        else:
            self._loaded[name] = line

    def _line(self, name: str, points: list[EntryPoint]) -> tuple[Line | None, str]:
        """A plugin's line, or a sentence about its fault."""
        if len(points) > 1:
            return None, "and a name stands for one thing; uninstall all of these but one"
        if not _NAME.fullmatch(name):
            return None, "whose name must be made of letters, digits, '.', '-' and '_'; rename it there"
        try:
            line = points[0].load()
            if not isinstance(line, self.kind):
                wanted = f"{self.kind.__module__}.{self.kind.__name__}"
                return None, f"which is of type {type(line).__name__}, must be {wanted}; mend it there or uninstall it"
            _check(line)
            if (own := getattr(line, "name", name)) != name:
                return None, f"which calls itself {own!r}; give both the same name"
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            return None, f"whose field {where} is wrong ({first['msg'].lower()}); mend it there or uninstall it"
        except Exception as error:  # noqa: BLE001 - a plugin is code of others and may fail in any way
            told = " ".join(f"{type(error).__name__}: {error}".split())
            return None, f"which cannot be loaded ({told}); mend it there or uninstall it"
        return line, ""

    def _begin(self, name: str, points: list[EntryPoint]) -> str:
        packages = " and ".join(dict.fromkeys(map(_package, points)))
        several = len(points) > 1
        return f"the package{'s' * several} {packages} offer{'s' * (not several)} the {self.noun} {name!r}"


def _check(line: Any) -> None:
    """Raises pydantic's ValidationError for a field of another type than the line's class declares."""
    kind = type(line)
    if is_dataclass(kind):
        TypeAdapter(kind).validate_python(vars(line))
    else:
        TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(line)


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else f"of {point.value}"


def _say(sentence: str) -> None:
    logging.getLogger("medrobust").warning("medrobust: %s", sentence)
