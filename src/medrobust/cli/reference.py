"""Writes the tables of the reference pages from fields, rows and commands: `python -m medrobust.cli.reference docs`."""

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.main import get_command

from medrobust.jobs.experiment import Choice, Experiment
from medrobust.jobs.parts import AttackSettings, AuditSettings, CertifySettings
from medrobust.settings import about
from medrobust.vqa.settings import VqaSettings
from medrobust.words import eps_text

MODELS: dict[str, type[BaseModel]] = {
    "experiment": Experiment, "defences": Choice, "certify": CertifySettings, "attack": AttackSettings,
    "audit": AuditSettings, "vqa": VqaSettings,
}  # fmt: skip
_NAMES = {Choice: "defence", str: "text", int: "whole number", float: "number", bool: "true or false", NoneType: "none",
          Any: "value"}  # fmt: skip
_RESUMED = {
    "same": "refused",
    "extend": "more: goes on",
    "recorded": "as recorded",
    "told": "told anew",
}


def tables() -> dict[str, str]:
    """Every generated table by the name of its marks."""
    from medrobust.results.rows.attacked import AttackedRow
    from medrobust.results.rows.audited import AttackTried, AuditRow, BorderTried, Redrawn
    from medrobust.results.rows.certified import CertifiedRow
    from medrobust.vqa.rows import AnsweredRow

    rows = {"certified": CertifiedRow, "attacked": AttackedRow, "audited": AuditRow, "found attack": AttackTried,
            "found redraw": Redrawn, "found border": BorderTried, "answered": AnsweredRow}  # fmt: skip
    return {
        **{f"fields of {name}": settings_table(model) for name, model in MODELS.items()},
        **{f"rows {name}": rows_table(row) for name, row in rows.items()},
        "commands": commands_text(),
    }


def settings_table(model: type[BaseModel]) -> str:
    """A line for each field: key, type, default, meaning, options and what resuming does with another value."""
    plain = model is Choice
    resumed = "begins anew" if getattr(model, "begins_anew", False) else ""
    lines = []
    for name, info in model.model_fields.items():
        said = about(info)
        cells = [f"`{info.alias or name}`", _type(info.annotation), _default(info), info.description or _of_part(info)]
        if not plain:
            cells += [_options(name, info), resumed or _RESUMED[said.resume]]
        lines.append(cells)
    head = ["key", "type", "default", "meaning"] + ([] if plain else ["option", "another value on resuming"])
    return table(head, lines)


def _of_part(info: FieldInfo) -> str:
    """The meaning of a field without a description: it is a part, or its name says it."""
    inner = [one for one in get_args(info.annotation) if isinstance(one, type) and issubclass(one, BaseModel)]
    return f"This part: {_words(inner[0].__name__)}, below." if inner else "Form of this file."


def _options(name: str, info: FieldInfo) -> str:
    from medrobust.cli.options import _takes

    if _takes(info) is None or name == "schema_version":
        return ""
    return ", ".join(f"`{one}`" for one in about(info).names or [f"--{name.replace('_', '-')}"])


def _type(kind: Any) -> str:
    """A type in a reader's words."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind in _NAMES:
        return _NAMES[kind]
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin is tuple:
        return f"list of: {_type(inner[0])}"
    if origin is dict:
        return "values by name" if inner[1] is Any else "settings by name"
    if inner:
        return " or ".join(_type(one) for one in inner)
    return _words(getattr(kind, "__name__", str(kind)))


def _words(name: str) -> str:
    """`AttackSettings` as words: attack settings."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _default(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "needed"
    if about(info).unit == "pixels":
        return ", ".join(eps_text(one) for one in value)
    if isinstance(value, tuple):
        return ", ".join(one.name if isinstance(one, Choice) else f"{one}" for one in value)
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value in (None, "", {}) else f"{value}"


def rows_table(row: type) -> str:
    """A line for each field of a row: key, type, and the meaning that stands beside it in the source."""
    source = inspect.getsource(row)
    lines = []
    for one in fields(row):
        found = re.search(rf"^    {one.name}: [^#\n]*(?:# (.*))?$", source, flags=re.M)
        meaning = found[1] if found and found[1] else ""
        if one.name == "schema_version":
            meaning = f"{one.default}; rows of another version are refused"
        lines.append([f"`{one.name}`", _type(one.type), meaning.replace("None", "none")])
    return table(["key", "type", "meaning"], lines)


def commands_text() -> str:
    """A heading for each command, its help, and its options."""
    return "\n\n".join(_command_text(" ".join(words), command) for words, command in _commands(get_command(_app())))


def _app() -> Any:
    from medrobust.cli import app

    return app


def _commands(group: Any, *before: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from _commands(one, *before, name)
        else:
            yield (*before, name), one


def _command_text(words: str, command: Any) -> str:
    lines = []
    for one in command.params:
        names = [name for name in (*one.opts, *one.secondary_opts) if name.startswith("-")]
        shown = ", ".join(f"`{name}`" for name in names) or f"`{(one.metavar or one.name).upper()}`"
        lines.append([shown, "needed" if one.required else _said(one.default), one.help or ""])
    text = f"### {words}\n\n{' '.join(command.help.split())}"
    return f"{text}\n\n{table(['option', 'default', 'meaning'], lines)}" if lines else text


def _said(value: Any) -> str:
    if value is None or value == [] or callable(value):
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else f"{value}"


def table(head: list[str], lines: Iterable[list[str]]) -> str:
    """A table in Markdown."""
    whole = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in whole)


def filled(text: str, made: dict[str, str]) -> str:
    """A page with every table between its marks, `<!-- NAME: begin -->` and `<!-- NAME: end -->`."""
    for name, content in made.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if begin in text:
            before, _, rest = text.partition(begin)
            text = f"{before}{begin}\n\n{content}\n\n{end}{rest.partition(end)[2]}"
    return text


def main(docs: Path) -> None:
    """Write all tables into the pages that have marks for them."""
    made = tables()
    for page in sorted((docs / "reference").glob("*.md")):
        page.write_text(filled(page.read_text(encoding="utf-8"), made), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
