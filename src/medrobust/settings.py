"""Settings: pydantic models read from values and YAML, every failure as one sentence. No torch here."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo

from medrobust.errors import ConfigError, nearest
from medrobust.words import eps_text

M = TypeVar("M", bound=BaseModel)

Resume = Literal["same", "extend", "recorded", "told"]
Unit = Literal["", "pixels"]
Takes = Literal["", "text", "texts", "commas", "nothing"]


class Remarks(NamedTuple):
    """Remarks on a field, as `option` takes them."""

    names: Sequence[str] = ()
    takes: Takes = ""
    resume: Resume = "same"
    group: str = ""
    unit: Unit = ""


def option(
    default: Any,
    help_: str,
    *,
    names: tuple[str, ...] = (),
    takes: Takes = "",
    resume: Resume = "same",
    group: str = "",
    unit: Unit = "",
    **limits: Any,
) -> Any:
    """A field with remarks for the command line, the reference pages and resuming.

    `names`: its options where they are not `--FIELD`. `takes`: their form where it is not that of the field's type,
    "text" for one as people write it (10%, 8/255), "texts" to be repeated, "commas" within one text, or "nothing".
    `group`: their heading in the help. `resume`: how a run that goes on treats another value: "same" refuses it,
    "extend" makes the plan longer, "recorded" is decided by environment.json, "told" only tells the same rows anew.
    `unit`: "pixels" for distances in [0, 1], shown in grey levels. `limits` as pydantic's `Field` takes them (ge, gt).
    """
    said: Any = Remarks(names, takes, resume, group, unit)._asdict()
    return Field(default, description=help_, json_schema_extra={"option": said}, **limits)


def about(field: FieldInfo) -> Remarks:
    """The remarks of `option` on a field; the defaults for a plain one."""
    extra = field.json_schema_extra
    found = extra.get("option") if isinstance(extra, dict) else None
    return Remarks(**found) if isinstance(found, dict) else Remarks()  # type: ignore[arg-type]


def parse(model: type[M], values: Any, where: str) -> M:
    """A model from plain values; `where` names their origin in errors.

    Raises ConfigError naming the key, and for an unknown one the nearest that there is.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{where} must hold keys and values, for instance {next(iter(model.model_fields), 'key')}: .."
        )
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            near = nearest(str(first["loc"][-1]), _keys_at(model, first["loc"][:-1]))
            raise ConfigError(f"{where}: unknown key {key!r}{near}") from error
        reason = str(first["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"{where}: {key + ': ' if key else ''}{reason}") from error


def _keys_at(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """The keys that a model, or the one inside it at that place, has; those of its parts too, which may be meant."""
    for part in place:
        if isinstance(part, str) and part in model.model_fields:
            inner = _models_in(model.model_fields[part].annotation)
            model = next(iter(inner), model)
    parts = [part for field in model.model_fields.values() for part in _models_in(field.annotation)]
    return [*model.model_fields, *(key for part in parts for key in part.model_fields)]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)


def read_yaml(path: Path, what: str) -> Any:
    """The plain values of a YAML file; `what` names it in errors ("experiment file"). Raises ConfigError."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no {what} {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def to_yaml(settings: BaseModel) -> str:
    """The settings with all defaults, as a run folder keeps them; parts that are not asked for are left out."""
    values = settings.model_dump(mode="json", by_alias=True)
    parts = {name for name, field in type(settings).model_fields.items() if list(_models_in(field.annotation))}
    shown = {key: value for key, value in values.items() if value is not None or key not in parts}
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)


def changes(before: BaseModel, now: BaseModel) -> Iterator[tuple[str, str, str]]:
    """The fields in which two settings of one type differ and that a run that goes on must not change, as texts.

    A model may name more fields that only tell the same rows anew as its `told_anew`. Parts (models inside the
    settings) are compared by the caller, which knows whether they have begun.
    """
    was, is_ = before.model_dump(mode="json", by_alias=True), now.model_dump(mode="json", by_alias=True)
    for name, field in type(now).model_fields.items():
        key = field.alias or name
        part = isinstance(getattr(before, name), BaseModel) or isinstance(getattr(now, name), BaseModel)
        same = was[key] == is_[key] or part or name in getattr(now, "told_anew", ())
        if about(field).resume == "same" and not same:
            old, new = _flat(key, was[key], field), _flat(key, is_[key], field)
            for name_ in {**old, **new}:
                if old.get(name_) != new.get(name_):
                    yield name_, old.get(name_, "its usual value"), new.get(name_, "its usual value")


def _flat(key: str, value: Any, field: FieldInfo) -> dict[str, str]:
    """Texts of a value by its key; those inside a dictionary by their own keys, `pgd.steps`."""
    if isinstance(value, dict):
        found = {name: _flat(name, inner, field) for name, inner in value.items()}
        return {
            text if text == name else f"{name}.{text}": told
            for name, part in found.items()
            for text, told in part.items()
        }
    if about(field).unit == "pixels" and isinstance(value, list):
        return {key: ", ".join(eps_text(float(one)) for one in value)}
    return {key: str(value)}


def spread(fields: Mapping[str, Iterable[str]], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings by name: a setting `KEY` goes to all that have this field, `NAME.KEY` to one, and wins.

    Raises ConfigError for a setting that none has.

    >>> spread({"linear": ["lr"], "ran": ["lr", "eps"]}, {"lr": 1, "ran.lr": 2, "eps": 3})
    {'linear': {'lr': 1}, 'ran': {'lr': 2, 'eps': 3}}
    """
    known = {f"{name}.{key}": (name, key) for name, keys in fields.items() for key in keys}
    chosen: dict[str, dict[str, Any]] = {name: {} for name in fields}
    for setting in sorted(given, key=lambda text: "." in text):  # what is said of one is read last, and wins
        places = [place for full, place in known.items() if setting in (full, place[1])]
        if not places:
            keys = dict.fromkeys(key for _, key in known.values())
            near = nearest(setting, [*keys, *known])
            raise ConfigError(f"none of {', '.join(fields)} has a setting {setting!r}{near}")
        for name, key in places:
            chosen[name][key] = given[setting]
    return chosen


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a settings file, for editors: what a person may write there."""
    whole = model.model_json_schema(by_alias=True)
    found = {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole}
    for part in (found, *found.get("$defs", {}).values()):
        part["properties"] = {key: _as_written(value) for key, value in part["properties"].items()}
    return found


def _as_written(value: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field without our notes, and with the texts that stand for its values: `8/255`, `vote`."""
    said = value.pop("option", {})
    if said.get("takes") == "texts":
        value["items"] = {"anyOf": [value["items"], {"type": "string"}]}
    if said.get("unit") == "pixels":
        several = {"type": value.pop("type"), "items": value["items"]}
        value |= {"anyOf": [*value.pop("items")["anyOf"], several]}
    return value
