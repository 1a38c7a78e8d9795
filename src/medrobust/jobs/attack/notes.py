"""Notes of an attacked run beside its rows, in attacked.json: the name of the set, flags, a few pictures.

It is written before the rows it speaks of, so a run that goes on after an interruption says all of it, and once.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from medrobust.data.pictures import magnification, pictures
from medrobust.files import replace_text
from medrobust.results.beside import BrokenImage, read_notes
from medrobust.results.rows.attacked import AttackedRow
from medrobust.results.values import to_json
from medrobust.types import Image

SHOWN = 3  # pictures a defence


@dataclass(frozen=True)
class GatheredNotes:
    """By defence: the title of the set, its flags, and pictures of the first images that an attack broke."""

    titles: dict[str, str]
    flags: dict[str, list[str]]
    pictures: dict[str, list[BrokenImage]]
    black_box: dict[str, str | None]  # a flag over all rows, so it may change when more images are attacked

    @classmethod
    def empty(cls) -> "GatheredNotes":
        """Notes of a run without rows."""
        return cls({}, {}, {}, {})

    @classmethod
    def open(cls, out: Path) -> "GatheredNotes":
        """The notes of a run that goes on, or empty ones. Raises RunError where the file cannot be read."""
        found = read_notes(out) if (out / "attacked.jsonl").exists() else None
        if found is None:
            return cls.empty()
        flags = {name: list(sentences) for name, sentences in found.flags.items()}
        shown = {name: list(broken) for name, broken in found.pictures.items()}
        return cls(dict(found.titles), flags, shown, dict(found.black_box))

    def add(self, more: "GatheredNotes") -> None:
        """Add the notes of a unit that comes later in the plan; earlier ones stay."""
        for defence, title in more.titles.items():
            self.titles.setdefault(defence, title)
        for defence, sentences in more.flags.items():
            self.flag(defence, *sentences)
        for defence, shown in more.pictures.items():
            there = self.pictures.setdefault(defence, [])
            known = {one.id for one in there}
            there += [one for one in shown if one.id not in known][: SHOWN - len(there)]

    def flag(self, defence: str, *sentences: str) -> None:
        """Add the flags that are not there yet."""
        there = self.flags.setdefault(defence, [])
        there += [sentence for sentence in dict.fromkeys(sentences) if sentence not in there]

    def show(self, row: AttackedRow, clean: Image, attacked: Image) -> None:
        """Keep pictures of an image that an attack broke, while there are few; each once, at its first eps."""
        there = self.pictures.setdefault(row.defence, [])
        by = row.broken_by
        if by is None or by == "clean" or len(there) >= SHOWN or row.id in [one.id for one in there]:
            return
        there.append(BrokenImage(
            id=row.id, label=row.label, clean=row.clean, answer=row.answer, broken_by=by, eps=row.eps,
            distance=row.distance, factor=magnification(clean, attacked), pictures=pictures(clean, attacked),
        ))  # fmt: skip

    def keep(self, out: Path) -> None:
        """Write attacked.json whole or not at all. Raises RunError."""
        replace_text(out / "attacked.json", json.dumps({"schema_version": 1, **to_json(self)}, indent=2) + "\n")
