"""The help of every command on 80 columns, settings files shown, and their schema."""

import json
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from medrobust.cli import app
from medrobust.cli.app import PANELS
from medrobust.errors import MedrobustError
from medrobust.jobs.experiment import Experiment, load_experiment
from medrobust.jobs.parts import AttackSettings, AuditSettings, CertifySettings
from medrobust.vqa.settings import VqaSettings

DEMO = files("medrobust") / "demo.yaml"


def commands(group: Any, *before: str) -> Iterator[tuple[str, ...]]:
    """The words of every command, groups included."""
    yield before
    for name, one in getattr(group, "commands", {}).items():
        yield from commands(one, *before, name)


def said(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    assert done.exit_code == 0, done.output
    return done.stdout


def headings(text: str) -> list[str]:
    return re.findall(r"^╭─ (.+?) ─+╮$", text, flags=re.M)


@pytest.mark.parametrize("words", [*commands(get_command(app))], ids=" ".join)
def test_help_is_whole_on_80_columns(words: tuple[str, ...]) -> None:
    text = said(*words, "--help")
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    command: Any = get_command(app)
    for word in words:
        command = command.commands[word]
    for option in command.params:
        names = [name for name in (*option.opts, *option.secondary_opts) if name.startswith("-")]
        assert all(name in text for name in names)


def test_commands_and_options_stand_under_headings_in_order() -> None:
    assert headings(said("--help")) == ["Options", *PANELS]
    assert headings(said("certify", "--help")) == ["Options", "Model and images", "Defences", "Certificates", "Run"]
    both = headings(said("evaluate", "--help"))
    assert both == ["Options", "Model and images", "Defences", "Attack", "Certificates", "Run"]


# -- settings files


def holds(schema: Mapping[str, Any], value: Any, defs: Mapping[str, Any]) -> bool:
    """Whether a value follows a schema, as far as these schemas go: types, parts, alternatives, unknown keys."""
    if "$ref" in schema:
        return holds(defs[schema["$ref"].rpartition("/")[2]], value, defs)
    if "anyOf" in schema:
        return any(holds(one, value, defs) for one in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return value in schema.get("enum", [schema.get("const")])
    kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None),
             "array": list, "object": dict}  # fmt: skip
    if not isinstance(value, kinds[schema["type"]]) or (isinstance(value, bool) and schema["type"] != "boolean"):
        return False
    if schema["type"] == "array":
        return len(value) >= schema.get("minItems", 0) and all(holds(schema["items"], one, defs) for one in value)
    if schema["type"] == "object":
        known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        return set(schema.get("required", ())) <= value.keys() and all(
            holds(known[key], one, defs) if key in known else bool(others) for key, one in value.items()
        )
    return value >= schema.get("minimum", value) if schema["type"] in ("integer", "number") else True


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said("config", "schema"))
    return found


def test_the_schema_has_every_field_and_nothing_of_ours(schema: dict[str, Any]) -> None:
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert '"option"' not in json.dumps(schema)
    assert list(schema["properties"]) == list(Experiment.model_fields)
    for part in (CertifySettings, AttackSettings, AuditSettings):
        assert list(schema["$defs"][part.__name__]["properties"]) == list(part.model_fields)
    assert {"from", "from_state", "base", "base_state"} <= schema["$defs"]["Choice"]["properties"].keys()
    assert list(json.loads(said("config", "schema", "vqa"))["properties"]) == list(VqaSettings.model_fields)


@pytest.mark.parametrize(
    "text",
    [
        DEMO.read_text(encoding="utf-8"),
        "defences: [vote, {defence: coop, from_state: x}]\nattack: {eps: 8/255, attacks: [pgd]}",
        "attack: {eps: [1/255, 0.03], attacks: [pgd], settings: {pgd: {steps: 3}}}\naudit: {}\ncertify: {}",
    ],
)
def test_what_an_experiment_may_hold_follows_the_schema(schema: dict[str, Any], text: str) -> None:
    values = yaml.safe_load(text)
    Experiment.model_validate(values)
    assert holds(schema, values, schema["$defs"])


@pytest.mark.parametrize(
    "text",
    ["certify: {sigma: 0.25}", "limit: 0", "defences: []", "attack: {eps: true}", "audit: 3", "certify: {look: few}"],
)
def test_what_is_refused_does_not_follow_the_schema(schema: dict[str, Any], text: str) -> None:
    values = yaml.safe_load(text)
    with pytest.raises((ValueError, MedrobustError)):
        Experiment.model_validate(values)
    assert not holds(schema, values, schema["$defs"])


def test_an_unknown_schema_is_refused() -> None:
    done = CliRunner().invoke(app, ["config", "schema", "vqaa"])
    assert done.exit_code == 2
    assert "did you mean 'vqa'" in done.stderr


def test_a_file_of_version_1_is_shown_in_version_2(tmp_path: Path) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(
        "schema_version: 1\nn: 500\nsigmas: [0.5]\ndefences:\n"
        "  - {name: promptsmooth, label: few, settings: {mode: few-shot}}\n"
        "  - {name: promptsmooth, label: own, settings: {mode: combined}, state: few}\n"
        "  - {name: coop, state: made.safetensors, base: few}\n"
    )
    new.write_text(said("config", "show", str(old)))
    shown = yaml.safe_load(new.read_text())
    assert shown["schema_version"] == 2
    assert (shown["certify"]["draws"], shown["certify"]["sigmas"]) == (500, [0.5])
    assert "attack" not in shown
    _, own, coop = shown["defences"]
    assert (own["defence"], own["name"], own["from"], own["from_state"]) == ("promptsmooth", "own", "few", None)
    assert (coop["from_state"], coop["from"], coop["base"]) == ("made.safetensors", None, "few")
    assert load_experiment(new) == load_experiment(old)
    assert said("config", "show", str(new)) == new.read_text()
