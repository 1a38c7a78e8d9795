"""Options made from the fields of settings: their names, types, defaults and help are said once, at the field."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from medrobust.jobs.experiment import DEFENCES, IMAGES
from medrobust.settings import about

RUN = "Run"  # the last heading of a command's help


@dataclass(frozen=True)
class Options:
    """The fields of a model as options of a command, under one heading of its help.

    `only` and `without` choose fields. `required` fields have no default here, `defaults` replace those of fields, and
    `names` and `help` what a field says for this command.
    """

    model: type[BaseModel]
    panel: str = ""
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    help: Mapping[str, str] = field(default_factory=dict)

    @property
    def fields(self) -> dict[str, FieldInfo]:
        """The chosen fields that can stand on a command line."""
        found = self.model.model_fields
        wanted = self.only or [name for name in found if name not in self.without]
        return {name: found[name] for name in wanted if _takes(found[name]) is not None}


def annotated(model: type[BaseModel], name: str) -> Any:
    """The type of a parameter for one field, as a command written by hand declares it; its default is the field's."""
    return _parameter(name, model.model_fields[name], Options(model))[0]


def with_options(*options: Options) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of fields; it gets their values as `given`, a dictionary for each model.

    Values keep the form of the command line (texts, lists); the model checks them.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = [one for one in inspect.signature(function).parameters.values() if one.name != "given"]
        made: list[inspect.Parameter] = []
        places: dict[str, tuple[type[BaseModel], str]] = {}
        for group in options:
            for name, info in group.fields.items():
                kind, default = _parameter(name, info, group)
                key = next(one for one in _names(name, info, group) if one.startswith("--"))[2:].replace("-", "_")
                places[key] = group.model, name
                made.append(inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind))

        def command(**values: Any) -> None:
            given: dict[type[BaseModel], dict[str, Any]] = {group.model: {} for group in options}
            for key, (model, name) in places.items():
                given[model][name] = _value(model.model_fields[name], values.pop(key))
            function(**values, given=given)

        named = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
        order = sorted([*named, *made], key=_place)
        command.__signature__ = inspect.Signature(order)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in order}
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__module__ = function.__module__
        return command

    return decorate


def _place(parameter: inspect.Parameter) -> int:
    """The place of an option in the help: the command's own, those of images, defences and the part, and of the run."""
    said = next((one for one in getattr(parameter.annotation, "__metadata__", ()) if hasattr(one, "help")), None)
    panel = said.rich_help_panel if said is not None else None
    places = {None: 5 if parameter.name == "as_json" else 0, IMAGES: 1, DEFENCES: 2, RUN: 4}
    return places.get(panel, 3)


def _parameter(name: str, info: FieldInfo, group: Options) -> tuple[Any, Any]:
    """Type and default of the option of a field."""
    said, kind = about(info), _takes(info)
    names = _names(name, info, group)
    default = group.defaults.get(name, info.get_default(call_default_factory=True))
    if kind == bool | None or (kind is bool and default):
        names = [f"{one}/--no-{one.removeprefix('--')}" for one in names]
    if said.takes == "commas":
        default = None
    elif isinstance(default, tuple):
        default = list(default)
    if name in group.required or (info.is_required() and name not in group.defaults):
        default = inspect.Parameter.empty
    shown = typer.Option(
        *names,
        help=group.help.get(name, info.description),
        rich_help_panel=said.group or group.panel or None,
        metavar=_metavar(kind),
    )
    return Annotated[kind, shown], default


def _names(name: str, info: FieldInfo, group: Options) -> list[str]:
    return list(group.names.get(name) or about(info).names or [f"--{name.replace('_', '-')}"])


def _metavar(kind: Any) -> str:
    """The form of a value in the help, short enough that names of options stay whole on 80 columns."""
    plain = get_args(kind)[0] if get_args(kind) else kind
    return {bool: " ", int: "INT", float: "FLOAT"}.get(plain, "TEXT")


def _takes(info: FieldInfo) -> Any:
    """The type that typer reads; None for a field that no option can give."""
    match about(info).takes:
        case "texts":
            return list[str]
        case "text" | "commas":
            return str | None
        case "nothing":
            return None
    return _plain(info.annotation)


def _plain(kind: Any) -> Any:
    if kind in (str, int, float, bool):
        return kind
    if get_origin(kind) is Literal:
        return str
    if get_origin(kind) in (Union, UnionType):
        inner = [_plain(one) for one in get_args(kind) if one is not NoneType]
        return inner[0] | None if len(inner) == 1 and inner[0] is not None else None
    if get_origin(kind) is tuple and get_args(kind)[1:] == (...,):
        inner_kind = _plain(get_args(kind)[0])
        return None if inner_kind is None else list[inner_kind]  # type: ignore[valid-type]
    return None


def _value(info: FieldInfo, value: Any) -> Any:
    if about(info).takes == "commas" and isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return value


def values_of(given: Mapping[type[BaseModel], dict[str, Any]], model: type[BaseModel]) -> dict[str, Any]:
    """Values of the command line for a model, without the fields that it leaves to their defaults (None)."""
    return {name: value for name, value in given[model].items() if value is not None}
