"""The learned state of a defence on disk: safetensors with a header that names its model and task."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from medrobust.data.task import Task
from medrobust.defences import DEFENCES, make_defence
from medrobust.errors import StateError
from medrobust.files import replace_bytes
from medrobust.types import State, VisionLanguageModel
from medrobust.version import __version__

FORMAT = "medrobust-state"
_KEY = "header"  # of the metadata, whose keys safetensors writes in random order: there is one


class Header(BaseModel):
    """The origin of a state: one JSON text, alone in the safetensors file's metadata, so that bytes repeat."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str
    model_sha256: str
    task: str
    classes: tuple[str, ...]
    defence: str
    settings: dict[str, Any]
    data: str
    base: str = ""  # hash of the state whose vision weights this was learned on top of
    seed: int
    medrobust: str = __version__
    schema_version: int = 1


def header_of(
    model: VisionLanguageModel, task: Task, defence: str, settings: BaseModel, *, data: str, base: str, seed: int
) -> Header:
    """The header of a state that `defence` learned from `data`."""
    return Header(
        model=model.name,
        model_sha256=model.sha256,
        task=task.name,
        classes=task.classes,
        defence=defence,
        settings=settings.model_dump(mode="json"),
        data=data,
        base=base,
        seed=seed,
    )


def save_state(path: Path, state: State, header: Header) -> None:
    """Write both in one file, whole or not at all; equal ones give equal bytes.

    Raises RunError where the folder cannot be written.
    """
    from safetensors.torch import save

    text = json.dumps({"format": FORMAT, **header.model_dump(mode="json")})
    held = {key: value.contiguous() for key, value in state.items()}
    replace_bytes(path, save(held, {_KEY: text}))


def load_state(path: Path) -> tuple[State, Header]:
    """Tensors and header of a state file.

    Raises StateError where it is missing, broken or not a state of medrobust.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise StateError(f"no state file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            said = dict(file.metadata() or {})
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise StateError(f"{path} is not a complete safetensors file: {error}") from error
    try:
        values = _values(said)
        if values.get("format") != FORMAT:
            raise StateError(f"{path} holds tensors, but no state of a medrobust defence")
        header = Header.model_validate(values)
    except ValueError as error:
        raise StateError(f"{path} has a damaged header: {str(error).splitlines()[0]}") from error
    if header.schema_version != 1:
        raise StateError(f"{path} has schema version {header.schema_version}, this version of medrobust reads 1")
    return state, header


def _values(said: Mapping[str, str]) -> dict[str, Any]:
    """The header as plain values. Raises ValueError where it is not the JSON of an object.

    Files of version 0.1 have it with one key a field, in JSON where the field is not a text.
    """
    if _KEY not in said:
        structured = {"classes", "settings", "seed", "schema_version"} if said.get("format") == FORMAT else set[str]()
        return {key: json.loads(value) if key in structured else value for key, value in said.items()}
    values = json.loads(said[_KEY])
    if not isinstance(values, dict):
        raise ValueError(f"an object was expected, got {said[_KEY][:40]!r}")
    return values


def state_settings(header: Header, defence: str, asked: Mapping[str, Any], *, path: Path) -> dict[str, Any]:
    """The settings a state was learned with, under those that are asked for now.

    Raises StateError where another defence learned it.
    """
    if header.defence != defence:
        raise StateError(f"{path} was learned by {header.defence}, asked for {defence}")
    return {**header.settings, **asked}


def load_checked(path: Path, model: VisionLanguageModel, task: Task, *, transfer: bool = False) -> tuple[State, Header]:
    """A state file that belongs to this model and task; with `transfer`, to any task. Raises StateError."""
    state, header = load_state(path)
    check_header(header, model, task, path=path, transfer=transfer)
    return state, header


def check_header(header: Header, model: VisionLanguageModel, task: Task, *, path: Path, transfer: bool = False) -> None:
    """Refuse a state of another model or task, by name; with `transfer`, the task may be another.

    A learned head speaks of its own classes, so that no `transfer` takes it to others.

    Raises StateError.
    """
    if header.model_sha256 != model.sha256:
        found, wanted = f"{header.model} ({header.model_sha256[:12]})", f"{model.name} ({model.sha256[:12]})"
        raise StateError(f"{path} was learned for model {found}, asked for {wanted}; pass --model {header.model}")
    bound = header.defence in DEFENCES and make_defence(header.defence).class_bound
    if transfer and bound and header.classes != task.classes:
        raise StateError(
            f"{path} is a head of {header.defence} learned for the classes {', '.join(header.classes)}, in this order, "
            f"and cannot be used for {', '.join(task.classes)}; learn one on {task.name}"
        )
    if not transfer and (header.task != task.name or header.classes != task.classes):
        raise StateError(
            f"{path} was learned for task {header.task} with classes {', '.join(header.classes)}, asked for "
            f"{task.name} with classes {', '.join(task.classes)}; pass --task {header.task}, or --transfer to "
            "use it across tasks"
        )
