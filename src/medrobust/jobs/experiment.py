"""An experiment as one frozen value, read from YAML: model, images, defences, and its parts. No torch."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medrobust.errors import ConfigError
from medrobust.jobs.parts import AttackSettings, AuditSettings, CertifySettings
from medrobust.settings import option, parse, read_yaml

IMAGES, DEFENCES = "Model and images", "Defences"  # headings of the command line's help
VARIANT = "mode"  # the setting that NAME:VARIANT of a defence stands for
PARTS = ("attack", "certify", "audit")  # in the order in which they are carried out


class Choice(BaseModel):
    """One defence of an experiment: its name in tables, its settings, and the source of its state.

    `from_state` is a state file, `from` the name of an earlier defence of the same experiment whose state is used;
    without either the defence learns first. `base_state` and `base` name, likewise, a state whose vision tower it is
    learned on top of. With `transfer` these states may have been learned on another task.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, populate_by_name=True)

    defence: str = Field(description="A name from `medrobust defences`.")
    name: str = Field("", description="Its name in tables and rows; else DEFENCE or DEFENCE:MODE.")
    settings: dict[str, Any] = Field({}, description="Settings of the defence; unknown ones are refused.")
    from_state: str | None = Field(None, description="A file with the state that is used; nothing is learned.")
    from_: str | None = Field(None, alias="from", description="Name of an earlier defence whose state is used.")
    base_state: str | None = Field(None, description="A file with the state whose vision weights it is learned on.")
    base: str | None = Field(None, description="Name of an earlier defence whose vision weights it is learned on.")
    transfer: bool = Field(False, description="These states may have been learned on another task.")

    @model_validator(mode="before")
    @classmethod
    def _from_other_forms(cls, value: Any) -> Any:
        return parse_choice(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "Choice":
        for one, other in (("from_state", "from_"), ("base_state", "base")):
            if getattr(self, one) and getattr(self, other):
                raise ValueError(f"{one} and {other.strip('_')} both say where a state comes from; leave out one")
        if not self.name:
            variant = self.settings.get(VARIANT)
            object.__setattr__(self, "name", f"{self.defence}:{variant}" if variant else self.defence)
        return self


def parse_choice(text: str) -> dict[str, Any]:
    """`DEFENCE[:VARIANT][=STATE]`, as the command line writes it.

    >>> parse_choice("promptsmooth:combined=run/state.safetensors")
    {'defence': 'promptsmooth', 'settings': {'mode': 'combined'}, 'from_state': 'run/state.safetensors'}
    """
    head, _, state = text.partition("=")
    name, _, variant = head.partition(":")
    return {"defence": name, "settings": {VARIANT: variant} if variant else {}, "from_state": state or None}


class Experiment(BaseModel):
    """Model, images, defences and the parts that are carried out. Everything that can change a number stands here."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    schema_version: Literal[2] = 2
    model: str = option(
        "builtin", "A name from `medrobust models`, a hub id, a folder, or NAME=PATH.", names=("--model", "-m"),
        group=IMAGES,
    )  # fmt: skip
    revision: str | None = option(None, "Revision of a hub id: a branch, tag or commit.", group=IMAGES)
    data: str = option(
        "phantom", "A folder, a manifest (csv, jsonl), an .npz, a MedMNIST name, or phantom.", names=("--data", "-d"),
        group=IMAGES,
    )  # fmt: skip
    task: str | None = option(
        None, "A name from `medrobust tasks`, or a YAML file.", names=("--task", "-t"), group=IMAGES
    )
    split: str = option("test", "Images that are answered, attacked or certified.", group=IMAGES)
    limit: int | None = option(
        None, "Number of images, balanced over the classes.", resume="extend", group=IMAGES, ge=1
    )
    fit_data: str | None = option(
        None, "Images that defences without a state learn from; --data unless given.", group=DEFENCES
    )
    fit_split: str = option("train", "The split they learn from.", group=DEFENCES)
    defences: tuple[Choice, ...] = option(
        ("zero-shot",), "`DEFENCE[:VARIANT][=STATE.safetensors]`; repeat for several.",
        names=("--defence",), takes="texts", group=DEFENCES, min_length=1,
        validate_default=True,  # the text becomes a `Choice` when it is needed, not when this file is imported
    )  # fmt: skip
    seed: int = option(0, "Every random number follows from it.")
    device: str = option("cpu", "cpu, cuda, cuda:1, ...")
    threads: int | None = option(
        None, "CPU threads; all that the process may use unless given.", resume="recorded", ge=1
    )
    skip_broken: bool = option(False, "Leave out images that cannot be decoded.", group=IMAGES)
    attack: AttackSettings | None = None
    certify: CertifySettings | None = None
    audit: AuditSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_version_1(cls, value: Any) -> Any:
        return of_version_1(value) if isinstance(value, Mapping) and _is_version_1(value) else value

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "Experiment":
        names = [choice.name for choice in self.defences]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise ValueError(f"two defences are called {twice!r}; give one a name of its own")
        return self

    @property
    def parts(self) -> dict[str, BaseModel]:
        """The parts that stand there, in the order in which they are carried out."""
        return {name: getattr(self, name) for name in PARTS if getattr(self, name) is not None}

    def changed(self, **values: Any) -> "Experiment":
        """This experiment with other values, checked; a name that belongs to a part goes there. Raises ConfigError."""
        merged = self.model_dump(by_alias=True)
        for key, value in values.items():
            part = next((part for part, own in self.parts.items() if key in type(own).model_fields), None)
            into = merged if key in type(self).model_fields or part is None else merged[part]
            into[key] = value
        return parse(Experiment, merged, "experiment")


_OLD_NAMES = {"n": "draws"}  # of version 1 and its parts


def _is_version_1(values: Mapping[str, Any]) -> bool:
    if "schema_version" in values:
        return values["schema_version"] == 1
    if any(part in values for part in PARTS):
        return False
    flat = {*CertifySettings.model_fields, *_OLD_NAMES} - {*Experiment.model_fields}
    chosen = [choice for choice in values.get("defences") or () if isinstance(choice, Mapping)]
    return bool(flat & values.keys()) or any("defence" not in choice or "label" in choice for choice in chosen)


def of_version_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an experiment of version 1, which only certifies, in the form of version 2."""
    found = {key: value for key, value in values.items() if key != "schema_version"}
    own = {key: _OLD_NAMES.get(key, key) for key in found}
    certify = {name: found.pop(key) for key, name in own.items() if name in CertifySettings.model_fields}
    chosen = found.get("defences")
    if isinstance(chosen, list | tuple):
        names: list[str] = []
        found["defences"] = [_choice_of_version_1(choice, names) for choice in chosen]
    return found | {"schema_version": 2, "certify": certify}


def _choice_of_version_1(value: Any, names: list[str]) -> Any:
    """A defence of version 1, whose `state` and `base` are a file or the name of one of the `names` before it."""
    if isinstance(value, Choice) or not isinstance(value, str | Mapping):
        return value
    found = parse_choice(value) if isinstance(value, str) else dict(value)
    if "name" in found and "defence" not in found:
        found["defence"] = found.pop("name")
    if "label" in found:
        found["name"] = found.pop("label")
    for key, by_name, by_path in (("state", "from", "from_state"), ("base", "base", "base_state")):
        if key in found:
            source = found.pop(key)
            found[by_name if source in names else by_path] = source
    with suppress(ValueError):  # which the validation of the whole will tell
        names.append(Choice.model_validate(found).name)
    return found


def load_experiment(path: Path | str) -> Experiment:
    """An experiment from a YAML file, of version 1 or 2.

    Raises ConfigError naming the file, the key and the expected value.
    """
    values = read_yaml(Path(path), "experiment file")
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold keys and values, one of them `defences`")
    return parse(Experiment, values, str(path))
